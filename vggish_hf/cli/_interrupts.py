"""What Ctrl-C and SIGTERM do to a long command: it puts in order what it must, and ends soon."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# What is put in order takes far less, unless a thread waits for a store that does not answer.
_SECONDS = 5.0


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Ending:
    """What an interrupted command says in the end, whether or not it gets to its own end."""

    def __init__(self) -> None:
        self.last_words: Callable[[], str] | None = None

    def say(self) -> None:
        """Print it, once."""
        words, self.last_words = self.last_words, None
        if words is not None:
            print(words(), file=sys.stderr, flush=True)


@contextmanager
def ending_soon() -> Iterator[Ending]:
    """Raise `Interrupted` in the block at SIGINT or SIGTERM; at the second of them, exit at once.

    Where the block has not ended five seconds later, the process ends as if it were killed, which
    no command's output minds. Outside the main thread, where Python knows no signals, nothing is
    different.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    timer: threading.Timer | None = None

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal timer
        if timer is not None:
            _exit(number, ending)
        timer = threading.Timer(_SECONDS, _exit, (number, ending))
        timer.daemon = True
        timer.start()
        raise Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield ending
    except KeyboardInterrupt:
        ending.say()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if timer is not None:
            timer.cancel()


def _exit(number: int, ending: Ending) -> None:
    ending.say()
    sys.stderr.write("vggish-hf: interrupted\n")
    sys.stderr.flush()
    os._exit(128 + number)
