# _C once more, for tests, with the CUDA kernels where the CPU's are: csrc/cuda compiled as C++ and run by csrc/emulation.
#   cmake --build build/dev --target emulation              with every access seen (csrc/emulation/accesses.h)
#   cmake --build build/dev --target emulation_sanitized    under AddressSanitizer and UBSan, with libasan.so preloaded
# puts a package in build/dev/emulation, whose Python is the checkout's.
file(GLOB_RECURSE emulated_kernels CONFIGURE_DEPENDS csrc/cuda/*.cu)
file(GLOB emulator_sources CONFIGURE_DEPENDS csrc/emulation/*.cpp)
# As nvcc, which includes that header by itself and whose pragmas say how far to unroll.
set_source_files_properties(${emulated_kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
                                                           "-x;c++;-include;cuda_runtime.h;-Wno-unknown-pragmas")
file(GLOB package_files CONFIGURE_DEPENDS RELATIVE "${CMAKE_SOURCE_DIR}/nnart_ops" nnart_ops/*)
list(FILTER package_files EXCLUDE REGEX "\\.so$|__pycache__")

# What sees the accesses is not seen.
set_source_files_properties(${emulator_sources} PROPERTIES COMPILE_OPTIONS -fno-sanitize=thread)

function(add_emulation name kernel_flags link_flags)
  add_library(${name}_kernels OBJECT EXCLUDE_FROM_ALL ${emulated_kernels} ${emulator_sources})
  target_include_directories(${name}_kernels PRIVATE csrc/emulation/include csrc)
  target_compile_options(${name}_kernels PRIVATE -O1 -g1 -Wno-missing-field-initializers ${kernel_flags})

  Python_add_library(${name} MODULE EXCLUDE_FROM_ALL csrc/ops/register_emulated.cpp WITH_SOABI)
  target_include_directories(${name} PRIVATE csrc/emulation/include csrc)
  target_link_libraries(${name} PRIVATE torch_host nnart_bindings nnart_operators ${NNART_CPU_OBJECTS} ${name}_kernels
                                        ${link_flags})
  set(package "${CMAKE_BINARY_DIR}/${name}/nnart_ops")
  set_target_properties(${name} PROPERTIES OUTPUT_NAME _C LIBRARY_OUTPUT_DIRECTORY "${package}")
  foreach(file IN LISTS package_files)
    add_custom_command(TARGET ${name} POST_BUILD COMMAND "${CMAKE_COMMAND}" -E create_symlink
                                                         "${CMAKE_SOURCE_DIR}/nnart_ops/${file}" "${package}/${file}")
  endforeach()
endfunction()

add_emulation(emulation -fsanitize=thread "")
add_emulation(emulation_sanitized "-fsanitize=address,undefined;-fno-sanitize-recover=undefined"
              "-fsanitize=address,undefined")
