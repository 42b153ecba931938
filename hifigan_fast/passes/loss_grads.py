"""A step's losses of an ensemble from its buffers, and their gradients as a backward pass takes them.

Least-squares adversarial losses and feature matching (HiFi-GAN, section 2.4). The gradient of a map is its sign of
difference times a number: it is made where an input gradient is stored, and lies in memory for the heads only.
"""

import torch

from ..backends.kept import kept


def _stacks(ensemble):
    return range(len(ensemble.stacks))


# What each side's scores shall be in a step's adversarial loss: real, generated.
TARGETS = {"discriminator": (1, 0), "generator": (None, 1)}


class LossGrads:
    """Gradients of the maps by those of a step's losses: never in memory but for the heads.

    Args:
        kind: of `TARGETS`.
        buffers: output of each layer.
        adversarial, features: the losses' own gradients, scalars or None.
    """

    def __init__(self, call, kind, buffers, adversarial, features):
        self.call, self.e, self.targets = call, call.ensemble, TARGETS[kind]
        self.buffers, self.adversarial, self.features = buffers, adversarial, features
        self.dtype = torch.promote_types(call.dtype, torch.float32)  # of numbers by which maps are weighed
        judged = {side for side, target in enumerate(self.targets) if target is not None and adversarial is not None}
        self._matching = None  # of `_weights`
        last, members = len(self.e.layers) - 1, self.e.members
        self.given = tuple((member, last) for member in members if features is not None or member[1] in judged)

    lies_as_read = True

    def of_heads(self, active):
        rows, found = _rows(self.e, self.buffers, len(self.e.layers) - 1), {}
        order = sorted((m for m in active if self.targets[m[1]] is not None), key=lambda m: (m[1], m[0]))
        if self.adversarial is not None and order:
            scores, targets = [rows[m] for m in order], [self.targets[side] for _, side in order]
            found = dict(zip(order, _squared_mean_grads(self.call.backend, scores, targets, self.adversarial)))
        if self.features is not None:
            stacks = _stacks(self.e)
            sides = [[rows[stack, side] for stack in stacks] for side in range(2)]
            wanted = [[(stack, side) in active for stack in stacks] for side in range(2)]
            by = self._weights(active)[0, : len(stacks)]
            for side, grads in enumerate(self.call.backend.feature_l1_backward(*sides, by, *wanted)):
                own = {(stack, side): grad for stack, grad in zip(stacks, grads) if grad is not None}
                both = [member for member in own if member in found]
                if both:
                    own |= zip(both, torch._foreach_add([found[m] for m in both], [own[m] for m in both]))
                found |= own
        return [found.get(member) for member in active]

    def of_maps(self, depth, active):
        if self.features is None:
            return [None] * len(active), None
        rows = _rows(self.e, self.buffers, depth)
        return [rows[stack, 1 - side] for stack, side in active], self._weights(active)[1 + depth, : len(active)]

    def _weights(self, active):
        """Of feature matching, `_shares` times the loss's gradient."""
        if self._matching is None:
            shares = self.e.once(("shares", active), lambda: _shares(self.e, active))
            self._matching = _shares_on(self.features.device, shares, self.dtype) * self.features.to(self.dtype)
        return self._matching

    def beside(self, depths, active):
        """As `map_grads.MapGrads.beside`: others' maps are in the buffers."""
        return [] if self.features is None else [self._weights(active)]


def _rows(ensemble, buffers, depth):
    """{member: its rows} of the outputs of layer `depth`. Not to be kept: of a copy where `Saved` makes one."""
    channels, spans = ensemble.layers[depth].out_channels, ensemble.spans(depth + 1, ensemble.members)
    return dict(zip(spans, buffers[depth].split([(end - first) * channels for first, end in spans.values()])))


def _shares(ensemble, active):
    """Feature matching's weights: a row of each pair's mean [stack], then of one value of each map [depth][member]."""
    sizes = [
        [ensemble.samples * ensemble.stacks[stack].period * ensemble.rows[stack][depth + 1] for stack, _ in active]
        for depth in range(len(ensemble.layers))
    ]
    shares = [tuple(2 / max(n * layer.out_channels, 1) for n in own) for layer, own in zip(ensemble.layers, sizes)]
    width = max(len(active), len(ensemble.stacks))
    return (2,) * width, *(own + (0,) * (width - len(active)) for own in shares)


@kept
def _shares_on(device, shares, dtype):
    return torch.tensor(shares, dtype=dtype, device="cpu").to(device)


def _squared_mean_grads(backend, scores, targets, grad):
    if backend.fuses_small_work:
        return backend.squared_means_backward(scores, targets, grad, None, [True] * len(scores))
    return [
        (s.to(torch.promote_types(s.dtype, torch.float32)) - target) * (2 / max(s.numel(), 1)) * grad
        for s, target in zip(scores, targets)
    ]


def losses(call, kind, buffers):
    """A step's losses of an ensemble -> (adversarial, its terms [side judged · stack], feature matching); 0 without it.

    Args:
        kind: of `TARGETS`.
        buffers: output of each layer.
    """
    dtype = torch.promote_types(call.dtype, torch.float32)
    (total, terms), means = call.again(("losses", kind), buffers, lambda: _means(call, kind, buffers, dtype))
    return total, terms, 2 * means[0].to(dtype).sum() if means else terms.new_zeros(())


def _means(call, kind, buffers, dtype):
    """[adversarial, its terms], [feature matching's mean of each pair of maps] or nothing."""
    e, backend, last = call.ensemble, call.backend, len(call.ensemble.layers) - 1
    heads = _rows(e, buffers, last)
    judged = [(stack, side) for side, target in enumerate(TARGETS[kind]) if target is not None for stack in _stacks(e)]
    scores, targets = [heads[m] for m in judged], [TARGETS[kind][side] for _, side in judged]
    if backend.fuses_small_work:
        total, terms = backend.squared_means(scores, targets, dtype)
    else:
        terms = torch.stack([(s.to(dtype) - target).square().mean() for s, target in zip(scores, targets)])
        total = terms.sum()
    if kind == "discriminator":
        return [total, terms], []
    rows = [_rows(e, buffers, depth) for depth in range(last + 1)]
    pairs = [(own[stack, 0], own[stack, 1]) for stack in _stacks(e) for own in rows]
    return [total, terms], [backend.feature_l1(*zip(*pairs))]
