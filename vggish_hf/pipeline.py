"""Audio in, embeddings with times out: decoding, front end, network and post-processor as one."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import torch
from torch import Tensor

from vggish_hf import hub
from vggish_hf._checks import check_choice
from vggish_hf._runtime.batching import Batcher
from vggish_hf._runtime.prefetch import prefetch
from vggish_hf._runtime.threads import TorchThreads
from vggish_hf._version import __version__
from vggish_hf.audio import AudioSource, Decoder, open_audio
from vggish_hf.configuration import Padding, VGGishFeatureConfig
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.modeling import VGGishModel
from vggish_hf.modeling.inference import InferenceNetworks
from vggish_hf.provenance import weights_sha256

Postprocess = Literal["none", "pca", "uint8"]
Source = TypeVar("Source", bound=AudioSource)
ErrorHandler = Callable[[int, Any, Exception], None]

# Examples in a part that waits for the network: 0.8 MB of float32.
_PART_EXAMPLES = 32
_WAITING_PARTS = 4


@dataclass(frozen=True)
class VGGishOutput:
    """The embeddings of one clip.

    Args:
        embeddings: (examples, embedding_size), on the CPU; float32 (float64 from a float64 model),
            or uint8 where that was asked for.
        start_seconds: (examples,), when each example starts, float64.
        index: The clip's position among the inputs.
        example_seconds: Length of an example.
    """

    embeddings: Tensor
    start_seconds: Tensor
    index: int = 0
    example_seconds: float = VGGishFeatureConfig().example_seconds

    @property
    def end_seconds(self) -> float:
        """When the last example ends; 0 without one."""
        return float(self.start_seconds[-1]) + self.example_seconds if len(self.embeddings) else 0.0


def example_dtype(dtype: torch.dtype) -> torch.dtype:
    """What examples are made in for a network of a dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stream_examples(
    extractor: VGGishFeatureExtractor,
    source: AudioSource,
    dtype: torch.dtype = torch.float32,
    *,
    decode: Decoder = open_audio,
) -> Iterator[Tensor]:
    """Decode a clip of any length and compute its examples, a few at once.

    Args:
        extractor: The front end.
        source: The clip, as for calling a pipeline.
        dtype: The network's, see `example_dtype`.
        decode: Opens the clip.

    Returns:
        Parts (examples, 96, 64), none of which is empty. Reading them, like this call, raises
        AudioError, and what else `decode` raises, where the clip is bad.

    Example:
        >>> clip = (torch.zeros(16_000 * 60), 16_000)
        >>> [len(part) for part in stream_examples(VGGishFeatureExtractor(), clip)]
        [32, 30]
    """
    stream = decode(source)
    blocks = (block.to(example_dtype(dtype)) for block in stream.blocks)
    return extractor.stream(blocks, stream.sampling_rate, max_examples=_PART_EXAMPLES)


class VGGishPipeline:
    """Embeds clips of any number, length, rate and format.

    Args:
        extractor: The front end.
        model: The network; its device and dtype are the pipeline's.

    Example:
        >>> from vggish_hf import VGGishConfig, VGGishFeatureConfig
        >>> config = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16)
        >>> extractor = VGGishFeatureExtractor(VGGishFeatureConfig(padding="short"))
        >>> pipe = VGGishPipeline(extractor, VGGishModel(config))  # random weights
        >>> out = pipe((torch.zeros(44_100 * 3), 44_100))
        >>> out.embeddings.shape, out.start_seconds
        (torch.Size([3, 128]), tensor([0.0000, 0.9600, 1.9200], dtype=torch.float64))
    """

    def __init__(self, extractor: VGGishFeatureExtractor, model: VGGishModel) -> None:
        features = extractor.config
        made = (features.example_frames, features.num_mel_bins)
        taken = (model.config.num_frames, model.config.num_mel_bins)
        if made != taken:
            raise ValueError(
                f"Expected an extractor that makes what the model takes, examples of {taken}, got "
                f"one that makes {made}"
            )
        self.extractor = extractor
        self.model = model
        self._example_shape = taken
        self._model_id: str | None = None
        self._weights_path: Path | None = None
        self._networks = InferenceNetworks()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        padding: Padding | None = None,
        example_hop_seconds: float | None = None,
        **options: Unpack[hub.HubOptions],
    ) -> Self:
        """Load an extractor and a model.

        Args:
            pretrained_model_name_or_path: A built-in name, the path of a local folder, or a
                repository's id on the Hub.
            device: Where the network runs.
            dtype: In which precision it runs.
            padding: What becomes of samples that fill no example, see `VGGishFeatureConfig`;
                without it what the model's folder says, with `"short"` in place of `"none"`, so
                that no clip disappears.
            example_hop_seconds: Distance between two examples; without it, what the folder says.
            **options: How to fetch from the Hub, see `HubOptions`.

        Raises:
            FileNotFoundError: There is no such folder, or it lacks a file.
            ValueError: A file does not fit; see the two classes.
            TypeError: There is no such option.
        """
        # At once, so that both parts are of the same commit.
        files = (hub.FEATURE_CONFIG_NAME, hub.CONFIG_NAME, hub.WEIGHTS_NAME)
        folder = hub.find_folder(pretrained_model_name_or_path, files, **options)
        extractor = VGGishFeatureExtractor.from_pretrained(folder)
        config = extractor.config
        if padding is None:
            padding = "short" if config.padding == "none" else config.padding
        hop = config.example_hop_seconds if example_hop_seconds is None else example_hop_seconds
        config = replace(config, padding=padding, example_hop_seconds=hop)
        model = VGGishModel.from_pretrained(folder, device=device, dtype=dtype)
        pipeline = cls(VGGishFeatureExtractor(config), model)
        pipeline._model_id = str(pretrained_model_name_or_path)
        pipeline._weights_path = folder / hub.WEIGHTS_NAME
        pipeline._networks = InferenceNetworks(model, pipeline._weights_path)
        return pipeline

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write both parts into a folder, which is made if need be."""
        self.model.save_pretrained(save_directory)
        self.extractor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **options: Unpack[hub.PushOptions]) -> str:
        """Upload both parts to a Hub repository in one commit, and return its address.

        Args:
            repo_id: The repository, `org/name`; made if need be.
            **options: See `PushOptions`.
        """
        return hub.push(self.save_pretrained, repo_id, **options)

    @overload
    def __call__(
        self, inputs: list[Source], *, postprocess: Postprocess = ..., batch_size: int = ...
    ) -> list[VGGishOutput]: ...

    @overload
    def __call__(
        self, inputs: AudioSource, *, postprocess: Postprocess = ..., batch_size: int = ...
    ) -> VGGishOutput: ...

    def __call__(
        self,
        inputs: AudioSource | list[Source],
        *,
        postprocess: Postprocess = "none",
        batch_size: int = 32,
    ) -> VGGishOutput | list[VGGishOutput]:
        """Embed one clip, or a list of clips of unequal lengths.

        Args:
            inputs: A path, bytes, a binary file object, `(waveform, sampling_rate)`,
                `{"array": ..., "sampling_rate": ...}`, a value of a `datasets.Audio` column, or a
                list of these.
            postprocess: `"none"` for what the network gives, `"pca"` for the whitened and clipped
                embeddings, `"uint8"` for these as the released AudioSet embeddings are stored.
            batch_size: Examples that the network takes at once, of as many clips as it needs.

        Returns:
            The output of the clip, or a list of outputs in the order of the list.

        Raises:
            AudioError: A clip cannot be decoded.
            ValueError: A clip is empty or not finite, or the model has no post-processor.
        """
        if isinstance(inputs, list):
            return list(self.stream(inputs, postprocess=postprocess, batch_size=batch_size))
        (output,) = self.stream([inputs], postprocess=postprocess, batch_size=batch_size)
        return output

    def stream(
        self,
        inputs: Iterable[Any],
        *,
        postprocess: Postprocess = "none",
        batch_size: int = 32,
        num_workers: int = 2,
        on_error: ErrorHandler | None = None,
        decode: Decoder = open_audio,
    ) -> Generator[VGGishOutput, None, None]:
        """Embed any number of clips, with the examples of many in one batch.

        Memory is bounded by the arguments: clips are decoded in blocks, by threads that run ahead
        of the network by a few blocks, and outputs are handed out as soon as they are complete.

        Args:
            inputs: The clips, as for calling the pipeline; read only as far as needed.
            postprocess: As for calling the pipeline.
            batch_size: As for calling the pipeline.
            num_workers: Clips that are decoded at once.
            on_error: Called with a clip's position, the clip and the exception where it cannot be
                read; the clip is then left out. Without it the exception is raised.
            decode: Opens a clip, in one of the threads; the inputs are whatever it takes.

        Yields:
            The clips' outputs, in the order of the inputs.

        Raises:
            ValueError: An argument is refused, or the model has no post-processor.
        """
        self.check_postprocess(postprocess)
        for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
            if value < 1:
                raise ValueError(f"Expected `{name}` of at least 1, got {value}")
        return self._stream(inputs, postprocess, batch_size, num_workers, on_error, decode)

    def _stream(
        self,
        inputs: Iterable[Any],
        postprocess: Postprocess,
        batch_size: int,
        num_workers: int,
        on_error: ErrorHandler | None,
        decode: Decoder,
    ) -> Generator[VGGishOutput, None, None]:
        self._networks.fastest(self.model)  # so that no two threads lay out the weights
        on_cpu = self.model.device.type == "cpu"
        threads = TorchThreads(torch.get_num_threads() if on_cpu else 1)
        embed = partial(self.embed_examples, postprocess=postprocess)
        batcher = Batcher(embed, batch_size, threads)

        def read(index: int, source: Any, parts: Iterator[Tensor]) -> Iterator[Tensor]:
            # Only what reading raises is the clip's fault; what the network raises is not.
            try:
                yield from parts
            except (ValueError, OSError, TypeError) as error:
                if on_error is None:
                    name = f" ({source})" if isinstance(source, (str, os.PathLike)) else ""
                    error.add_note(f"in input {index}{name}")
                    raise
                on_error(index, source, error)
                batcher.discard()
            else:
                batcher.end()

        parts_of = prefetch(
            enumerate(inputs),
            lambda indexed: self._features(indexed[1], decode),
            num_workers=num_workers,
            depth=_WAITING_PARTS,
        )
        with threads, closing(parts_of):
            for (index, source), parts in parts_of:
                batcher.start(index)
                for part in read(index, source, parts):
                    batcher.add(part)
                    yield from self._outputs(batcher, postprocess)
                yield from self._outputs(batcher, postprocess)
            batcher.flush()
            yield from self._outputs(batcher, postprocess)

    def _outputs(self, batcher: Batcher, postprocess: Postprocess) -> Iterator[VGGishOutput]:
        for index, embeddings in batcher.finished():
            if embeddings is None:  # a clip without a whole example
                none = torch.empty(0, *self._example_shape)
                embeddings = self.embed_examples(none, postprocess)
            times = self.extractor.example_times(len(embeddings))
            seconds = self.extractor.config.example_seconds
            yield VGGishOutput(embeddings, times, index, seconds)

    def _features(self, source: Any, decode: Decoder) -> Iterator[Tensor]:
        return stream_examples(self.extractor, source, self.model.dtype, decode=decode)

    def check_postprocess(self, postprocess: Postprocess) -> None:
        """Raise ValueError if there is no such post-process, or the model cannot do it."""
        check_choice("postprocess", postprocess, Postprocess)
        if postprocess != "none" and self.model.postprocessor is None:
            raise ValueError(
                f"Expected a model with a post-processor for postprocess={postprocess!r}, this one "
                "has none; convert the checkpoint with its PCA file (`vggish-hf convert --pca`)"
            )

    @torch.no_grad()
    def embed_examples(self, examples: Tensor, postprocess: Postprocess = "none") -> Tensor:
        """Embed a batch of examples, of as many clips as it holds.

        Args:
            examples: (batch, 96, 64), as the extractor gives them, on any device.
            postprocess: As for calling the pipeline, and checked by `check_postprocess`.

        Returns:
            (batch, embedding_size), on the CPU; see `VGGishOutput`.
        """
        network = self._networks.fastest(self.model)
        embeddings: Tensor = network(examples.to(self.model.device, self.model.dtype))
        # Sixteen bits are for the network alone.
        if embeddings.dtype != torch.float64:
            embeddings = embeddings.float()
        postprocessor = self.model.postprocessor
        if postprocess == "none" or postprocessor is None:
            return embeddings.cpu()
        if postprocess == "uint8":
            # float64, as in the reference: a value next to a step must fall on its side of it
            precise = embeddings if embeddings.is_mps else embeddings.double()
            embeddings = postprocessor.quantize(postprocessor(precise))
        else:
            embeddings = postprocessor(embeddings)
        return embeddings.cpu()

    @property
    def weights_path(self) -> Path | None:
        """The file that the model was loaded from; None if it came from none."""
        return self._weights_path

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of what the model is now: of its file, or where it has changed of its values."""
        return weights_sha256(self.model, self._weights_path)

    def provenance(self, postprocess: Postprocess) -> dict[str, Any]:
        """What the embeddings come from, ready for JSON: package, weights and every number.

        The weights are those that the model has now; a change since it was loaded shows.
        """
        return {
            "version": __version__,
            "model": self._model_id,
            "weights_sha256": weights_sha256(
                self.model, self._weights_path, postprocessor=postprocess != "none"
            ),
            "config": asdict(self.model.config),
            "feature_config": asdict(self.extractor.config),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "postprocess": postprocess,
        }
