"""Ctrl-C and SIGTERM, which end a run after the step at hand."""

import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within the block the first Ctrl-C or SIGTERM only sets `signal`; a Ctrl-C after that is a KeyboardInterrupt.

    `signal` is the signal's number, 0 before one came. Python takes signals in its main thread alone: elsewhere the
    block changes nothing.

    Args:
        say: print at once what will happen.
    """

    def __init__(self, say: bool = True) -> None:
        self.signal, self.say = 0, say
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._came) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _came(self, number, _frame):
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.say and not self.signal:
            name = signal.Signals(number).name
            text = f"\n{name}: ending this step, then writing a checkpoint; another Ctrl-C stops at once, without one\n"
            os.write(2, text.encode())  # not print: it may be what this interrupts, and its buffer locked
        self.signal = self.signal or number
