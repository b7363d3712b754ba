"""Frechet Audio Distance as a torchmetrics metric, for training loops and many processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from vggish_hf.metrics.presets import ClipEmbedder, PresetName
from vggish_hf.metrics.statistics import EmbeddingStatistics
from vggish_hf.pipeline import VGGishPipeline

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    if error.name != "torchmetrics":
        raise
    raise ImportError(
        "FrechetAudioDistance needs `torchmetrics`: pip install 'vggish-hf[lightning]'"
    ) from None


class FrechetAudioDistance(Metric):  # type: ignore[misc]
    """The Frechet distance between the embeddings of real and of generated audio.

    Its state is the two sets' count, mean and scatter in float64, 128 KiB each for any number of
    clips, merged exactly across batches and processes. Call `update` and `compute`; calling the
    metric itself needs both sets in one batch.

    Args:
        model: Embeds waveforms: a pipeline, or a model's id. Not needed for embeddings.
        preset: The tool to imitate, see `PRESETS` and docs/fad.md.
        real: The statistics of the real set, or their file, if known; then the metric takes only
            fake audio.
        embedding_size: Length of an embedding, if neither `model` nor `real` gives it.
        reset_real_features: Whether `reset` forgets the real set, too.
        batch_size: Examples that the network takes at once.
        force: Compare with `real` even if it was embedded differently.
        **kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: `real` was embedded differently, or has another size.
        FileNotFoundError: The model or file does not exist.

    Note:
        The network moves with the metric, but is not in its `state_dict`. On MPS, which lacks
        float64, the state stays on the CPU.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = FrechetAudioDistance(embedding_size=2)
        >>> for real in (True, False):
        ...     rows = torch.randn(1000, 2, generator=generator)
        ...     metric.update(rows if real else rows + torch.tensor([3.0, 4.0]), real)
        >>> abs(float(metric.compute()) - 25) < 1
        True
    """

    is_differentiable: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = False
    # `reset_real_features=False` must not keep the value of a single batch.
    full_state_update: ClassVar[bool] = True
    plot_lower_bound: ClassVar[float] = 0.0

    real_moments: Tensor
    fake_moments: Tensor

    def __init__(
        self,
        model: VGGishPipeline | str | Path | None = None,
        *,
        preset: PresetName = "default",
        real: EmbeddingStatistics | str | Path | None = None,
        embedding_size: int = 128,
        reset_real_features: bool = True,
        batch_size: int = 32,
        force: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embedder = None if model is None else ClipEmbedder(model, preset)
        if isinstance(real, (str, Path)):
            real = EmbeddingStatistics.load(real)
        self.real = real
        if self.embedder is not None:
            embedding_size = self.embedder.size
            if real is not None:
                own = EmbeddingStatistics.empty(embedding_size, self.embedder.provenance)
                own.check_comparable(real, force=force)
        elif real is not None:
            embedding_size = real.size
        self.embedding_size = embedding_size
        self.reset_real_features = reset_real_features
        self.batch_size = batch_size
        for name in ("real_moments", "fake_moments"):
            nothing = _pack(EmbeddingStatistics.empty(embedding_size))
            self.add_state(name, nothing, dist_reduce_fx=_merge_moments)

    def update(
        self,
        inputs: Tensor | Sequence[Tensor],
        real: bool,
        sampling_rate: int | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> None:
        """Add clips, or embeddings, to one of the sets.

        Args:
            inputs: With `sampling_rate`, waveforms: a sequence of clips, each (time,) or
                (channels, time), of any lengths; or a tensor (batch, time) or
                (batch, channels, time). Without it, embeddings (examples, embedding_size).
            real: Whether they belong to the real set.
            sampling_rate: The waveforms' rate, Hz.
            lengths: Each clip's length in a padded batch, samples.

        Raises:
            ValueError: A shape, a rate or a length is wrong; a value is not finite; the inputs are
                waveforms and the metric has no model; or they belong to the real set, whose
                statistics were given.
        """
        if real and self.real is not None:
            raise ValueError(
                "Expected only fake clips, since the metric has the statistics of the real set; "
                "omit its argument `real` to collect them"
            )
        name = "real_moments" if real else "fake_moments"
        state: Tensor = getattr(self, name)
        moments = _unpack(state)
        if sampling_rate is None:
            moments = moments.update(_check_embeddings(inputs, self.embedding_size))
        else:
            for rows in self._embed(_split(inputs, lengths), sampling_rate):
                moments = moments.update(rows)
        setattr(self, name, _pack(moments).to(state.device))

    def compute(self) -> Tensor:
        """Compute the distance, over all processes.

        Returns:
            A scalar, float64; float32 on MPS.

        Raises:
            ValueError: A set has fewer than 2 examples.

        Warns:
            SmallSampleWarning: A set has no more examples than dimensions.
        """
        real, fake = self.statistics(real=True), self.statistics(real=False)
        for name, statistics in (("real", real), ("fake", fake)):
            if statistics.count < 2:
                raise ValueError(
                    f"Expected at least 2 examples of the {name} set, got {statistics.count}; "
                    f"call update(..., real={name == 'real'}) first"
                )
        distance = real.distance(fake, force=True)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.tensor(distance, dtype=dtype, device=self.device)

    def statistics(self, *, real: bool) -> EmbeddingStatistics:
        """The statistics of a set, to save or to compare; of this process, unless synchronised."""
        if real and self.real is not None:
            return self.real
        provenance = {} if self.embedder is None else self.embedder.provenance
        return _unpack(self.real_moments if real else self.fake_moments, provenance)

    def reset(self) -> None:
        """Forget the fake set, and the real one unless `reset_real_features` is False."""
        real = self.real_moments
        super().reset()
        if not self.reset_real_features:
            self.real_moments = real

    def _embed(self, clips: Sequence[Tensor], sampling_rate: int) -> Iterator[np.ndarray[Any, Any]]:
        if self.embedder is None:
            raise ValueError(
                "Expected embeddings, since the metric has no `model`, got waveforms; "
                "pass model='google', or omit `sampling_rate`"
            )
        inputs = [(clip, sampling_rate) for clip in clips]
        for _, rows in self.embedder.stream(inputs, batch_size=self.batch_size):
            yield rows

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> Self:
        if self.embedder is not None:
            # Change the device, but not the precision, which is part of the provenance.
            model = self.embedder.pipeline.model
            model.to(fn(torch.empty(0, device=model.device)).device)
        if fn(torch.empty(0, device=self.device)).device.type == "mps":
            exclude_state = (*exclude_state, "real_moments", "fake_moments")
            self._computed = self._forward_cache = None
        super()._apply(fn, exclude_state)
        return self


def _check_embeddings(inputs: Tensor | Sequence[Tensor], size: int) -> np.ndarray[Any, Any]:
    if not isinstance(inputs, Tensor) or inputs.ndim != 2 or inputs.shape[1] != size:
        got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(
            f"Expected embeddings of shape (examples, {size}), got {got}; pass `sampling_rate` "
            "with waveforms"
        )
    rows = inputs.detach().cpu()
    return (rows.double() if rows.is_floating_point() else rows).numpy()


def _split(
    inputs: Tensor | Sequence[Tensor], lengths: Tensor | Sequence[int] | None
) -> Sequence[Tensor]:
    """Split a batch into waveforms without their padding."""
    if not isinstance(inputs, Tensor):
        if lengths is not None:
            raise ValueError("Expected `lengths` only with a padded tensor, got a sequence")
        return inputs
    if inputs.ndim not in (2, 3):
        raise ValueError(
            "Expected waveforms of shape (batch, time) or (batch, channels, time), got "
            f"{tuple(inputs.shape)}; a single clip goes into a list"
        )
    time = inputs.shape[-1]
    known = [time] * len(inputs) if lengths is None else [int(length) for length in lengths]
    if len(known) != len(inputs) or not all(0 < length <= time for length in known):
        raise ValueError(f"Expected {len(inputs)} `lengths` from 1 to {time} samples, got {known}")
    return [clip[..., :length] for clip, length in zip(inputs, known, strict=True)]


def _pack(moments: EmbeddingStatistics) -> Tensor:
    """One tensor (size + 2, size), since processes exchange each state separately."""
    count = np.full(moments.size, float(moments.count))
    return torch.from_numpy(np.vstack([moments.mean, moments.scatter, count]))


def _unpack(state: Tensor, provenance: Mapping[str, Any] | None = None) -> EmbeddingStatistics:
    array = state.cpu().numpy()
    return EmbeddingStatistics(int(array[-1, 0]), array[0], array[1:-1], provenance or {})


def _merge_moments(states: Tensor) -> Tensor:
    """Merge the states of all processes, (processes, size + 2, size)."""
    merged = reduce(EmbeddingStatistics.merge, map(_unpack, states))
    return _pack(merged).to(states.device)
