"""Several rows of a grouped layer as one row of its product: odd geometries, and faults that must be seen."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from hifigan_fast import dispatch, parity
from hifigan_fast.backends.triton import configs
from hifigan_fast.geometry import Layer

from .small import SmallEnsemble

BACKEND = dispatch.BACKENDS["triton"]
REASON = BACKEND.cannot_run(torch.device("cpu"), torch.float32)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
HEAD = {"taps": 3, "stride": 1, "padding": 1, "slope": 1.0}
SETS = {
    "as VITS": (Layer(1, 8, 15, 1, 7), Layer(8, 16, 41, 4, 20, 4), Layer(16, 32, 41, 4, 20, 16), Layer(32, 1, **HEAD)),
    "no padding, few taps": (
        Layer(1, 6, 5, 3, 2),
        Layer(6, 9, 7, 3, 1, 3),
        Layer(9, 12, 6, 4, 0, 3),
        Layer(12, 1, **HEAD),
    ),
    "much padding, even taps": (Layer(1, 4, 4, 2, 3), Layer(4, 8, 8, 3, 5, 2), Layer(8, 1, **HEAD)),
}


def ratio(name):
    ensemble = SmallEnsemble(layers=SETS[name], length=211)
    with configs.trying(configs.Config(16, 128, 32, 4, 1)):
        return ensemble.worst_ratio(BACKEND)


@pytest.mark.parametrize("name", SETS)
def test_geometries(name, poisoned):
    assert ratio(name) <= parity.LIMIT


def planted(direction, file, right, wrong, folder, monkeypatch):
    """The kernel of a direction, of a copy of the sources with a fault."""
    from hifigan_fast.backends.triton import convolution

    here = Path(convolution.__file__).parent
    for name in ("rows", "convolution"):  # the one that the other imports first
        text = (here / f"{name}.py").read_text().replace("from .rows import", "from .planted_rows import")
        assert name != file or right in text
        path = folder / f"planted_{name}.py"
        path.write_text(text.replace(right, wrong) if name == file else text)
        full = f"{convolution.__package__}.planted_{name}"
        spec = importlib.util.spec_from_file_location(full, path)
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, full, made)
        spec.loader.exec_module(made)
    return getattr(made, direction)


@pytest.mark.parametrize(
    "direction, file, right, wrong",
    [
        ("forward", "convolution", "n // OG * (STRIDE * IG)", "n // OG * IG"),
        ("forward", "rows", "near[:, None] * OUT + (behind * OUT + n % GROUP)", "near[:, None] * OUT + (behind * OUT)"),
        ("input_grad", "convolution", "first = -(PADDING % STRIDE) if", "first = 0 if"),
        ("input_grad", "convolution", "& (own < TAPS * IG)", ""),
        ("weight_grad", "convolution", "o // OG * OUT, o // OG", "o // OG * OUT, 1 + o // OG"),
        ("weight_grad", "convolution", "o % OG + o // OG * OUT", "o % OG"),
    ],
)
def test_a_fault_is_seen(direction, file, right, wrong, tmp_path, monkeypatch):
    from hifigan_fast.backends.triton.kernels import TritonKernels

    kernel = planted(direction, file, right, wrong, tmp_path, monkeypatch)
    monkeypatch.setattr(TritonKernels, direction, kernel)
    assert not ratio("much padding, even taps") <= parity.LIMIT
