"""hifigan-fast bench: what is timed, what the figures say of each other, the report, Ctrl-C, bad input."""

import html.parser
import itertools
import json
import os
import re
import signal
import sys
import xml.etree.ElementTree as xml
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import tqdm

from hifigan_fast import dispatch, info, parity
from hifigan_fast.bench import command, machine, memory, report, timing
from hifigan_fast.bench.steps import OURS, QUICK_RIVALS, RIVALS, STEPS, WAYS
from hifigan_fast.bench.workloads import WORKLOADS
from hifigan_fast.cli import main

GREEN = parity.Verdict({"maps": (parity.LIMIT - 0.01, "real, discriminators.0, map 1"), "logits": (1.0, "real 0")})
RED = parity.Verdict({"maps": (parity.LIMIT + 0.01, "real, discriminators.0, map 1"), "logits": (1.0, "real 0")})


@pytest.fixture
def bar(monkeypatch):
    """The progress bar's total, and what it was moved by."""
    seen = SimpleNamespace(bar=None, moved=[])

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            seen.bar = self

        def update(self, n=1):
            seen.moved.append(n)
            return super().update(n)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    return seen


@pytest.fixture
def gate(monkeypatch):
    """gate(verdict): what the gate finds. Returns what it will have been asked for."""

    def make(verdict=GREEN):
        asked = {}

        def check(report, **how):
            asked.setdefault("autocast", []).append(how.pop("autocast"))
            asked.update(how)
            for ensemble in asked["ensembles"]:
                report(ensemble, {"cpu": verdict})
            return dict.fromkeys(asked["ensembles"], {"cpu": verdict})

        monkeypatch.setattr(parity, "check", check)
        return asked

    return make


@pytest.fixture
def made_up(gate, monkeypatch):
    """made_up(seconds): the times of ours; PyTorch's ways take twice as long. Returns what the gate is asked for."""

    def make(seconds=(1.0, 1.0, 1.0)):
        def made(plan, waves):
            for ensemble in ("mpd", "both"):
                for step in plan.steps:
                    yield ensemble, step, [name for name, way in plan.ways.items() if way.does(step)]

        def measure(cases, repeats, bar, ceilings, device):
            for ensemble, step, ways in cases:
                times = {name: [9.0, *(s * (1 if WAYS[name].ours else 2) for s in seconds)] for name in ways}
                for row in timing.rows_of(times, {}):
                    yield {
                        "ensemble": ensemble,
                        "step": step,
                        **row,
                        "gflops": 100.0,
                        "of_floor": 0.5,
                        "peak_mib": None,
                    }

        monkeypatch.setattr(command, "_cases", made)
        monkeypatch.setattr(timing, "measure", measure)
        monkeypatch.setattr(machine, "ceilings", lambda device: {"gflops": {"float32": 300.0}, "gbytes": 20.0})
        monkeypatch.setattr(memory, "measure", lambda *_: None)
        return gate()

    return make


def bench(out, *flags):
    return main(["bench", "--out", str(out), *flags])


def results(folder):
    return json.loads((folder / "bench.json").read_text())


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("flags, count", [([], 3 * (2 + 3)), (["--workload", "bigvgan", "--rivals", "bf16"], 2 * 4)])
def test_a_run(gate, bar, tmp_path, capsys, flags, count):
    """Every ensemble, both halves, by the original loop, by frozen discriminators and by ours; bfloat16 by both."""
    gate()
    assert bench(tmp_path, "--batch-size", "1", "--segment", "200", "--repeats", "1", *flags) == 0
    assert "× best rival" in capsys.readouterr().out
    result = results(tmp_path)
    assert len(result["speed"]) == count and all(row["ms"] > 0 and row["gflops"] > 0 for row in result["speed"])
    assert result["versions"]["torch"] and result["parity"]["float32"]["mpd"] and result["ceilings"]["gbytes"] > 0
    assert result["processor"] == info.processor() and result["batch"] == 1 and result["segment"] == 200
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sum(bar.moved) == bar.bar.total


def test_noise_is_said_everywhere(made_up, tmp_path, capsys):
    made_up(seconds=(1.0, 1.0, 1.4))
    assert bench(tmp_path) == 0
    out = capsys.readouterr().out
    assert re.search(r"21\.\d% !", out) and timing.ADVICE in out
    assert results(tmp_path)["noise"] == timing.ADVICE and all(row["noisy"] for row in results(tmp_path)["speed"])
    assert timing.ADVICE in (tmp_path / "report.html").read_text()


class Page(html.parser.HTMLParser):
    """The tags of a page, in balance, and what it would load."""

    VOID = {"meta", "link", "br", "img", "hr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.loads = [], set(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src",)]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_page_that_loads_nothing(made_up, tmp_path):
    made_up()
    files = [tmp_path / name for name in ("a/figures.json", "b/bars.svg", "c/page.html")]
    flags = [part for kind, file in zip(("--json", "--figure", "--html"), files) for part in (kind, str(file))]
    assert bench(tmp_path / "unused", *flags) == 0 and not (tmp_path / "unused").exists()
    text = files[2].read_text()
    page = Page(text)
    assert {"svg", "table", "style", "title"} <= page.tags and page.loads == []
    assert 'aria-label="both: ' in text and "prefers-color-scheme" not in text and "color-scheme: light dark" in text
    assert info.processor() in text and "hifigan-fast" in text and "<script" not in text and "#000000" not in text
    words = {text.text for text in xml.fromstring(files[1].read_bytes()).iter("{http://www.w3.org/2000/svg}text")}
    assert {"both, discriminator step", "frozen", OURS} <= words  # each bar by its name


@pytest.fixture
def heard():
    """SIGINT as at a terminal: it is ignored in what a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_measured(made_up, heard, monkeypatch, tmp_path, capsys, number):
    made_up()
    measure, handlers = timing.measure, [signal.getsignal(own) for own in (signal.SIGINT, signal.SIGTERM)]

    def interrupted(*args):
        for count, row in enumerate(measure(*args)):
            if count == 4:
                signal.raise_signal(number)
            yield row

    monkeypatch.setattr(timing, "measure", interrupted)
    assert bench(tmp_path) == 128 + number
    assert [signal.getsignal(own) for own in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert "stopped; measured by then:" in capsys.readouterr().out
    assert len(results(tmp_path)["speed"]) == 4 and (tmp_path / "report.html").exists()


def test_times_are_kept_before_what_may_take_all_memory(made_up, monkeypatch, tmp_path):
    """And with it this process."""
    made_up()
    kept = []
    monkeypatch.setattr(memory, "measure", lambda rows, *_: kept.append(results(tmp_path)["speed"] == rows))
    assert bench(tmp_path, "--full", "--steps", "generator") == 0 and kept == [True]


@pytest.mark.parametrize("error", [OSError("no room left"), RuntimeError("CUDA error")])
def test_an_error_keeps_what_was_measured(made_up, monkeypatch, tmp_path, capsys, error):
    """Which is in a line where the command expects it, and whole where it does not."""
    made_up()
    measure = timing.measure

    def broken(*args):
        yield from itertools.islice(measure(*args), 4)
        raise error

    monkeypatch.setattr(timing, "measure", broken)
    if isinstance(error, OSError):
        assert bench(tmp_path) == 2 and "error: no room left" in capsys.readouterr().err
    else:
        with pytest.raises(RuntimeError, match="CUDA error"):
            bench(tmp_path)
    assert len(results(tmp_path)["speed"]) == 4 and (tmp_path / "report.html").exists()


def test_ctrl_c_before_anything_was_measured_leaves_an_earlier_run(made_up, monkeypatch, tmp_path, capsys):
    made_up()
    assert bench(tmp_path) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(timing, "measure", interrupted)
    assert bench(tmp_path) == 128 + signal.SIGINT
    assert "nothing was written" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_quick_gate_judges_what_is_measured_and_the_full_one_everything(made_up, tmp_path):
    asked = made_up()
    for backend in ("reference", "modules"):
        with dispatch.use_backend(backend):
            assert bench(tmp_path) == 0
        assert asked["backends"] == [backend] and asked["length"] == 4096
    assert {row["way"] for row in results(tmp_path)["speed"]} == {*QUICK_RIVALS["cpu"], OURS}
    assert bench(tmp_path, "--full") == 0
    assert asked["backends"] == parity.able() and asked["length"] == 8192
    found = {(row["step"], row["way"]) for row in results(tmp_path)["speed"]}
    here = {name for name, way in WAYS.items() if not way.needs_cuda}
    assert {way for _, way in found} == here and {step for step, _ in found} == set(STEPS.values())
    assert asked["autocast"][-2:] == [None, torch.bfloat16]  # what is measured in bfloat16 is judged in it


def test_no_speed_is_printed_when_parity_is_red(tmp_path, gate, monkeypatch, capsys):
    gate(RED)
    monkeypatch.setattr(timing, "measure", lambda *_: pytest.fail("measured although parity is red"))
    assert command.run(out=tmp_path) == 1
    assert "parity FAILED" in capsys.readouterr().out and not (tmp_path / "bench.json").exists()


@pytest.mark.parametrize(
    "args, said",
    [
        (
            ["--workload", "nonsense"],
            "--workload: invalid choice: nonsense, expected one of hifigan, vits, rvc, big",
        ),
        (["--workload", "Vit"], "--workload: invalid choice: vit; did you mean vits?"),
        (["--rivals", "numpy"], "--rivals: invalid choice: numpy, expected one of original, frozen"),
        (["--steps", "generater"], "--steps: invalid choice: generater; did you mean generator?"),
        (["--repeats", "0"], "expected at least 1, got 0"),
        (["--data", "/no/such/folder"], "error: data: expected a folder of wavs"),
        (
            ["--compare", "/no/such.json", "/no/such.json"],
            "compare: there is no /no/such.json; .* --json /no/such.json",
        ),
        (["--compare", "{part}", "{part}"], "compare: .*part.json lacks 'device'; measure again"),
        (
            ["--compare", "{old}", "{old}"],
            r".*old.json is no result of hifigan-fast bench; hifigan-fast bench --json FILE writes one",
        ),
        (["--compare", "{text}", "{text}"], "error: compare: .*text.json is not JSON"),
        (["--compare", "{rows}", "{rows}"], "error: compare: .*rows.json lacks 'step of a row'; measure again"),
        (
            ["--steps", "generator", "v1", "--segment", "1000"],
            "^error: segment: expected a multiple of hop_size 256, got 1000$",
        ),
        (["--steps", "discriminator", "--rivals", "frozen"], "rivals: .*step, got frozen, which .* generator, v1"),
        (["--figure", "bars.nonsense"], "error: figure: expected a .png or .svg file, got 'bars.nonsense'"),
        (["--json", "/"], "error: json: expected a file, got the folder '/'"),
        (["--html", "/", "--json", "{text}"], "error: html: expected a file, got the folder '/'"),
        (["--json", "{text}/bench.json"], "json: cannot write '.*text.json/bench.json': (File exists|Not a dir)"),
        (["--json", "/proc/x.json"], "error: json: cannot write '/proc/x.json': "),
        (["--json", "{text}", "--html", "{text}"], "html: expected another file than the one of json, got '.*text"),
    ],
)
def test_bad_input_is_one_message_and_status_2(args, said, tmp_path, capsys):
    (tmp_path / "old.json").write_text('{"speed": []}')
    (tmp_path / "text.json").write_text("speed")
    (tmp_path / "part.json").write_text('{"format": 3}')
    row = {"ensemble": "mpd", "way": OURS, "ms": 1.0, "over_original": None}
    (tmp_path / "rows.json").write_text(json.dumps(dict.fromkeys(report.KEYS) | {"format": 3, "speed": [row]}))
    args = [arg.format(**{name: tmp_path / f"{name}.json" for name in ("old", "text", "part", "rows")}) for arg in args]
    try:
        status = bench(tmp_path / "out", *args)
    except SystemExit as stop:
        status = stop.code
    told = capsys.readouterr().err
    assert status == 2 and re.search(said, told) and not (tmp_path / "out").exists()
    assert told.startswith("error: ") and told.count("\n") == 1, told


def test_waveforms_that_do_not_fit_are_one_line(made_up, tmp_path, capsys):
    made_up()
    assert bench(tmp_path, "--segment", "1e15") == 2
    said = "error: not enough memory for --segment 1000000000000000 .*; take a smaller --batch-size or --segment"
    assert re.fullmatch(said, capsys.readouterr().err.splitlines()[-1]) and not list(tmp_path.iterdir())


def test_files_are_tried_before_anything_is_measured_and_stay_as_they_are(tmp_path):
    (tmp_path / "bench.png").write_text("earlier")
    os.mkfifo(tmp_path / "report.html")  # which nobody reads
    paths = command._paths(tmp_path, {"json": tmp_path / "new" / "x.json"})
    assert paths == [tmp_path / "new" / "x.json", tmp_path / "bench.png", tmp_path / "report.html"]
    assert (tmp_path / "bench.png").read_text() == "earlier" and not any((tmp_path / "new").iterdir())
    (tmp_path / "link.json").symlink_to("bench.json")
    with pytest.raises(ValueError, match="html: expected another file than the one of json, got .*link.json"):
        command._paths(tmp_path, {"html": tmp_path / "link.json"})


def test_the_commands_choices_are_what_there_is():
    """They are spelled out where the command line is read, which loads no torch."""
    from hifigan_fast import cli

    chosen = {a.dest: a.choices for a in cli._parser()._subparsers._group_actions[0].choices["bench"]._actions}
    assert tuple(chosen["workload"]) == tuple(WORKLOADS) and tuple(chosen["rivals"]) == RIVALS
    assert tuple(chosen["steps"]) == tuple(STEPS)


@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_of_wavs_is_measured(made_up, tmp_path, capsys, count):
    pytest.importorskip("soundfile")
    from hifigan_fast.voice import write_clips

    asked = made_up()
    write_clips(tmp_path / "wavs", count, 0.5)
    assert bench(tmp_path / "out", "--data", str(tmp_path / "wavs")) == 0
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
    assert bench(tmp_path / "out", "--data", str(tmp_path)) == 2
    assert re.search(f"error: data: .*{said}", capsys.readouterr().err)
    assert not asked and not (tmp_path / "out").exists()


def test_it_says_what_to_install_before_it_works(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--data", "nowhere"]) == 2
    assert "needs matplotlib: pip install 'hifigan-fast[bench]'" in capsys.readouterr().err
