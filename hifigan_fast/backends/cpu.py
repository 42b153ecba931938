"""The contract by the C++ extension, on a CPU. Pointers cross, not tensors; the extension checks every size."""

import functools
import os
from pathlib import Path

import torch

from ..geometry import run_table
from .contract import is_dense
from .memory import Pool
from .setwise import SetwiseBackend

ISA_VARIABLE = "HIFIGAN_FAST_CPU_ISA"


@functools.lru_cache(maxsize=1)
def extension():
    """The extension module, or the reason why there is none, as (module, None) or (None, reason)."""
    try:
        from .. import _cpu
    except ImportError as error:
        if error.path and not error.path.endswith(".py"):  # it is there
            return None, f"the C++ extension does not load ({error}): install it again, built on this machine"
        source = Path(__file__).resolve().parents[2]
        if (source / "CMakeLists.txt").exists():
            return None, (
                f"the C++ extension is not installed in the source folder {source}: run `pip install -e .` there, or "
                "start Python elsewhere if the package is installed"
            )
        return None, (
            "the C++ extension is not installed; build it with a C++17 compiler: "
            "pip install --force-reinstall --no-deps . without HIFIGAN_FAST_BUILD=0"
        )
    wanted = os.environ.get(ISA_VARIABLE)
    if wanted and wanted not in _cpu.instruction_sets():
        raise ValueError(f"{ISA_VARIABLE}: got {wanted!r}, expected one of {', '.join(_cpu.instruction_sets())}")
    if wanted:
        _cpu.use_instruction_set(wanted)
    return _cpu, None


@functools.cache
def dtype_of(dtype):
    """The extension's name for an element type."""
    names = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
    if dtype not in names:
        raise TypeError(f"dtype: expected one of {', '.join(map(str, names))}, got {dtype}")
    return getattr(extension()[0].Dtype, names[dtype])


def span(tensor):
    """Where a tensor's elements lie, how many and what they are; the extension holds all three against the call."""
    if tensor is None:
        return None
    if not (tensor.is_contiguous() or is_dense(tensor.shape, tensor.stride())):
        raise ValueError(f"expected elements side by side, got shape {list(tensor.shape)}, strides {tensor.stride()}")
    return extension()[0].Span(tensor.data_ptr(), tensor.numel(), dtype_of(tensor.dtype))


@functools.lru_cache(maxsize=256)
def _conv(layer):
    return extension()[0].Conv(
        layer.in_channels, layer.out_channels, layer.taps, layer.stride, layer.padding, layer.groups, layer.slope
    )


def _filters(weights):
    return [(span(s.raw), span(scale)) for s, scale in zip(weights.sets, weights.scales)]


_table = functools.lru_cache(maxsize=512)(run_table)


class CpuBackend(SetwiseBackend):
    name = "cpu"

    def cannot_run(self, device, dtype):
        if device.type != "cpu":
            return f"tensors are on {device.type}, the C++ kernels run on a CPU"
        if dtype not in (torch.float32, torch.bfloat16):
            return f"the C++ kernels are for float32 and bfloat16, tensors are {str(dtype).removeprefix('torch.')}"
        return extension()[1]

    @property
    def _lib(self):
        return extension()[0]

    @functools.cached_property
    def _memory(self):
        return Pool(self._lib.prefer_huge_pages)

    def empty(self, count, dtype, device):
        return self._memory.empty(count, dtype)

    def _like(self, tensor):
        return self._memory.empty(tensor.numel(), tensor.dtype).as_strided(tensor.shape, tensor.stride())

    def row_norms(self, raw):
        norms = raw.new_empty(len(raw))
        self._lib.row_norms(span(raw), len(raw), raw[0].numel(), span(norms), torch.get_num_threads())
        return norms

    def forward(self, role, layer, runs, x, weights, out):
        self._lib.forward(
            dtype_of(out.dtype),
            getattr(self._lib.Role, role),
            _conv(layer),
            _table(runs),
            span(x),
            _filters(weights),
            span(weights.bias),
            span(out),
            torch.get_num_threads(),
        )

    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        self._lib.input_grad(
            dtype_of(grad_out.dtype),
            getattr(self._lib.Role, role),
            _conv(layer),
            slope,
            _table(runs),
            span(grad_out),
            _filters(weights),
            span(saved),
            [span(grad) for grad in map_grads],
            [] if matching is None else matching.tolist(),
            span(grad_in),
            torch.get_num_threads(),
        )

    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        self._lib.stem_input_grad(
            dtype_of(grad_out.dtype),
            _conv(layer),
            _table(runs),
            span(grad_out),
            _filters(weights),
            span(grad_waves),
            torch.get_num_threads(),
        )

    def weight_grad(self, role, layer, runs, x, grad_out, weights):
        results = [(self._like(s.raw), s.raw.new_empty(layer.out_channels)) for s in weights.sets]
        bias = weights.bias.new_empty(len(weights.sets), layer.out_channels)
        self._lib.weight_grad(
            dtype_of(grad_out.dtype),
            getattr(self._lib.Role, role),
            _conv(layer),
            _table(runs),
            span(x),
            span(grad_out),
            _filters(weights),
            [(span(norm), span(raw), span(inner)) for norm, (raw, inner) in zip(weights.norms, results)],
            span(bias),
            torch.get_num_threads(),
        )
        return results, bias

    def feature_l1(self, real, generated):
        means = torch.empty(len(real), dtype=torch.float32, device="cpu")
        pairs = [(span(r), span(g)) for r, g in zip(real, generated)]
        self._lib.feature_l1(dtype_of(real[0].dtype), pairs, span(means), torch.get_num_threads())
        return means

    def feature_l1_backward(self, real, generated, grads, want_real, want_generated):
        wanted_real = [self._like(r) if want else None for r, want in zip(real, want_real)]
        wanted_generated = [self._like(g) if want else None for g, want in zip(generated, want_generated)]
        grads = grads.float().contiguous()  # kept by this name: only its address crosses
        self._lib.feature_l1_grad(
            dtype_of(real[0].dtype),
            [(span(r), span(g)) for r, g in zip(real, generated)],
            span(grads),
            [span(grad) for grad in wanted_real],
            [span(grad) for grad in wanted_generated],
            torch.get_num_threads(),
        )
        return wanted_real, wanted_generated
