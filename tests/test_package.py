"""What is distributed: the sources that a source distribution holds, and why a build of the kernels fails."""

import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "csrc", "docs", "hifigan_fast", "tests")
FILES = ("CHANGELOG.md", "CMakeLists.txt", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "constraints.txt")
BUILD = ("pyproject.toml", "setup.py")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tools that fail here are shell scripts")


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_source_distribution_holds_what_a_build_and_the_tests_need(tmp_path):
    sources = tmp_path / "sources"  # a copy: what an earlier build left in the clone would be taken, too
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in FILES + BUILD:
        shutil.copy(ROOT / name, sources)
    expected = files(sources)
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path]
    subprocess.run(command, cwd=sources, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {member.name.partition("/")[2] for member in tar if member.isfile()}
    assert not expected - held


def test_kernels_that_are_compiled_where_they_run_are_data_of_the_package(tmp_path):
    sources, built = tmp_path / "sources", tmp_path / "built"
    for folder in ("csrc", "hifigan_fast"):
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in BUILD:
        shutil.copy(ROOT / name, sources)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", built]
    subprocess.run(command, cwd=sources, check=True, capture_output=True)
    assert files(built / "hifigan_fast" / "backends" / "cuda" / "sources") == files(ROOT / "csrc" / "cuda")


@pytest.fixture
def sources(tmp_path):
    """As much of the sources as a build looks at before it compiles."""
    folder = tmp_path / "sources"
    (folder / "csrc").mkdir(parents=True)
    (folder / "CMakeLists.txt").touch()
    shutil.copy(ROOT / "setup.py", folder)
    return folder


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


CMAKE_ERRORS = {
    "No CMAKE_CXX_COMPILER could be found.": "no C++17 compiler works here",
    'The C++ compiler "/usr/bin/c++" is not able to compile a simple test program.': "no C++17 compiler works here",
    "By not providing Findpybind11.cmake in CMAKE_MODULE_PATH": "CMake could not configure it",
}
FAILURES = [
    *((f"echo '{said}'; exit 1", message) for said, message in CMAKE_ERRORS.items()),
    ('[ "$1" = --build ] && exit 1; exit 0', "the compiler reports the errors above"),
    (None, "cmake and ninja and pybind11 not found"),
]


@pytest.mark.parametrize(("cmake", "message"), FAILURES, ids=[message for _, message in FAILURES])
def test_failed_build_says_what_failed(sources, tmp_path, cmake, message):
    tools = tmp_path / "tools"
    tools.mkdir()
    if cmake:
        script(tools, "cmake", cmake)
        script(tools, "ninja", "")
        (tools / "pybind11.py").write_text("def get_cmake_dir():\n    return ''\n")
    else:  # hides one that is installed
        (tools / "pybind11.py").write_text("raise ImportError\n")
    assert message in build(sources, tools)


@pytest.mark.parametrize("missing", ["CMakeLists.txt", "csrc"])
def test_incomplete_sources_are_no_missing_compiler(sources, tmp_path, missing):
    path = sources / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = build(sources, tmp_path)
    assert f"holds no {missing}: an incomplete copy" in said
    assert "compiler" not in said


def build(sources, tools):
    """What building the extension of `sources` says with nothing but `tools` to be found."""
    environment = os.environ | {"PATH": str(tools), "PYTHONPATH": str(tools)}
    environment.pop("HIFIGAN_FAST_BUILD", None)
    command = [sys.executable, "setup.py", "build_ext"]
    done = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr
