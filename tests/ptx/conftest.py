"""Kernels are compiled here, not interpreted: in a process of their own (tests/test_ptx.py)."""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_*.py"]
