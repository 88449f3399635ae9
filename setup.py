"""Drives CMake from pip. Sources and flags are in CMakeLists.txt; the version and the metadata in pyproject.toml.

Environment: NNART_CUDA=0/1 (default: where nvcc is found), TORCH_CUDA_ARCH_LIST (default: see CMakeLists.txt),
MAX_JOBS (default: the cores, but one for each 2 GB of free memory), CMAKE_ARGS (more arguments for CMake).
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
GIGABYTES_A_JOB = 2


def max_jobs() -> int:
    """Compiler processes at a time, so that memory does not run out on a machine of many cores."""
    if "MAX_JOBS" in os.environ:
        return max(1, int(os.environ["MAX_JOBS"]))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)), int(free / GIGABYTES_A_JOB)))


def call(*command: object) -> None:
    # The cmake and ninja installed beside this Python, active environment or not, before those of the system.
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
    if subprocess.run([str(part) for part in command], env={**os.environ, "PATH": path}).returncode != 0:
        sys.exit("nnart_ops: the build failed; the first error above says why.")


class CMakeBuild(build_ext):
    """Both shared objects by one CMake project: into the package's sources for -e, into the wheel otherwise."""

    @property
    def output(self) -> Path:
        return (ROOT if self.inplace else Path(self.build_lib).resolve()) / "nnart_ops"

    def run(self) -> None:
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-{'inplace' if self.inplace else 'wheel'}"
        settings = {
            "Python_EXECUTABLE": sys.executable,
            "NNART_VERSION": self.distribution.get_version(),
            "NNART_OUTPUT_DIRECTORY": self.output,
            "NNART_CUDA": os.environ.get("NNART_CUDA", "auto"),
        }
        if os.environ.get("TORCH_CUDA_ARCH_LIST"):
            settings["NNART_CUDA_ARCHITECTURES"] = os.environ["TORCH_CUDA_ARCH_LIST"]
        arguments = [f"-D{name}={value}" for name, value in settings.items()]
        arguments += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        call("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *arguments)
        call("cmake", "--build", build, "--parallel", max_jobs())

    def get_outputs(self) -> list[str]:
        return [] if self.inplace else [str(path) for path in self.output.glob("*.so")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(ext_modules=[Extension("nnart_ops._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
