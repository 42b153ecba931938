"""Builds the C++ extension with CMake. HIFIGAN_FAST_BUILD=0 leaves it out and installs pure Python."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        (build / "CMakeCache.txt").unlink(missing_ok=True)  # names tools of pip's last build environment, now gone
        configure = [
            "cmake",
            str(ROOT),
            "-GNinja",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        try:
            subprocess.run(configure, cwd=build, check=True)
            subprocess.run(["cmake", "--build", str(build)], cwd=build, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"hifigan_fast: the C++ extension could not be built ({error}). It needs a C++17 compiler; "
                "HIFIGAN_FAST_BUILD=0 installs without it, and the discriminators then run in plain PyTorch."
            ) from error


wanted = os.environ.get("HIFIGAN_FAST_BUILD", "1")
if wanted not in ("0", "1"):
    raise SystemExit(f"HIFIGAN_FAST_BUILD: expected 0 or 1, got {wanted!r}")
setup(
    ext_modules=[Extension("hifigan_fast._cpu", sources=[])] if wanted == "1" else [],
    cmdclass={"build_ext": CMakeBuild},
)
