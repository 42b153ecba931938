"""An ensemble's forward pass over flat buffers, depth by depth, whichever backend runs it; without autograd."""

from ..backends.contract import weights_of


def layer_outputs(call, waves, weights, members=None):
    """The output buffer of each layer, of which only the rows of `members` are written (None: all).

    Args:
        waves: as `flat_waves` makes them.
        weights: [depth].
    """
    e, buffers, members = call.ensemble, [waves], tuple(members or call.ensemble.members)
    for depth, layer in enumerate(e.layers):
        out = call.empty(depth + 1, e.members, waves.device)
        call.backend.forward(e.role(depth), layer, e.runs(depth, members), buffers[-1], weights[depth], out)
        buffers.append(out)
    return buffers[1:]


def normalised(call, layers):
    """The scaling and packed weights of all layers (`Backend.prepare`), and `Weights` [depth] made of them."""
    sets = call.weight_sets(layers)
    scaling, packed = call.backend.prepare(call.ensemble.layers, sets, call.dtype)
    return scaling, packed, weights_of(call.ensemble.layers, sets, scaling, packed)


def whole_forward(call, waves, parameters):
    """Weights and all maps -> (scaling, packed weights, the output buffer of each layer).

    Args:
        waves: as `flat_waves` makes them; parameters: as `taken` makes them.
    """

    def run():
        scaling, packed, weights = normalised(call, call.layers_of(parameters))
        return [scaling, packed], layer_outputs(call, waves, weights)

    (scaling, packed), buffers = call.again_with_states(("forward",), [waves, *parameters], run)
    return scaling, packed, buffers
