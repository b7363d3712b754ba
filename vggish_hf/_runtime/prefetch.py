"""Run slow iterators ahead of their consumer, in threads, in order."""

import atexit
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread, current_thread
from typing import Generic, NamedTuple, TypeVar

from vggish_hf._runtime.threads import one_torch_thread_each

Item = TypeVar("Item")
Chunk = TypeVar("Chunk")


class _End(NamedTuple):
    """Follows the last chunk, with the exception that ended them, if any."""

    error: BaseException | None


class _Task(Generic[Item, Chunk]):
    """The chunks of one item: made in one thread, read in another."""

    def __init__(self, item: Item, produce: Callable[[Item], Iterable[Chunk]], depth: int) -> None:
        self.item = item
        self._produce = produce
        # Unbounded, so that an end never waits; `_room` bounds the chunks.
        self._made: SimpleQueue[Chunk | _End] = SimpleQueue()
        self._room = Semaphore(depth - 1)
        self._stopped = False

    def run(self) -> None:
        try:
            for chunk in () if self._stopped else self._produce(self.item):
                self._made.put(chunk)
                self._room.acquire()  # until less than `depth` wait
                if self._stopped:
                    break
        except BaseException as error:  # noqa: BLE001 - raised where the chunks are read
            self._made.put(_End(error))
        else:
            self._made.put(_End(None))

    def chunks(self) -> Iterator[Chunk]:
        while not isinstance(chunk := self._made.get(), _End):
            self._room.release()
            yield chunk
        error = chunk.error
        del chunk
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: a cycle would keep the threads alive

    def stop(self) -> None:
        self._stopped = True
        self._room.release()


def _run_tasks(tasks: "SimpleQueue[_Task[Item, Chunk] | None]", begin: Callable[[], bool]) -> None:
    if begin():
        for task in iter(tasks.get, None):
            task.run()


def prefetch(
    items: Iterable[Item],
    produce: Callable[[Item], Iterable[Chunk]],
    *,
    num_workers: int,
    depth: int,
) -> Generator[tuple[Item, Iterator[Chunk]], None, None]:
    """Make the chunks of several items at once, and yield them in the items' order.

    Closing or dropping the generator stops the threads after their current chunks.

    Args:
        items: The items; read in the consumer's thread, `num_workers` ahead.
        produce: Makes the chunks of an item; runs in a thread.
        num_workers: Items in work at once.
        depth: Chunks of an item that may wait for the consumer.

    Yields:
        Each item with its chunks, which end early when the next item is requested; reading the
        chunks raises the errors of `produce`.
    """
    remaining = iter(items)
    tasks: deque[_Task[Item, Chunk]] = deque()  # the current one and those after it
    inbox: SimpleQueue[_Task[Item, Chunk] | None] = SimpleQueue()
    threads: list[Thread] = []

    def stop() -> None:
        for task in tasks:
            task.stop()
        for _ in threads:
            inbox.put(None)
        for thread in threads:
            # The garbage collector may close a generator in one of its own threads.
            if thread.ident is not None and thread is not current_thread():
                thread.join()

    # Nothing closes a generator that is still referenced when the interpreter exits; waiting
    # threads would keep it from exiting, and daemons must not be killed inside torch.
    atexit.register(stop)
    try:
        with one_torch_thread_each(num_workers) as begin:
            for number in range(num_workers):
                name = f"vggish-hf-{number}"
                threads.append(
                    Thread(target=_run_tasks, args=(inbox, begin), name=name, daemon=True)
                )
                threads[-1].start()
        while True:
            for item in itertools.islice(remaining, num_workers - len(tasks)):
                task = _Task(item, produce, depth)
                tasks.append(task)
                inbox.put(task)
            if not tasks:
                return
            yield tasks[0].item, tasks[0].chunks()
            tasks.popleft().stop()
    finally:
        atexit.unregister(stop)
        stop()
