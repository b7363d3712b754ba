"""Checks of arguments, with the same words everywhere."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise ValueError unless `value` is one of the strings of the `Literal` type `choices`."""
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"Expected `{name}` to be one of {allowed}, got {value!r}")


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], known: Mapping[str, Any]
) -> None:
    """Raise TypeError, with all options of a function, for one that does not exist.

    Args:
        function: Takes its own options by keyword alone, and hands on others.
        options: Those that were given to be handed on.
        known: Those that may be, by their names.
    """
    unknown = options.keys() - known.keys()
    if unknown:
        parameters = inspect.signature(function).parameters.values()
        own = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        raise TypeError(
            f"Expected options among {', '.join([*own, *known])}, got "
            f"{', '.join(map(repr, sorted(unknown)))}"
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
