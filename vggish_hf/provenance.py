"""What embeddings come from, and whether two sets of them may be compared."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from vggish_hf.modeling import VGGishModel

#: What decides an embedding's values; the rest of a provenance (version, model id, counts) tells
#: where a set is from. A key that stands for a mapping stands for all that is in it.
COMPARED_KEYS = ("weights_sha256", "config", "feature_config", "dtype", "postprocess", "preset")

# The post-processor decides what `postprocess` says, and a preset's name nothing.
_IGNORED = ("config.postprocessor", "preset.name")


def provenance_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Say in one line each in which of the compared keys two provenances differ.

    Args:
        a: A provenance, as `VGGishPipeline.provenance` gives and embeddings files hold.
        b: Another.

    Example:
        >>> provenance_differences({"dtype": "float32"}, {"dtype": "float16", "version": "9"})
        ["dtype: 'float32' and 'float16'"]
    """
    flat_a, flat_b = dict(_compared(a)), dict(_compared(b))
    keys = list(dict.fromkeys([*flat_a, *flat_b]))
    return [
        f"{key}: {flat_a.get(key)!r} and {flat_b.get(key)!r}"
        for key in keys
        if flat_a.get(key) != flat_b.get(key)
    ]


def weights_sha256(model: VGGishModel) -> str:
    """SHA-256 over a network's weights in memory: for a model that came from no file.

    It is none of a file's, which hashes names and layout in its own way; hence the prefix.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("postprocessor."):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return f"in-memory:{digest.hexdigest()}"


def _compared(provenance: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in COMPARED_KEYS:
        yield from _flatten(key, provenance.get(key))


def _flatten(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    # A file that does not know of a switch was made without it.
    if key in _IGNORED or value is None or value is False:
        return
    if isinstance(value, Mapping):
        for inner in value:
            yield from _flatten(f"{key}.{inner}", value[inner])
    else:
        yield key, list(value) if isinstance(value, tuple) else value  # JSON knows no tuples
