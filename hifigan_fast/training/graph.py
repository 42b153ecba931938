"""A training step as a CUDA graph: captured once, replayed from then on, without a launch by the host."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UP = 3  # ordinary steps before the capture: tables, workspaces and optimizer states are made in them


def aside(run: Callable[[], Any], stream: torch.cuda.Stream, device: torch.device | None = None) -> Any:
    """What `run()` returns, run on another stream: as a capture wants it of what runs before."""
    current = torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        results = run()
    current.wait_stream(stream)
    return results


def capture(
    run: Callable[[], Any], stream: torch.cuda.Stream | None = None, device: torch.device | None = None
) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A CUDA graph of `run()`, and what that returned, which nothing has computed yet.

    What fails to be captured leaves the current stream as it was, and raises what it raised.
    """
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.graph(graph, stream=stream):
            return graph, run()
    except BaseException:
        torch.cuda.set_stream(current)  # what a capture that fails does not
        raise


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
        # Of all but the replays: none of the library's own, and no other step's. What legacy norms keep is tied to it.
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
            self._make_capturable()
            return aside(lambda: self.run(*inputs), self.stream, self.device)
        if self.graph is None and not self._captured(inputs):
            return self.run(*inputs)
        for kept, given in zip(self.inputs, inputs):
            if kept is not None:
                kept.copy_(given)
        self.graph.replay()
        return type(self.results)(*(t.clone() for t in self.results))

    def _make_capturable(self):
        """Step counts and learning rates on the device, also after a checkpoint was loaded."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
            for state in optimizer.state.values():
                state["step"] = state["step"].to(self.device)

    def _captured(self, inputs):
        """Whether the step could be captured on inputs of these shapes; a warning says why not."""
        kept = [None if t is None else t.clone() for t in inputs]
        try:
            self.graph, self.results = capture(lambda: self.run(*kept), self.stream, self.device)
        except RuntimeError as error:
            self.refused = True
            reason = str(error).partition("\n")[0]
            warnings.warn(f"hifigan_fast: steps run without a CUDA graph, a capture failed: {reason}", stacklevel=3)
            return False
        self.inputs = kept
        return True
