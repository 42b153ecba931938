"""`--cuda-graph` without a GPU: CUDA's part is played by plain calls; tests/gpu captures a step for real."""

import argparse
import contextlib
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from hifigan_fast.training import command, graph
from hifigan_fast.training.guard import Snapshot
from hifigan_fast.training.step import Trainer


class Results(NamedTuple):
    loss: torch.Tensor


class Recorded:
    """A graph that runs what was captured again, as Python."""

    captures = replays = 0
    begun = None  # the one that is captured just now

    def replay(self):
        type(self).replays += 1
        self.body()


@pytest.fixture
def cuda(monkeypatch):
    Recorded.captures, Recorded.replays, Recorded.begun = 0, 0, None
    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {"Stream": lambda device: stream, "current_stream": lambda device: stream, "CUDAGraph": Recorded}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def no_capture(recorded, stream):
        Recorded.captures += 1
        Recorded.begun = recorded
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "graph", no_capture)


class Line:
    """Learns y = x · w; a capture records without running."""

    def __init__(self):
        self.w = torch.nn.Parameter(torch.tensor(1.0))
        self.optimizer = torch.optim.AdamW([self.w], lr=0.1)
        self.step = graph.GraphedStep(self.run, [self.optimizer], torch.device("cpu"))
        self.result = torch.zeros(())

    def run(self, x, y):
        if Recorded.begun:
            recorded, Recorded.begun = Recorded.begun, None
            recorded.body = lambda: self.run(x, y)
            return Results(self.result)
        self.optimizer.zero_grad()
        loss = (x * self.w - (0 if y is None else y)).square().mean()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["capturable"] = False  # refused without a GPU
        self.optimizer.step()
        return Results(self.result.copy_(loss.detach()))


def test_steps_are_those_without_a_graph(cuda):
    graphed, plain = Line(), Line()
    for index in range(8):
        x, y = torch.full((2,), index + 1.0), None if index == 5 else torch.ones(2)
        loss, expected = graphed.step(x, y).loss.clone(), plain.run(x, y).loss.clone()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(graphed.w, plain.w)
    assert Recorded.captures == 1 and Recorded.replays == 8 - graph.WARM_UP - 1  # one had another shape
    assert isinstance(graphed.optimizer.param_groups[0]["lr"], torch.Tensor)


def test_step_that_was_undone_leaves_the_graph_valid(cuda):
    """The first one, before there are moments; one in the warm-up; and a replayed one."""
    graphed, plain = Line(), Line()
    snapshot = Snapshot([torch.nn.ParameterList([graphed.w])], [graphed.optimizer])
    for index in range(8):
        x, y = torch.full((2,), index + 1.0), torch.ones(2)
        if index in (0, 2, 6):
            snapshot.take()
            assert graphed.step(x * float("nan"), y).loss.isnan() and graphed.w.isnan()
            snapshot.restore()
        graphed.step(x, y)
        plain.run(x, y)
        torch.testing.assert_close(graphed.w, plain.w)
    assert Recorded.captures == 1


def test_first_step_after_a_resume_undone_keeps_its_moments(cuda):
    """It moves their step counts, which a checkpoint leaves on the CPU, to the device."""
    line = Line()
    line.run(torch.ones(2), None)
    state = line.optimizer.state[line.w]
    before = {key: value.clone() for key, value in state.items()}
    snapshot = Snapshot([torch.nn.ParameterList([line.w])], [line.optimizer])
    snapshot.take()
    state["step"] = before["step"].clone()  # what a move to another device gives
    line.step(torch.full((2,), torch.nan), None)
    snapshot.restore()
    assert dict(line.optimizer.state[line.w]) == before


def test_a_scheduler_changes_the_rate_that_a_graph_reads(cuda):
    line = Line()
    line.step(torch.ones(2), None)
    rate = line.optimizer.param_groups[0]["lr"]
    torch.optim.lr_scheduler.ExponentialLR(line.optimizer, 0.5).step()
    line.step(torch.ones(2), None)
    assert line.optimizer.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(0.05)


def test_a_capture_that_fails_says_why_and_steps_go_on(cuda, monkeypatch):
    def refused(recorded, stream):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refused)
    streams = []
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    graphed, plain = Line(), Line()
    with pytest.warns(UserWarning, match="without a CUDA graph, a capture failed: operation .* capturing$"):
        for index in range(8):
            x = torch.full((2,), index + 1.0)
            torch.testing.assert_close(graphed.step(x, None).loss.clone(), plain.run(x, None).loss.clone())
            torch.testing.assert_close(graphed.w, plain.w)
    assert len(streams) == 1 and Recorded.replays == 0


def test_where_a_graph_is_by_default(tiny_config, tmp_path):
    assert not Trainer(tiny_config, torch.device("cpu"), cuda_graph=None).cuda_graph
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    required = ["--config", "v1", "--out", str(tmp_path), "--steps", "1"]
    for flags, expected in (([], None), (["--no-cuda-graph"], False), (["--cuda-graph"], True)):
        assert parser.parse_known_args([*required, *flags])[0].cuda_graph is expected


def test_where_there_is_no_graph_to_be_had(tiny_config):
    with pytest.raises(ValueError, match="cuda_graph: expected one process on a CUDA device, got device cpu"):
        Trainer(tiny_config, torch.device("cpu"), cuda_graph=True)
