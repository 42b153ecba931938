"""Candidates of a device that is not there are compiled side by side, whatever becomes of one."""

import contextlib
from dataclasses import replace

import torch

from hifigan_fast.backends.gpu.devices import Absent
from hifigan_fast.backends.triton import ahead, configs
from hifigan_fast.tuning import candidates, cases, search


def test_what_is_timed_is_compiled_before(monkeypatch):
    compiled, own = [], ahead.side_by_side

    @contextlib.contextmanager
    def side_by_side():
        with own() as asked:
            yield
        compiled.append(asked)

    monkeypatch.setattr(ahead, "side_by_side", side_by_side)
    with ahead.pretending(Absent("sm_90")):
        bench, before = search.Bench(torch.device("cpu")), configs.Config(64, 16, 64, 4, 2)
        entry = search.Entry("input_grad", "half", "narrow", cases.places(cases.ensembles(1, 1024))["narrow"], before)
        tile = candidates.first(*entry.what, bench.shared)[0]
        rivals = bench.rivals(entry)
        bench.compile([(entry, [replace(before, BM=48), before, tile, replace(before, num_stages=0)])], whole=False)
        bench.compile([(entry, [before, *rivals])], whole=True)
    assert {config.by for config in rivals} >= {"library"}
    first, second = ([future.exception() for future in asked] for asked in compiled)
    assert len(first) - first.count(None) == 1  # 48 rows
    assert first.count(None) == 4  # and the weights', and three
    by_cuda = 2 * (replace(before, by="cuda") in rivals)
    assert second == [None] * (1 + by_cuda)  # as in a generator's step, which is new; and the window kernels
