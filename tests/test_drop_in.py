"""The snippets of docs/drop-in.md, run as they stand there, one after the other."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import hifigan_fast
from hifigan_fast import explain, parity, reference

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "drop-in.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", DOCUMENT.read_text(), re.M | re.S))


def snippets(title):
    (text,) = (text for name, text in SECTIONS.items() if name.startswith(title))
    return re.findall(r"```python\n(.+?)```", text, re.S)


@pytest.fixture
def names():
    """What the snippets take for granted."""
    torch.manual_seed(0)
    y, y_g_hat = parity.waveforms(1, 600)
    generator = nn.Conv1d(1, 1, 3, padding=1)
    y_g_hat = generator(y_g_hat)
    optim_g = torch.optim.AdamW(generator.parameters(), 2e-4)
    device = torch.device("cpu")
    known = {"torch": torch, "itertools": itertools, "hifigan_fast": hifigan_fast, "device": device, "y": y}
    return known | {"generator": generator, "y_g_hat": y_g_hat, "optim_g": optim_g}


def run(code, names):
    exec(compile(code, str(DOCUMENT), "exec"), names)
    return names


def moved(module, before):
    return any(not torch.equal(a, b) for a, b in zip(module.parameters(), before))


def test_a_script_like_the_originals(names):
    first, second = snippets("A script like jik876")
    before = [p.detach().clone() for p in names["generator"].parameters()]
    run(first, names)
    assert moved(names["generator"], before) and "modules" not in explain(names["mpd"])
    names["y_g_hat"] = names["generator"](parity.waveforms(1, 600)[1])
    before = [p.detach().clone() for p in names["mpd"].parameters()]
    run(second, names)
    assert moved(names["mpd"], before) and names["loss_disc"].terms.shape == (8, 2)


def test_a_script_like_vits(names):
    (code,) = snippets("A script like VITS")
    names["DiscriminatorS"], names["scaler"] = reference.DiscriminatorS, torch.amp.GradScaler("cpu")
    run(code, names)
    assert all(p.grad is not None for p in names["net_d"].parameters())
    as_vits = zip(names["y_d_hat_r"], names["y_d_hat_g"])
    expected = sum(torch.mean((1 - dr.float()) ** 2) + torch.mean(dg.float() ** 2) for dr, dg in as_vits)
    torch.testing.assert_close(names["loss_disc"], expected)


def loader():
    y, x = parity.waveforms(2, 600)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=1)


@pytest.mark.filterwarnings("ignore")  # of the framework's own
def test_lightning(names):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    (code,) = snippets("Lightning")
    before = [p.detach().clone() for p in names["generator"].parameters()]
    run(code, names | {"lightning": lightning, "loader": loader()})
    assert moved(names["generator"], before)


@pytest.mark.filterwarnings("ignore")
def test_accelerate(names):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    (code,) = snippets("Accelerate")
    mpd, msd = hifigan_fast.MultiPeriodDiscriminator(), hifigan_fast.MultiScaleDiscriminator()
    optim_d = torch.optim.AdamW(itertools.chain(msd.parameters(), mpd.parameters()), 2e-4)
    before = [p.detach().clone() for p in msd.parameters()]
    run(code, names | {"accelerate": accelerate, "mpd": mpd, "msd": msd, "optim_d": optim_d, "loader": loader()})
    assert moved(msd, before)
