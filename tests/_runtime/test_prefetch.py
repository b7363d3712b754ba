"""Order, bounds, exceptions, and an end without a deadlock whatever the consumer does."""

import itertools
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from vggish_hf._runtime.prefetch import prefetch

PATIENCE = 20  # seconds, before what should take milliseconds counts as a deadlock


def within_patience(function):
    """Run in a thread, which does not keep a failed test from ending."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert result, "deadlock, or an exception that is printed above"
    return result[0]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("vggish-hf")]


def run_script(script):
    return subprocess.Popen(
        [sys.executable, "-c", "from vggish_hf._runtime.prefetch import prefetch\n" + script],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not workers()


@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.parametrize("depth", [1, 3])
def test_order_whatever_the_speeds(num_workers, depth):
    def produce(item):
        delay = random.Random(item)
        for part in range(item % 5):
            time.sleep(delay.random() * 0.002)
            yield item, part

    def consume():
        pairs = prefetch(range(40), produce, num_workers=num_workers, depth=depth)
        return [(item, list(parts)) for item, parts in pairs]

    expected = [(item, [(item, part) for part in range(item % 5)]) for item in range(40)]
    assert within_patience(consume) == expected


def test_no_items():
    assert list(prefetch([], iter, num_workers=2, depth=1)) == []


def test_as_many_producers_at_once_as_workers_and_no_more():
    together = threading.Barrier(3, timeout=PATIENCE)  # breaks, unless three run at once
    running, most = set(), []

    def produce(item):
        running.add(item)
        most.append(len(running))
        together.wait()
        yield item
        running.remove(item)

    pairs = prefetch(range(12), produce, num_workers=3, depth=2)
    assert within_patience(lambda: [list(parts) for _, parts in pairs]) == [[i] for i in range(12)]
    assert max(most) == 3


@pytest.mark.parametrize("depth", [1, 4])
def test_at_most_depth_parts_wait(depth):
    made = []

    def produce(_item):
        for part in itertools.count():
            made.append(part)
            yield part

    pairs = prefetch(["endless"], produce, num_workers=1, depth=depth)
    _, parts = next(pairs)
    for taken in range(10):
        wait_until(lambda taken=taken: len(made) == taken + depth)
        time.sleep(0.005)
        assert len(made) == taken + depth
        assert next(parts) == taken
    pairs.close()


def test_items_are_read_as_far_ahead_as_there_are_workers():
    read = []

    def items():
        for item in itertools.count():
            read.append(item)
            yield item

    pairs = prefetch(items(), lambda item: [item], num_workers=3, depth=1)
    assert read == []
    for item, parts in itertools.islice(pairs, 5):
        assert list(parts) == [item]
        assert len(read) == item + 3
    pairs.close()


def test_an_exception_comes_after_the_chunks_of_its_item_and_harms_no_other():
    def produce(item):
        yield item
        if item == 1:
            raise LookupError("item 1")
        yield item

    got = []
    for _, parts in prefetch(range(3), produce, num_workers=3, depth=5):
        try:
            for part in parts:
                got.append(part)  # noqa: PERF402 - what came before the exception counts
        except LookupError as error:
            got.append(str(error))
    assert got == [0, 0, 1, "item 1", 2, 2]


def test_an_exception_before_the_first_part():
    def produce(_item):
        raise LookupError("at once")

    generator = prefetch([0], produce, num_workers=1, depth=1)
    _, parts = next(generator)
    with pytest.raises(LookupError, match="at once"):
        next(parts)


def test_an_exception_of_the_items_reaches_the_consumer():
    def items():
        yield 0
        raise LookupError("no more items")

    with pytest.raises(LookupError, match="no more items"):
        list(prefetch(items(), lambda item: [item], num_workers=1, depth=1))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_parts_may_be_left_unread(num_workers):
    def produce(item):
        return (item for _ in itertools.count())

    def consume():
        pairs = prefetch(range(20), produce, num_workers=num_workers, depth=2)
        return [next(parts) for _, parts in pairs]

    assert within_patience(consume) == list(range(20))


class Producers:
    """Endless producers, which note when each of them is closed."""

    def __init__(self):
        self.started, self.closed = set(), set()

    def __call__(self, item):
        self.started.add(item)
        try:
            yield from itertools.count()
        finally:
            self.closed.add(item)


@pytest.mark.parametrize("depth", [1, 8])
def test_closing_stops_and_closes_the_producers(depth):
    produce = Producers()
    pairs = prefetch(itertools.count(), produce, num_workers=3, depth=depth)
    _, parts = next(pairs)
    next(parts)
    wait_until(lambda: len(produce.started) == 3)
    within_patience(lambda: pairs.close() or True)
    assert produce.closed == {0, 1, 2}
    assert not workers()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_consumer_stops_the_producers(kind):
    produce = Producers()

    def consume():
        for _, parts in prefetch(itertools.count(), produce, num_workers=2, depth=1):
            for _part in parts:
                raise kind

    def run():
        with pytest.raises(kind):
            consume()
        return True

    within_patience(run)
    assert produce.closed == produce.started


def test_dropping_the_generator_stops_the_producers():
    produce = Producers()
    pairs = prefetch(itertools.count(), produce, num_workers=2, depth=1)
    next(pairs)
    assert workers()
    del pairs
    assert not workers()
    assert produce.closed == produce.started


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "raise SystemExit('an error')"])
def test_the_interpreter_exits_though_the_generator_is_neither_finished_nor_closed(ending):
    # Daemons alone would do for that, but they would be killed wherever they are.
    script = f"""
import itertools
def produce(item):
    print("started", flush=True)
    try:
        yield from itertools.count()
    finally:
        print("closed", flush=True)
pairs = prefetch([0, 1], produce, num_workers=2, depth=2)
_, parts = next(pairs)
print(next(parts), flush=True)
{ending}
"""
    with run_script(script) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert "0\n" in output
    assert output.count("closed") == output.count("started") > 0
    assert errors == ("an error\n" if ending else "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process there")
def test_ctrl_c_while_waiting_for_a_part():
    script = """
import time
def produce(item):
    while True:
        yield item
        time.sleep(0.2)
pairs = prefetch([0, 1], produce, num_workers=2, depth=1)
_, parts = next(pairs)
for part in parts:
    print(part, flush=True)
"""
    with run_script(script) as process:
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert errors.endswith("KeyboardInterrupt\n")
    assert process.returncode == -signal.SIGINT


@pytest.mark.slow
def test_many_consumers_of_random_habits():
    def consume(seed):
        habits = random.Random(seed)

        def produce(item):
            for part in range(item % 7):
                if (item + part + seed) % 11 == 10:
                    raise LookupError
                yield part

        num_workers, depth = habits.randint(1, 4), habits.randint(1, 4)
        pairs = prefetch(range(30), produce, num_workers=num_workers, depth=depth)
        for item, parts in pairs:
            taken, patience = [], habits.randint(1, 20)
            try:
                taken.extend(itertools.islice(parts, patience))
            except LookupError:
                assert any((item + part + seed) % 11 == 10 for part in range(item % 7))
            else:
                assert taken == list(range(min(item % 7, patience)))
            if habits.random() < 0.01:
                break
        pairs.close()
        return True

    assert within_patience(lambda: all(map(consume, range(300))))


def test_what_waits_when_it_closes_never_starts():
    started = []
    busy, go_on = threading.Event(), threading.Event()

    def produce(item):
        started.append(item)
        yield item
        busy.set()
        go_on.wait(PATIENCE)

    generator = prefetch([0, 1], produce, num_workers=1, depth=1)
    _, parts = next(generator)
    next(parts)
    assert busy.wait(PATIENCE)
    next(generator)  # the one thread is still at the first item
    threading.Timer(0.2, go_on.set).start()
    generator.close()
    assert started == [0]
