"""Discriminators' state dicts in the layouts of other projects: the same tensors by other names."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

# What a tensor is, by norm, in the legacy norms' names and in those of parametrizations.
LEGACY = {
    "weight": {"g": "weight_g", "v": "weight_v"},
    "spectral": {"raw": "weight_orig", "u": "weight_u", "v": "weight_v"},
    "none": {"raw": "weight"},
}
PARAMETRIZED = {
    "weight": {"g": "parametrizations.weight.original0", "v": "parametrizations.weight.original1"},
    "spectral": {
        "raw": "parametrizations.weight.original",
        "u": "parametrizations.weight.0._u",
        "v": "parametrizations.weight.0._v",
    },
    "none": {"raw": "weight"},
}


class Layout(NamedTuple):
    """Names of one project.

    Attributes:
        members: what its list of discriminators is called.
        periods, scales: the names of the stem, of another layer and of the head of a discriminator of either kind.
        norms: the names of a layer's tensors, by norm.
    """

    members: str
    periods: tuple
    scales: tuple
    norms: dict


PLAIN = ("convs.{}", "convs.{}", "conv_post")
SEQUENTIAL = ("convs.{}.0", "convs.{}.0", "conv_post")  # a convolution and its activation
WRAPPED = ("convs.{}.conv", "convs.{}.conv", "conv_post.conv")
COQUI = PARAMETRIZED | {"spectral": LEGACY["spectral"]}
LAYOUTS = {
    "jik876": Layout("discriminators", PLAIN, PLAIN, LEGACY),
    "parametrized": Layout("discriminators", PLAIN, PLAIN, PARAMETRIZED),
    "coqui": Layout("discriminators", PLAIN, PLAIN, COQUI),
    "coqui-vits": Layout("nets", PLAIN, PLAIN, COQUI),
    "espnet": Layout(
        "discriminators", (*SEQUENTIAL[:2], "output_conv"), ("layers.{}.0", "layers.{}.0", "layers.{}"), LEGACY
    ),
    "dac": Layout("discriminators", SEQUENTIAL, SEQUENTIAL, LEGACY),
    # The stem of a scale stands behind the padding of its waveform.
    "audiocraft": Layout("discriminators", WRAPPED, ("convs.{}.1.conv", *WRAPPED[1:]), LEGACY),
    "speechbrain": Layout("discriminators", WRAPPED, PLAIN, LEGACY),
}
TENSORS = sorted({t for norms in (LEGACY, PARAMETRIZED) for names in norms.values() for t in names.values()} | {"bias"})
KEY = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?:discriminators|nets)\.(?P<member>\d+)\."
    r"(?P<layer>(?:convs|layers)\.(?P<depth>\d+)(?:\.0|(?:\.1)?\.conv)?|conv_post(?:\.conv)?|output_conv)\."
    rf"(?P<tensor>{'|'.join(map(re.escape, TENSORS))})"
)


def convert_state_dict(state_dict: Mapping[str, torch.Tensor], to: str) -> dict[str, torch.Tensor]:
    """A state dict of HiFi-GAN-like discriminators, from whichever of the known layouts to another.

    Only names change, and their order does not: shapes are the caller's affair (espnet's head has two taps, others'
    three). What stands before `discriminators` (`module.`, `mpd.`) stays.

    Args:
        state_dict: of one discriminator set, or several with a prefix each.
        to: "jik876" (legacy norms), "parametrized" (the same names, `torch.nn.utils.parametrizations`), "coqui",
            "coqui-vits", "espnet" (ParallelWaveGAN's too), "dac", "audiocraft" or "speechbrain".

    Raises:
        ValueError: `to` is none of these, a key or the tensors of a layer are of none, or two would have one name.
    """
    if to not in LAYOUTS:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(LAYOUTS)}")
    found = {key: match for key in state_dict if (match := KEY.fullmatch(key))}
    unknown = next((key for key in state_dict if key not in found), None if found else "none")
    if unknown:
        raise ValueError(f"state_dict: expected a discriminator's keys, got {unknown}")
    for key in found:
        if not isinstance(state_dict[key], torch.Tensor):
            raise ValueError(f"state_dict: {key}: expected a tensor, got {type(state_dict[key]).__name__}")
    layers: dict[tuple, dict] = {}
    depths: dict[tuple, set] = {}
    for key, match in found.items():
        layers.setdefault((match["prefix"], match["member"], match["layer"]), {})[match["tensor"]] = state_dict[key]
        if match["depth"]:
            member = depths.setdefault((match["prefix"], match["member"], match["layer"].split(".")[0]), set())
            member.add(int(match["depth"]))
    named = {place: _named(place, tensors, depths, to) for place, tensors in layers.items()}
    names = {key: named[m["prefix"], m["member"], m["layer"]][m["tensor"]] for key, m in found.items()}
    before: dict[str, str] = {}
    for key, name in names.items():
        if before.setdefault(name, key) != key:
            raise ValueError(f"state_dict: {before[name]} and {key} would both be {name}: expected one layout")
    return {name: state_dict[key] for key, name in names.items()}


def _named(place, tensors, depths, to):
    """{name of a tensor as it was: its whole key in the layout `to`} of one layer."""
    prefix, member, layer = place
    layout = LAYOUTS[to]
    norm, roles = _norm(place, tensors)
    raw = tensors[roles["v" if norm == "weight" else "raw"]]
    kind, *rest = layer.split(".")
    known = sorted(depths.get((prefix, member, "layers" if kind == "layers" else "convs"), ()))
    of_head = kind in ("conv_post", "output_conv") or (kind == "layers" and int(rest[0]) == known[-1])
    depth = len(known) - (kind == "layers") if of_head else int(rest[0])
    stem, conv, head = layout.scales if raw.dim() == 3 else layout.periods
    own = (head if of_head else conv if depth else stem).format(depth)
    names = {tensor: layout.norms[norm][role] for role, tensor in roles.items()} | {"bias": "bias"}
    return {tensor: f"{prefix}{layout.members}.{member}.{own}.{names[tensor]}" for tensor in tensors}


def _norm(place, tensors):
    """A layer's norm, and its tensors' names: `weight_v` is a parameter under one norm, a buffer under another."""
    for names in (LEGACY, PARAMETRIZED):
        for norm, roles in names.items():
            if set(tensors) - {"bias"} == set(roles.values()):
                return norm, roles
    where = f"{place[0]}discriminators.{place[1]}.{place[2]}"
    raise ValueError(f"state_dict: {where} has {', '.join(tensors)}: expected the tensors of one norm")


def convert_file(source: str, target: str, to: str) -> list[str]:
    """Convert a checkpoint: a state dict, or a dict of several -> the names of the parts converted.

    All else in it stays, also tensors beside the discriminators' in one part. Read with `weights_only=True`; `target`
    is whole or not there. ValueError for a file that is no checkpoint of tensors, or has no discriminator.
    """
    if Path(target).resolve() == Path(source).resolve():
        raise ValueError(f"OUT: expected another file than IN, got {target}")
    other = Path(target).exists() and not Path(target).is_file()  # a folder; or a device, which would be replaced too
    if other or not Path(target).absolute().parent.is_dir():
        raise ValueError(f"OUT: expected a file in a folder that is there, got {target}")
    checkpoint = _read(source)
    if _holds_ours(checkpoint):
        converted, parts = _converted(checkpoint, to), ["the state dict"]
    else:
        parts = [name for name, value in checkpoint.items() if isinstance(value, dict) and _holds_ours(value)]
        if not parts:
            held = ", ".join(map(str, checkpoint))
            raise ValueError(f"{source}: no part of it has a discriminator's tensors: it holds {held[:200]}")
        converted = checkpoint | {name: _converted(checkpoint[name], to) for name in parts}
    temporary = Path(f"{target}.{os.getpid()}.tmp")
    with open(temporary, "xb") as file:  # never another's file
        try:
            torch.save(converted, file)
        except BaseException:
            temporary.unlink()
            raise
    os.replace(temporary, target)
    return parts


def why_unreadable(error: Exception) -> str:
    """What `torch.load` said of a file, without its advice to trust it, which follows."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    said = str(error).partition("\n")[0].partition(". ")[0]
    return f"nothing that torch.save wrote, or more than tensors ({type(error).__name__}: {said})"


def _read(source):
    try:
        checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler has many for a file that is none
        raise ValueError(f"IN: {source} is not readable: {why_unreadable(error)}") from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{source}: expected a state dict or a dict of them, got a {type(checkpoint).__name__}")
    return checkpoint


def _is_ours(key):
    return isinstance(key, str) and KEY.fullmatch(key) is not None


def _holds_ours(part):
    return any(map(_is_ours, part))


def _converted(part, to):
    own = {key: value for key, value in part.items() if _is_ours(key)}
    names = dict(zip(own, convert_state_dict(own, to)))
    return {names.get(key, key): value for key, value in part.items()}
