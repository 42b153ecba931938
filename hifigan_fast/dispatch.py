"""Which backend runs a call, and why; what a call saves. One predicate serves the choice, the warning and `explain`."""

import contextlib
import contextvars
import functools
import os
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from . import trust
from .backends.contract import Backend
from .backends.cpu import CpuBackend
from .backends.cuda import CudaBackend
from .backends.reference import ReferenceBackend
from .backends.triton import TritonBackend
from .scoped import within

BACKENDS = {
    backend.name: backend for backend in (CpuBackend(), TritonBackend(), CudaBackend(), ReferenceBackend())
}  # the fastest first
GLOBAL_HOOKS = tuple(f"_global_{kind}_hooks" for kind in ("forward", "forward_pre", "backward", "backward_pre"))
MODULES = "modules"  # no backend: plain PyTorch, module by module
VARIABLE = "HIFIGAN_FAST_BACKEND"

SAVE_VARIABLE = "HIFIGAN_FAST_SAVE"
SAVED = ("maps", "bf16", "recompute")


def _conv_methods():
    return nn.Conv1d.forward, nn.Conv1d._conv_forward, nn.Conv2d.forward, nn.Conv2d._conv_forward


CONV_METHODS = _conv_methods()  # PyTorch's: a patch of a class, as of one convolution, must see each call
_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("hifigan_fast_backend", default=None)
_saved: contextvars.ContextVar[str | None] = contextvars.ContextVar("hifigan_fast_save", default=None)


def _constant(function):
    """Have torch.compile ask `function` once, when it traces, and keep the answer.

    As `torch.compiler.assume_constant_result`, which would import all of torch._dynamo with this package.
    """
    function._dynamo_marked_constant = True
    return function


def _checked(name, source, known=(*BACKENDS, MODULES)):
    if name not in known:
        raise ValueError(f"{source}: got {name!r}, expected one of {', '.join(known)}")
    return name


def use_backend(name: str) -> contextlib.AbstractContextManager[None]:
    """Within the block (of this thread), calls run on backend `name`; ValueError for an unknown name.

    Without `with` it does nothing: for a whole process there is HIFIGAN_FAST_BACKEND.

    "modules" is plain PyTorch, module by module: for hooks on feature maps, say, which a fused pass does not see.
    A call that the backend cannot run (another device or dtype) raises ValueError in the block: what was asked for
    by name is never replaced silently. With activation checkpointing the block belongs where that of `save` does.
    """
    return within(_chosen, _checked(name, "backend"))


def save(what: str) -> contextlib.AbstractContextManager[None]:
    """Within the block (of this thread), what a forward pass keeps of its maps for the backward pass.

    Args:
        what: "maps" as they are (the default); "bf16", rounded: half the memory, gradients of that accuracy;
            "recompute", nothing: the backward pass runs another forward pass. ValueError for anything else.

    The environment's HIFIGAN_FAST_SAVE says the same for a whole process; without `with` it does nothing. A compiled
    function stays with what was said when torch.compile traced it. Activation checkpointing calls again in the backward
    pass, on a GPU in another thread: the block belongs inside the checkpointed function.
    """
    return within(_saved, _checked(what, "what", SAVED))


@_constant
def to_save() -> str:
    """What `save` says, else the environment, else "maps"."""
    said = _saved.get()
    if said is not None:
        return said
    name = os.environ.get(SAVE_VARIABLE)
    return _checked(name, SAVE_VARIABLE, SAVED) if name else "maps"


@_constant
def requested() -> str | None:
    """The backend asked for by `use_backend`, else by the environment; None if neither.

    torch.compile asks when it traces: what it compiled stays with that backend.
    """
    if _chosen.get() is not None:
        return _chosen.get()
    name = os.environ.get(VARIABLE)
    return _checked(name, VARIABLE) if name else None


@dataclass(frozen=True)
class Choice:
    backend: Backend
    why: str


def refusal(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backend does not run tensors of `device` and `dtype` unasked, in words; None if it does."""
    return backend.cannot_run(device, dtype) or backend.only_on_request(device)


def _refusal_now(backend, device, dtype):
    """As `refusal`, and where kernels were not trusted: a first contact checks them, which takes its time."""
    return refusal(backend, device, dtype) or trust.distrust(backend, device, dtype)


def choose(device: torch.device, dtype: torch.dtype) -> Choice:
    """The backend for tensors of `device` and `dtype`: the one requested, or the first that can run them.

    Raises ValueError where the requested one cannot.
    """
    name, why = _chosen_name(device, dtype)
    return Choice(BACKENDS[name], why)


@_constant
def _chosen_name(device, dtype):
    name = requested()
    if name is not None:
        reason = BACKENDS[name].cannot_run(device, dtype)
        if reason:
            raise ValueError(f"backend: {name!r} was requested, but {reason}")
        return name, "requested"
    able = next(name for name, backend in BACKENDS.items() if _refusal_now(backend, device, dtype) is None)
    return able, "the fastest that can run here"


@_constant
def no_kernels(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why no backend has kernels for these tensors, in words; None if one has, or if one was requested.

    The reference backend does not count: plain PyTorch, module by module, is faster than its contract in plain PyTorch.
    """
    if requested() is not None:
        return None
    refusals = {}
    for name, backend in BACKENDS.items():
        if name == ReferenceBackend.name:
            continue
        refusals[name] = _refusal_now(backend, device, dtype)
        if refusals[name] is None:  # a slower one's kernels are not checked for nothing
            return None
    return "; ".join(f"{name}: {why}" for name, why in refusals.items())


@_constant
def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast computes convolutions in on `device`; None where it is off."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


def widest_under_autocast(*waves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Waveforms of one dtype, where autocast would have taken them of several: a generator's output is half."""
    if not all(isinstance(x, torch.Tensor) and x.is_floating_point() and autocast_dtype(x.device) for x in waves):
        return waves
    widest = functools.reduce(torch.promote_types, (x.dtype for x in waves))
    return tuple(x.to(widest) for x in waves)


def map_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of the feature maps of a waveform `x`: its own, or autocast's (which leaves float64 alone)."""
    dtype = autocast_dtype(x.device)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


def not_fusible(device: torch.device) -> str | None:
    """Why no fused pass may run now, whatever the module: the state of PyTorch; None if one may."""
    if requested() == MODULES:
        return "requested"
    if _transform():
        return _transform()
    if torch.compiler.is_compiling():  # the passes are operators of its graph
        return None
    if torch.jit.is_tracing():
        return "torch.jit is tracing"
    if device.type == "meta" or torch._C._len_torch_dispatch_stack():
        return "operations are traced or counted, not run"
    return None


@_constant
def _transform():
    """What must see each convolution, also of what is compiled."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is active"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is on"
    if any([getattr(nn.modules.module, hooks) for hooks in GLOBAL_HOOKS]):
        return "a hook on every module is registered"
    if _conv_methods() != CONV_METHODS:
        return "a class of convolutions is patched"
    return None


def by_operations(*grads: torch.Tensor | None) -> bool:
    """Whether a backward pass is made of PyTorch's operations: its gradients are differentiated again (`create_graph`),
    or come as a batch (`is_grads_batched`, `torch.vmap`), which no kernel reads."""
    functorch = torch._C._functorch
    batched = functorch.is_legacy_batchedtensor, functorch.is_batchedtensor
    return torch.is_grad_enabled() or any(grad is not None and is_one(grad) for grad in grads for is_one in batched)


@functools.lru_cache(maxsize=64)
def warn_once(message: str) -> None:
    """Say that a fast path is missing: once a process and reason."""
    warnings.warn(f"hifigan_fast: {message}", stacklevel=4)
