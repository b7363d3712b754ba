"""Threads for many small pieces of work with tensors, each of which torch does with one thread.

Two threads that compute alone are faster than one whose every operation is shared by two cores:
nothing waits at the end of each operation, least of all for a core that another thread is using.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock, current_thread
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

# What new threads begin with is one number of the whole process: one at a time may lower it.
_LOWERED = Lock()


@contextmanager
def one_torch_thread_each(count: int) -> Iterator[Callable[[], None]]:
    """Give new threads one of torch's threads each, and leave all other threads as they are.

    All but those that others start meanwhile and that compute for the first time before the block
    ends: torch has no way to tell them from the block's.

    Args:
        count: How many threads the block starts.

    Yields:
        What each of them must call first. The block ends when all have.
    """
    started = Barrier(count + 1)

    def begin() -> None:
        # What is set is also what threads begin with that have not computed yet: hence it is put
        # back. Asked for, it is this thread's own from now on.
        torch.set_num_threads(1)
        torch.get_num_threads()
        started.wait()

    # What is put back is what a new thread began with, and by that thread: this one's own number
    # may be another, and stays.
    with _LOWERED, ThreadPoolExecutor(1) as new_thread:
        torch.get_num_threads()
        number = new_thread.submit(torch.get_num_threads).result()
        try:
            yield begin
            started.wait()
        except BaseException:
            started.abort()
            raise
        finally:
            new_thread.submit(torch.set_num_threads, number).result()


class TorchThreads:
    """A pool of threads in each of which torch uses one thread.

    Args:
        count: How many threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._executor = ThreadPoolExecutor(count, "vggish-hf-network")
        with one_torch_thread_each(count) as begin:
            for _ in range(count):
                self._executor.submit(begin)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in one of the threads."""
        return self._executor.submit(function, *args, **kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The garbage collector may end the block in one of the threads, which cannot await itself.
        inside = current_thread() in self._executor._threads
        self._executor.shutdown(wait=not inside, cancel_futures=True)
