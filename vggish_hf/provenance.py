"""How embeddings were made, and whether two sets of them may be compared."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

#: What decides an embedding's values; the rest of a provenance (version, model id, counts) says
#: where a set is from. A key of a mapping includes all that is in it.
COMPARED_KEYS = (
    *("weights_sha256", "state_sha256", "config", "feature_config", "dtype"),
    *("postprocess", "pool", "preset"),
)

# `postprocess` covers the post-processor; a preset's name changes nothing.
_IGNORED = ("config.postprocessor", "preset.name")
_WEIGHTS = "weights_sha256"
_POSTPROCESSOR = "postprocessor."


def provenance_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """List the compared keys in which two provenances differ, one line each.

    Two empty ones are not equal: nothing is known of them, and one line says so.

    Args:
        a: A provenance, as `VGGishPipeline.provenance` gives and embeddings files hold.
        b: Another.

    Example:
        >>> provenance_differences({"dtype": "float32"}, {"dtype": "float16", "version": "9"})
        ["dtype: 'float32' and 'float16'"]
        >>> provenance_differences({}, {})
        ['neither of the two says how it was made; whether they were made alike is unknown']
    """
    compared = [{key: values[key] for key in COMPARED_KEYS if key in values} for values in (a, b)]
    differences = [
        f"{key}: {there!r} and {here!r}"
        for key, there, here in find_differences(*compared)
        if key not in _IGNORED
    ]
    if not differences and not is_provenance_known(a) and not is_provenance_known(b):
        return ["neither of the two says how it was made; whether they were made alike is unknown"]
    return differences


def is_provenance_known(provenance: Mapping[str, Any]) -> bool:
    """Tell whether a provenance has any key that decides the values of embeddings."""
    return any(provenance.get(key) is not None for key in COMPARED_KEYS)


def find_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compare two mappings of JSON values, key by key, inner mappings included.

    None and False equal a missing key: a switch that one side does not know was off. Unknown
    weights, noted as None, differ from all others.

    Returns:
        The name and both values of each key that differs.

    Example:
        >>> find_differences({"a": {"b": 1, "c": None}}, {"a": {"b": 2}})
        [('a.b', 1, 2)]
        >>> find_differences({"weights_sha256": None}, {"weights_sha256": None})
        [('weights_sha256', None, None)]
    """
    flat_a, flat_b = (dict(_flatten(json.loads(json.dumps(values)))) for values in (a, b))
    return [
        (key, flat_a.get(key), flat_b.get(key))
        for key in dict.fromkeys([*flat_a, *flat_b])
        if flat_a.get(key) != flat_b.get(key) or _is_unknown(key, flat_a, flat_b)
    ]


def _is_unknown(key: str, *flat: Mapping[str, Any]) -> bool:
    is_weights = key.rpartition(".")[2] == _WEIGHTS
    return is_weights and any(values.get(key, "") is None for values in flat)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif (value is not None and value is not False) or key == _WEIGHTS:
            yield f"{prefix}{key}", value


def weights_sha256(
    model: nn.Module, weights_path: Path | None = None, *, postprocessor: bool = True
) -> str:
    """SHA-256 of a network's current values.

    Args:
        model: The network.
        weights_path: The safetensors file that it was loaded from, if any.
        postprocessor: Whether the post-processor counts; it does not change the network's
            output.

    Returns:
        The file's digest if the network has exactly the file's current values, in the
        network's dtype. Otherwise a digest of the values in memory; it begins with `in-memory:`,
        since the same values in a file have another.
    """
    values = {
        name: value
        for name, value in model.state_dict().items()
        if postprocessor or not name.startswith(_POSTPROCESSOR)
    }
    if weights_path is not None and (state := _file_state(weights_path)) is not None:
        file_sha256 = _file_sha256(weights_path, state)
        if _is_as_in_file(values, weights_path, postprocessor) and (
            _file_state(weights_path) == state
        ):
            return file_sha256
    return f"in-memory:{state_sha256(values)}"


def state_sha256(values: Mapping[str, Any]) -> str:
    """SHA-256 of named values, as `state_dict` gives them; their order does not matter."""
    digest = hashlib.sha256()
    for name, value in sorted(_leaves(values)):
        if isinstance(value, Tensor):
            dense = value.detach().cpu()
            if dense.is_quantized:
                dense = dense.dequantize()
            dense = dense.contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(dense.flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name} {value!r}\n".encode())
    return digest.hexdigest()


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested mappings and sequences: quantised layers keep theirs in tuples."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{number}")
    else:
        yield name, value


def _is_as_in_file(values: Mapping[str, Any], path: Path, postprocessor: bool) -> bool:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if not postprocessor:
                names = {name for name in names if not name.startswith(_POSTPROCESSOR)}
            return names == values.keys() and all(
                _is_same(value, file.get_tensor(name)) for name, value in values.items()
            )
    except (safetensors.SafetensorError, OSError):
        return False


def _is_same(value: Any, stored: Tensor) -> bool:
    if not isinstance(value, Tensor) or value.is_quantized or value.shape != stored.shape:
        return False
    return torch.equal(value.detach().cpu(), stored.to(value.dtype))


@lru_cache(maxsize=16)
def _file_sha256(path: Path, _state: tuple[int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_state(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
