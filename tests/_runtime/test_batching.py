"""Against the obvious version, which runs one clip at a time."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggish_hf._runtime.batching import Batcher
from vggish_hf._runtime.threads import TorchThreads

# A clip is the lengths of the parts that it is handed in by, and whether it fails after them.
CLIPS = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=4), st.booleans()), max_size=12)


@pytest.fixture(scope="module")
def threads():
    with TorchThreads(2) as threads:
        yield threads


def double(examples):
    return 2 * examples


class Recorder:
    """Doubles, and keeps the sizes of the batches: those in other threads, and the last."""

    def __init__(self):
        self.sizes = []

    def __call__(self, examples):
        self.sizes.append(len(examples))
        return double(examples)


@given(CLIPS, st.integers(1, 12))
def test_equals_one_clip_at_a_time(threads, clips, batch_size):
    function = Recorder()
    batcher = Batcher(function, batch_size, threads)
    values = torch.arange(1000.0).reshape(-1, 2)  # every example is different
    expected, finished, first = [], [], 0
    for index, (lengths, fails) in enumerate(clips):
        last = first + sum(lengths)
        batcher.start(index)
        for part in values[first:last].split(lengths) if lengths else ():
            batcher.add(part)
            finished.extend(batcher.finished())
        batcher.discard() if fails else batcher.end()
        finished.extend(batcher.finished())
        if not fails:
            expected.append((index, double(values[first:last]).tolist()))
        first = last
    batcher.flush()
    finished.extend(batcher.finished())
    found = [(index, [] if rows is None else rows.tolist()) for index, rows in finished]
    assert found == expected
    # No more memory than they need.
    assert all(
        rows is None or rows.untyped_storage().nbytes() == rows.nbytes for _, rows in finished
    )
    full, rest = divmod(first, batch_size)
    # The rest runs beside the last of the full ones.
    assert sorted(function.sizes) == sorted(full * [batch_size] + ([rest] if rest else []))


def test_a_clip_is_finished_when_its_rows_are_there_and_not_before(threads):
    go_on = threading.Event()

    def function(examples):
        go_on.wait(10)
        return double(examples)

    batcher = Batcher(function, 4, threads)
    batcher.start(7)
    batcher.add(torch.zeros(3, 1))
    batcher.end()
    assert list(batcher.finished()) == []
    batcher.start(8)
    batcher.add(torch.zeros(1, 1))
    assert list(batcher.finished()) == []  # the batch is full, but not done
    go_on.set()
    batcher.flush()
    ((index, rows),) = batcher.finished()
    assert (index, len(rows)) == (7, 3)
    batcher.end()
    ((index, rows),) = batcher.finished()
    assert (index, len(rows)) == (8, 1)


def test_no_more_batches_wait_than_there_are_threads(threads):
    go_on = threading.Event()
    started = []

    def function(examples):
        started.append(len(examples))
        go_on.wait(10)
        return double(examples)

    batcher = Batcher(function, 2, threads)
    batcher.start(0)
    batcher.add(torch.zeros(4, 1))  # two batches, one for each thread: this returns at once
    threading.Timer(0.2, go_on.set).start()
    batcher.add(torch.zeros(2, 1))  # the third waits for the first
    assert go_on.is_set()
    batcher.end()
    batcher.flush()
    ((_, rows),) = batcher.finished()
    assert len(rows) == 6
    assert started == [2, 2, 2]


def test_full_batches_run_in_the_threads_and_the_rest_in_the_callers(threads):
    where = []

    def function(examples):
        where.append((len(examples), threading.current_thread() is threading.main_thread()))
        return double(examples)

    batcher = Batcher(function, 2, threads)
    batcher.start(0)
    batcher.add(torch.zeros(3, 1))
    batcher.end()
    batcher.flush()
    assert sorted(where) == [(1, True), (2, False)]


def test_what_the_function_raises_reaches_the_caller(threads):
    def function(examples):
        raise RuntimeError("out of memory")

    batcher = Batcher(function, 2, threads)
    batcher.start(0)
    batcher.add(torch.zeros(2, 1))
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.flush()
