"""Run slow iterators ahead of their consumer, in threads, and keep their order."""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Part = TypeVar("Part")

_POLL_SECONDS = 0.1


class _Task(Generic[Item, Part]):
    """One item's parts, made in a thread, at most `depth` of them waiting."""

    def __init__(self, item: Item, produce: Callable[[Item], Iterable[Part]], depth: int) -> None:
        self.item = item
        self.future: Future[None]
        self._produce = produce
        self._parts: queue.Queue[Part | None] = queue.Queue(depth)

    def run(self, stopped: threading.Event) -> None:
        try:
            for part in self._produce(self.item):
                self._put(part, stopped)
                if stopped.is_set():
                    return
        finally:
            self._put(None, stopped)

    def _put(self, part: Part | None, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                self._parts.put(part, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            break

    def parts(self) -> Iterator[Part]:
        """The parts, and then the exception that ended them, if one did."""
        while (part := self._parts.get()) is not None:
            yield part
        self.future.result()


def prefetch(
    items: Iterable[Item],
    produce: Callable[[Item], Iterable[Part]],
    *,
    num_workers: int,
    depth: int,
) -> Iterator[tuple[Item, Iterator[Part]]]:
    """Make the parts of several items at once, and hand them out in the items' order.

    Args:
        items: What to work on; read only as far ahead as there are workers.
        produce: Makes the parts of an item; runs in a thread.
        num_workers: How many items are worked on at once.
        depth: How many parts of an item may wait for the consumer.

    Yields:
        Each item with its parts, which must be exhausted before the next; where `produce` raised,
        reading the parts raises the same.
    """
    remaining = iter(items)
    stopped = threading.Event()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="vggish-hf") as executor:
        tasks: deque[_Task[Item, Part]] = deque()
        try:
            while True:
                for item in itertools.islice(remaining, num_workers - len(tasks)):
                    task = _Task(item, produce, depth)
                    task.future = executor.submit(task.run, stopped)
                    tasks.append(task)
                if not tasks:
                    return
                task = tasks.popleft()
                yield task.item, task.parts()
        finally:
            stopped.set()
