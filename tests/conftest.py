"""A Hub of our own for the whole run: set up before huggingface_hub reads its environment."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from folders import SHARED, TESTS
from hub_server import HubServer

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker per core. Threads that wait for each other on shared cores take four times
    # as long; what needs several asks for them.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

_HUB = HubServer()
_HOME = tempfile.TemporaryDirectory(prefix="vggish-hf-tests-")
for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
    os.environ.pop(name, None)
os.environ.update(
    HF_ENDPOINT=_HUB.url,
    HF_HOME=_HOME.name,
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    VGGISH_HF_CACHE=str(Path(_HOME.name, "vggish-hf")),
)

import hypothesis  # noqa: E402 - the environment comes first
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from fuzzing import cases  # noqa: E402

from vggish_hf import (  # noqa: E402
    VGGishConfig,
    VGGishFeatureExtractor,
    VGGishModel,
    convert_checkpoint,
)
from vggish_hf.conversion import save_converted  # noqa: E402

hypothesis.settings.register_profile("ours", deadline=None, max_examples=cases(100, quick=20))
hypothesis.settings.load_profile("ours")


def pytest_collection_finish() -> None:
    """Leave what is imported out of each later search for garbage: that is a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Undo it: extension modules look for what was not freed."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def hub() -> Iterator[HubServer]:
    """The local Hub that `HF_ENDPOINT` names."""
    with _HUB:
        yield _HUB
    _HOME.cleanup()


@pytest.fixture
def shared() -> Path:
    """The folder of facts beside the project, which a user who clones it has not."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared is not here")
    return SHARED


@pytest.fixture
def generator() -> torch.Generator:
    """Seeded randomness of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """A TensorFlow V1 checkpoint of tiny widths, with random weights."""
    return TESTS / "golden" / "tf" / "tiny_v1.ckpt"


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted: 16-d embeddings and no post-processor."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_converted(convert_checkpoint(tiny_checkpoint), folder)
    return folder


@pytest.fixture(scope="session")
def small_model() -> VGGishModel:
    """Small, seeded random weights, 128-d embeddings and the original PCA."""
    torch.manual_seed(0)
    model = VGGishModel(
        VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16, postprocessor=True)
    )
    with np.load(TESTS / "data" / "vggish_pca_params.npz") as pca:
        model.postprocessor.eigenvectors.copy_(torch.from_numpy(pca["pca_eigen_vectors"]))
        model.postprocessor.means.copy_(torch.from_numpy(pca["pca_means"]))
    return model.eval()


@pytest.fixture(scope="session")
def small_model_folder(small_model: VGGishModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_model` and an extractor, saved."""
    folder = tmp_path_factory.mktemp("models") / "small"
    small_model.save_pretrained(folder)
    VGGishFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lively_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, saved, whose embeddings differ between sounds as a trained one's do.

    Under the weights that torch draws by default they hardly do, and a comparison proves little.
    """
    generator = torch.Generator().manual_seed(0)
    model = VGGishModel(VGGishConfig(conv_channels=(8, 8, 16, 16, 16, 16), hidden_size=32))
    for weight in (parameter for parameter in model.parameters() if parameter.ndim > 1):
        torch.nn.init.kaiming_normal_(weight, generator=generator)
    folder = tmp_path_factory.mktemp("models") / "lively"
    model.save_pretrained(folder)
    VGGishFeatureExtractor().save_pretrained(folder)
    return folder
