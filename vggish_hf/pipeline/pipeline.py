"""Audio in, embeddings with times out: decoding, front end, network and post-processor as one."""

from collections.abc import Generator, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack, cast, overload

import torch
from torch import Tensor

from vggish_hf import hub
from vggish_hf._checks import check_at_least_one
from vggish_hf._runtime.torch_state import without_autocast
from vggish_hf._version import __version__
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits, AudioSource, Decoder, IsolatedDecoders
from vggish_hf.configuration import Padding
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.inputs import Clip
from vggish_hf.modeling import VGGishModel
from vggish_hf.modeling.inference import InferenceNetworks
from vggish_hf.modeling.loading import check_device, parse_dtype
from vggish_hf.modeling.postprocessor import Postprocess as Postprocess
from vggish_hf.modeling.postprocessor import find_postprocess
from vggish_hf.pipeline.output import VGGishOutput
from vggish_hf.pipeline.reading import is_one_clip, make_opener
from vggish_hf.pipeline.streaming import ErrorHandler, stream_outputs
from vggish_hf.provenance import weights_sha256


class VGGishPipeline:
    """Embeds clips of any number, length, rate and format.

    Args:
        extractor: The front end.
        model: The network; its device and dtype are the pipeline's. The pipeline may miss writes
            to a few weights through `.data`: write under `torch.no_grad()`, or make a new pipeline.

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
                f"Expected an extractor that makes the model's examples of {taken}, got one that "
                f"makes {made}"
            )
        self.extractor = extractor
        self.model = model
        self._model_id: str | None = None
        self._weights_path: Path | None = None
        self._networks = InferenceNetworks()

    def __repr__(self) -> str:
        name = "of no file" if self._model_id is None else repr(self._model_id)
        dtype = str(self.model.dtype).removeprefix("torch.")
        return f"{type(self).__name__}(model: {name}, device: {self.model.device}, dtype: {dtype})"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        padding: Padding | None = None,
        example_hop_seconds: float | None = None,
        **options: Unpack[hub.HubOptions],
    ) -> Self:
        """Load an extractor and a model.

        Args:
            pretrained_model_name_or_path: A built-in name, the path of a local folder, or a
                repository's id on the Hub.
            device: Device of the network.
            dtype: Its precision, such as `torch.bfloat16` or `"bfloat16"`.
            padding: What to do with samples that fill no example, see `VGGishFeatureConfig`; the
                default is from the model's folder, with `"short"` instead of `"none"`, so that no
                clip disappears.
            example_hop_seconds: Distance between two examples; the default is from the folder.
            **options: How to fetch from the Hub, see `HubOptions`.

        Raises:
            FileNotFoundError: The folder does not exist, or lacks a file.
            ValueError: A file does not fit, see the two classes; or this machine lacks the device.
            TypeError: An option is unknown.
        """
        own = ("device", "dtype", "padding", "example_hop_seconds")
        hub.check_options(options, hub.HubOptions, own)
        device, dtype = check_device(device), parse_dtype(dtype)
        # Together, so that both parts are of the same commit.
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
        """Write both parts into a folder, created if needed."""
        self.model.save_pretrained(save_directory)
        self.extractor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **options: Unpack[hub.PushOptions]) -> str:
        """Upload both parts to a Hub repository in one commit, and return its address.

        Args:
            repo_id: The repository, `org/name`; created if needed.
            **options: See `PushOptions`.
        """
        return hub.push(self.save_pretrained, repo_id, **options)

    @overload
    def __call__(
        self,
        inputs: AudioSource | Clip,
        *,
        postprocess: Postprocess = ...,
        batch_size: int = ...,
        limits: AudioLimits = ...,
        isolated: bool = ...,
    ) -> VGGishOutput: ...

    @overload
    def __call__(
        self,
        inputs: Iterable[Any],
        *,
        postprocess: Postprocess = ...,
        batch_size: int = ...,
        limits: AudioLimits = ...,
        isolated: bool = ...,
    ) -> list[VGGishOutput]: ...

    def __call__(
        self,
        inputs: AudioSource | Clip | Iterable[Any],
        *,
        postprocess: Postprocess = "none",
        batch_size: int = 32,
        limits: AudioLimits = DEFAULT_LIMITS,
        isolated: bool = False,
    ) -> VGGishOutput | list[VGGishOutput]:
        """Embed one clip, or many clips of unequal lengths.

        Args:
            inputs: A path, bytes, a binary file object, `(waveform, sampling_rate)`,
                `{"array": ..., "sampling_rate": ...}`, a value of a `datasets.Audio` column, a
                clip of `vggish_hf.inputs.find_clips`; or many of these: a list, tuple, array or
                column, or an iterator.
            postprocess: `"none"` for the network's output, `"pca"` for whitened and clipped
                embeddings, `"uint8"` for these quantised like the released AudioSet embeddings.
            batch_size: Examples that the network takes at once, from any number of clips.
            limits: Limits of an encoded clip.
            isolated: Whether to decode files in separate processes, so that a file that crashes a
                decoder fails alone: for untrusted audio.

        Returns:
            The output of the clip, or a list of outputs in the order of the inputs.

        Raises:
            AudioError: A clip cannot be decoded; the message names it.
            ValueError: A clip is empty or not finite, or the model has no post-processor.
        """
        is_one = is_one_clip(inputs)
        outputs = self.stream(
            [inputs] if is_one else cast(Iterable[Any], inputs),
            postprocess=postprocess,
            batch_size=batch_size,
            limits=limits,
            isolated=isolated,
        )
        if not is_one:
            return list(outputs)
        (output,) = outputs
        return output

    def stream(
        self,
        inputs: Iterable[Any],
        *,
        postprocess: Postprocess = "none",
        batch_size: int = 32,
        num_workers: int = 2,
        on_error: ErrorHandler | None = None,
        limits: AudioLimits = DEFAULT_LIMITS,
        isolated: bool = False,
        decode: Decoder | None = None,
    ) -> Generator[VGGishOutput, None, None]:
        """Embed any number of clips, with the examples of many in one batch.

        The arguments bound the memory: threads decode clips in blocks, a few blocks ahead of the
        network, and outputs are yielded as soon as they are complete.

        Args:
            inputs: The clips, as for calling the pipeline; read only as far as needed.
            postprocess: As for calling the pipeline.
            batch_size: As for calling the pipeline.
            num_workers: Clips decoded at once.
            on_error: Called with a failed clip's position, the clip and the exception; the clip
                then has no output. Without it the exception is raised, with the clip's name in its
                message.
            limits: As for calling the pipeline.
            isolated: As for calling the pipeline; the processes end with the stream.
            decode: Opens a clip, in any thread, instead of `limits` and `isolated`; the inputs are
                its arguments.

        Yields:
            The clips' outputs, in the order of the inputs.

        Raises:
            ValueError: An argument is invalid, or the model has no post-processor.

        Example:
            >>> from vggish_hf import VGGishPipeline
            >>> pipe = VGGishPipeline.from_pretrained("demo")
            >>> clips = [(torch.zeros(16_000), 16_000), (torch.zeros(99_000), 44_100)]
            >>> [len(out) for out in pipe.stream(clips)]
            [1, 2]
        """
        if is_one_clip(inputs):
            raise ValueError(
                f"Expected many clips, got one {type(inputs).__name__}; pass it in a list, or call "
                "the pipeline with it"
            )
        if decode is not None and (isolated or limits != DEFAULT_LIMITS):
            raise ValueError("Expected either `decode` or `limits` and `isolated`, got both")
        self.check_postprocess(postprocess)
        check_at_least_one(batch_size=batch_size, num_workers=num_workers)
        self._networks.fastest(self.model)  # so that no two threads lay out the weights
        decoders = IsolatedDecoders() if isolated else None
        return stream_outputs(
            inputs,
            self.extractor,
            partial(self.embed_examples, postprocess=postprocess),
            dtype=self.model.dtype,
            batch_size=batch_size,
            num_workers=num_workers,
            num_threads=torch.get_num_threads() if self.model.device.type == "cpu" else 1,
            on_error=on_error,
            decode=decode or make_opener(limits, decoders),
            decoders=decoders,
        )

    def check_postprocess(self, postprocess: Postprocess) -> None:
        """Raise ValueError if the post-process is unknown, or the model cannot do it."""
        find_postprocess(postprocess).check(self.model.postprocessor)

    @torch.no_grad()
    def embed_examples(self, examples: Tensor, postprocess: Postprocess = "none") -> Tensor:
        """Embed a batch of examples from any number of clips.

        Args:
            examples: (batch, 96, 64), from the extractor, on any device.
            postprocess: As for calling the pipeline, and checked by `check_postprocess`.

        Returns:
            (batch, embedding_size), on the CPU; see `VGGishOutput`.
        """
        network = self._networks.fastest(self.model)
        with without_autocast(self.model.device):
            embeddings: Tensor = network(examples.to(self.model.device, self.model.dtype))
        return find_postprocess(postprocess).apply(self.model.postprocessor, embeddings).cpu()

    @property
    def weights_path(self) -> Path | None:
        """The file that the model was loaded from, or None."""
        return self._weights_path

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the current model: of its file, or of its values if they have changed."""
        return weights_sha256(self.model, self._weights_path)

    def provenance(self, postprocess: Postprocess) -> dict[str, Any]:
        """How the embeddings are made, ready for JSON: package, weights and every number.

        The weights are the model's current ones; a change since loading shows.
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
