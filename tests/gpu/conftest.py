"""Tests of the kernels on a GPU: `pytest tests/gpu`. Skipped, with the reason, where there is none."""

import pytest
import torch

from hifigan_fast import dispatch

DEVICE = torch.device("cuda")


def _reason():
    if not torch.cuda.is_available():
        return "no GPU"
    reasons = [dispatch.BACKENDS[name].cannot_run(DEVICE, torch.float32) for name in ("triton", "cuda")]
    return all(reasons) and "; ".join(reasons)


def pytest_collection_modifyitems(items):
    reason = _reason()
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
