"""The network for inference on a CPU, with oneDNN's operators and weights laid out for them.

The same sums as `VGGishModel` in another order: embeddings differ by the rounding of their dtype.
It is two to three times as fast because:

- oneDNN multiplies by the two large matrices at four times MKL's speed.
- A convolution adds its bias and clips at zero while writing; weights are laid out once.
- Pooling is two element-wise maxima: `max_pool2d` also writes the place of each maximum.
- A few examples at a time pass through the convolutions, so that one layer's output is still in the
  cache when the next one reads it, and its memory is not returned to the system in between.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vggish_hf.configuration import VGGishConfig
from vggish_hf.modeling.onednn import Operators
from vggish_hf.modeling.vggish import check_examples

# Examples at a time in the first two convolutions, whose outputs are large, and in the others.
# Measured with 1 MiB of L2 cache per core; half or twice as many are within 2 %.
_FIRST_CHUNK = 4
_CHUNK = 16
# The batch for which oneDNN lays out the matrices; others use the same layout.
_USUAL_BATCH = 32


class PackedNetwork:
    """The layers of a `VGGishModel`, only for inference.

    oneDNN's ReLU turns NaN into zero. An example that is not finite still gives an embedding of
    NaN; an overflow inside the network, of finite examples and weights, goes unnoticed.

    Args:
        config: The model's.
        weights: Returns each of the model's parameters by name; called once for each.
        dtype: float32 or bfloat16.
        operators: oneDNN's.

    Shape:
        - Input: (..., num_frames, num_mel_bins)
        - Output: (..., embedding_size)

    Attributes:
        is_finite: Whether all weights are finite; the network may hide it.
    """

    def __init__(
        self,
        config: VGGishConfig,
        weights: Callable[[str], Tensor],
        dtype: torch.dtype,
        operators: Operators,
    ) -> None:
        self._config = config
        self._operators = operators
        self.is_finite = True
        self._layers: dict[str, tuple[Tensor, Tensor]] = {}
        height, width = config.num_frames, config.num_mel_bins
        sizes = {
            "conv1": (_FIRST_CHUNK, 1),
            "conv2": (_FIRST_CHUNK, 2),
            "conv3_1": (_CHUNK, 4),
            "conv3_2": (_CHUNK, 4),
            "conv4_1": (_CHUNK, 8),
            "conv4_2": (_CHUNK, 8),
        }
        for name in (*sizes, "fc1_1", "fc1_2", "fc2"):
            weight = weights(f"{name}.weight").detach().to(dtype).contiguous()
            # oneDNN ignores a bias's strides. Copied, since the model's may be written to.
            bias = weights(f"{name}.bias").detach().to(dtype)
            bias = bias.clone(memory_format=torch.contiguous_format)
            # A finite sum has finite terms.
            self.is_finite &= bool((weight.sum() + bias.sum()).isfinite())
            shape = [_USUAL_BATCH, weight.shape[1]]
            if name in sizes:
                chunk, scale = sizes[name]
                shape = [chunk, weight.shape[1], height // scale, width // scale]
            weight = operators.pack_weight(weight, shape)
            self._layers[name] = weight, bias

    @torch.no_grad()
    def __call__(self, examples: Tensor) -> Tensor:
        """Embed examples; ValueError if their shape is not the config's."""
        config = self._config
        check_examples(examples, config)
        *shape, frames, bins = examples.shape
        batch = math.prod(shape)
        x = examples.reshape(batch, frames * bins)
        is_finite = x.isfinite().all(1, keepdim=True)
        # One channel, last: the same memory, with the strides that oneDNN expects.
        x = x.contiguous().as_strided((batch, 1, frames, bins), (frames * bins, 1, bins, 1))
        flat = x.new_empty(batch, frames // 16, bins // 16, config.conv_channels[-1])
        for part, out in zip(torch.split(x, _CHUNK), torch.split(flat, _CHUNK), strict=True):
            self._convolve(part, out)
        x = self._linear("fc1_1", flat.flatten(1))
        x = self._linear("fc1_2", x)
        x = self._linear("fc2", x, config.embedding_activation)
        return x.masked_fill_(~is_finite, torch.nan).reshape(*shape, config.embedding_size)

    def _convolve(self, x: Tensor, out: Tensor) -> None:
        """From (batch, 1, frames, bins) to `out`, (batch, frames / 16, bins / 16, channels)."""
        batch, _, frames, bins = x.shape
        first = x.new_empty(batch, frames // 4, bins // 4, self._config.conv_channels[1])
        for part, pooled in zip(
            torch.split(x, _FIRST_CHUNK), torch.split(first, _FIRST_CHUNK), strict=True
        ):
            y = _pool(self._convolution("conv1", part))
            _pool(self._convolution("conv2", y.permute(0, 3, 1, 2)), pooled)
        x = self._convolution("conv3_1", first.permute(0, 3, 1, 2))
        x = _pool(self._convolution("conv3_2", x))
        x = self._convolution("conv4_1", x.permute(0, 3, 1, 2))
        _pool(self._convolution("conv4_2", x), out)

    def _convolution(self, name: str, x: Tensor) -> Tensor:
        """Convolve (batch, channels, height, width), channels last, and clip at zero."""
        weight, bias = self._layers[name]
        return self._operators.convolve(x, weight, bias)

    def _linear(self, name: str, x: Tensor, activation: str = "relu") -> Tensor:
        weight, bias = self._layers[name]
        return self._operators.multiply(x, weight, bias, activation)


def _pool(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Pool (batch, channels, height, width), channels last, to (batch, h / 2, w / 2, channels)."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width, channels)
    x = torch.maximum(rows[:, :, 0], rows[:, :, 1])
    pairs = x.reshape(batch, height // 2, width // 2, 2, channels)
    return torch.maximum(pairs[:, :, :, 0], pairs[:, :, :, 1], out=out)
