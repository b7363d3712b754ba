"""The network: VGG configuration A with four groups of convolutions, to an embedding.

Reproduces `vggish_slim.py` of the reference implementation (tensorflow/models,
research/audioset/vggish) exactly, with its layers' names. Ports older than August 2020 have a ReLU
after the last layer, which the reference lacks: `embedding_activation="relu"` adds it.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggish_hf import hub
from vggish_hf._runtime.files import read_json, write_json
from vggish_hf.configuration import VGGishConfig
from vggish_hf.modeling.loading import check_device, load_strictly, parse_dtype, save_tensors
from vggish_hf.modeling.postprocessor import VGGishPostprocessor

_MODEL_CARD = """\
---
library_name: vggish-hf
pipeline_tag: feature-extraction
tags: [audio, audio-embeddings, vggish]
---

# A VGGish audio embedding network

Saved by vggish-hf; {config!r}.

```python
from vggish_hf import VGGishModel

model = VGGishModel.from_pretrained("org/name")  # this repository
```
"""


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def check_examples(examples: Tensor, config: VGGishConfig) -> None:
    """Raise ValueError unless the last two dimensions of `examples` are those of the config."""
    shape = (config.num_frames, config.num_mel_bins)
    if examples.shape[-2:] != shape:
        raise ValueError(
            f"Expected examples of shape (..., {shape[0]}, {shape[1]}), got "
            f"{tuple(examples.shape)}; VGGishFeatureExtractor makes them from a waveform"
        )


class VGGishModel(nn.Module):
    """Log-mel examples to embeddings.

    The constructor draws random weights; `from_pretrained` only loads a checkpoint.

    Args:
        config: The sizes of the layers.

    Shape:
        - Input: (..., num_frames, num_mel_bins), (..., 96, 64) by default
        - Output: (..., embedding_size), (..., 128) by default

    Attributes:
        postprocessor: The PCA post-processor, or None; saved with the model.

    Example:
        >>> config = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16)
        >>> model = VGGishModel(config)
        >>> model(torch.zeros(2, 10, 96, 64)).shape
        torch.Size([2, 10, 128])
    """

    def __init__(self, config: VGGishConfig) -> None:
        super().__init__()
        widths = config.conv_channels
        self.conv1 = _convolution(1, widths[0])
        self.conv2 = _convolution(widths[0], widths[1])
        self.conv3_1 = _convolution(widths[1], widths[2])
        self.conv3_2 = _convolution(widths[2], widths[3])
        self.conv4_1 = _convolution(widths[3], widths[4])
        self.conv4_2 = _convolution(widths[4], widths[5])
        self.fc1_1 = nn.Linear(config.flat_size, config.hidden_size)
        self.fc1_2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.embedding_size)
        size = config.embedding_size
        # torch.eye would do, but on the meta device, where models are loaded, imports sympy first.
        # Its dtype decides the uint8 values: torch's default for weights must not reach it.
        identity = torch.zeros(size, size, dtype=torch.float32).fill_diagonal_(1)
        means = torch.zeros(size, dtype=torch.float32)
        self.postprocessor = VGGishPostprocessor(identity, means) if config.postprocessor else None
        self._config = config

    @property
    def config(self) -> VGGishConfig:
        """The sizes of the layers, and whether there is a post-processor now."""
        return replace(self._config, postprocessor=self.postprocessor is not None)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype; that of those that are not quantised."""
        floats = (value.dtype for value in self.parameters() if value.is_floating_point())
        return next(floats, torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the network runs: the weights' device, or where accelerate moves them to."""
        device = torch.device("cpu")
        for value in self.parameters():
            device = value.device
            if device.type != "meta":
                return device
        for module in self.modules():
            hook = getattr(module, "_hf_hook", None)
            for one in getattr(hook, "hooks", (hook,)):
                if (place := getattr(one, "execution_device", None)) is not None:
                    return torch.device(place)
        return device

    def forward(self, examples: Tensor) -> Tensor:
        """Embed examples; differentiable.

        Args:
            examples: (..., num_frames, num_mel_bins), log-mel, of the weights' dtype and device.

        Returns:
            (..., embedding_size); before any activation unless the config asks for one.

        Raises:
            ValueError: The last two dimensions are not those of the config.
        """
        config = self._config
        check_examples(examples, config)
        batch = examples.shape[:-2]
        x = examples.reshape(math.prod(batch), 1, *examples.shape[-2:])
        x = self.trunk(x)
        x = x.permute(0, 2, 3, 1).flatten(1)  # the reference flattens time, frequency, channel
        x = F.relu(self.fc1_1(x))
        x = F.relu(self.fc1_2(x))
        x = self.fc2(x)
        if config.embedding_activation == "relu":
            x = F.relu(x)
        return x.reshape(*batch, config.embedding_size)

    def trunk(self, x: Tensor) -> Tensor:
        """Run the convolutions and poolings.

        Args:
            x: (batch, 1, num_frames, num_mel_bins).

        Returns:
            (batch, channels, num_frames / 16, num_mel_bins / 16).
        """
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3_1(x))
        x = F.max_pool2d(F.relu(self.conv3_2(x)), 2)
        x = F.relu(self.conv4_1(x))
        return F.max_pool2d(F.relu(self.conv4_2(x)), 2)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        **options: Unpack[hub.HubOptions],
    ) -> Self:
        """Load config.json and model.safetensors, strictly, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A built-in name, the path of a local folder, or a
                repository's id on the Hub.
            dtype: The weights' dtype, or its name, such as `"bfloat16"`; without it, that of the
                file.
            device: The weights' device.
            **options: How to fetch from the Hub, see `HubOptions`.

        Raises:
            FileNotFoundError: The folder does not exist, or lacks a file.
            ValueError: The config has unknown keys or invalid values, or the weights' names or
                shapes are not the config's; the message lists all.
            TypeError: An option is unknown.
        """
        hub.check_options(options, hub.HubOptions, own=("dtype", "device"))
        dtype = None if dtype is None else parse_dtype(dtype)
        device = None if device is None else check_device(device)
        files = (hub.CONFIG_NAME, hub.WEIGHTS_NAME)
        folder = hub.find_folder(pretrained_model_name_or_path, files, **options)
        values = read_json(folder / hub.CONFIG_NAME)
        if "classifier_type" in values:
            raise ValueError(
                f"Expected a VGGish in {str(folder)!r}, which holds a classifier: load it with "
                "`vggish_hf.lightning.VGGishClassifier.from_pretrained`, or run it with "
                "`vggish-hf predict --classifier`"
            )
        config = VGGishConfig.from_dict(values)
        # Weights made in inference mode cannot be trained, and torch does not count their changes.
        with torch.inference_mode(mode=False):
            with torch.device("meta"):
                model = cls(config)
            load_strictly(model, folder / hub.WEIGHTS_NAME)
            return model.to(device=device, dtype=dtype).eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Unpack[hub.PushOptions],
    ) -> str | None:
        """Write config.json, model.safetensors and README.md, unless one exists.

        Args:
            save_directory: The folder; created if needed.
            push_to_hub: Whether to upload the model too.
            repo_id: The repository to upload to; the default has the folder's name.
            **options: How to upload, see `PushOptions`.

        Returns:
            The commit's address, if any.

        Raises:
            OSError: The folder cannot be written to.
            ValueError: The post-processor takes embeddings of another size.
        """
        size = self.config.embedding_size
        if self.postprocessor is not None and len(self.postprocessor.means) != size:
            raise ValueError(
                f"Expected a post-processor of the embeddings' size, {size}, got one of "
                f"{len(self.postprocessor.means)}; this model could not be loaded again"
            )
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        # The config is removed first and written last, so that a folder with a config is complete.
        config = folder / hub.CONFIG_NAME
        config.unlink(missing_ok=True)
        save_tensors(self.state_dict(), folder / hub.WEIGHTS_NAME)
        card = folder / hub.CARD_NAME
        if not card.exists():
            card.write_text(_MODEL_CARD.format(config=self.config), encoding="utf-8")
        write_json(config, asdict(self.config))
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.resolve().name, **options)

    def push_to_hub(self, repo_id: str, **options: Unpack[hub.PushOptions]) -> str:
        """Upload config.json, model.safetensors and README.md, unless one exists.

        Args:
            repo_id: The repository, `org/name`; created if needed.
            **options: See `PushOptions`.

        Returns:
            The commit's address.
        """
        return hub.push(self.save_pretrained, repo_id, **options)
