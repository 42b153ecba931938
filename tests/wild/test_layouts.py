"""State dicts between the layouts of other projects: they load where they are said to, and come back as they were."""

import os

import pytest
import torch
from torch import nn

import hifigan_fast as hf
from hifigan_fast.cli import main

from .parts import Pair, Period, Scale
from .variants import (
    AudiocraftPeriod,
    AudiocraftScale,
    DacPeriod,
    DacSet,
    GanPeriod,
    GanScale,
    NormConv,
    PooledPair,
    Single,
)


def sets():
    """(layout, module) of equal structure, prefix `mpd.` or `msd.`; ParallelWaveGAN's heads have another shape."""
    jik876 = nn.ModuleDict({"mpd": Pair(Period(2), Period(3)), "msd": PooledPair()})
    parametrized = nn.ModuleDict(
        {
            "mpd": Pair(Period(2, "parametrized"), Period(3, "parametrized")),
            "msd": Pair(Scale("parametrized spectral"), Scale("parametrized"), Scale("parametrized")),
        }
    )
    coqui = nn.ModuleDict(
        {
            "mpd": Single(Period(2, "parametrized"), Period(3, "parametrized")),
            "msd": Single(Scale("spectral"), Scale("parametrized"), Scale("parametrized")),
        }
    )
    return {"jik876": jik876, "parametrized": parametrized, "coqui": coqui}


@pytest.mark.parametrize("source", ["jik876", "parametrized", "coqui"])
@pytest.mark.parametrize("to", ["jik876", "parametrized", "coqui"])
def test_a_converted_state_dict_loads_strictly(source, to):
    modules = sets()
    state = modules[source].state_dict()
    converted = hf.convert_state_dict(state, to)
    modules[to].load_state_dict(converted)
    assert sorted(converted) == sorted(modules[to].state_dict())
    back = hf.convert_state_dict(converted, source)
    assert list(back) == list(state) and all(back[key] is state[key] for key in state)


def renamed():
    nets = nn.Module()
    nets.nets = Pair(Scale("parametrized"), Period(2, "parametrized")).discriminators
    return nets


class WrappedPeriod(Period):
    """speechbrain's: each convolution in a wrapper, those of scales plain."""

    def __init__(self, period):
        super().__init__(period)
        self.convs, self.conv_post = nn.ModuleList(map(NormConv, self.convs)), NormConv(self.conv_post)


# A layout, a module that has it, and one of the same tensors in jik876's or the parametrized layout.
OTHERS = {
    "dac": (lambda: DacSet(DacPeriod(2), DacPeriod(3)), lambda: Pair(Period(2), Period(3)), "jik876"),
    "audiocraft": (
        lambda: Single(AudiocraftPeriod(2), AudiocraftScale()),
        lambda: Pair(Period(2), Scale()),
        "jik876",
    ),
    "speechbrain": (
        lambda: Single(WrappedPeriod(2), Scale("spectral")),
        lambda: Pair(Period(2), Scale("spectral")),
        "jik876",
    ),
    "espnet": (
        lambda: DacSet(GanScale(), GanPeriod(2, taps=3)),
        lambda: Pair(Scale(), Period(2)),
        "jik876",
    ),
    "coqui-vits": (renamed, lambda: Pair(Scale("parametrized"), Period(2, "parametrized")), "parametrized"),
}


@pytest.mark.parametrize("layout", OTHERS)
def test_other_names_load_there_and_come_back(layout):
    theirs, ours, own = OTHERS[layout]
    theirs, ours = theirs(), ours()
    state = {f"module.mpd.{key}": value for key, value in ours.state_dict().items()}
    converted = hf.convert_state_dict(state, layout)
    theirs.load_state_dict({key.removeprefix("module.mpd."): value for key, value in converted.items()})
    back = hf.convert_state_dict(converted, own)
    assert list(back) == list(state) and all(back[key] is state[key] for key in state)


def test_spectral_norms_vector_is_no_direction():
    """`weight_v` is a buffer under one norm and a parameter under the other."""
    state = nn.ModuleList([Scale("spectral"), Scale("weight")]).state_dict()
    state = {f"discriminators.{key}": value for key, value in state.items()}
    found = hf.convert_state_dict(state, "parametrized")
    vector = found["discriminators.0.convs.1.parametrizations.weight.0._v"]
    assert vector is state["discriminators.0.convs.1.weight_v"] and vector.dim() == 1
    assert found["discriminators.1.convs.1.parametrizations.weight.original1"].dim() == 3


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update(extra=torch.zeros(1)), "expected a discriminator's keys, got extra"),
        (lambda s: s.clear(), "expected a discriminator's keys, got none"),
        (lambda s: s.pop("discriminators.0.convs.1.weight_g"), r"discriminators.0.convs.1 has .*tensors of one norm"),
        (lambda s: s.update({"discriminators.0.convs.1.weight_v": 3}), "convs.1.weight_v: expected a tensor, got int"),
        (
            lambda s: s.update({f"nets{key[14:]}": value for key, value in s.items()}),
            r"discriminators.0.convs.0.bias and nets.0.convs.0.bias would both be discriminators.0.convs.0.0.bias",
        ),
    ],
)
def test_what_is_no_such_state_dict(change, message):
    state = dict(Pair(Period(2)).state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        hf.convert_state_dict(state, "dac")


def test_an_unknown_layout_names_the_known():
    with pytest.raises(ValueError, match="to: got 'vits', expected one of jik876, parametrized"):
        hf.convert_state_dict({}, "vits")


def test_a_discriminator_beside_other_tensors_of_a_part(tmp_path):
    """As Coqui's VITS and Lightning's files have them: the others stay, in their order."""
    state = Pair(*(Period(p) for p in (2, 3))).state_dict()
    model = {"text_encoder.0": torch.ones(2), **{f"disc.{key}": value for key, value in state.items()}, "step": 3}
    torch.save({"model": model, "epoch": 7, 5: "five"}, tmp_path / "in")
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "parametrized"]) == 0
    found = torch.load(tmp_path / "out", weights_only=True)
    assert found["epoch"] == 7 and found[5] == "five" and list(found["model"])[0] == "text_encoder.0"
    own = {key: value for key, value in model.items() if key.startswith("disc.")}
    expected = ["text_encoder.0", *hf.convert_state_dict(own, "parametrized"), "step"]
    assert list(found["model"]) == expected and found["model"]["step"] == 3


@pytest.mark.parametrize(
    "source, target, said",
    [
        ("state", "state", "OUT: expected another file than IN"),
        ("state", "nowhere/out", "OUT: expected a file in a folder that is there"),
        ("state", ".", "OUT: expected a file in a folder that is there"),
        ("text", "out", "text is not readable: nothing that torch.save wrote"),
        ("module", "out", "module is not readable: nothing that torch.save wrote, or more than tensors"),
        ("others", "out", "others: no part of it has a discriminator's tensors: it holds 1, two"),
        ("missing", "out", "No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_converted(source, target, said, tmp_path, capsys):
    torch.save(Pair(Period(2)).state_dict(), tmp_path / "state")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module")
    torch.save({1: torch.ones(1), "two": {}}, tmp_path / "others")
    (tmp_path / "text").write_text("no tensors")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["convert", str(tmp_path / source), str(tmp_path / target), "--to", "coqui"]) == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_no_file_is_not_replaced_by_one(tmp_path, capsys):
    """As /dev/null was, for who may do that."""
    torch.save(Pair(Period(2)).state_dict(), tmp_path / "state")
    os.mkfifo(tmp_path / "pipe")
    assert main(["convert", str(tmp_path / "state"), str(tmp_path / "pipe"), "--to", "coqui"]) == 2
    assert "OUT: expected a file" in capsys.readouterr().err and (tmp_path / "pipe").is_fifo()


def test_no_file_beside_the_target_is_touched(tmp_path):
    torch.save(Pair(Period(2)).state_dict(), tmp_path / "out.tmp")
    before = (tmp_path / "out.tmp").read_bytes()
    assert main(["convert", str(tmp_path / "out.tmp"), str(tmp_path / "out"), "--to", "coqui"]) == 0
    assert (tmp_path / "out.tmp").read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_a_file_is_converted_part_by_part(tmp_path, capsys):
    """What is no discriminator stays; the official layout of two sets and their optimizer's state."""
    modules = sets()
    kept = {"steps": 3, "optim_d": {"state": {0: torch.ones(2)}}}
    parts = {"mpd": modules["jik876"]["mpd"].state_dict(), "msd": modules["jik876"]["msd"].state_dict()}
    torch.save(parts | kept, tmp_path / "do")
    assert main(["convert", str(tmp_path / "do"), str(tmp_path / "out"), "--to", "parametrized"]) == 0
    assert "converted mpd, msd" in capsys.readouterr().out
    found = torch.load(tmp_path / "out", weights_only=True)
    for name in parts:
        modules["parametrized"][name].load_state_dict(found[name])
    assert found["steps"] == 3 and torch.equal(found["optim_d"]["state"][0], torch.ones(2))
    torch.save(kept, tmp_path / "do")
    assert main(["convert", str(tmp_path / "do"), str(tmp_path / "out"), "--to", "dac"]) == 2
    assert "no part of it has a discriminator's tensors: it holds steps, optim_d" in capsys.readouterr().err


def test_a_file_of_one_state_dict(tmp_path):
    torch.save(Pair(Period(2)).state_dict(), tmp_path / "d")
    assert main(["convert", str(tmp_path / "d"), str(tmp_path / "out"), "--to", "dac"]) == 0
    DacSet(DacPeriod(2)).load_state_dict(torch.load(tmp_path / "out", weights_only=True))
