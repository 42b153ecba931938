"""CUDA graphs of what is timed."""

import torch

WARM_UP = 3  # ordinary calls before a capture: workspaces and tables are made in them


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
        for conv in module.modules():  # legacy weight norm's last graph would tie a capture to this stream
            if hasattr(conv, "weight_g"):
                conv.weight = conv.weight.detach()
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    finally:
        torch.cuda.set_stream(main)
    return graph
