"""Handle Ctrl-C and SIGTERM in a long command: it cleans up and ends soon."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Cleanup takes far less, unless a thread waits for a store that does not answer.
_SECONDS = 5.0
_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Ending:
    """The last message of an interrupted command, also if it is killed."""

    def __init__(self) -> None:
        self.message: Callable[[], str] | None = None

    def say(self) -> None:
        """Print it, once."""
        message, self.message = self.message, None
        if message is not None:
            _print(message())


@contextmanager
def ending_soon() -> Iterator[Ending]:
    """Raise `Interrupted` in the block at SIGINT or SIGTERM; at the second of them, exit at once.

    If the block has not ended five seconds later, the process ends as if killed, which is safe
    for every command's output; also if the block waits in a library, which keeps Python from
    handling the signal. Outside the main thread, where Python handles no signals, this does
    nothing.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    is_handled = False

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal is_handled
        if not is_handled:  # at the second the watcher ends the process
            is_handled = True
            raise Interrupted(number)

    # The system writes a signal's number here whatever the main thread is doing.
    inbox, outbox = socket.socketpair()
    outbox.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(inbox, ending), daemon=True)
    before = {number: signal.signal(number, interrupt) for number in _NUMBERS}
    wakeup = signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield ending
    except KeyboardInterrupt:
        ending.say()
        raise
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        outbox.close()  # which ends the watcher
        watcher.join()
        inbox.close()


def _watch(inbox: socket.socket, ending: Ending) -> None:
    """End the process five seconds after the first of the signals, or at the second."""
    first = _receive(inbox)
    if first is None:
        return
    inbox.settimeout(_SECONDS)
    try:
        second = _receive(inbox)
    except TimeoutError:
        second = first
    if second is not None:
        _exit(second, ending)


def _receive(inbox: socket.socket) -> int | None:
    """Wait for the next of the signals; None at the end of the block."""
    while received := inbox.recv(1):
        if received[0] in _NUMBERS:
            return received[0]
    return None


def _exit(number: int, ending: Ending) -> None:
    ending.say()
    _print("vggish-hf: interrupted")
    os._exit(128 + number)


def _print(text: str) -> None:
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
