"""How the memory-bound CUDA kernels reach global memory, counted as they run: whole sectors, 16 bytes a lane."""

from dataclasses import replace
from unittest import mock

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import dispatch
from hifigan_fast.geometry import Layer

from ..small import SmallEnsemble
from .counters import Counters, Requests
from .launch import Session, executing_cuda

LAYERS = Layer(1, 32, 5, 3, 2), Layer(32, 64, 5, 3, 2), Layer(64, 1, 3, 1, 1, slope=1.0)


@pytest.fixture(scope="module")
def counted():
    """{kernel: {access: `Requests`}} of a pass and its losses in bfloat16; of single numbers of tables none."""
    found, launch = {}, Session.launch

    def counting(self, kernel, grid, args, meta):
        self.counters = Counters()
        launch(self, kernel, grid, args, meta)
        own = found.setdefault(kernel.source, {})
        for (_, access), requests in self.counters.global_.items():
            if "u64" not in access:
                own.setdefault(access, Requests()).add(*vars(requests).values())

    backend = dispatch.BACKENDS["cuda"]
    small = SmallEnsemble(LAYERS, (2, 5), samples=2, length=600, norm="mixed", sigmas=2)
    maps = [torch.randn(2, 64, 321).bfloat16().requires_grad_() for _ in range(2)]
    with (
        mock.patch.object(Session, "launch", counting),
        executing_cuda(80) as session,
        hf.use_backend("cuda"),
    ):
        assert small.worst_ratio(backend, torch.bfloat16) <= 2
        hf.feature_loss([[maps[0]]], [[maps[1]]]).backward()
    assert not session.faults
    return found


def wide(requests, access):
    """Those by 8 bytes a lane and more."""
    return [r for name, r in requests.items() if name.startswith(f"{access}.global.v")]


def test_maps_come_and_go_by_whole_sectors(counted):
    for kernel in ("head_forward", "head_input_grad", "head_weight_grad", "l1_means", "l1_gradients"):
        own = wide(counted[kernel], "ld") + wide(counted[kernel], "st")
        assert sum(r.taken for r in own) >= 0.7 * sum(r.taken for r in counted[kernel].values()), kernel
    for kernel, access in (("stem_forward", "st"), ("stem_weight_grad", "ld"), ("stem_input_grad", "ld")):
        assert wide(counted[kernel], access), kernel
    for kernel, requests in counted.items():
        if kernel.startswith(("head", "stem", "l1")):
            stores = not kernel.endswith("weight_grad")  # a lane's sums are 32 bytes: two stores of half a sector each
            own = wide(requests, "ld") + (wide(requests, "st") if stores else [])
            assert all(r.taken == r.least for r in own), kernel


def test_weights_come_and_go_by_lines(counted):
    """Both sides of the transpose; a row of weights need not begin with a sector."""
    for kernel in ("pack", "finish", "finish_spectral"):
        taken, least = (sum(getattr(r, what) for r in counted[kernel].values()) for what in ("taken", "least"))
        assert taken <= 1.1 * least, (kernel, taken, least)


def test_parameters_that_begin_anywhere():
    """Four elements at once only where all rows begin at multiples of four."""
    small = SmallEnsemble(LAYERS, (2, 3), samples=1, length=150)

    def elsewhere(tensor):
        memory = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype, device="cpu")[1:].view_as(tensor)
        return memory.copy_(tensor.detach()).requires_grad_()

    cast = SmallEnsemble._cast

    def displaced(self, dtype):
        waves, layers, states = cast(self, dtype)
        return waves, [[replace(p, raw=elsewhere(p.raw)) for p in own] for own in layers], states

    with mock.patch.object(SmallEnsemble, "_cast", displaced), executing_cuda(80) as session:
        assert small.worst_ratio(dispatch.BACKENDS["cuda"]) <= 2
    assert not session.faults
