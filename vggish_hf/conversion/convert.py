"""From a checkpoint of another implementation to a model folder, dict to dict."""

import hashlib
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vggish_hf.configuration import Activation, VGGishConfig
from vggish_hf.conversion.sources import (
    GOOGLE_CHECKPOINT,
    GOOGLE_PCA,
    cache_folder,
    fetch,
)
from vggish_hf.conversion.state_dicts import Origin, from_tensorflow, infer_config, recognize
from vggish_hf.conversion.tf_checkpoint import is_checkpoint, read_checkpoint
from vggish_hf.conversion.torch_files import is_torch_file, load_pca, load_torch_file
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.modeling import VGGishModel
from vggish_hf.modeling.loading import assign_strictly

_GOOGLE_CARD = Path(__file__).parents[1] / "assets" / "model_card.md"
#: Files that hold the weights that Google published, by the start of their SHA-256.
_GOOGLE_WEIGHTS = (GOOGLE_CHECKPOINT.sha256, "10086976")


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What `read_checkpoint_file` found.

    Args:
        model: The model, with its weights.
        origin: The implementation that wrote the file.
        left_out: What the file holds besides the network, a line each.
        is_google: Whether the file is one that Google's weights were published in.
    """

    model: VGGishModel
    origin: Origin
    left_out: tuple[str, ...]
    is_google: bool


def convert_checkpoint(
    source: str | Path,
    *,
    pca: str | Path | None = None,
    embedding_activation: Activation = "none",
) -> ConvertedCheckpoint:
    """Read a checkpoint of any implementation, told by its content, not by its name.

    Args:
        source: A TensorFlow V1 or V2 checkpoint, torchvggish's `.pth` or torchaudio's `.pt`.
        pca: The post-processor's parameters, the original `.npz` or torchvggish's `.pth`.
        embedding_activation: The activation behind the last layer. The original has none; the
            torch ports apply a ReLU in code, which no checkpoint tells.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is damaged, or not of these kinds; the message says what it lacks.
    """
    path = Path(source)
    if is_checkpoint(path):
        variables = read_checkpoint(path)
        table = recognize(variables)
        tensors = {
            ours: from_tensorflow(variables[theirs].read()) for theirs, ours in table.names.items()
        }
        shapes = {name: variables[name].shape for name in table.left_out}
    elif not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint, there is no file {str(source)!r}")
    elif is_torch_file(path):
        loaded = load_torch_file(path)
        table = recognize(loaded)
        tensors = {ours: torch.as_tensor(loaded[theirs]) for theirs, ours in table.names.items()}
        shapes = {name: tuple(getattr(loaded[name], "shape", ())) for name in table.left_out}
    else:
        raise ValueError(
            "Expected a TensorFlow checkpoint (V1 or V2), torchvggish's .pth or torchaudio's .pt, "
            f"{str(source)!r} is none of them"
        )
    if pca is not None:
        names = ("postprocessor.eigenvectors", "postprocessor.means")
        tensors.update(zip(names, load_pca(Path(pca)), strict=True))
    config = infer_config(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        postprocessor=pca is not None,
    )
    model = _build(replace(config, embedding_activation=embedding_activation), tensors, path)
    left_out = tuple(f"{name} {shapes[name]}" for name in table.left_out)
    return ConvertedCheckpoint(model, table.origin, left_out, _is_google(path))


def _build(config: VGGishConfig, tensors: dict[str, Tensor], path: Path) -> VGGishModel:
    with torch.device("meta"):
        model = VGGishModel(config)
    assign_strictly(model, tensors, str(path))
    return model.eval()


def _is_google(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(_GOOGLE_WEIGHTS)


def save_converted(converted: ConvertedCheckpoint, folder: str | Path) -> None:
    """Write a model folder, whole or not at all: model, extractor and card.

    Raises:
        FileExistsError: The folder exists and is not empty.
    """
    folder = Path(folder)
    check_new_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
        content = Path(unfinished, "content")
        converted.model.save_pretrained(content)
        VGGishFeatureExtractor().save_pretrained(content)
        if converted.is_google:
            content.joinpath("README.md").write_bytes(_GOOGLE_CARD.read_bytes())
        os.replace(content, folder)


def check_new_folder(folder: Path) -> None:
    """Raise FileExistsError unless the folder is still to be made, or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"Expected a new or empty folder, {str(folder)!r} is not")


def convert_google(embedding_activation: Activation = "none") -> ConvertedCheckpoint:
    """Fetch the published checkpoint and its PCA, verify both and read them.

    Raises:
        ValueError: What came has another SHA-256.
        OSError: The server cannot be reached.
    """
    folder = cache_folder()
    checkpoint, pca = fetch(GOOGLE_CHECKPOINT, folder), fetch(GOOGLE_PCA, folder)
    return convert_checkpoint(checkpoint, pca=pca, embedding_activation=embedding_activation)


def google_folder() -> Path:
    """Find the converted published checkpoint in the cache, and make it the first time."""
    folder = cache_folder() / f"google-{GOOGLE_CHECKPOINT.sha256[:8]}"
    if not folder.is_dir():
        save_converted(convert_google(), folder)
        # 291 MB that nobody needs again
        cache_folder().joinpath(GOOGLE_CHECKPOINT.name).unlink(missing_ok=True)
    return folder
