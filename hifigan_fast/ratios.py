"""The ratio rule: an error against float64 is at most `LIMIT` times plain PyTorch's own, plus a floor of a few ulp."""

import torch

LIMIT = 2.0
FLOOR_ULPS = 1.0  # beside torch's error; the limit doubles it
SMALL = 16  # tensors of fewer elements (a head's bias) are judged together, and with a wider floor
SMALL_FLOOR_ULPS = 8.0
# Of TF32's: operands are rounded, not results, and a sum averages their errors, to a third of an ulp.
TF32_FLOOR_ULPS, TF32_SMALL_FLOOR_ULPS = 1 / 8, 1 / 4


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
            errors[which].append((value - oracle).flatten())  # in float64, as the oracle is
        scale.append(both[1][1].flatten())
    if not any(part.numel() for part in scale):
        return 0.0
    ratios, tiny = [], torch.finfo(torch.float64).tiny
    for measured in (_rms, _top):
        ours, plain, size = (measured(parts) for parts in (*errors, scale))
        ratios.append(ours / (plain + ulps * eps * max(size, least_scale) + tiny))
    return max(ratios)


def _rms(parts):
    count = sum(part.numel() for part in parts)
    return torch.stack([torch.linalg.vector_norm(part) for part in parts]).square().sum().div(count).sqrt().item()


def _top(parts):
    extremes = [end for part in parts if part.numel() for end in part.aminmax()]
    return torch.stack(extremes).abs().max().item()
