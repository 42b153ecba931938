"""Steps that are not finite: noticed before anything of them is written, and undone where that is asked for."""

from collections.abc import Callable, Sequence

import torch

from .processes import in_all
from .step import Losses, Trainer


class Guard:
    """Runs a trainer's steps; one whose losses or gradients are not finite stops the run, or is undone.

    No step waits for the device: `check`, which comes before each report, reads what all since the last one found. With
    `skips` each step is read at once, and a copy of the networks and of the optimizers' states is kept on the device.

    Args:
        trainer: a `step.Trainer`.
        clips: (epoch, batch) -> the files of a batch, for the message.
        skips: how many steps, in all, may be undone and passed over.
        say: takes a line of text for each of these.
    """

    def __init__(
        self,
        trainer: Trainer,
        clips: Callable[[int, int], Sequence[str]],
        skips: int = 0,
        say: Callable[[str], None] = print,
    ) -> None:
        self.trainer, self.clips, self.skips, self.say = trainer, clips, skips, say
        self.skipped = 0
        self._unread: list[tuple[int, tuple[int, int], Losses]] = []
        self._before = Snapshot([trainer.generator, trainer.mpd, trainer.msd], trainer.optimizers) if skips else None

    def train_step(self, *inputs: torch.Tensor) -> Losses | None:
        """`Trainer.train_step` -> its losses, or None for a step that was undone: its batch counts, it does not."""
        trainer = self.trainer
        batch = trainer.epoch, trainer.batch
        if self._before:
            self._before.take()
        losses = trainer.train_step(*inputs)
        self._unread.append((trainer.step, batch, losses))
        if not self._before:
            return losses
        fault = self._first_fault()
        if not fault:
            return losses
        if self.skipped == self.skips:
            raise FloatingPointError(f"{fault}; {self.skips} such steps were passed over before")
        self._before.restore()
        trainer.step -= 1
        self.skipped += 1
        self.say(f"{fault}; undone and passed over, {self.skipped} of {self.skips}")
        return None

    def check(self) -> None:
        """Raise FloatingPointError, in all processes alike, if a step since the last check was not finite."""
        fault = self._first_fault()
        if fault:
            raise FloatingPointError(f"{fault}; nothing was written since. --skip-non-finite N passes over such steps")

    def _first_fault(self):
        """What was the first step that was not finite, in words; None if all were. One wait for the device."""
        unread, self._unread = self._unread, []
        if not unread:
            return None
        finite = in_all(torch.stack([losses.finite for _, _, losses in unread]).cpu()).tolist()
        if all(finite):
            return None
        step, batch, losses = unread[finite.index(False)]
        values = [f"{name} {value:.4g}" for name, value in zip(("D", "G", "mel"), losses.read())]
        return (
            f"step {step}: losses or gradients are not finite ({', '.join(values)}), on {', '.join(self.clips(*batch))}"
        )


class Snapshot:
    """A copy of modules and of their optimizers' states, taken and put back in place: a CUDA graph's stay valid."""

    def __init__(self, modules: Sequence[torch.nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.modules, self.optimizers = modules, optimizers
        self._originals: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []
        self._states: list[dict[torch.Tensor, dict[str, torch.Tensor]]] = []

    @torch.no_grad()
    def take(self) -> None:
        """Copy all as it is now."""
        self._states = [{p: dict(state) for p, state in optimizer.state.items()} for optimizer in self.optimizers]
        originals = self._tensors()
        if len(originals) != len(self._originals) or any(a is not b for a, b in zip(originals, self._originals)):
            self._originals, self._copies = originals, [tensor.clone() for tensor in originals]
        else:
            torch._foreach_copy_(self._copies, originals)

    @torch.no_grad()
    def restore(self) -> None:
        """Put all back as it was at the last `take`."""
        for optimizer, states in zip(self.optimizers, self._states, strict=True):
            for parameter in list(optimizer.state):
                if parameter in states:  # the step may have moved a tensor of it to the device
                    optimizer.state[parameter].update(states[parameter])
                else:  # a parameter's first step made its state
                    del optimizer.state[parameter]
        torch._foreach_copy_(self._originals, self._copies)

    def _tensors(self):
        tensors = [tensor for module in self.modules for tensor in (*module.parameters(), *module.buffers())]
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        return tensors + [tensor for state in states for tensor in state.values()]
