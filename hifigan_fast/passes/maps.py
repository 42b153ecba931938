"""Where the maps lie in the buffers of a forward pass."""


def map_layout(ensemble, depth, stack):
    """Shape and strides of a stack's map of layer `depth`, in the reference's order of dimensions."""
    period, rows = ensemble.stacks[stack].period, ensemble.rows[stack][depth + 1]
    channels = ensemble.layers[depth].out_channels
    head = depth == len(ensemble.layers) - 1
    shape = (ensemble.samples, channels, rows, period)
    strides = (period * rows, 1, period, 1) if head else (period * rows * channels, 1, channels, rows * channels)
    dims = 4 if ensemble.stacks[stack].folded else 3
    return shape[:dims], strides[:dims]


def map_strides(ensemble):
    """Of the maps, [stack][depth]."""
    stacks, depths = range(len(ensemble.stacks)), range(len(ensemble.layers))
    return ensemble.once("strides", lambda: [[map_layout(ensemble, d, stack)[1] for d in depths] for stack in stacks])


def _map_places(ensemble):
    """(depth, what `as_strided` takes) of each map in the order of `maps_of`."""
    depths = range(len(ensemble.layers))
    offsets = [ensemble.offsets(depth + 1, ensemble.members)[0] for depth in depths]
    return [
        (depth, *map_layout(ensemble, depth, stack), offsets[depth][stack, side] * ensemble.layers[depth].out_channels)
        for side in range(ensemble.sides)
        for stack in range(len(ensemble.stacks))
        for depth in depths
    ]


def maps_of(ensemble, buffers):
    """The maps as views of the layers' output buffers: of each side, each stack, each depth."""
    places = ensemble.once("maps", lambda: _map_places(ensemble))
    return [buffers[depth].as_strided(shape, strides, offset) for depth, shape, strides, offset in places]
