"""A training step as a CUDA graph: captured once, replayed from then on, without a launch by the host."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UP = 3  # ordinary steps before the capture: tables, workspaces and optimizer states are made in them


class GraphedStep:
    """Calls `run` as a CUDA graph, once it has run `WARM_UP` times on inputs of these shapes.

    Inputs of other shapes run as they are. So do all where a capture fails, and a warning says why. Steps are real ones
    from the first on: nothing is trained twice.

    Args:
        run: tensors or None -> a named tuple of tensors; waits for nothing.
        optimizers: those that `run` steps. Their learning rates become tensors, which schedulers change in place.
        device: a CUDA device.
    """

    def __init__(
        self, run: Callable[..., Any], optimizers: Sequence[torch.optim.Optimizer], device: torch.device
    ) -> None:
        self.run, self.optimizers, self.device = run, optimizers, device
        # Of all but the replays: none of the library's own, and no other step's.
        self.stream = torch.cuda.Stream(device)
        self.graph = self.inputs = self.shapes = self.results = None
        self.warm, self.refused = 0, False

    def __call__(self, *inputs):
        if self.refused:
            return self.run(*inputs)
        shapes = [None if t is None else t.shape for t in inputs]
        if self.graph is None and shapes != self.shapes:
            self.shapes, self.warm = shapes, 0
        if shapes != self.shapes or self.warm < WARM_UP:
            self.warm += shapes == self.shapes
            return self._on_a_side_stream(inputs)
        if self.graph is None:
            stream = torch.cuda.current_stream(self.device)
            try:
                self._capture(inputs)
            except RuntimeError as error:
                self._refuse(error, stream)
                return self.run(*inputs)
        for kept, given in zip(self.inputs, inputs):
            if kept is not None:
                kept.copy_(given)
        self.graph.replay()
        return type(self.results)(*(t.clone() for t in self.results))

    def _on_a_side_stream(self, inputs):
        """As a capture wants it of what runs before, and where it comes to be: what legacy norms keep is tied to it."""
        self._make_capturable()
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            results = self.run(*inputs)
        current.wait_stream(self.stream)
        return results

    def _make_capturable(self):
        """Step counts and learning rates on the device, also after a checkpoint was loaded."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
            for state in optimizer.state.values():
                state["step"] = state["step"].to(self.device)

    def _capture(self, inputs):
        self.inputs = [None if t is None else t.clone() for t in inputs]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.results = self.run(*self.inputs)

    def _refuse(self, error, stream):
        """Leaves behind what a capture had begun: it ran nothing on the device."""
        torch.cuda.set_stream(stream)  # what a capture that fails does not
        self.graph = self.inputs = self.results = None
        self.refused = True
        reason = str(error).partition("\n")[0]
        warnings.warn(f"hifigan_fast: steps run without a CUDA graph, a capture failed: {reason}", stacklevel=3)
