"""A fused forward held against the module's own, by the ratio rule, before it is used."""

import contextlib

import torch
from torch.func import functional_call

from .. import dispatch
from ..ratios import LIMIT, SMALL, SMALL_FLOOR_ULPS, error_ratio, weigh
from .conventions import by_wave, read_convention, tensors_in
from .observe import Refused, observe, untouched
from .recognition import convs_in, merged, read_stacks
from .state import changed, state_of


def prove(forward, given):
    """Refuse `forward` where it differs from its module's own forward -> the worst error ratio.

    In training mode, with gradients of everything: outputs, gradients, and what either did to buffers.

    Args:
        given: {argument: waveform}.
    """
    module = forward.module
    with _training(module):
        own, own_maps, order = _own(forward, _leaves(given))
    with _training(module):
        ours, our_maps = _fused(forward, _leaves(given), order)
    alike = all(torch.equal(a > 0, b > 0) for a, b in zip(own_maps, our_maps))
    oracle = _oracle(forward, given, own_maps)
    our_oracle = oracle if alike else _oracle(forward, given, our_maps)
    if [t.shape for t in own.values() if t is not None] != [t.shape for t in ours.values() if t is not None]:
        raise Refused(
            "its gradients, or its outputs in training mode, are of other tensors than a fused pass would give"
        )
    worst, eps, pairs = 0.0, torch.finfo(next(iter(own.values())).dtype).eps, {}
    for label in own:  # small ones together, for the ratio of two single roundings is chance
        small = own[label] is not None and own[label].numel() < SMALL
        kind = f"a small {label.split()[0]}" if small else label
        pairs.setdefault(kind, []).append(((ours[label], our_oracle[label]), (own[label], oracle[label])))
    for kind, both in pairs.items():
        ratio = error_ratio(both, SMALL_FLOOR_ULPS, eps)
        if not ratio <= LIMIT:
            raise Refused(f"{kind} would differ from its own: an error {ratio:.3g} times as large")
        worst = max(worst, ratio)
    return worst


@contextlib.contextmanager
def _training(module):
    with untouched(module), torch.enable_grad():
        module.train()
        module.requires_grad_(True)
        yield


def _leaves(given, dtype=None):
    return {name: wave.to(dtype or wave.dtype, copy=True).requires_grad_() for name, wave in given.items()}


def _results(output, leaves, buffers):
    """What is judged, {label: tensor}: the gradients are those of a random smooth function of every output."""
    tensors, generator = tensors_in(output), torch.Generator().manual_seed(0)
    total = sum(weigh(t, generator) for t in tensors)
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found = {f"output {i}": t.detach() for i, t in enumerate(tensors)}
    found |= {f"gradient of {name}": grad for name, grad in zip(leaves, grads)}
    return found | {f"buffer {name}": b.detach().clone() for name, b in buffers.items()}


def _own(forward, inputs):
    """-> (results, the map after each convolution, and which that is: (wave, stack, depth))."""
    module = forward.module
    observed = observe(module, inputs)
    moved = changed(forward.state) or (len(state_of(module)) != len(forward.state) and "its attributes")
    if moved:
        raise Refused(f"its forward changes {moved}")
    members, runs = read_stacks(module, observed)
    convention, _ = read_convention(observed, [x.detach() for x in inputs.values()], members, runs)
    if merged(forward.members, members) != forward.members or convention != forward.conventions[len(inputs)]:
        raise Refused("in training mode it does something else than in evaluation mode")
    order, maps = [], []
    for wave, number, chain in by_wave(runs, convention.order):
        order += [(wave, number, depth) for depth in range(len(chain))]
        maps += [call.seen for call in chain[1:]] + [chain[-1].out]
    leaves = {**inputs, **dict(module.named_parameters())}
    return _results(observed.output, leaves, dict(module.named_buffers())), maps, order


def _fused(forward, inputs, order):
    module = forward.module
    with dispatch.save("maps"):  # what calls are to save later, at the price of exactness, is no fault of it
        calls = forward.calls(list(inputs.values()))
    if calls is None:
        raise Refused("its parameters differ in dtype or device")
    maps = forward.maps(calls, forward.conventions[len(inputs)].order)
    leaves = {**inputs, **dict(module.named_parameters())}
    found = _results(forward.output(maps), leaves, dict(module.named_buffers()))
    return found, [maps[wave][stack][depth].detach() for wave, stack, depth in order]


def _oracle(forward, given, maps):
    """The module's own results in float64, on the sides of each leaky ReLU that `maps` took, in the order of calls."""
    module, inputs = forward.module, _leaves(given, torch.float64)
    with _training(module):
        slopes = {id(c): s for member in forward.members for c, s in zip(member.convs, member.slopes)}
        taken = iter(maps)

        def turn(conv, args, out):
            up, positive, slope = next(taken) > 0, out > 0, slopes[id(conv)] or 1.0
            return out * torch.where(up & ~positive, 1 / slope, torch.where(~up & positive, slope, 1.0)).to(out)

        handles = [conv.register_forward_hook(turn) for conv in convs_in(module).values()]
        own = {name: p.detach().double().requires_grad_() for name, p in module.named_parameters()}
        buffers = {n: b.double() if b.is_floating_point() else b.clone() for n, b in module.named_buffers()}
        try:
            with dispatch.use_backend(dispatch.MODULES):
                output = functional_call(module, {**own, **buffers}, (), inputs)
        finally:
            for handle in handles:
                handle.remove()
        return _results(output, {**inputs, **own}, buffers)
