"""Values of configurations as plain Python, for JSON and `torch.load(weights_only=True)`."""

import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from numbers import Integral, Real
from typing import Any


def to_plain(value: Any, name: str = "value") -> Any:
    """Convert a value, and all inside it, to None, bool, int, float, str, list and dict.

    Args:
        value: A value of these types or their subclasses; a numpy or torch scalar or array, a path,
            an enum, a dataclass, a tuple or a set.
        name: Its name in errors.

    Raises:
        ValueError: It has another type.

    Example:
        >>> import numpy as np
        >>> to_plain({"classes": np.unique(["b", "a"]), "rate": np.float64(0.5)})
        {'classes': ['a', 'b'], 'rate': 0.5}
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return to_plain(value.value, name)
    if hasattr(value, "tolist"):  # numpy, torch and pandas, scalars and arrays
        return to_plain(value.tolist(), name)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, os.PathLike):
        return to_plain(os.fspath(value), name)
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value), name)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, (list, tuple)):
        return [to_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    raise ValueError(
        f"Expected `{name}` to be a number, a text, a list or a dict, got a {type(value).__name__}"
    )
