"""Threads for many small tensor computations, each with one torch thread.

Two independent threads are faster than one that shares each operation between two cores: nothing
waits at the end of an operation for a core that another thread uses.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, BrokenBarrierError, Lock, current_thread
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

# The process has one initial number for new threads: only one caller at a time may lower it.
_LOWERED = Lock()


@contextmanager
def one_torch_thread_each(count: int) -> Iterator[Callable[[], bool]]:
    """Give new threads one torch thread each, and leave all other threads as they are.

    Exception: torch cannot distinguish threads that others start meanwhile and that first compute
    before the block ends.

    Args:
        count: Threads that the block starts.

    Yields:
        A function that each of them must call first; False if it must end, because the block
        failed. The block ends when all have called it.
    """
    started = Barrier(count + 1)

    def begin() -> bool:
        # The set number is also the initial one of threads that have not computed yet, so it is
        # restored. Reading it makes it this thread's own.
        torch.set_num_threads(1)
        torch.get_num_threads()
        try:
            started.wait()
        except BrokenBarrierError:
            return False
        return True

    # A new thread restores its own initial number: this thread's may differ, and stays.
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
    """A pool of threads with one torch thread each.

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
        """Call a function in any of the threads."""
        return self._executor.submit(function, *args, **kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The garbage collector may end the block in one of the threads, which cannot wait for
        # itself.
        inside = current_thread() in self._executor._threads
        self._executor.shutdown(wait=not inside, cancel_futures=True)
