"""Ctrl-C and SIGTERM: finish the step, save, say how to go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "StopRequest", "stop_requests"]


class Interrupted(KeyboardInterrupt):  # noqa: N818 - an event, not an error
    """The run was stopped by a signal after its state had been saved; the message says how to continue it."""


class StopRequest:
    """Set by a signal; looked at after each step."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside, the first SIGINT or SIGTERM only asks for a stop; a second one acts as usual."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may take signals
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        request.requested = True
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()
