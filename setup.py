"""Builds the C++ extension with CMake. HIFIGAN_FAST_BUILD=0 leaves it out and installs pure Python."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# MSVC has no vector extensions, the Clang of Visual Studio has; CMake finds it there without a set-up shell.
WINDOWS = sys.platform == "win32"
GENERATOR = ["-T", "ClangCL"] if WINDOWS else ["-G", "Ninja"]
TOOLS = ["cmake"] if WINDOWS else ["cmake", "ninja"]
COMPILER = "GCC, Clang or, on Windows, Visual Studio with its component 'C++ Clang tools'"
# What CMake says of a compiler that is missing, or that does not work at all.
NO_COMPILER = (
    r"CMAKE_CXX_COMPILER|not able to compile a simple test program|could not find any instance of Visual Studio"
)


def fail(reason):
    raise SystemExit(
        f"hifigan_fast: the C++ extension could not be built: {reason}. "
        "HIFIGAN_FAST_BUILD=0 installs without it, and the discriminators then run in plain PyTorch."
    )


def configure(build, options):
    """Run CMake's first half in the folder `build`, or say why it failed."""
    command = ["cmake", str(ROOT), *GENERATOR, *options]
    done = subprocess.run(command, cwd=build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    if done.returncode and re.search(NO_COMPILER, done.stdout):
        fail(f"no C++17 compiler works here, it needs {COMPILER}")
    if done.returncode:
        fail("CMake could not configure it, and says why above")


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        sources = [name for name in ("CMakeLists.txt", "csrc") if not (ROOT / name).exists()]
        if sources:
            fail(f"{ROOT} holds no {' and no '.join(sources)}: an incomplete copy of the sources")
        tools = [tool for tool in TOOLS if not shutil.which(tool)]
        try:
            import pybind11
        except ImportError:
            tools.append("pybind11")
        if tools:
            fail(f"{' and '.join(tools)} not found, which pip brings unless it is told --no-build-isolation")

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        (build / "CMakeCache.txt").unlink(missing_ok=True)  # names tools of pip's last build environment, now gone
        configure(
            build,
            [
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY_RELEASE={target}",  # Visual Studio's would be a folder below
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            ],
        )
        if subprocess.run(["cmake", "--build", str(build), "--config", "Release"]).returncode:
            fail("the compiler reports the errors above")


class WithKernels(build_py):
    """The CUDA kernels' sources are compiled where they run: they become data of the package."""

    def run(self):
        super().run()
        if not self.editable_mode:  # a clone's are found where they are
            to = Path(self.build_lib) / "hifigan_fast" / "backends" / "cuda" / "sources"
            shutil.copytree(ROOT / "csrc" / "cuda", to, dirs_exist_ok=True)


wanted = os.environ.get("HIFIGAN_FAST_BUILD", "1")
if wanted not in ("0", "1"):
    raise SystemExit(f"HIFIGAN_FAST_BUILD: expected 0 or 1, got {wanted!r}")
setup(
    ext_modules=[Extension("hifigan_fast._cpu", sources=[])] if wanted == "1" else [],
    cmdclass={"build_ext": CMakeBuild, "build_py": WithKernels},
)
