"""From a convolution's parameters to its weights: which norm it has, its power iteration, and the way back.

Legacy `weight_norm` (Salimans & Kingma 2016) and `spectral_norm` (Miyato et al. 2018), whose keys the official
checkpoints have, `parametrizations.weight_norm`, and plain weights.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .backends.contract import WeightSet, wide, widened


@dataclass
class Parameters:
    """The parameters of one convolution. `raw` is the direction, the original or the plain weight."""

    raw: torch.Tensor
    magnitude: torch.Tensor | None
    bias: torch.Tensor


@dataclass
class Spectral:
    """Spectral norm's state at one call: singular vectors and σ = uᵀ W v, constants of the graph but for W."""

    u: torch.Tensor
    v: torch.Tensor
    sigma: torch.Tensor


def _norm_hook(conv):
    hooks = list(conv._forward_pre_hooks.values())
    return hooks[0] if len(hooks) == 1 and isinstance(hooks[0], (WeightNorm, SpectralNorm)) else None


def _weight_parametrization(conv):
    """The parametrization of the weight where it is weight norm over the output channels, and the only one."""
    if not hasattr(conv, "parametrizations") or set(conv.parametrizations) != {"weight"}:
        return None
    own = conv.parametrizations.weight
    if len(own) != 1 or type(own[0]) is not _WeightNorm or own[0].dim != 0:
        return None
    return None if any(m._forward_hooks or m._forward_pre_hooks for m in (own, own[0])) else own


def unreadable(conv):
    """Why a fused pass cannot do what calling `conv` would, in words; None if it can."""
    if hasattr(conv, "parametrizations") and _weight_parametrization(conv) is None:
        return "has a parametrization that is not weight norm over the output channels"
    # Not vars(conv), here as elsewhere: PyTorch 2.6 cannot compile it.
    patched = "forward" in conv.__dict__ or "_conv_forward" in conv.__dict__
    if patched or type_before_parametrizations(conv) not in (nn.Conv1d, nn.Conv2d):
        return f"is a {type(conv).__name__} with a forward of its own"
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros" or set(conv.dilation) != {1}:
        return "pads or dilates in another way than the original"
    if (*conv.kernel_size[1:], *conv.stride[1:], *conv.padding[1:]) not in ((), (1, 1, 0)):
        return "spans more than one column of the fold"
    norm = _norm_hook(conv)
    if len(conv._forward_pre_hooks) > (norm is not None) or conv._forward_hooks:
        return "has a forward hook"
    if conv._backward_hooks or conv._backward_pre_hooks:
        return "has a backward hook"
    if norm is not None and (norm.name != "weight" or norm.dim != 0):
        return f"is normalised over {norm.name!r}, dimension {norm.dim}"
    if conv.bias is None:
        return "has no bias"
    return _misread(conv, parameters(conv))


def _misread(conv, own):
    """What kernels, which go by `conv`'s numbers, would read wrong of its parameters, in words; None if nothing."""
    shape = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
    if own.raw.shape != shape:
        return f"has a weight of {list(own.raw.shape)} where its numbers say {list(shape)}"
    per_channel = own.magnitude is None or own.magnitude.shape == (shape[0], *[1] * len(shape[1:]))
    if not per_channel or own.bias.shape != shape[:1]:
        return f"has a bias or magnitudes of another shape than for {shape[0]} channels"
    return None if own.raw.dtype == own.bias.dtype else "mixes dtypes"


def parameters(conv):
    """The tensors of `conv` that a gradient may be wanted of."""
    own, norm = _weight_parametrization(conv), _norm_hook(conv)
    if own is not None:
        return Parameters(own.original1, own.original0, conv.bias)
    if isinstance(norm, WeightNorm):
        return Parameters(conv.weight_v, conv.weight_g, conv.bias)
    if isinstance(norm, SpectralNorm):
        return Parameters(conv.weight_orig, None, conv.bias)
    return Parameters(conv.weight, None, conv.bias)


def iterates(conv):
    """Whether each call of `conv` moves its spectral norm."""
    return isinstance(_norm_hook(conv), SpectralNorm) and conv.training


def spectral_groups(convs):
    """{(eps, iterations of a call): indices of the `convs` whose spectral norm has them}."""
    groups = {}
    for index, conv in enumerate(convs):
        norm = _norm_hook(conv)
        if isinstance(norm, SpectralNorm):
            groups.setdefault((norm.eps, norm.n_power_iterations if conv.training else 0), []).append(index)
    return groups


def weight_set(raw, magnitude, bias, spectral, dtype):
    """What a backend needs of one layer under one set, for maps of `dtype`."""
    raw = as_taken(raw, dtype)
    return WeightSet(
        raw,
        None if magnitude is None else as_taken(magnitude, dtype),
        None if spectral is None else spectral.sigma.to(raw.dtype),
        as_taken(bias, dtype),
    )


def all_taken(parameters, dtype):
    """Parameters, or None, as kernels read them: side by side, of a dtype that goes with maps of `dtype`.

    Nearly always they are so already, which is asked of all at once.
    """
    given = [p for p in parameters if p is not None]
    known = {torch.float32, wide(dtype)}
    if (
        known.issuperset({p.dtype for p in given})
        and all(map(torch.Tensor.is_contiguous, given))
        and not any(map(torch.Tensor.is_neg, given))
    ):
        return list(parameters)
    return [None if p is None else as_taken(p, dtype) for p in parameters]


def as_taken(parameter, dtype):
    """One of `all_taken`, itself where it is so already."""
    known = torch.float32, wide(dtype)
    if parameter.dtype in known and parameter.is_contiguous() and not parameter.is_neg():
        return parameter
    return widened(parameter.detach().resolve_neg(), dtype).contiguous()


def effective(raw, magnitude, state):
    """The effective weight by differentiable operations, for the reference formulation."""
    if magnitude is not None:  # torch._weight_norm would do but for its second derivative, which is wrong (torch 2.13)
        dims = tuple(range(1, raw.dim()))
        return raw * (magnitude / torch.linalg.vector_norm(raw, dim=dims, keepdim=True))
    if state is not None:
        return raw / torch.dot(state.u, torch.mv(raw.flatten(1), state.v))
    return raw
