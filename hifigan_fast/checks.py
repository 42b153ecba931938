"""What every public call checks before a kernel runs: shapes, dtypes, devices, in the caller's words."""

from collections.abc import Iterable

import torch


def check_waveform(name, x):
    """A floating waveform [batch, 1, samples] with at least one sample; TypeError or ValueError otherwise."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor [batch, 1, samples], got {type(x).__name__}")
    if x.dim() != 3 or x.shape[1] != 1:
        raise ValueError(f"{name}: expected shape [batch, 1, samples], got {list(x.shape)}")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating dtype, got {x.dtype}")
    if x.shape[2] == 0:
        raise ValueError(f"{name}: expected at least one sample, got shape {list(x.shape)}")


def check_pair(y, y_hat):
    """Two waveforms of one shape, dtype and device."""
    check_waveform("y", y)
    check_waveform("y_hat", y_hat)
    for what in ("shape", "dtype", "device"):
        a, b = getattr(y, what), getattr(y_hat, what)
        if a != b:
            shown = [list(a), list(b)] if what == "shape" else [a, b]
            raise ValueError(f"y_hat: expected the {what} of y, {shown[0]}, got {shown[1]}")


def check_module(name, module):
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"{name}: expected a torch.nn.Module, got {type(module).__name__}")


def _listed(name, values, expected):
    """As a list: what can be read but once, a generator, would be used up by checking it."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected {expected} for each discriminator, got {type(values).__name__}")
    return list(values)


def checked_scores(name, scores):
    """Logits as the discriminators return them, one tensor each, as a list."""
    scores = _listed(name, scores, "one tensor")
    for score in scores:
        if not isinstance(score, torch.Tensor):
            raise TypeError(
                f"{name}: expected one tensor for each discriminator, got a {type(score).__name__} among them"
            )
    return scores


def checked_maps(name, maps):
    """Feature maps as the discriminators return them, a list of tensors each, as a list of lists."""
    found = []
    for own in _listed(name, maps, "a list of maps"):
        listed = isinstance(own, Iterable) and not isinstance(own, torch.Tensor)
        found.append(list(own) if listed else [])
        if not listed or not all(isinstance(m, torch.Tensor) for m in found[-1]):
            raise TypeError(
                f"{name}: expected a list of maps for each discriminator, got a {type(own).__name__} that is none"
            )
    return found


def check_reflect_pad(name, length, period):
    """The reflect pad that makes `length` a multiple of `period` must be shorter than the waveform."""
    padding = -length % period
    if padding >= length:
        raise ValueError(
            f"{name}: {length} samples are too few for period {period}: the reflect pad of {padding} must be "
            "shorter than the waveform"
        )
