"""CUDA graphs of what is timed."""

import torch

from ..training.graph import WARM_UP, aside, capture


def captured(run, modules):
    """A callable whose first call captures `run` as a CUDA graph, and which replays it then.

    What fails to be captured leaves the stream as it was, and raises what it raised.
    """
    graph = None

    def step():
        nonlocal graph
        if graph is None:
            graph = _capture(run, modules)
        graph.replay()

    return step


def _capture(run, modules):
    for module in modules:
        for conv in module.modules():  # the last graph, which legacy norms keep, would tie a capture to its stream
            if hasattr(conv, "weight_g") or hasattr(conv, "weight_orig"):
                conv.weight = conv.weight.detach()

    def warm_up():
        for _ in range(WARM_UP):
            run()

    stream = torch.cuda.Stream()  # of both: what the last warm-up leaves is tied to it
    aside(warm_up, stream)
    return capture(run, stream)[0]
