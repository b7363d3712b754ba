"""Checks of arguments, with uniform messages."""

import math
import reprlib
from typing import Any, get_args


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise ValueError unless `value` is one of the strings of the `Literal` type `choices`."""
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"Expected `{name}` to be one of {allowed}, got {reprlib.repr(value)}")


def check_between(name: str, value: Any, low: float, high: float) -> None:
    """Raise ValueError unless `value` is a number from `low` to `high`; an int if both are."""
    whole = isinstance(low, int) and isinstance(high, int)
    kinds = (int,) if whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or not math.isfinite(value):
        kind = "an int" if whole else "a number"
        raise ValueError(
            f"Expected `{name}` to be {kind} from {low} to {high}, got {reprlib.repr(value)}"
        )


def check_at_least_one(**values: int) -> None:
    """Raise ValueError for a value below one."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"Expected `{name}` of at least 1, got {value}")


# No array of clips has this many channels, and no clip is this short.
MAX_CHANNELS = 32


def check_sampling_rate(sampling_rate: int) -> None:
    """Raise ValueError unless `sampling_rate` is a positive int."""
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, int) or sampling_rate <= 0:
        raise ValueError(
            f"Expected `sampling_rate` to be a positive whole number of Hz, got {sampling_rate!r}"
        )
