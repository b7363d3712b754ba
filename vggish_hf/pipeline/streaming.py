"""Run any number of clips through the front end and the network, with batches across clips."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from typing import Any

import torch
from torch import Tensor

from vggish_hf._runtime.batching import Batcher
from vggish_hf._runtime.prefetch import prefetch
from vggish_hf._runtime.threads import TorchThreads
from vggish_hf.audio import Decoder, IsolatedDecoders
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.pipeline.output import VGGishOutput
from vggish_hf.pipeline.reading import name_input, stream_examples

#: Takes a clip's position, the clip, and the reason of its failure.
ErrorHandler = Callable[[int, Any, Exception], None]

# Chunks of a clip, of 32 examples, that wait for the network.
_WAITING_PARTS = 4


def stream_outputs(
    inputs: Iterable[Any],
    extractor: VGGishFeatureExtractor,
    embed: Callable[[Tensor], Tensor],
    *,
    dtype: torch.dtype,
    batch_size: int,
    num_workers: int,
    num_threads: int,
    on_error: ErrorHandler | None,
    decode: Decoder,
    decoders: IsolatedDecoders | None,
) -> Generator[VGGishOutput, None, None]:
    """Embed clips; see `VGGishPipeline.stream`.

    Args:
        inputs: The clips.
        extractor: The front end.
        embed: Maps examples (batch, 96, 64) to embeddings (batch, size), in any thread.
        dtype: The network's.
        batch_size: Examples that `embed` gets at once.
        num_workers: Clips decoded at once.
        num_threads: Batches embedded at once.
        on_error: See `VGGishPipeline.stream`.
        decode: Opens a clip.
        decoders: The processes that `decode` uses; closed at the end.
    """
    threads = TorchThreads(num_threads)
    batcher = Batcher(embed, batch_size, threads)
    config = extractor.config

    def read(index: int, source: Any, parts: Iterator[Tensor]) -> Iterator[Tensor]:
        # Only errors of reading make the clip fail, not those of the network.
        try:
            yield from parts
        except (ValueError, OSError, TypeError) as error:
            if on_error is None:
                name_input(error, index, source)
                raise
            on_error(index, source, error)
            batcher.discard()
        else:
            batcher.end()

    def finished() -> Iterator[VGGishOutput]:
        for index, embeddings in batcher.finished():
            if embeddings is None:  # a clip without a whole example
                embeddings = embed(
                    torch.empty(0, config.example_frames, config.num_mel_bins, device="cpu")
                )
            times = extractor.example_times(len(embeddings))
            yield VGGishOutput(embeddings, times, index, config.example_seconds)

    parts_of = prefetch(
        enumerate(inputs),
        lambda indexed: stream_examples(extractor, indexed[1], dtype, decode=decode),
        num_workers=num_workers,
        depth=_WAITING_PARTS,
    )
    # The decoders end before the threads that wait for them.
    with threads, closing(parts_of), decoders or nullcontext():
        for (index, source), parts in parts_of:
            batcher.start(index)
            for part in read(index, source, parts):
                batcher.add(part)
                yield from finished()
            yield from finished()
        batcher.flush()
        yield from finished()
