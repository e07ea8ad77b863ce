"""Let Ctrl-C and SIGTERM end a command alike: with one line, and a record that can be gone on with."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM)
STOPPED = 128 + signal.SIGINT  # what typer makes of either


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a queue, a container or a service ends a process with."""


@dataclass
class Heard:
    """Which of the signals has come."""

    is_terminated: bool = False

    def terminate(self, *_: object) -> NoReturn:
        """Stop as Ctrl-C does, and know afterwards that it was none."""
        self.is_terminated = True
        raise Terminated

    def status(self) -> int:
        """Return the exit status that tells a shell which signal it was."""
        return 128 + signal.SIGTERM if self.is_terminated else STOPPED


@contextmanager
def stoppable() -> Iterator[Heard]:
    """Hear both signals in the block, also where a shell has told its background job to ignore Ctrl-C."""
    heard = Heard()
    if threading.current_thread() is not threading.main_thread():  # which alone hears of signals
        yield heard
        return
    before = {each: signal.getsignal(each) for each in STOPS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, heard.terminate)
    try:
        yield heard
    finally:
        for each, handler in before.items():
            signal.signal(each, handler or signal.SIG_DFL)


def end_at_once_next_time() -> None:
    """Let a second signal end the program at once."""
    for each in STOPS:
        signal.signal(each, signal.SIG_DFL)
