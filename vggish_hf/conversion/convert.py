"""Convert a checkpoint of another implementation to a model folder."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from vggish_hf import hub
from vggish_hf.configuration import Activation, VGGishConfig
from vggish_hf.conversion.safetensors_files import (
    find_weights,
    is_safetensors,
    load_safetensors,
)
from vggish_hf.conversion.sources import (
    GOOGLE_CHECKPOINT,
    GOOGLE_PCA,
    PublishedFile,
    cache_folder,
    fetch,
)
from vggish_hf.conversion.state_dicts import (
    NAMES,
    Origin,
    check_dimensions,
    find_prefix,
    from_tensorflow,
    from_torch,
    infer_config,
    recognize,
)
from vggish_hf.conversion.torch_files import is_torch_file, load_pca, load_torch_file
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.modeling import VGGishModel
from vggish_hf.modeling.loading import assign_strictly
from vggish_hf.tf_files.checkpoint.reader import CheckpointVariable, is_checkpoint, read_checkpoint

_WAYS_OUT = (
    f"Where this machine has no network, copy {GOOGLE_CHECKPOINT.url} and {GOOGLE_PCA.url} to it, "
    f"run `vggish-hf convert {GOOGLE_CHECKPOINT.name} --pca {GOOGLE_PCA.name} -o DIR` and use "
    "`--model DIR`; `--model demo` is a small model inside the package, to try"
)
_POSTPROCESSOR = ("postprocessor.eigenvectors", "postprocessor.means")
_GOOGLE_CARD = Path(__file__).parents[1] / "assets" / "model_card.md"


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What `convert_checkpoint` found.

    Args:
        model: The model, with its weights.
        origin: The implementation that wrote the file.
        left_out: Other contents of the file, one line each.
        is_google: Whether this is the model as Google published it: both files match byte for
            byte, and no activation was added.
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
    """Read a checkpoint of any implementation, detected by content, not by name.

    Args:
        source: A TensorFlow V1 or V2 checkpoint, torchvggish's `.pth` or torchaudio's `.pt`; their
            tensors, or this package's, in a safetensors file, or in a folder with
            `model.safetensors` or `pytorch_model.bin`.
        pca: The post-processor's parameters, the original `.npz` or torchvggish's `.pth`.
        embedding_activation: The activation after the last layer. The original has none; the
            torch ports apply a ReLU in code, which no checkpoint shows.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is damaged or of another kind, or its values are not finite; the
            message says what it lacks.
    """
    path = find_weights(Path(source))
    origin, tensors, left_out = _read(path)
    if origin == "vggish_hf" and path.with_name(hub.CONFIG_NAME).is_file():
        raise ValueError(
            f"Expected a checkpoint to convert, {str(path.parent)!r} is a model folder already: "
            "use it as it is, as `--model` or with `from_pretrained`"
        )
    if pca is not None:
        eigenvectors, means = load_pca(Path(pca))
        size = len(tensors["fc2.bias"])
        if len(means) != size:
            raise ValueError(
                f"Expected a PCA of the embeddings' size, {size}, got one of {len(means)} in "
                f"{str(pca)!r}"
            )
        tensors |= dict(zip(_POSTPROCESSOR, (eigenvectors, means), strict=True))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = infer_config(shapes, postprocessor="postprocessor.means" in shapes)
    model = _build(replace(config, embedding_activation=embedding_activation), tensors, path)
    is_google = (
        embedding_activation == "none"
        and pca is not None
        and _is_published(Path(pca), GOOGLE_PCA)
        and _is_published(path, GOOGLE_CHECKPOINT)
    )
    return ConvertedCheckpoint(model, origin, left_out, is_google)


def _read(path: Path) -> tuple[Origin, dict[str, Tensor], tuple[str, ...]]:
    """Read the network's tensors under our names, and one line for each other entry."""
    convert: Callable[[Any], Tensor] = from_torch
    if is_checkpoint(path):
        found: dict[str, Any] = dict(read_checkpoint(path))
        convert = _from_variable
    elif is_torch_file(path):
        found = load_torch_file(path)
    elif is_safetensors(path):
        found = load_safetensors(path)
    elif path.exists():
        raise ValueError(
            "Expected a TensorFlow checkpoint (V1 or V2), torchvggish's .pth, torchaudio's .pt or "
            f"a safetensors file, got {str(path)!r}, which is another kind of file or cut off"
        )
    else:
        raise FileNotFoundError(
            f"Expected a checkpoint's file, there is no file {str(path)!r}; the published one is "
            "`vggish-hf convert google`"
        )
    prefix = find_prefix(found)
    # What is outside may have the same names.
    outside = [(name, found.pop(name)) for name in set(found) if not name.startswith(prefix)]
    found = {name.removeprefix(prefix): value for name, value in found.items()}
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in found.items()}
    origin = recognize(shapes)
    names = NAMES[origin]
    check_dimensions({ours: shapes[theirs] for theirs, ours in names.items()})
    if origin == "vggish_hf" and found.keys() >= set(_POSTPROCESSOR):
        names = names | {name: name for name in _POSTPROCESSOR}
    # Pop each, to free its memory before the next is converted.
    tensors = {ours: convert(found.pop(theirs)) for theirs, ours in names.items()}
    left_out = [(prefix + name, shapes[name]) for name in found]
    left_out += [(name, tuple(getattr(value, "shape", ()))) for name, value in outside]
    return origin, tensors, tuple(f"{name} {shape}" for name, shape in sorted(left_out))


def _from_variable(variable: CheckpointVariable) -> Tensor:
    return from_tensorflow(variable.read())


def _build(config: VGGishConfig, tensors: dict[str, Tensor], path: Path) -> VGGishModel:
    with torch.device("meta"):
        model = VGGishModel(config)
    assign_strictly(model, tensors, str(path))
    # The extremes of a tensor with a NaN are NaN, and need no memory.
    extremes = {name: torch.stack(torch.aminmax(tensor)) for name, tensor in tensors.items()}
    damaged = [name for name, pair in extremes.items() if not pair.isfinite().all()]
    if damaged:
        raise ValueError(
            f"Expected finite weights in {str(path)!r}, got NaN or infinity in {', '.join(damaged)}"
        )
    return model.eval()


def _is_published(path: Path, published: PublishedFile) -> bool:
    if not path.is_file() or path.stat().st_size != published.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == published.sha256


def save_converted(
    converted: ConvertedCheckpoint, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Write a model folder, whole or not at all: model, extractor and card.

    Args:
        converted: What to write.
        folder: The folder; made if missing.
        overwrite: Whether to replace the model in a folder that is not empty; other files stay.

    Raises:
        FileExistsError: The folder exists and is not empty.
    """
    folder = Path(folder)
    if not overwrite:
        check_new_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent = folder if folder.exists() else folder.parent
    with tempfile.TemporaryDirectory(dir=parent, prefix=".unfinished-") as unfinished:
        content = Path(unfinished, "content")
        converted.model.save_pretrained(content)
        VGGishFeatureExtractor().save_pretrained(content)
        if converted.is_google:
            content.joinpath("README.md").write_bytes(_GOOGLE_CARD.read_bytes())
        if parent is not folder:
            content.replace(folder)
            return
        # An empty folder may be a mount point or somebody's working directory: it must stay.
        # Remove the config first and add it last: a folder with a config is whole.
        folder.joinpath(hub.CONFIG_NAME).unlink(missing_ok=True)
        for path in sorted(content.iterdir(), key=lambda path: path.name == hub.CONFIG_NAME):
            path.replace(folder / path.name)


def check_new_folder(folder: Path, option: str = "overwrite=True") -> None:
    """Raise FileExistsError, which names the option, unless the folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"Expected a new or empty folder, {str(folder)!r} is not; choose another, or pass "
            f"{option} to replace the model in it"
        )


def convert_google(embedding_activation: Activation = "none") -> ConvertedCheckpoint:
    """Fetch the published checkpoint and its PCA, verify both and read them.

    Raises:
        ValueError: It has another SHA-256.
        OSError: The server cannot be reached.
    """
    with _lock():
        return _convert_google(embedding_activation)


def _convert_google(embedding_activation: Activation) -> ConvertedCheckpoint:
    folder = cache_folder()
    checkpoint, pca = fetch(GOOGLE_CHECKPOINT, folder), fetch(GOOGLE_PCA, folder)
    return convert_checkpoint(checkpoint, pca=pca, embedding_activation=embedding_activation)


def _lock() -> FileLock:
    """Let one process fetch at a time: two would write into the same file."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".lock")


def google_folder(local_files_only: bool = False) -> Path:
    """Find the converted published checkpoint in the cache, and make it the first time.

    Args:
        local_files_only: Do not make it.

    Raises:
        FileNotFoundError: It is missing, and must not be made.
        ValueError: It has another SHA-256.
        OSError: The server cannot be reached.
    """
    folder = cache_folder() / f"google-{GOOGLE_CHECKPOINT.sha256[:8]}"
    if folder.is_dir():
        return folder
    if local_files_only or hub.is_offline():
        raise FileNotFoundError(
            f"Expected the model 'google' in the cache, there is no {str(folder)!r}; load it once "
            f"without local_files_only and HF_HUB_OFFLINE. {_WAYS_OUT}"
        )
    with _lock():
        if not folder.is_dir():  # another process may have made it meanwhile
            try:
                converted = _convert_google("none")
            except OSError as error:
                error.add_note(f"({_WAYS_OUT})")
                raise
            save_converted(converted, folder)
            # 291 MB, not needed again
            cache_folder().joinpath(GOOGLE_CHECKPOINT.name).unlink(missing_ok=True)
    return folder
