"""Global states of PyTorch that a program may be in, as context managers by name; no result follows any."""

import contextlib

import torch


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES = {
    "none": contextlib.nullcontext,
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta by default": lambda: default_device("meta"),
    "in a meta context": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "inference mode": torch.inference_mode,
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
}
