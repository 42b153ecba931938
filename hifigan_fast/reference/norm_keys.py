"""A norm has other keys by `torch.nn.utils.parametrizations` than by the legacy norms of the official checkpoints.

A discriminator loads both, whichever norm it was built with; torch itself translates legacy weight norm only.
"""

# Of each norm: its legacy keys, and in the same order the parametrization's. A norm is known by all of its keys:
# `weight_v` alone is the direction under weight norm, and a singular vector under spectral norm.
SPELLINGS = (
    (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")),
    (
        ("weight_orig", "weight_u", "weight_v"),
        ("parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v"),
    ),
)


def translate_norm_keys(discriminator, state_dict, prefix, *_):
    """Load hook: renames keys of `state_dict` (torch's own copy) to those that each layer has for the same norm."""
    for name, layer in discriminator.named_modules(prefix=prefix.removesuffix(".")):
        own = {key for key, _ in (*layer.named_parameters(), *layer.named_buffers())}
        for ours, theirs in (pair for norm in SPELLINGS for pair in (norm, norm[::-1])):
            wanted, given = ([f"{name}.{key}".lstrip(".") for key in keys] for keys in (ours, theirs))
            if own.issuperset(ours) and state_dict.keys().isdisjoint(wanted) and state_dict.keys() >= set(given):
                state_dict |= {key: state_dict.pop(found) for key, found in zip(wanted, given)}
