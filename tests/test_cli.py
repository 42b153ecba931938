"""hifigan-fast bench | check | info, on one small period (train: tests/training)."""

import functools
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tqdm
from torch import nn

from hifigan_fast import bench, discriminators, dispatch, info, parity, reference
from hifigan_fast.cli import main

GREEN = parity.Verdict({"maps": (parity.LIMIT - 0.01, "real 0.1"), "logits": (1.0, "real 0")})
RED = parity.Verdict({"maps": (parity.LIMIT + 0.01, "real 0.1"), "logits": (1.0, "real 0")})


@pytest.fixture
def one_period(monkeypatch):
    """The gate has one ensemble, of one period."""
    pair = tuple(functools.partial(m.MultiPeriodDiscriminator, (2,)) for m in (discriminators, reference))
    monkeypatch.setattr(parity, "ENSEMBLES", {"mpd": pair})


def narrow(plain):
    """A discriminator ensemble of few channels, which fuses as any."""
    made = (reference if plain else discriminators).MultiPeriodDiscriminator((2,))
    convs = [nn.Conv2d(i, o, (5, 1), (3, 1), (2, 0)) for i, o in ((1, 4), (4, 4), (4, 1))]
    made.discriminators[0].convs, made.discriminators[0].conv_post = nn.ModuleList(convs[:-1]), convs[-1]
    return made


@pytest.fixture
def bar(monkeypatch):
    """The progress bar's total, and what it was moved by."""
    seen = SimpleNamespace(total=None, moved=[])

    class Bar(tqdm.tqdm):
        def __init__(self, *args, total, **kwargs):
            super().__init__(*args, total=total, **kwargs)
            seen.total = total

        def update(self, n=1):
            seen.moved.append(n)
            return super().update(n)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    return seen


@pytest.fixture
def made_up(monkeypatch):
    """made_up(verdict, seconds): the gate and the times are made up. Returns what the gate will have been asked for."""

    def make(verdict=GREEN, seconds=(1.0, 1.0, 1.0)):
        asked = {}

        def check(report, **how):
            asked.update(how)
            for ensemble in parity.ENSEMBLES:
                report(ensemble, {"cpu": verdict})
            return dict.fromkeys(parity.ENSEMBLES, {"cpu": verdict})

        def measure(waves, steps, repeats, bar):
            plain = [2 * s for s in seconds]
            return [bench.row(ensemble, step, seconds, plain) for ensemble in bench.ENSEMBLES for step in steps]

        monkeypatch.setattr(parity, "check", check)
        monkeypatch.setattr(bench, "measure", measure)
        return asked

    return make


def test_info_has_a_line_a_backend(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for expected in ("hifigan_fast", "torch", "processor", "C++ extension", "CUDA"):
        assert any(line.startswith(expected) for line in lines)
    backends = [line for line in lines if line.startswith("backend ")]
    assert [line.split()[1] for line in backends] == list(dispatch.BACKENDS)
    assert "float32, bfloat16, float16, float64 on cpu" in backends[-1]


def test_info_has_a_line_a_dtype_if_verbose(capsys):
    assert main(["info", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert out.count("\nbackend ") >= len(dispatch.BACKENDS) * len(info.DTYPES)
    assert "backend reference, float64 on cpu" in out and "no: the C++ kernels are for float32 and bfloat16" in out


def test_info_says_why_a_backend_runs_nothing(monkeypatch, capsys):
    monkeypatch.setattr(dispatch.BACKENDS["cpu"], "cannot_run", lambda device, dtype: "no compiler", raising=False)
    assert main(["info"]) == 0
    assert "no: no compiler\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "cpuinfo, said, expected",
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 9654\nmodel name\t: other", {}, "AMD EPYC 9654"),
        ("CPU part\t: 0xd0c\n", {"lscpu": "Architecture: aarch64\nModel name:    Neoverse-N1\n"}, "Neoverse-N1"),
        ("", {"sysctl": "machdep.cpu.brand_string: Apple M2 Pro\n"}, "Apple M2 Pro"),
    ],
)
def test_the_processors_name(monkeypatch, cpuinfo, said, expected):
    monkeypatch.setattr(info.Path, "exists", lambda _: bool(cpuinfo))
    monkeypatch.setattr(info.Path, "read_text", lambda *_, **__: cpuinfo)
    monkeypatch.setattr(info, "_said", lambda command, *_: said.get(command, ""))
    assert info.processor() == expected


def test_check_prints_a_line_a_backend_and_a_table_if_verbose(one_period, capsys):
    assert main(["check", "--segment", "200", "--verbose"]) == 0
    out = capsys.readouterr().out
    lines, last = out.splitlines()[: len(parity.able())], out.splitlines()[-1]
    assert [line.split(", worst ratio ")[0] for line in lines] == [f"  mpd, {name}: ok" for name in parity.able()]
    assert last == "parity ok"
    kinds = (
        "logits",
        "maps",
        "losses",
        "waveform gradients",
        "weight gradients",
        "bias gradients",
        "magnitude gradients",
    )
    assert all(f" {kind} " in out for kind in kinds)


def test_check_prints_no_table_unasked(made_up, capsys):
    made_up(GREEN)
    assert main(["check"]) == 0
    line = "cpu: ok, worst ratio 1.99 (maps: real 0.1)"
    assert capsys.readouterr().out.splitlines() == [f"  mpd, {line}", f"  msd, {line}", "parity ok"]


def test_check_fails_where_a_backend_does(made_up, capsys):
    made_up(RED)
    assert main(["check"]) == 1
    assert "  msd, cpu: FAIL, worst ratio 2.01 (maps: real 0.1)\n" in capsys.readouterr().out


@pytest.mark.parametrize("flags, count", [([], 6), (["--full"], 12)])
def test_bench_prints_a_table_and_writes_json_and_png(made_up, bar, monkeypatch, tmp_path, capsys, flags, count):
    measure, out = bench.measure, tmp_path / "out"
    made_up()
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(
        bench, "build", lambda names, plain: [narrow(reference if plain else discriminators)] * len(names)
    )
    assert main(["bench", "--batch-size", "1", "--segment", "200", "--repeats", "1", "--out", str(out), *flags]) == 0
    assert "speed-up" in capsys.readouterr().out
    result = json.loads((out / "bench.json").read_text())
    assert len(result["speed"]) == count and all(row["speedup"] > 0 for row in result["speed"])
    assert result["versions"]["torch"] and result["parity"]["msd"]
    assert result["processor"] == info.processor()
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sum(bar.moved) == bar.total and len(bar.moved) == len(parity.ENSEMBLES) + 2 * count


@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_of_wavs_is_measured(made_up, tmp_path, capsys, count):
    pytest.importorskip("soundfile")
    from hifigan_fast.voice import write_clips

    asked = made_up()
    write_clips(tmp_path / "wavs", count, 0.5)
    assert main(["bench", "--data", str(tmp_path / "wavs"), "--out", str(tmp_path / "out")]) == 0
    assert [len(clip) for clip in asked["clips"]] == count * [11025] and "the clips of " in capsys.readouterr().out


@pytest.mark.parametrize(
    "values, said",
    [
        (np.zeros((300, 2)), "0.wav has 2 channels, expected 1"),
        (np.full(300, np.nan), "0.wav has 300 values that are not finite"),
        (np.zeros(0), "0.wav has no samples"),
        (None, "expected wavs or FLAC files in .*, got none; convert its 1 .mp3 files"),
    ],
)
def test_wavs_that_cannot_be_measured_are_named_before_anything_runs(made_up, tmp_path, capsys, values, said):
    soundfile = pytest.importorskip("soundfile")
    asked = made_up()
    if values is None:
        (tmp_path / "0.mp3").touch()
    else:
        soundfile.write(tmp_path / "0.wav", values, 22050, subtype="FLOAT")
    assert main(["bench", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert re.search(f"error: data: .*{said}", capsys.readouterr().err)
    assert not asked and not (tmp_path / "out").exists()


def test_the_quick_gate_judges_what_is_measured_and_the_full_one_everything(made_up, monkeypatch, tmp_path):
    asked = made_up()
    monkeypatch.setattr(bench, "figure", lambda *_: None)
    for backend in ("reference", "modules"):
        with dispatch.use_backend(backend):
            assert main(["bench", "--out", str(tmp_path)]) == 0
        assert asked["backends"] == [backend] and asked["length"] == 4096
    assert main(["bench", "--full", "--out", str(tmp_path)]) == 0
    assert asked["backends"] == parity.able() and asked["length"] == 8192


@pytest.mark.parametrize(
    "fast, plain, noisy",
    [
        ([1.0, 1.05, 1.1], [2.0, 2.1, 2.2], False),
        ([1.0, 1.0, 1.2], [2.0, 2.0, 2.4], True),  # both slow down: the ratio stays
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.5], True),
        ([1.0, 1.1, 1.0], [2.1, 1.9, 2.1], True),  # each is steady enough, the ratio is not
        ([1.0], [2.0], False),  # which one pair does not tell
    ],
)
def test_a_wide_spread_is_noise(fast, plain, noisy):
    row = bench.row("mpd", "forward", fast, plain)
    assert row["noisy"] is noisy and (row["spread"] is None) == (len(fast) == 1)
    text = bench.table([row])
    assert (bench.ADVICE in text and " !" in text) if noisy else "!" not in text


def test_noise_is_said_in_table_json_and_figure(made_up, monkeypatch, tmp_path, capsys):
    from matplotlib.axes import Axes

    said = []
    monkeypatch.setattr(Axes, "set_xlabel", lambda self, text, **_: said.append(text))
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: said.append(text))
    made_up(seconds=(1.0, 1.0, 1.4))
    assert main(["bench", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("40% !") == 6 and bench.ADVICE in out
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["noise"] == bench.ADVICE and all(row["noisy"] for row in result["speed"])
    title, advice = said
    assert advice == bench.ADVICE and "hifigan_fast" in title and info.processor() in title


def test_no_speed_is_printed_when_parity_is_red(tmp_path, made_up, monkeypatch, capsys):
    made_up(RED)
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured although parity is red"))
    assert bench.run(out=tmp_path) == 1
    assert "parity FAILED" in capsys.readouterr().out
    assert not (tmp_path / "bench.json").exists()


def exit_status(args):
    """Of the command line in this process; argparse raises its own."""
    try:
        return main(args)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("command", [[], ["train"], ["bench"], ["check"], ["tune"], ["info"]])
def test_help_has_examples(command, capsys):
    assert exit_status([*command, "--help"]) == 0
    assert not command or "examples:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, expected",
    [
        (["bench", "--data", "/no/such/folder"], "error: data: expected a folder of wavs"),
        (["bench", "--repeats", "0"], "expected at least 1, got 0"),
        (["check", "--segment", "many"], "invalid"),
        (["check", "--segment", "3"], "error: y: 3 samples are too few for period"),
        (["nonsense"], "invalid choice"),
        ([], "required"),
    ],
)
def test_user_errors_exit_2_with_one_message(args, expected, capsys):
    assert exit_status(args) == 2 and expected in capsys.readouterr().err


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "hifigan_fast.cli", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice" in done.stderr and "Traceback" not in done.stderr


def test_bench_says_what_to_install_before_it_works(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--data", "nowhere"]) == 2
    assert "needs matplotlib: pip install 'hifigan-fast[bench]'" in capsys.readouterr().err
