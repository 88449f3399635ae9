# Where torch and pybind11 are, asked of the interpreter. find_package(Torch) would demand a whole CUDA toolkit; the stable
# ABI needs only headers and three libraries.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import os, sys
try:
    import pybind11, torch
except ImportError as error:
    sys.exit(f'nnart_ops: the build needs torch (2.11 or newer) and pybind11 in {sys.executable}, but {error}. '
             'Install them first (pip install torch pybind11) and build with --no-build-isolation.')
version = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])
if version < (2, 11):
    sys.exit(f'nnart_ops: torch {torch.__version__} is too old; the build needs 2.11 or newer.')
print(os.path.dirname(torch.__file__), torch.__version__, pybind11.get_include(), sep=';', end='')"
  OUTPUT_VARIABLE torch_facts
  ERROR_VARIABLE torch_error
  RESULT_VARIABLE torch_result)
if(NOT torch_result EQUAL 0)
  message(FATAL_ERROR "${torch_error}")
endif()
list(GET torch_facts 0 torch_directory)
list(GET torch_facts 1 NNART_TORCH_BUILT)
list(GET torch_facts 2 pybind11_directory)

# torch 2.11 is the oldest that the binary runs under, so its API is what the sources may see.
set(NNART_TORCH_MINIMUM "2.11")
add_library(torch_host INTERFACE)
target_compile_definitions(torch_host INTERFACE TORCH_TARGET_VERSION=0x020b000000000000ULL)
target_include_directories(torch_host SYSTEM INTERFACE "${torch_directory}/include")
target_link_directories(torch_host INTERFACE "${torch_directory}/lib")
# Named in DT_NEEDED even where no symbol is used directly: Python loads torch's libraries with RTLD_LOCAL.
target_link_libraries(torch_host INTERFACE -Wl,--no-as-needed torch torch_cpu c10 -Wl,--as-needed)

# pybind11 from PyPI stands first: torch's own copy refuses TORCH_TARGET_VERSION.
add_library(pybind11_headers INTERFACE)
target_include_directories(pybind11_headers SYSTEM BEFORE INTERFACE "${pybind11_directory}")
