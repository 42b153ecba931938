"""The one place where kernels are launched."""

import contextlib

import torch

COOPERATIVE = {"launch_cooperative_grid": True}  # for kernels whose programs meet between `first_stage` and `stages`


def launch(device, kernel, grid, *args, **meta):
    """Run `kernel` on `device`, on its current stream; nothing where the grid is empty."""
    if 0 in grid:
        return
    if device.type == "cpu" and COOPERATIVE.items() <= meta.items():
        # The interpreter runs one program after another: a launch a stage.
        for stage in range(meta.pop("first_stage"), meta.pop("stages")):
            kernel[grid](*args, first_stage=stage, stages=stage + 1, **meta)
        return
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*args, **meta)
