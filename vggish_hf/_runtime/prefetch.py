"""Run slow iterators ahead of their consumer, in threads, and keep their order."""

import atexit
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread, current_thread
from typing import Generic, NamedTuple, TypeVar

from vggish_hf._runtime.threads import one_torch_thread_each

Item = TypeVar("Item")
Part = TypeVar("Part")


class _End(NamedTuple):
    """Behind the last part, with the exception that ended them, if one did."""

    error: BaseException | None


class _Task(Generic[Item, Part]):
    """The parts of one item: made in one thread, read in another."""

    def __init__(self, item: Item, produce: Callable[[Item], Iterable[Part]], depth: int) -> None:
        self.item = item
        self._produce = produce
        # Unbounded, so that an end never waits; it is the room that bounds the parts.
        self._made: SimpleQueue[Part | _End] = SimpleQueue()
        self._room = Semaphore(depth - 1)
        self._stopped = False

    def run(self) -> None:
        try:
            for part in () if self._stopped else self._produce(self.item):
                self._made.put(part)
                self._room.acquire()  # until less than `depth` wait
                if self._stopped:
                    break
        except BaseException as error:  # noqa: BLE001 - raised where the parts are read
            self._made.put(_End(error))
        else:
            self._made.put(_End(None))

    def parts(self) -> Iterator[Part]:
        while not isinstance(part := self._made.get(), _End):
            self._room.release()
            yield part
        error = part.error
        del part
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: a cycle would keep the threads alive

    def stop(self) -> None:
        self._stopped = True
        self._room.release()


def _run_tasks(tasks: "SimpleQueue[_Task[Item, Part] | None]", begin: Callable[[], None]) -> None:
    begin()
    for task in iter(tasks.get, None):
        task.run()


def prefetch(
    items: Iterable[Item],
    produce: Callable[[Item], Iterable[Part]],
    *,
    num_workers: int,
    depth: int,
) -> Generator[tuple[Item, Iterator[Part]], None, None]:
    """Make the parts of several items at once, and hand them out in the items' order.

    Closing the generator, or dropping it, stops the threads after the parts that they are at.

    Args:
        items: What to work on; read in the consumer's thread, `num_workers` ahead.
        produce: Makes the parts of an item; runs in a thread.
        num_workers: How many items are worked on at once.
        depth: How many parts of an item may wait for the consumer.

    Yields:
        Each item with its parts, which end early once the next item is asked for; where `produce`
        raised, reading the parts raises the same.
    """
    remaining = iter(items)
    tasks: deque[_Task[Item, Part]] = deque()  # the one that is read, and those after it
    inbox: SimpleQueue[_Task[Item, Part] | None] = SimpleQueue()
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

    # A generator that is still referenced when the interpreter exits is not closed by anybody;
    # waiting threads would keep it from exiting, and daemons must not be killed inside torch.
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
            yield tasks[0].item, tasks[0].parts()
            tasks.popleft().stop()
    finally:
        atexit.unregister(stop)
        stop()
