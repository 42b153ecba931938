"""`pytest benchmarks` collects, and its cases run; nobody times them here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_benchmarks_run():
    pytest.importorskip("pytest_benchmark", reason="times the benchmarks")
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--benchmark-disable", "-k", "S0 and forward"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed, others = (int(line.split()[0]) for line in done.stdout.splitlines()[-1].split(", ")[:2])
    assert passed >= 2 and others > 100, done.stdout
