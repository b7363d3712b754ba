"""Predictions of any module, taken apart and put together."""

import pytest
import torch

pytest.importorskip("lightning.pytorch")

from vggish_hf.lightning._predictions import ClipAssembler, RowsPart, read_prediction

ROWS = torch.arange(12.0).view(6, 2)


def test_an_id_and_its_row():
    parts = read_prediction({"id": ("a", "b"), "embedding": ROWS[:2]}, 0.96)
    assert [(part.id, part.first_example, part.is_last) for part in parts] == [
        ("a", 0, True),
        ("b", 0, True),
    ]
    assert torch.equal(torch.cat([part.embedding for part in parts]), ROWS[:2])
    assert [part.start_seconds.tolist() for part in parts] == [[0.0], [0.0]]


def test_all_that_may_be_said():
    seconds = torch.arange(6) * 0.5
    prediction = {
        "id": ["a", "b", "c"],
        "embedding": ROWS,
        "num_examples": torch.tensor([1, 0, 5]),
        "first_example": [7, 0, 0],
        "is_last": [True, True, False],
        "start_seconds": seconds,
    }
    parts = read_prediction(prediction, 0.96)
    assert [len(part.embedding) for part in parts] == [1, 0, 5]
    assert [part.first_example for part in parts] == [7, 0, 0]
    assert [part.is_last for part in parts] == [True, True, False]
    assert torch.equal(torch.cat([part.start_seconds for part in parts]), seconds.double())
    del prediction["start_seconds"]
    assert read_prediction(prediction, 0.96)[0].start_seconds.tolist() == [7 * 0.96]


def test_nothing():
    assert read_prediction({"id": [], "embedding": torch.empty(0, 8)}, 0.96) == []


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (None, "return a dict with `id` and `embedding`, got NoneType"),
        ({"id": ["a"], "rows": ROWS}, r"got \['id', 'rows'\]"),
        ({"id": [3], "embedding": ROWS[:1]}, r"`id` to be a list of str, got \[3\]"),
        ({"id": ["a"], "embedding": ROWS[0]}, r"a tensor \(rows, size\), got \(2,\)"),
        ({"id": ["a"], "embedding": [1.0]}, "got <class 'list'>"),
        (
            {"id": ["a"], "embedding": ROWS},
            "got 1 ids, 1, 1 and 1 values, and 6 rows for 1 examples",
        ),
        ({"id": ["a"], "embedding": ROWS, "num_examples": [3, 3]}, "got 1 ids, 2, 1 and 1"),
        (
            {"id": ["a"], "embedding": ROWS, "num_examples": [6], "start_seconds": torch.ones(2)},
            "of each row, got 2 for 6 rows",
        ),
    ],
)
def test_predictions_that_are_refused(prediction, message):
    with pytest.raises(ValueError, match=message):
        read_prediction(prediction, 0.96)


def part(clip, first, count, is_last):
    rows = torch.arange(first, first + count)
    return RowsPart(clip, first, rows[:, None].expand(-1, 2), rows.double(), is_last)


def test_parts_come_in_turns():
    assembler = ClipAssembler()
    assert list(assembler.add([part("a", 0, 2, False), part("b", 0, 1, False)])) == []
    whole = dict(assembler.add([part("a", 2, 3, True), part("c", 0, 0, True)]))
    assert list(whole) == ["a", "c"]
    assert whole["a"].embeddings[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert whole["a"].start_seconds.tolist() == [0, 1, 2, 3, 4]
    assert len(whole["c"].embeddings) == 0
    assembler.discard("b")
    assert [clip for clip, _ in assembler.add([part("b", 0, 1, True)])] == ["b"]
    assembler.discard("never there")


@pytest.mark.parametrize("first", [1, 3])
def test_a_part_is_missing(first):
    assembler = ClipAssembler()
    list(assembler.add([part("a", 0, 2, False)]))
    with pytest.raises(ValueError, match=f"begins with example 2, got `first_example` {first}"):
        list(assembler.add([part("a", first, 2, True)]))


def test_sixteen_bits_are_stored_as_thirty_two():
    [part] = read_prediction({"id": ["a"], "embedding": ROWS[:1].bfloat16()}, 0.96)
    assert part.embedding.dtype == torch.float32
