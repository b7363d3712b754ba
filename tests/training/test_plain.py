"""Hyperparameters as plain Python, whatever they came as."""

import enum
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from vggish_hf.training import HeadConfig, make_head
from vggish_hf.training.plain import to_plain


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


class Kind(enum.StrEnum):
    MLP = "mlp"


@dataclass
class Nested:
    rate: float
    names: tuple[str, ...]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.unique(["b", "a"]), ["a", "b"]),
        (torch.tensor(3), 3),
        (torch.tensor([0.5, 1.0]), [0.5, 1.0]),
        (Path("a/b"), "a/b"),
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (Kind.MLP, "mlp"),
        ((1, (2.0, "c")), [1, [2.0, "c"]]),
        ({"b", "a"}, ["a", "b"]),
        (Fraction(1, 2), 0.5),
        (Nested(np.float64(1), (np.str_("a"),)), {"rate": 1.0, "names": ["a"]}),
        ({np.str_("a"): {"b": [np.int8(1)]}}, {"a": {"b": [1]}}),
    ],
)
def test_plain(value, expected):
    found = to_plain(value)
    assert found == expected
    assert type(found) is type(expected)
    assert json.loads(json.dumps(found)) == expected


def test_what_has_no_plain_form_is_named():
    with pytest.raises(
        ValueError, match=r"Expected `head\['kind'\]\[1\]` to be a number, .* object"
    ):
        to_plain({"kind": ["a", object()]}, "head")


def test_heads():
    config = HeadConfig(
        np.str_("attention"),
        hidden_size=np.int64(8),
        dropout=torch.tensor(0.5),
        batch_norm=np.True_,
    )
    assert config == HeadConfig("attention", hidden_size=8, dropout=0.5, batch_norm=True)
    assert [type(value) for value in vars(config).values()] == [str, int, int, float, bool, int]
    assert make_head(HeadConfig(Kind.MLP), 4, 2).hidden.out_size == 512
    for name, value in (("dropout", "0.5"), ("hidden_size", 8.0), ("batch_norm", 1)):
        with pytest.raises(ValueError, match=f"Expected `{name}`"):
            HeadConfig(**{name: value})
