"""Score clips of audio, one after the other."""

import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from torch import Tensor

from vggish_hf.audio import AudioSource
from vggish_hf.lightning.classified import ClassifiedClip, TooShortError
from vggish_hf.pipeline import ErrorHandler, VGGishPipeline


def classify_clips(
    inputs: AudioSource | Iterable[Any],
    pipeline: VGGishPipeline,
    score: Callable[[Tensor], Tensor],
    classes: Sequence[str],
    *,
    on_error: ErrorHandler | None,
    **options: Any,
) -> Generator[ClassifiedClip, None, None]:
    """Embed clips and score each; arguments are checked immediately.

    Args:
        inputs: The clips, or one.
        pipeline: Embeds them.
        score: Maps the embeddings of a clip (examples, size) to probabilities (classes,).
        classes: The names of the classes.
        on_error: As for `VGGishPipeline.stream`.
        **options: See `VGGishPipeline.stream`.

    Raises:
        ValueError: `inputs` cannot be clips, or an option is invalid.
    """
    clips = _as_clips(inputs)
    waiting: dict[int, Any] = {}  # clips read but not yet scored

    def note() -> Iterator[Any]:
        for index, source in enumerate(clips):
            waiting[index] = source
            yield source

    def handle(index: int, source: Any, error: Exception) -> None:
        waiting.pop(index)
        if on_error is not None:
            on_error(index, source, error)

    outputs = pipeline.stream(note(), on_error=None if on_error is None else handle, **options)

    def scored() -> Generator[ClassifiedClip, None, None]:
        with closing(outputs):
            for out in outputs:
                source = waiting.pop(out.index)
                if len(out.embeddings):
                    yield ClassifiedClip(score(out.embeddings), out.index, classes)
                    continue
                error = TooShortError(
                    f"Input {out.index} is shorter than an example of {out.example_seconds:g} s; "
                    "make the front end with padding='short'"
                )
                if on_error is None:
                    raise error
                on_error(out.index, source, error)

    return scored()


def warn_of_other_weights(
    pipeline: VGGishPipeline, embeddings_from: Mapping[str, Any] | None
) -> None:
    """Warn if a head gets embeddings of other weights than in its training."""
    learnt = (embeddings_from or {}).get("weights_sha256")
    given = pipeline.weights_sha256
    if learnt is not None and given is not None and learnt != given:
        model = (embeddings_from or {}).get("model")
        name = f"{model!r}, " if model else ""
        warnings.warn(
            f"this classifier learnt from embeddings of {name}weights {learnt[:12]}, but now gets "
            f"those of weights {given[:12]}: its scores are useless unless both are alike",
            stacklevel=3,
        )


def _as_clips(inputs: Any) -> Iterable[Any]:
    """Tell one clip from many."""
    is_pair = isinstance(inputs, tuple) and len(inputs) == 2 and hasattr(inputs[0], "ndim")
    is_one = isinstance(inputs, (str, bytes, bytearray, memoryview, os.PathLike, Mapping))
    if is_pair or is_one or hasattr(inputs, "read") or hasattr(inputs, "get_all_samples"):
        return [inputs]
    if not isinstance(inputs, Iterable):
        raise ValueError(f"Expected clips to classify, got {inputs!r}")
    return inputs
