"""What a GPU backend brings: kernels, the sizes that they are launched with, and its way to launch them."""

import contextlib
import contextvars
import threading
from abc import ABC, abstractmethod

from ...scoped import within

_instead = contextvars.ContextVar("hifigan_fast_instead_of_launching", default=None)
_own = threading.local()


def recording():
    """What hears of this thread's launches (`program.Recording`), or None."""
    return getattr(_own, "recording", None)


@contextlib.contextmanager
def heard_by(listener):
    """Within the block `listener` hears of this thread's launches."""
    before, _own.recording = recording(), listener
    try:
        yield
    finally:
        _own.recording = before


def instead():
    """What is done in the place of a launch, a function of (kernel, grid, args, meta); None where it is launched."""
    return _instead.get()


def instead_of_launching(what):
    """Within the block (of this thread) `what` is done in the place of every launch: results are not written."""
    return within(_instead, what)


def cdiv(number, by):
    """How many blocks of `by` a number has."""
    return -(-number // by)


class Kernels(ABC):
    """One backend's kernels; what each does, and in which order it takes its arguments, is one thing for all backends.

    Attributes:
        pack, finish, finish_spectral, iterate: of weights.
        forward, input_grad, weight_grad, stem_input_grad: of layers; stem_places: of a waveform, for each program.
        pooled, squared_means, squared_means_gradients, l1_means, l1_gradients: of waveforms, scores and maps.
    """

    @abstractmethod
    def config(self, direction, role, layer, like):
        """Which kernel runs a layer for maps like a tensor, and its blocks BM, BN, BK with a launch's `arguments()`."""

    def stand_in(self, direction, role, layer, like):
        """What runs a layer in the place of the kernel of `config`; None where that does.

        A function of what the direction in `convolutions` is given behind the role, which returns what it does.
        """
        return None

    @abstractmethod
    def of_rows(self, name, device):
        """What `pack`, `finish` or `finish_spectral` is launched with: ROWS of weights a program, and more."""

    @abstractmethod
    def of_matrices(self, device):
        """What `iterate` is launched with: ROWS and COLUMNS of a matrix a tile, and more."""

    @abstractmethod
    def state(self, device):
        """What launches go by beside their arguments, a tuple: another one where they may differ."""

    @abstractmethod
    def run(self, device, kernel, grid, args, meta):
        """Launch, and return what does so again: a function of (grid, stream, arguments as `program` has them)."""

    @abstractmethod
    def on_device(self, device):
        """Within the block `device` is the current one; gives its number and current stream."""

    def watched(self):
        """Whether somebody wants to hear of launches, so that none may be made again in silence."""
        return False

    def launch(self, device, kernel, grid, *args, **meta):
        """Run `kernel` on `device`, on its current stream; nothing where the grid is empty.

        Args:
            args: tensors, tuples of tensors or None, numbers; meta: what it is compiled for.
        """
        if 0 in grid:
            return
        if instead() is not None:
            with self.on_device(device):
                instead()(kernel, grid, args, meta)
            return
        again = self.run(device, kernel, grid, args, meta)
        if recording():
            recording().add(again, grid, args)
