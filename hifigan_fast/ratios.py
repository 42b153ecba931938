"""The ratio rule: an error against float64 is at most `LIMIT` times plain PyTorch's own, plus a floor of a few ulp."""

import torch

LIMIT = 2.0
FLOOR_ULPS = 1.0  # beside torch's error; the limit doubles it
SMALL = 16  # tensors of fewer elements (a head's bias) are judged together, and with a wider floor
SMALL_FLOOR_ULPS = 8.0


def weigh(tensor, generator):
    """A random weighting of a tensor's elements, the same for every dtype."""
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
    return (tensor * (noise / max(tensor.numel(), 1) ** 0.5).to(tensor)).sum()


def error_ratio(pairs, ulps, eps, least_scale=0.0):
    """The worse of the RMS and the maximum error ratio. pairs: [((ours, its oracle), (torch's, its oracle))].

    The floor is `ulps` of the oracle's RMS and maximum, or of `least_scale` where that is larger.
    """
    errors = [[], []]
    scale = []
    for both in pairs:
        for which, (value, oracle) in enumerate(both):
            if value is None or oracle is None or value.shape != oracle.shape:
                return 1.0 if value is None and oracle is None else float("inf")
            errors[which].append((value.double() - oracle).flatten())
        scale.append(both[1][1].flatten())
    ours, plain, scale = (torch.cat(parts) for parts in (*errors, scale))
    if not ours.numel():
        return 0.0
    floor = ulps * eps
    rms = [t.square().mean().sqrt() for t in (ours, plain, scale)]
    top = [t.abs().max() for t in (ours, plain, scale)]
    for measures in (rms, top):
        measures[2] = measures[2].clamp(min=least_scale)
    tiny = torch.finfo(torch.float64).tiny
    return max((a / (b + floor * s + tiny)).item() for a, b, s in (rms, top))
