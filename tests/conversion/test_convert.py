"""Checkpoints of every implementation, told by content, to the same model folder."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import checkpoint_writer
import numpy as np
import pytest
import reference
import safetensors.torch
import torch
from folders import TESTS
from limits import files_of_at_most, umask

from vggish_hf import VGGishFeatureExtractor, VGGishModel, VGGishPipeline, convert_checkpoint
from vggish_hf.cli import main
from vggish_hf.conversion import convert, convert_google, google_folder, save_converted
from vggish_hf.conversion.sources import PublishedFile

HERE = TESTS
GOLDEN = HERE / "golden" / "tf"
PCA = HERE / "data" / "vggish_pca_params.npz"

# Rounding of float32 through nine layers, relative to the norm; measured 3e-7.
MAX_RELATIVE_ERROR = 3e-6

# Name and shape of each layer's weights in TensorFlow; of the golden network, and of the original.
TINY = {
    "conv1": (3, 3, 1, 4),
    "conv2": (3, 3, 4, 6),
    "conv3/conv3_1": (3, 3, 6, 8),
    "conv3/conv3_2": (3, 3, 8, 8),
    "conv4/conv4_1": (3, 3, 8, 10),
    "conv4/conv4_2": (3, 3, 10, 10),
    "fc1/fc1_1": (240, 12),
    "fc1/fc1_2": (12, 12),
    "fc2": (12, 16),
}
ORIGINAL = {
    "conv1": (3, 3, 1, 64),
    "conv2": (3, 3, 64, 128),
    "conv3/conv3_1": (3, 3, 128, 256),
    "conv3/conv3_2": (3, 3, 256, 256),
    "conv4/conv4_1": (3, 3, 256, 512),
    "conv4/conv4_2": (3, 3, 512, 512),
    "fc1/fc1_1": (12288, 4096),
    "fc1/fc1_2": (4096, 4096),
    "fc2": (4096, 128),
}
TORCHVGGISH = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13)] + [
    f"embeddings.{i}" for i in (0, 2, 4)
]
TORCHAUDIO = [
    name.replace("features", "features_network").replace("embeddings", "embedding_network")
    for name in TORCHVGGISH
]


def weights_and_biases():
    """The golden network's, in TensorFlow's layout, a pair for each layer."""
    shapes = [shape for weights in TINY.values() for shape in (weights, weights[-1:])]
    variables = reference.tensorflow_weights(11, shapes)
    return list(zip(variables[::2], variables[1::2], strict=True))


def tensorflow_variables():
    return {
        f"vggish/{layer}/{kind}": variable
        for layer, pair in zip(TINY, weights_and_biases(), strict=True)
        for kind, variable in zip(("weights", "biases"), pair, strict=True)
    }


def state_dict(layers):
    """The golden network in torch's layout, under the names of a port's layers."""
    tensors = {}
    for layer, (weights, biases) in zip(layers, weights_and_biases(), strict=True):
        order = (3, 2, 0, 1) if weights.ndim == 4 else (1, 0)
        tensors[f"{layer}.weight"] = torch.from_numpy(weights.transpose(order).copy())
        tensors[f"{layer}.bias"] = torch.from_numpy(biases)
    return tensors


def write_v1(path):
    shutil.copy(GOLDEN / "tiny_v1.ckpt", path)
    return path


def write_v2(path, suffix=""):
    for end in (".index", ".data-00000-of-00001"):
        shutil.copy(GOLDEN / f"tiny_v2.ckpt{end}", f"{path}{end}")
    return Path(f"{path}{suffix}")


def write_torch(path, layers, **options):
    torch.save(state_dict(layers), path, **options)
    return path


def write_safetensors(path, layers):
    tensors = {name: tensor.contiguous() for name, tensor in state_dict(layers).items()}
    safetensors.torch.save_file(tensors, path)
    return path


def write_folder(path, layers, write, name="model.safetensors"):
    """A folder as transformers saves it, whose config is not ours."""
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "vggish", "architectures": ["VGGish"]}')
    write(path / name, layers)
    return path


def our_layer(name):
    return name.rpartition("/")[2]


SOURCES = {
    "v1": ("tensorflow", write_v1),
    "v2": ("tensorflow", write_v2),
    "v2 index": ("tensorflow", partial(write_v2, suffix=".index")),
    "v2 data": ("tensorflow", partial(write_v2, suffix=".data-00000-of-00001")),
    "torchvggish": (
        "torchvggish",
        partial(write_torch, layers=TORCHVGGISH, _use_new_zipfile_serialization=False),
    ),
    "torchvggish zip": ("torchvggish", partial(write_torch, layers=TORCHVGGISH)),
    "torchaudio": ("torchaudio", partial(write_torch, layers=TORCHAUDIO)),
    "our names": ("vggish_hf", partial(write_torch, layers=[*map(our_layer, TINY)])),
    "prefix": ("torchvggish", partial(write_torch, layers=[f"model.{n}" for n in TORCHVGGISH])),
    "safetensors": ("torchvggish", partial(write_safetensors, layers=TORCHVGGISH)),
    "folder": ("torchaudio", partial(write_folder, layers=TORCHAUDIO, write=write_safetensors)),
    "folder bin": (
        "torchvggish",
        partial(write_folder, layers=TORCHVGGISH, write=write_torch, name="pytorch_model.bin"),
    ),
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    """The golden network in a file of one implementation under a name that tells nothing."""
    origin, write = SOURCES[request.param]
    return origin, write(tmp_path / "nonsense.xyz")


@pytest.fixture
def checkpoint(tmp_path):
    """Write a V1 checkpoint of the golden network with some variables changed."""

    def write(changes):
        variables = tensorflow_variables() | changes
        kept = {name: variable for name, variable in variables.items() if variable is not None}
        checkpoint_writer.write_v1(tmp_path / "changed", kept)
        return tmp_path / "changed"

    return write


def refused(path, output, capsys, *options, seconds=2.0):
    """Run `convert`, which must refuse quickly and leave nothing; returns the line that it says."""
    before = sorted(output.parent.iterdir())
    start = time.monotonic()
    assert main(["convert", str(path), "-o", str(output), *options]) == 2
    assert time.monotonic() - start < seconds
    assert sorted(output.parent.iterdir()) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("vggish-hf: error: ")


class TestSources:
    def test_equal_tensorflow(self, source):
        origin, path = source
        converted = convert_checkpoint(path)
        assert converted.origin == origin
        assert converted.left_out == ()
        assert not converted.is_google
        with np.load(GOLDEN / "tiny_seed11.npz") as golden, torch.no_grad():
            found = converted.model(torch.from_numpy(golden["examples"])).numpy()
            error = np.linalg.norm(found - golden["embeddings"])
            assert error <= MAX_RELATIVE_ERROR * np.linalg.norm(golden["embeddings"])

    def test_every_bit_arrives(self, source):
        model = convert_checkpoint(source[1]).model
        layers = [layer.rpartition("/")[2] for layer in TINY]
        expected = state_dict(layers)
        found = model.state_dict()
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name
        assert not model.training
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_sizes_are_inferred(self, source):
        config = convert_checkpoint(source[1], embedding_activation="relu").model.config
        assert config.conv_channels == (4, 6, 8, 8, 10, 10)
        assert (config.hidden_size, config.embedding_size) == (12, 16)
        assert config.embedding_activation == "relu"
        assert config.postprocessor is False

    def test_saved_and_loaded(self, source, tmp_path):
        converted = convert_checkpoint(source[1])
        save_converted(converted, str(tmp_path / "out"))
        loaded = VGGishModel.from_pretrained(tmp_path / "out")
        assert loaded.config == converted.model.config
        for name, tensor in converted.model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)

    def test_other_precisions_stay(self, checkpoint):
        doubles = {name: value.astype(np.float64) for name, value in tensorflow_variables().items()}
        model = convert_checkpoint(checkpoint(doubles)).model
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}
        assert np.array_equal(model.fc2.bias.detach(), doubles["vggish/fc2/biases"])


class TestLeftOut:
    def test_tensorflow(self, checkpoint):
        extra = {
            "global_step": np.array(7, np.int64),
            "vggish/fc2/weights/Adam": np.zeros((12, 16), np.float32),
            "mel/vggish/conv1/weights": np.zeros((3, 3, 1, 4), np.float32),
        }
        converted = convert_checkpoint(checkpoint(extra))
        assert converted.left_out == (
            "global_step ()",
            "mel/vggish/conv1/weights (3, 3, 1, 4)",
            "vggish/fc2/weights/Adam (12, 16)",
        )

    def test_torch(self, tmp_path):
        extra = {"pproc.pca_means": torch.zeros(16, 1), "epoch": 3}
        torch.save(state_dict(TORCHVGGISH) | extra, tmp_path / "a")
        converted = convert_checkpoint(tmp_path / "a")
        assert converted.left_out == ("epoch ()", "pproc.pca_means (16, 1)")

    def test_outer_tensors_of_the_same_name(self, tmp_path):
        inner = state_dict(TORCHVGGISH)
        outer = next(name for name in reversed(inner) if name.endswith("bias"))
        torch.save(
            {f"net.{name}": value for name, value in inner.items()} | {outer: torch.zeros(5)},
            tmp_path / "a",
        )
        converted = convert_checkpoint(tmp_path / "a")
        assert converted.left_out == (f"{outer} (5,)",)
        assert torch.equal(converted.model.fc2.bias, inner[outer])

    def test_the_command_lists_them(self, checkpoint, tmp_path, capsys):
        path = checkpoint({"global_step": np.array(7, np.int64)})
        assert main(["convert", str(path), "-o", str(tmp_path / "out")]) == 0
        assert "skipped: global_step ()\n" in capsys.readouterr().out


class TestPca:
    @pytest.fixture
    def pca(self, tmp_path):
        """A PCA of the tiny network's size in both formats."""
        rng = np.random.Generator(np.random.PCG64(0))
        arrays = {
            "pca_eigen_vectors": rng.standard_normal((16, 16)).astype(np.float32).astype(float),
            "pca_means": rng.standard_normal(16).astype(np.float32).astype(float),
        }
        np.savez(tmp_path / "pca.npz", **arrays)
        torch.save(arrays, tmp_path / "pca.pth", _use_new_zipfile_serialization=False)
        return [tmp_path / "pca.npz", tmp_path / "pca.pth"], arrays

    def test_both_formats_travel(self, pca, tiny_checkpoint, tmp_path):
        paths, arrays = pca
        for path in paths:
            model = convert_checkpoint(tiny_checkpoint, pca=str(path)).model
            assert model.config.postprocessor is True
            assert np.array_equal(model.postprocessor.eigenvectors, arrays["pca_eigen_vectors"])
            assert np.array_equal(model.postprocessor.means, arrays["pca_means"])

    def test_uint8(self, pca, tiny_checkpoint, tmp_path):
        paths, arrays = pca
        save_converted(convert_checkpoint(tiny_checkpoint, pca=paths[0]), tmp_path / "out")
        pipe = VGGishPipeline.from_pretrained(tmp_path / "out", dtype=torch.float64)
        clip = (torch.randn(48_000, generator=torch.Generator().manual_seed(0)), 16_000)
        raw = pipe(clip).embeddings.numpy()
        whitened = np.clip((raw - arrays["pca_means"]) @ arrays["pca_eigen_vectors"].T, -2, 2)
        expected = ((whitened + 2) * (255 / 4)).astype(np.uint8)
        assert np.array_equal(pipe(clip, postprocess="uint8").embeddings, expected)

    def test_of_another_size(self, tiny_checkpoint, tmp_path, capsys):
        line = refused(tiny_checkpoint, tmp_path / "out", capsys, "--pca", str(PCA))
        assert line == (
            f"Expected a PCA of the embeddings' size, 16, got one of 128 in {str(PCA)!r}"
        )

    @pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04"])
    def test_foreign(self, content, tiny_checkpoint, tmp_path, capsys):
        path = tmp_path / "pca"
        if content is not None:
            path.write_bytes(content)
        assert str(path) in refused(tiny_checkpoint, tmp_path / "out", capsys, "--pca", str(path))


class TestRefusals:
    def test_missing_variables_are_listed(self, checkpoint, tmp_path, capsys):
        path = checkpoint({"vggish/fc2/biases": None, "vggish/conv3/conv3_1/weights": None})
        line = refused(path, tmp_path / "out", capsys)
        assert "vggish/conv3/conv3_1/weights, vggish/fc2/biases are missing (found: 'vgg" in line

    def test_tensors_that_do_not_fit_each_other_are_listed(self, checkpoint):
        path = checkpoint({"vggish/fc1/fc1_1/weights": np.zeros((120, 12), np.float32)})
        with pytest.raises(ValueError, match="exactly the config's tensors") as error:
            convert_checkpoint(path)
        assert str(error.value).splitlines()[1:] == [
            "  misshapen  fc1_1.weight: expected (12, 240), found (12, 120)"
        ]

    @pytest.mark.parametrize(
        ("name", "variable", "message"),
        [
            ("vggish/conv1/weights", np.zeros((9, 4)), r"conv1.weight of 4 dimensions, got .*9, 4"),
            ("vggish/fc2/weights", np.zeros((1, 12, 16)), r"fc2.weight of 2 dimensions, got"),
            ("vggish/fc2/biases", np.zeros(()), r"fc2.bias of 1 dimensions, got the shape \(\)"),
            ("vggish/fc2/biases", np.zeros(16, np.int64), r"fc2.bias: expected .16,. of float"),
        ],
    )
    def test_other_variables(self, name, variable, message, checkpoint):
        if variable.dtype != np.int64:
            variable = variable.astype(np.float32)
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(checkpoint({name: variable}))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, value, checkpoint, tmp_path, capsys):
        variables = {}
        for name in ("vggish/conv2/weights", "vggish/fc2/biases"):
            variables[name] = tensorflow_variables()[name]
            variables[name].flat[3] = value
        line = refused(checkpoint(variables), tmp_path / "out", capsys)
        assert line.startswith("Expected finite weights in ")
        assert line.endswith("got NaN or infinity in conv2.weight, fc2.bias")

    def test_a_value_that_is_no_tensor(self, tmp_path, capsys):
        torch.save(state_dict(TORCHVGGISH) | {"embeddings.4.bias": 3}, tmp_path / "a")
        line = refused(tmp_path / "a", tmp_path / "out", capsys)
        assert line == "Expected fc2.bias of 1 dimensions, got the shape ()"

    def test_a_tensor_that_claims_more_than_the_file_has(self, tmp_path, capsys):
        bomb = torch.zeros(1).expand(1 << 20, 1 << 20)
        torch.save(state_dict(TORCHAUDIO) | {"embedding_network.2.weight": bomb}, tmp_path / "a")
        assert "a dense tensor with all its values" in refused(
            tmp_path / "a", tmp_path / "out", capsys
        )

    def test_tensors_that_share_memory_are_separated(self, tmp_path):
        tensors = state_dict(TORCHVGGISH)
        tensors["embeddings.2.bias"] = tensors["embeddings.0.bias"]
        torch.save(tensors, tmp_path / "a")
        save_converted(convert_checkpoint(tmp_path / "a"), tmp_path / "out")
        model = VGGishModel.from_pretrained(tmp_path / "out")
        assert torch.equal(model.fc1_1.bias, model.fc1_2.bias)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\n",
            b"text " * 1000,
            b"\x89PNG\r\n\x1a\n" + bytes(1000),
            b"PK\x03\x04" + bytes(1000),
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + bytes(1000),
            bytes(40) + 0xDB4775248B80FB57.to_bytes(8, "little"),
            bytes(4096),
        ],
        ids=["empty", "newline", "text", "png", "zip", "legacy", "table", "zeros"],
    )
    def test_foreign_files(self, content, tmp_path, capsys):
        path = tmp_path / "foreign"
        path.write_bytes(content)
        assert str(path) in refused(path, tmp_path / "out", capsys)

    def test_no_file(self, tmp_path, capsys):
        line = refused(tmp_path / "gone", tmp_path / "out", capsys)
        assert line == (
            f"Expected a checkpoint's file, there is no file {str(tmp_path / 'gone')!r}; the "
            "published one is `vggish-hf convert google`"
        )
        (tmp_path / "folder").mkdir()
        line = refused(tmp_path / "folder", tmp_path / "out", capsys)
        assert line.startswith("Expected model.safetensors or pytorch_model.bin in ")

    @pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.8, 0.95, 0.999])
    def test_truncated(self, fraction, source, tmp_path, capsys):
        path = source[1]
        for part in (path if path.is_dir() else path.parent).glob("*n*"):
            os.truncate(part, int(part.stat().st_size * fraction))
        refused(path, tmp_path / "out", capsys)

    def test_a_flipped_bit(self, tmp_path, capsys):
        content = bytearray((GOLDEN / "tiny_v1.ckpt").read_bytes())
        content[len(content) // 3] ^= 1
        (tmp_path / "a").write_bytes(content)
        assert "does not match its checksum" in refused(tmp_path / "a", tmp_path / "out", capsys)

    def test_the_pca_in_place_of_the_checkpoint(self, tmp_path, capsys):
        assert str(PCA) in refused(PCA, tmp_path / "out", capsys)

    def test_a_model_folder(self, tiny_model_folder, tmp_path, capsys):
        for path in (tiny_model_folder, tiny_model_folder / "model.safetensors"):
            line = refused(path, tmp_path / "out", capsys)
            assert "is a model folder already: use it as it is, as `--model`" in line

    def test_a_folder_without_a_pickle_s_permission(self, tmp_path, capsys):
        folder = tmp_path / "folder"
        folder.mkdir()
        torch.save({"features.0.weight": Path("x")}, folder / "pytorch_model.bin")
        line = refused(folder, tmp_path / "out", capsys)
        assert "which is no part of a tensor or an array" in line

    def test_our_names_with_a_post_processor(self, tiny_checkpoint, tmp_path):
        converted = convert_checkpoint(tiny_checkpoint)
        tensors = converted.model.state_dict()
        size = len(tensors["fc2.bias"])
        tensors["postprocessor.eigenvectors"] = torch.eye(size)
        tensors["postprocessor.means"] = torch.ones(size)
        safetensors.torch.save_file(tensors, tmp_path / "weights")
        found = convert_checkpoint(tmp_path / "weights")
        assert found.left_out == ()
        assert torch.equal(found.model.postprocessor.means, torch.ones(size))


class TestSaving:
    @pytest.fixture
    def converted(self, tiny_checkpoint):
        return convert_checkpoint(tiny_checkpoint)

    FILES = frozenset({"config.json", "model.safetensors", "preprocessor_config.json", "README.md"})

    def test_a_whole_model_folder(self, converted, tmp_path):
        save_converted(converted, tmp_path / "a" / "b")
        assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == self.FILES
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
        assert VGGishFeatureExtractor.from_pretrained(tmp_path / "a" / "b").config.padding == "none"
        assert "Google" not in (tmp_path / "a" / "b" / "README.md").read_text()

    @pytest.mark.parametrize("mask", [0o022, 0o027, 0o002, 0o077])
    def test_modes_follow_the_umask(self, mask, converted, tmp_path):
        with umask(mask):
            save_converted(converted, tmp_path / "out")
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask
        for path in (tmp_path / "out").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path.name

    def test_an_empty_folder_is_filled_and_stays(self, converted, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir(mode=0o711)
        monkeypatch.chdir(tmp_path / "out")
        inode = Path().stat().st_ino
        save_converted(converted, Path())
        assert (tmp_path / "out").stat().st_ino == inode
        assert {path.name for path in Path().iterdir()} == self.FILES

    def test_a_folder_in_use_is_refused(self, converted, tmp_path, tiny_checkpoint, capsys):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / ".hidden").touch()
        (tmp_path / "file").touch()
        for folder in (tmp_path / "out", tmp_path / "file"):
            with pytest.raises(FileExistsError, match="Expected a new or empty folder"):
                save_converted(converted, folder)
            assert "a new or empty folder" in refused(tiny_checkpoint, folder, capsys)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".hidden"]

    @pytest.mark.parametrize("exists", [False, True])
    def test_nothing_is_left_of_a_failure(self, exists, converted, tmp_path):
        if exists:
            (tmp_path / "out").mkdir()
        with files_of_at_most(4000), pytest.raises(OSError, match="cannot be written"):
            save_converted(converted, tmp_path / "out")
        assert [path.name for path in tmp_path.rglob("*")] == ["out"] * exists


class Published:
    """A server of the two files that Google published, in tiny."""

    def __init__(self, folder):
        folder.mkdir()
        shutil.copy(GOLDEN / "tiny_v1.ckpt", folder / "vggish_model.ckpt")
        np.savez(folder / "pca.npz", pca_eigen_vectors=np.eye(16), pca_means=np.ones(16))
        self.requests = requests = []

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format, *args):
                requests.append(self.path)

        handler = partial(Handler, directory=folder)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.checkpoint = self.file(folder / "vggish_model.ckpt")
        self.pca = self.file(folder / "pca.npz")

    def file(self, path):
        content = path.read_bytes()
        url = f"http://127.0.0.1:{self.server.server_port}/{path.name}"
        return PublishedFile(url, len(content), hashlib.sha256(content).hexdigest())

    def patch(self, monkeypatch):
        monkeypatch.setattr(convert, "GOOGLE_CHECKPOINT", self.checkpoint)
        monkeypatch.setattr(convert, "GOOGLE_PCA", self.pca)


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.setenv("VGGISH_HF_CACHE", str(tmp_path / "cache"))
    published = Published(tmp_path / "published")
    published.patch(monkeypatch)
    thread = threading.Thread(target=partial(published.server.serve_forever, 0.02))
    thread.start()
    yield published
    published.server.shutdown()
    thread.join()
    published.server.server_close()


class TestGoogle:
    def test_made_once(self, published, tmp_path):
        folder = google_folder()
        assert folder.parent == tmp_path / "cache"
        assert sorted(published.requests) == ["/pca.npz", "/vggish_model.ckpt"]
        assert google_folder() == folder
        assert google_folder(local_files_only=True) == folder
        assert len(published.requests) == 2
        left = {path.name for path in folder.parent.iterdir()}
        assert left - {".lock"} == {folder.name, "pca.npz"}

    def test_the_name(self, published):
        model = VGGishModel.from_pretrained("google")
        assert torch.equal(model.postprocessor.means, torch.ones(16))
        expected = convert_checkpoint(GOLDEN / "tiny_v1.ckpt").model
        assert torch.equal(model.fc2.weight, expected.fc2.weight)
        pipe = VGGishPipeline.from_pretrained("google", local_files_only=True)
        assert pipe((torch.zeros(16_000), 16_000), postprocess="uint8").embeddings.shape == (1, 16)
        assert pipe.provenance("none")["model"] == "google"
        assert len(published.requests) == 2

    def test_only_the_published_files_get_the_card(self, published, tmp_path):
        google = (HERE.parent / "vggish_hf" / "assets" / "model_card.md").read_text()
        assert (google_folder() / "README.md").read_text() == google
        assert convert_google().is_google
        assert not convert_google("relu").is_google
        checkpoint, pca = tmp_path / "renamed.ckpt", tmp_path / "renamed.npz"
        shutil.copy(tmp_path / "published" / "vggish_model.ckpt", checkpoint)
        shutil.copy(tmp_path / "published" / "pca.npz", pca)
        assert convert_checkpoint(checkpoint, pca=pca).is_google
        assert not convert_checkpoint(checkpoint).is_google
        assert not convert_checkpoint(write_v2(tmp_path / "v2"), pca=pca).is_google
        np.savez(pca, pca_eigen_vectors=np.eye(16), pca_means=np.zeros(16))
        assert pca.stat().st_size == published.pca.size
        assert not convert_checkpoint(checkpoint, pca=pca).is_google

    def test_by_the_command(self, published, tmp_path, capsys):
        assert main(["convert", "google", "-o", str(tmp_path / "out")]) == 0
        assert "16-d embeddings, with post-processor" in capsys.readouterr().out
        assert "Google" in (tmp_path / "out" / "README.md").read_text()

    def test_not_without_leave(self, published, tmp_path):
        for cls in (VGGishModel, VGGishFeatureExtractor, VGGishPipeline):
            with pytest.raises(FileNotFoundError, match="the model 'google' in the cache"):
                cls.from_pretrained("google", local_files_only=True)
        assert published.requests == []
        assert not (tmp_path / "cache").exists()

    def test_other_content_is_refused(self, published, tmp_path):
        with (tmp_path / "published" / "vggish_model.ckpt").open("r+b") as file:
            file.seek(1000)
            file.write(b"!")
        with pytest.raises(ValueError, match=r"SHA-256 .*, thrown away"):
            VGGishModel.from_pretrained("google")
        assert not list((tmp_path / "cache").glob("google-*"))

    def test_no_server(self, published, tmp_path):
        published.server.shutdown()
        published.server.server_close()
        with pytest.raises(OSError, match="refused"):
            google_folder()
        assert not list((tmp_path / "cache").glob("google-*"))

    @pytest.mark.slow
    def test_two_processes_at_once(self, published, tmp_path):
        script = """
import sys
from vggish_hf.conversion import convert, google_folder
from vggish_hf.conversion.sources import PublishedFile
values = sys.argv[1:]
convert.GOOGLE_CHECKPOINT, convert.GOOGLE_PCA = (
    PublishedFile(values[i], int(values[i + 1]), values[i + 2]) for i in (0, 3)
)
print("ready", flush=True)
sys.stdin.readline()
print(google_folder())
"""
        files = (published.checkpoint, published.pca)
        values = [str(value) for file in files for value in (file.url, file.size, file.sha256)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, *values],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        folders = {Path(process.communicate(timeout=60)[0].strip()) for process in processes}
        assert [process.returncode for process in processes] == [0, 0]
        assert folders == {google_folder()}
        assert len(published.requests) == 2
        VGGishModel.from_pretrained(folders.pop())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_original_s_size_in_a_gibibyte(tmp_path):
    script = """
import sys
from vggish_hf.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(*(line for line in status if line.startswith("VmHWM")))
sys.exit(code)
"""
    rng = np.random.Generator(np.random.PCG64(0))
    variables = {}
    for layer, shape in ORIGINAL.items():
        variables[f"vggish/{layer}/weights"] = rng.standard_normal(shape, np.float32)
        variables[f"vggish/{layer}/biases"] = rng.standard_normal(shape[-1:], np.float32)
    checkpoint_writer.write_v1(tmp_path / "vggish_model.ckpt", variables)
    command = ["convert", tmp_path / "vggish_model.ckpt", "--pca", PCA, "-o", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
    )
    peak_kibibytes = int(done.stdout.split()[-2])
    assert peak_kibibytes < 1 << 20
    model = VGGishModel.from_pretrained(tmp_path / "out")
    expected = variables["vggish/fc1/fc1_1/weights"]
    assert np.array_equal(model.fc1_1.weight.detach().numpy().T, expected)
