# csrc/cpu is compiled once per instruction set, NNART_ISA naming it; dispatch.cpp, compiled once, picks one at load.
# These objects see no torch header.
file(GLOB_RECURSE kernel_sources CONFIGURE_DEPENDS csrc/cpu/*.cpp)
list(FILTER kernel_sources EXCLUDE REGEX "/dispatch\\.cpp$")

option(NNART_BASELINE_ONLY "Compile csrc/cpu for the baseline alone: a third of the work, where the CPU's speed is of no interest" OFF)

set(isa_variants baseline)
set(isa_flags_baseline "")
if(NOT NNART_BASELINE_ONLY AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  list(APPEND isa_variants avx2 avx512)
  set(isa_flags_avx2 -march=x86-64-v3)
  # GCC 12's own intrinsics headers set off -Wuninitialized (GCC bug 105593).
  set(isa_flags_avx512 -march=x86-64-v4 -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
string(REPLACE ";" " " NNART_ISA_VARIANTS "${isa_variants}")

add_library(nnart_cpu_dispatch OBJECT csrc/cpu/dispatch.cpp)
target_include_directories(nnart_cpu_dispatch PRIVATE csrc)
list(GET isa_variants -1 isa_largest)
target_compile_definitions(nnart_cpu_dispatch PRIVATE NNART_ISA=${isa_largest})
set(NNART_CPU_OBJECTS nnart_cpu_dispatch)

foreach(isa IN LISTS isa_variants)
  add_library(nnart_cpu_${isa} OBJECT ${kernel_sources})
  target_include_directories(nnart_cpu_${isa} PRIVATE csrc)
  target_compile_definitions(nnart_cpu_${isa} PRIVATE NNART_ISA=${isa})
  # Neither flag changes a result: no kernel reads errno or the floating-point exception flags.
  target_compile_options(nnart_cpu_${isa} PRIVATE ${isa_flags_${isa}} -fno-math-errno -fno-trapping-math)
  list(APPEND NNART_CPU_OBJECTS nnart_cpu_${isa})
endforeach()
