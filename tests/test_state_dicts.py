"""State dicts of either spelling of a norm, legacy or parametrized, load into a discriminator built with the other."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import hifigan_fast as hf
from hifigan_fast import reference
from hifigan_fast.discriminators import _drop_stale_weights

NORMS = {
    ("legacy", "weight"): nn.utils.weight_norm,
    ("legacy", "spectral"): nn.utils.spectral_norm,
    ("parametrized", "weight"): parametrizations.weight_norm,
    ("parametrized", "spectral"): parametrizations.spectral_norm,
}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


def small(kind, spelling, norm, seed=0):
    """A discriminator of a few channels in evaluation mode: the class's own but for its layers."""
    with torch.device("meta"):
        module = kind(2) if issubclass(kind, reference.DiscriminatorP) else kind()
    torch.manual_seed(seed)
    conv, tail = (nn.Conv2d, (1,)) if issubclass(kind, reference.DiscriminatorP) else (nn.Conv1d, ())
    *convs, head = (
        NORMS[spelling, norm](conv(into, out, (taps, *tail))) for into, out, taps in ((1, 4, 5), (4, 6, 3), (6, 1, 3))
    )
    module.convs, module.conv_post = nn.ModuleList(convs), head
    _drop_stale_weights(module)  # or it could not be copied
    return module.eval()


KINDS = [hf.DiscriminatorP, hf.DiscriminatorS, reference.DiscriminatorP, reference.DiscriminatorS]


@pytest.mark.parametrize("norm", ["weight", "spectral"])
@pytest.mark.parametrize("to, source", [("legacy", "parametrized"), ("parametrized", "legacy"), ("legacy", "legacy")])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_either_spelling_loads_strictly_into_the_other(kind, to, source, norm):
    given, module = small(kind, source, norm), small(kind, to, norm, seed=1)
    names = list(module.state_dict())
    state_dict = given.state_dict()
    before = copy.deepcopy(state_dict)
    assert not module.load_state_dict(state_dict, strict=True)[0]
    x = torch.randn(2, 1, 200)
    torch.testing.assert_close(module(x)[0], given(x)[0], rtol=1e-3, atol=1e-5)
    assert list(module.state_dict()) == names
    assert list(state_dict) == list(before) and all(torch.equal(state_dict[key], before[key]) for key in before)


def test_whole_ensembles_wrapped_or_copied():
    """Also below other modules, whose prefix the keys then have, and in a deep copy."""
    with torch.device("meta"):
        given, ensemble = hf.MultiScaleDiscriminator(), hf.MultiScaleDiscriminator()
    spellings = [("spectral", 0), ("weight", 1), ("weight", 2)]
    for module, spelling, add in ((given, "parametrized", 0), (ensemble, "legacy", 3)):
        own = [small(hf.DiscriminatorS, spelling, norm, seed + add) for norm, seed in spellings]
        module.discriminators = nn.ModuleList(own)
    y = torch.randn(1, 1, 200)
    for wrap in (lambda m: m, lambda m: nn.ModuleDict({"net_d": m})):
        into = copy.deepcopy(ensemble)
        wrap(into).load_state_dict(wrap(given).state_dict())
        torch.testing.assert_close(into.eval()(y, y)[0], given.eval()(y, y)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("source", [("parametrized", "weight"), ("legacy", "weight")])
@pytest.mark.parametrize("to", [("legacy", "spectral"), ("parametrized", "spectral")])
def test_another_norm_is_refused(source, to):
    """Both have a `weight_v`: weight norm's direction must not become a singular vector, nor the reverse."""
    for one, other in ((source, to), (to, source)):
        given, module = small(hf.DiscriminatorP, *one), small(hf.DiscriminatorP, *other, seed=1)
        keys = "|".join(key for key in given.state_dict() if "bias" not in key)
        with pytest.raises(RuntimeError, match=rf"Missing key(.|\n)*Unexpected key(.|\n)*({keys})"):
            module.load_state_dict(given.state_dict())


def test_a_key_that_is_not_there_is_said_by_its_name():
    given, module = small(hf.DiscriminatorP, "parametrized", "weight"), small(hf.DiscriminatorP, "legacy", "weight")
    state_dict = given.state_dict()
    del state_dict["convs.1.parametrizations.weight.original0"]
    with pytest.raises(RuntimeError, match=r"convs\.1\.weight_g(.|\n)*convs\.1\.parametrizations\.weight\.original1"):
        module.load_state_dict(state_dict)


def test_both_spellings_at_once_are_refused():
    given, module = small(hf.DiscriminatorP, "parametrized", "weight"), small(hf.DiscriminatorP, "legacy", "weight")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict({**given.state_dict(), **module.state_dict()})


def test_optimizer_states_go_along():
    """By index: both spellings have their parameters in one order."""
    shapes = [
        [p.shape for p in small(hf.DiscriminatorP, spelling, norm).parameters()]
        for norm in ("weight", "spectral")
        for spelling in ("legacy", "parametrized")
    ]
    assert shapes[0] == shapes[1] and shapes[2] == shapes[3]
