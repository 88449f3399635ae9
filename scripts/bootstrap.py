"""Sets up a checkout: virtual environment, pinned dependencies, compiled extension. Idempotent, and quick when done.

Uses the standard library alone and no syntax that an old Python lacks, so that an unsupported one gets a sentence.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
PIP_INSTALL = [VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
BUILD = os.path.join(ROOT, "build", f"{sys.implementation.cache_tag}-inplace")
MINIMUM_PYTHON = (3, 11)
MINIMUM_GCC = 10
MINIMUM_CLANG = 12


def fail(sentence):
    sys.exit("nnart_ops: " + sentence)


def step(sentence):
    print("[setup] " + sentence)
    sys.stdout.flush()


def check_python():
    if sys.version_info < MINIMUM_PYTHON:
        fail(
            "Python 3.11 or newer is needed, but {} is {}.{}. Install one (Debian, Ubuntu: apt install python3.11 "
            "python3.11-venv python3.11-dev; Fedora: dnf install python3.11-devel) and name it: "
            "make PYTHON=python3.11.".format(sys.executable, *sys.version_info[:2])
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        fail(
            "this Python lacks the venv module; install it (Debian, Ubuntu: apt install python{}.{}-venv).".format(
                *sys.version_info[:2]
            )
        )


def check_compiler():
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    advice = "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++) or set CXX to it."
    if not compiler or not shutil.which(compiler.split()[0]):
        fail("no C++ compiler was found; " + advice)
    probe = "#if defined(__clang__)\nclang __clang_major__\n#elif defined(__GNUC__)\ngcc __GNUC__\n#endif\n"
    command = [*compiler.split(), "-E", "-P", "-x", "c++", "-"]
    run = subprocess.run(command, input=probe, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    name, _, version = run.stdout.strip().partition(" ")
    minimum = {"gcc": MINIMUM_GCC, "clang": MINIMUM_CLANG}.get(name)
    if run.returncode != 0 or minimum is None or int(version) < minimum:
        fail(
            "the C++ compiler {} is {}, but GCC {} or Clang {} or newer is needed for C++20; ".format(
                compiler, run.stdout.strip() or "unknown", MINIMUM_GCC, MINIMUM_CLANG
            )
            + advice
        )
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        fail(
            "{} is missing; install Python's headers (Debian, Ubuntu: apt install python{}.{}-dev; "
            "Fedora: dnf install python3-devel).".format(header, *sys.version_info[:2])
        )


def digest(*names):
    """A fingerprint of files of the checkout and of where it stands."""
    total = hashlib.sha256(ROOT.encode())
    for name in names:
        with open(os.path.join(ROOT, name), "rb") as file:
            total.update(file.read())
    return total.hexdigest()


def is_stamped(name, value):
    try:
        with open(os.path.join(VENV, name)) as file:
            return file.read() == value
    except OSError:
        return False


def stamp(name, value):
    with open(os.path.join(VENV, name), "w") as file:
        file.write(value)


def run(command, sentence):
    if subprocess.call(command, cwd=ROOT) != 0:
        fail(sentence)


def make_environment():
    # A moved checkout has a virtual environment that points to its old place.
    if os.path.exists(VENV_PYTHON) and subprocess.call([VENV_PYTHON, "-c", ""]) == 0 and is_stamped("root.stamp", ROOT):
        return
    step("making the virtual environment .venv with " + sys.executable)
    run([sys.executable, "-m", "venv", "--clear", VENV], "the virtual environment .venv could not be made; see above.")
    stamp("root.stamp", ROOT)


def install_dependencies():
    fingerprint = digest("requirements/runtime.txt", "requirements/dev.txt")
    if is_stamped("requirements.stamp", fingerprint):
        return
    step("installing the pinned dependencies of requirements/dev.txt (a few minutes the first time)")
    run(
        [*PIP_INSTALL, "-r", "requirements/dev.txt"],
        "the dependencies could not be installed; pip's message above says which. Is the network up? Behind a proxy or "
        "with an index of your own set HTTPS_PROXY or PIP_INDEX_URL; a full disk needs about 6 GB.",
    )
    stamp("requirements.stamp", fingerprint)


def build_extension():
    environment = "".join(os.environ.get(name, "") + ";" for name in ("NNART_CUDA", "TORCH_CUDA_ARCH_LIST", "CXX"))
    fingerprint = digest("pyproject.toml", "setup.py", "requirements/runtime.txt") + environment
    build_file = os.path.join(BUILD, "build.ninja")
    if is_stamped("build.stamp", fingerprint) and os.path.exists(build_file):
        # Ninja knows what changed, CMake's own files included.
        binaries = os.path.join(VENV, "bin")
        environ = dict(os.environ, PATH=binaries + os.pathsep + os.environ["PATH"])
        if subprocess.call([os.path.join(binaries, "ninja"), "--quiet", "-C", BUILD], env=environ) != 0:
            fail("the extension could not be built; the first error above says why.")
        return
    step("building the extension (one to three minutes)")
    run(
        [*PIP_INSTALL, "-v", "--no-build-isolation", "--no-deps", "-e", "."],
        "the extension could not be built; the first error above says why.",
    )
    stamp("build.stamp", fingerprint)


def main():
    check_python()
    check_compiler()
    make_environment()
    install_dependencies()
    build_extension()


if __name__ == "__main__":
    main()
