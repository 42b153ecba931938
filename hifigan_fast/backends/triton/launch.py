"""The one place where kernels are launched."""

import contextlib

import torch

from . import ahead

if not ahead.interpreting():
    ahead.watch()


def launch(device, kernel, grid, *args, **meta):
    """Run `kernel` on `device`, on its current stream; nothing where the grid is empty."""
    if 0 in grid:
        return
    if ahead.instead() is not None:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            ahead.instead()(kernel, grid, args, meta)
        return
    if device.type == "cpu" and meta.get("launch_cooperative_grid"):
        # Its programs meet between stages, and the interpreter runs one after another: a launch a stage.
        for stage in range(meta.pop("first_stage"), meta.pop("stages")):
            kernel[grid](*args, first_stage=stage, stages=stage + 1, **meta)
        return
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*args, **meta)
