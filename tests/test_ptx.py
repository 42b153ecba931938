"""The compiled code of every kernel, executed without a GPU: in a process of its own, without the interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", minversion="3.6", reason="Triton 3.6 compiles the kernels")


def test_compiled_code_is_executed_and_planted_faults_are_seen():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not exhaustive", "tests/ptx"]
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
