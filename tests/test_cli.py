"""hifigan-fast check | info, on one small period (bench: test_bench.py; train: tests/training)."""

import functools
import subprocess
import sys

import pytest

from hifigan_fast import discriminators, dispatch, info, parity, reference
from hifigan_fast.backends import cpu
from hifigan_fast.cli import main

GREEN = parity.Verdict({"maps": (parity.LIMIT - 0.01, "real, discriminators.0, map 1"), "logits": (1.0, "real 0")})
RED = parity.Verdict({"maps": (parity.LIMIT + 0.01, "real, discriminators.0, map 1"), "logits": (1.0, "real 0")})


@pytest.fixture
def one_period(monkeypatch):
    """The gate has one ensemble, of one period."""
    pair = tuple(functools.partial(m.MultiPeriodDiscriminator, (2,)) for m in (discriminators, reference))
    monkeypatch.setattr(parity, "ENSEMBLES", {"mpd": pair})


@pytest.fixture
def made_up(monkeypatch):
    """made_up(verdict): what the gate finds is made up."""

    def make(verdict=GREEN):
        def check(report, **how):
            for ensemble in parity.ENSEMBLES:
                report(ensemble, {"cpu": verdict})
            return dict.fromkeys(parity.ENSEMBLES, {"cpu": verdict})

        monkeypatch.setattr(parity, "check", check)

    return make


def test_info_has_a_line_a_backend(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for expected in ("hifigan_fast", "torch", "processor", "C++ extension", "CUDA"):
        assert any(line.startswith(expected) for line in lines)
    backends = [line for line in lines if line.startswith("backend ")]
    assert [line.split()[1] for line in backends] == list(dispatch.BACKENDS)
    assert "float32, bfloat16, float16, float64 on cpu" in backends[-1]


def test_versions_know_cuda_12s_name_of_nvrtc(monkeypatch):
    def version(package):
        if package == "nvidia-cuda-nvrtc-cu12":
            return "12.8.93"
        raise info.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(info.importlib.metadata, "version", version)
    found = info.versions()
    assert found["nvidia-cuda-nvrtc"] == "12.8.93" and found["triton"] is None


def test_info_has_a_line_a_dtype_if_verbose(capsys):
    assert main(["info", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert out.count("\nbackend ") >= len(dispatch.BACKENDS) * len(info.DTYPES)
    assert "backend reference, float64 on cpu" in out and "no: the C++ kernels are for float32 and bfloat16" in out


def test_info_says_why_a_backend_runs_nothing(monkeypatch, capsys):
    monkeypatch.setattr(dispatch.BACKENDS["cpu"], "cannot_run", lambda device, dtype: "no compiler", raising=False)
    assert main(["info"]) == 0
    assert "no: no compiler\n" in capsys.readouterr().out


@pytest.mark.skipif(cpu.extension()[0] is None, reason=str(cpu.extension()[1]))
def test_info_reports_all_else_under_a_wrong_instruction_set(monkeypatch, capsys):
    monkeypatch.setattr(cpu, "extension", cpu.extension.__wrapped__)  # which was asked before
    monkeypatch.setenv(cpu.ISA_VARIABLE, "sse9")
    assert main(["info", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert "HIFIGAN_FAST_CPU_ISA: got 'sse9', expected one of" in out and "backend reference, float64 on cpu" in out


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
    judged = [line for line in out.splitlines() if " not judged: " not in line]
    lines, last = judged[: len(parity.able())], judged[-1]
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
    line = "cpu: ok, worst ratio 1.99 (maps: real, discriminators.0, map 1)"
    *refused, mpd, msd, last = capsys.readouterr().out.splitlines()
    assert (mpd, msd, last) == (f"  mpd, {line}", f"  msd, {line}", "parity ok")
    others = [name for name in dispatch.BACKENDS if name not in parity.able()]
    assert [line.split(": not judged: ")[0] for line in refused] == others


def test_check_fails_where_a_backend_does(made_up, capsys):
    made_up(RED)
    assert main(["check"]) == 1
    assert "  msd, cpu: FAIL, worst ratio 2.01 (maps: real, discriminators.0, map 1)\n" in capsys.readouterr().out


def exit_status(args):
    """Of the command line in this process; argparse raises its own."""
    try:
        return main(args)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("command", [[], ["train"], ["bench"], ["estimate"], ["check"], ["tune"], ["info"]])
def test_help_has_examples(command, capsys):
    assert exit_status([*command, "--help"]) == 0
    assert not command or "examples:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, expected",
    [
        (["check", "--segment", "many"], "invalid"),
        (["check", "--segment", "3"], "error: y: 3 samples are too few for period"),
        (["nonsense"], "invalid choice: nonsense, expected one of train, synthesize, bench"),
        (["trian", "--out", "x"], "invalid choice: trian; did you mean train?"),
        ([], "required"),
    ],
)
def test_user_errors_exit_2_with_one_message(args, expected, capsys):
    assert exit_status(args) == 2 and expected in capsys.readouterr().err


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "hifigan_fast.cli", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice" in done.stderr and "Traceback" not in done.stderr
