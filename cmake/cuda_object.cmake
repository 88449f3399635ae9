# _cuda: the CUDA kernels and their registration, built wherever nvcc is found, beside a CPU-only torch too. It is loaded
# only under a CUDA torch. nvcc is run by custom commands: CMake's own CUDA language wants a complete toolkit, and the
# compiler alone (as pip ships it) is enough here.
set(NNART_CUDA_COMPILER "none")
set(cuda_architectures_built "none")

set(cuda_wanted "${NNART_CUDA}")
if(cuda_wanted STREQUAL "auto" OR cuda_wanted STREQUAL "1")
  find_program(NNART_NVCC nvcc HINTS "$ENV{CUDA_HOME}/bin" "$ENV{CUDA_PATH}/bin" PATHS /usr/local/cuda/bin)
  if(NNART_NVCC)
    execute_process(COMMAND "${NNART_NVCC}" --version OUTPUT_VARIABLE nvcc_text)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" ignored "${nvcc_text}")
    set(NNART_CUDA_COMPILER "${CMAKE_MATCH_1}")
  elseif(cuda_wanted STREQUAL "1")
    message(FATAL_ERROR "nnart_ops: NNART_CUDA=1 asks for CUDA kernels, but nvcc was not found. Install the CUDA toolkit "
                        "(or pip install nvidia-cuda-nvcc) and set CUDA_HOME to it, or build with NNART_CUDA=0.")
  endif()
endif()

if(NOT NNART_CUDA_COMPILER STREQUAL "none")
  # TORCH_CUDA_ARCH_LIST's syntax, "8.0;9.0a;10.0+PTX": machine code for each, and PTX where +PTX stands.
  string(REPLACE " " ";" cuda_architectures "${NNART_CUDA_ARCHITECTURES}")
  set(cuda_flags "")
  foreach(architecture IN LISTS cuda_architectures)
    string(REGEX MATCH "^([0-9]+)\\.([0-9]+[a-f]?)(\\+PTX)?$" matched "${architecture}")
    if(NOT matched)
      message(FATAL_ERROR "nnart_ops: TORCH_CUDA_ARCH_LIST has \"${architecture}\"; allowed are entries such as 8.0, 9.0a "
                          "or 10.0+PTX, separated by semicolons or spaces.")
    endif()
    set(number "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
    list(APPEND cuda_flags -gencode "arch=compute_${number},code=sm_${number}")
    if(CMAKE_MATCH_3)
      list(APPEND cuda_flags -gencode "arch=compute_${number},code=compute_${number}")
    endif()
  endforeach()
  string(REPLACE ";" " " cuda_architectures_built "${cuda_architectures}")

  get_filename_component(nvcc_real "${NNART_NVCC}" REALPATH)
  execute_process(COMMAND "${NNART_NVCC}" --dryrun -x cu -c /dev/null ERROR_VARIABLE nvcc_dryrun OUTPUT_QUIET)
  string(REGEX MATCH "TOP=([^\n]*)" ignored "${nvcc_dryrun}")
  get_filename_component(cuda_root "${CMAKE_MATCH_1}" REALPATH)
  find_path(NNART_CUDA_INCLUDE cuda_runtime_api.h PATHS "${cuda_root}/include" "${cuda_root}/targets/x86_64-linux/include"
            REQUIRED NO_DEFAULT_PATH)
  find_library(NNART_CUDART_STATIC libcudart_static.a PATHS "${cuda_root}/lib64" "${cuda_root}/lib"
               "${cuda_root}/targets/x86_64-linux/lib" REQUIRED NO_DEFAULT_PATH)

  set(cuda_objects "")
  file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)
  foreach(source IN LISTS cuda_sources)
    file(RELATIVE_PATH stem "${CMAKE_SOURCE_DIR}/csrc/cuda" "${source}")
    string(REPLACE "/" "_" stem "${stem}")
    set(object "${CMAKE_CURRENT_BINARY_DIR}/cuda/${stem}.o")
    add_custom_command(
      OUTPUT "${object}"
      COMMAND ${nvcc_launcher} "${NNART_NVCC}" -std=c++20 -O3 -ccbin "${CMAKE_CXX_COMPILER}" -Xcompiler=-fPIC,-fvisibility=hidden
              -I "${CMAKE_SOURCE_DIR}/csrc" ${cuda_flags} -MD -MT "${object}" -MF "${object}.d" -c "${source}" -o
              "${object}"
      DEPENDS "${source}"
      DEPFILE "${object}.d"
      COMMENT "nvcc ${stem} (${cuda_architectures_built})"
      VERBATIM)
    list(APPEND cuda_objects "${object}")
  endforeach()
  file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/cuda")

  # _cuda needs libtorch_cuda.so at run time; a CPU-only torch has none to link against, an empty one of that name does.
  file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/stub/empty.cpp" "")
  add_library(torch_cuda_stub SHARED "${CMAKE_CURRENT_BINARY_DIR}/stub/empty.cpp")
  set_target_properties(torch_cuda_stub PROPERTIES OUTPUT_NAME torch_cuda LIBRARY_OUTPUT_DIRECTORY
                                                                          "${CMAKE_CURRENT_BINARY_DIR}/stub")

  add_library(_cuda MODULE csrc/ops/register_cuda.cpp ${cuda_objects})
  target_compile_definitions(_cuda PRIVATE USE_CUDA)
  target_include_directories(_cuda PRIVATE csrc)
  target_include_directories(_cuda SYSTEM PRIVATE "${NNART_CUDA_INCLUDE}")
  target_link_libraries(_cuda PRIVATE torch_host nnart_operators -Wl,--no-as-needed torch_cuda_stub -Wl,--as-needed
                                      "${NNART_CUDART_STATIC}" rt dl pthread)
  set_target_properties(_cuda PROPERTIES PREFIX "" LINKER_LANGUAGE CXX LIBRARY_OUTPUT_DIRECTORY
                                                                       "${NNART_OUTPUT_DIRECTORY}" SKIP_BUILD_RPATH ON)
endif()
