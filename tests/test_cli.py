"""hifigan-fast check | info, on one small period (bench: test_bench.py; train: tests/training)."""

import functools
import subprocess
import sys

import pytest
import torch

from hifigan_fast import arguments, cli, discriminators, dispatch, info, parity, reference
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
        (
            ["check", "--segment", "many"],
            "argument --segment: expected an integer, got 'many' (see hifigan-fast check",
        ),
        (["check", "--segment", "2.5"], "argument --segment: expected an integer, got '2.5'"),
        (["check", "--segment", "inf"], "argument --segment: expected an integer, got 'inf'"),
        (["check", "--segment", "0"], "argument --segment: expected at least 1, got 0"),
        (["check", "--segment", "3"], "y: 3 samples are too few for period"),
        (["check", "--segment", "1e15"], "not enough memory for --batch-size 1 --segment 1000000000000000 (Unable to"),
        (["estimate", "--device-model", "h2000"], "argument --device-model: invalid choice: h2000; did you mean h200?"),
        (
            ["estimate", "--device", "cpu", "--device-model", "h200"],
            "argument --device-model: not allowed with",
        ),
        (
            ["convert", "a", "b", "--to", "Coqui-Vit"],
            "argument --to: invalid choice: coqui-vit; did you mean coqui-vit",
        ),
        (
            ["warm", "--precision", "fp64", "x"],
            "argument --precision: invalid choice: fp64, expected one of fp32, bf16, fp16",
        ),
        (["nonsense"], "invalid choice: nonsense, expected one of train, synthesize, bench"),
        (["trian", "--out", "x"], "invalid choice: trian; did you mean train? (see hifigan-fast --help)"),
        ([], "the following arguments are required"),
    ],
)
def test_user_errors_exit_2_with_one_line(args, expected, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hifigan-fast", *args])
    assert exit_status(None) == 2  # by the process's own arguments
    said = capsys.readouterr().err
    assert said.startswith(f"error: {expected}") and said.count("\n") == 1 and said.endswith("\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to a"),
        RuntimeError("Storage size calculation overflowed with sizes=[4, 1, 8192]"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\n more"),
        OverflowError("Python int too large to convert to C ssize_t"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_memory_is_one_line_that_names_the_cure(error, monkeypatch, capsys):
    def waveforms(*_, **__):
        raise error

    monkeypatch.setattr(parity, "waveforms", waveforms)
    assert main(["check", "--segment", "9999", "--batch-size", "7"]) == 2
    said = capsys.readouterr().err
    why = f" ({str(error).splitlines()[0]})" if str(error) else ""
    cure = "take a smaller --batch-size or --segment"
    assert said == f"error: not enough memory for --batch-size 7 --segment 9999{why}; {cure}\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def waveforms(*_, **__):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(parity, "waveforms", waveforms)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        main(["check"])


def test_a_batch_that_does_not_fit_fails_at_once():
    """Not crop by crop, until the machine has no more."""
    with pytest.raises(MemoryError):
        parity.waveforms(10**12, 8192)


def test_choices_and_numbers_as_people_write_them():
    assert arguments.whole("2.5e6") == arguments.whole("2500000") == arguments.whole("2_500_000") == 2_500_000
    args = cli._parser().parse_args(["bench", "--workload", "VITS", "--steps", "V1", "Generator", "--rivals", "BF16"])
    assert (args.workload, args.steps, args.rivals) == ("vits", ["v1", "generator"], ["bf16"])
    assert cli._parser().parse_args(["estimate", "--device-model", "H200"]).device_model == "h200"
    assert cli._parser().parse_args(["synthesize", "--checkpoint", "G", "--out", "O", "WAV"]).inputs == ["WAV"]


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "hifigan_fast.cli", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice" in done.stderr and "Traceback" not in done.stderr
