"""Against the obvious version, which runs one clip at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggish_hf._batching import Batcher

# A clip is the lengths of the parts that it is handed in by, and whether it fails after them.
CLIPS = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=4), st.booleans()), max_size=12)


def double(examples):
    return 2 * examples


class Recorder:
    """Doubles, and keeps the sizes of the batches."""

    def __init__(self):
        self.sizes = []

    def __call__(self, examples):
        self.sizes.append(len(examples))
        return double(examples)


@given(CLIPS, st.integers(1, 12))
def test_equals_one_clip_at_a_time(clips, batch_size):
    function = Recorder()
    batcher = Batcher(function, batch_size)
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
    assert [(index, torch.cat([*rows, values[:0]]).tolist()) for index, rows in finished] == (
        expected
    )
    assert all(size == batch_size for size in function.sizes[:-1])
    assert sum(function.sizes) == first
    assert 0 not in function.sizes


def test_a_clip_is_finished_as_soon_as_its_rows_are_there():
    batcher = Batcher(double, 4)
    batcher.start(7)
    batcher.add(torch.zeros(3, 1))
    batcher.end()
    assert list(batcher.finished()) == []
    batcher.start(8)
    batcher.add(torch.zeros(1, 1))
    ((index, parts),) = batcher.finished()
    assert index == 7
    assert list(map(len, parts)) == [3]
    batcher.end()
    ((index, parts),) = batcher.finished()
    assert (index, list(map(len, parts))) == (8, [1])


def test_a_batch_that_fails_is_tried_again_and_its_rows_stay_in_order():
    failures = [RuntimeError("out of memory")]

    def function(examples):
        if failures:
            raise failures.pop()
        return double(examples)

    batcher = Batcher(function, 2)
    batcher.start(0)
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.add(torch.tensor([1.0, 2.0]))
    batcher.end()
    batcher.start(1)
    batcher.add(torch.tensor([3.0]))
    batcher.end()
    batcher.flush()
    rows = [torch.cat(parts).tolist() for _, parts in batcher.finished()]
    assert rows == [[2.0, 4.0], [6.0]]
