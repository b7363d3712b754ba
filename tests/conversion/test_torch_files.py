"""Files of torch and numpy: what they hold comes, what else they ask for does not."""

import io
import os
import pickle
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import TESTS

from vggish_hf.conversion.torch_files import is_torch_file, load_pca, load_torch_file

PCA = TESTS / "data" / "vggish_pca_params.npz"
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "nonsense.xyz"


@pytest.fixture(params=["zip", "legacy"])
def save(request, path):
    """Save in one of torch's formats."""

    def write(value):
        torch.save(value, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return write


def refused(load, path, match, seconds=2.0):
    """Check that a file gives one clear line, and soon."""
    start = time.monotonic()
    with pytest.raises(ValueError, match=match) as error:
        load(path)
    assert time.monotonic() - start < seconds
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message
    assert len(message) < 500


def complaint(load, path):
    """What a file is refused for; empty if it is not."""
    try:
        load(path)
    except ValueError as error:
        return str(error)
    return ""


class TestTorchFiles:
    @pytest.mark.parametrize("wrap", [dict, lambda t: {"state_dict": t, "epoch": 3}])
    def test_both_formats(self, save, wrap):
        path = save(wrap(TENSORS))
        assert is_torch_file(path)
        loaded = load_torch_file(path)
        assert loaded.keys() == TENSORS.keys()
        assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
        assert loaded["b"].dtype == torch.float16

    def test_other_files_are_not(self, path, tmp_path):
        assert not is_torch_file(path)
        assert not is_torch_file(tmp_path)
        for content in (b"", b"PK", b"\x89PNG\r\n\x1a\n", b"text", b"\x80\x02."):
            path.write_bytes(content)
            assert not is_torch_file(path)

    @pytest.mark.parametrize("value", [[torch.zeros(1)], torch.zeros(1), {1: torch.zeros(1)}])
    def test_it_must_hold_a_dict(self, save, value):
        kind = type(value).__name__
        refused(load_torch_file, save(value), f"a dict of tensors in '.*', got {kind}")

    def test_a_user_s_allowed_types_stay(self, save):
        torch.serialization.add_safe_globals([np.dtype, Path])
        try:
            load_torch_file(save({"a": np.zeros(2)}))
            assert {np.dtype, Path} <= set(torch.serialization.get_safe_globals())
            assert np.ndarray not in torch.serialization.get_safe_globals()
        finally:
            torch.serialization.clear_safe_globals()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (lambda witness: (io.open, str(witness), "w"), r"_?io\.open"),
            (lambda witness: (os.system, f"touch {witness}"), r"(posix|nt)\.system"),
            (lambda witness: (Path.touch, witness), "getattr"),
        ],
        ids=["open", "system", "touch"],
    )
    def test_code_does_not_run(self, call, name, save, tmp_path):
        witness = tmp_path / "ran"
        path = save({**TENSORS, "c": Touch(*call(witness))})
        for load in (load_torch_file, load_pca):
            refused(load, path, f"it asks for {name}, which is no part of a tensor")
        assert not witness.exists()

    def test_a_bare_pickle_does_not_run(self, path, tmp_path):
        witness = tmp_path / "ran"
        path.write_bytes(pickle.dumps(Touch(io.open, str(witness), "w"), protocol=2))
        assert not is_torch_file(path)
        refused(load_pca, path, "Expected a PCA as .npz or .pth")
        assert not witness.exists()

    def test_a_compressed_zip_is_not_unpacked(self, path):
        torch.save({"a": torch.zeros(1 << 24)}, path)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        assert path.stat().st_size < 1 << 20
        refused(load_torch_file, path, "it is compressed, which nothing that torch saved is")

    def test_members_that_share_bytes_are_not_unpacked(self, path):
        torch.save(TENSORS, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/data/2", bytes(1 << 20))
            archive.filelist += archive.filelist[-1:] * 1000
        with zipfile.ZipFile(path) as archive:
            assert sum(info.file_size for info in archive.infolist()) > 1000 << 20
        assert path.stat().st_size < 2 << 20
        refused(load_torch_file, path, "it is compressed, which nothing that torch saved is")

    @pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
    def test_truncated(self, save, fraction):
        path = save({f"{i}": torch.zeros(1000) for i in range(5)})
        content = path.read_bytes()
        path.write_bytes(content[: int(fraction * len(content))])
        if is_torch_file(path):
            refused(load_torch_file, path, "torch cannot read")
        refused(load_pca, path, "torch cannot read|Expected a PCA")

    def test_any_damaged_byte_gives_a_dict_or_a_line(self, save):
        path = save(TENSORS)
        content = path.read_bytes()
        rng = np.random.Generator(np.random.PCG64(0))
        complaints = []
        for position in rng.integers(0, len(content), 300):
            damaged = bytearray(content)
            damaged[position] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            complaints.append(complaint(load_torch_file, path))
        assert sum(map(bool, complaints)) > 20
        assert not any("\n" in text for text in complaints)

    @pytest.mark.filterwarnings(
        "ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning"
    )
    def test_a_scripted_module(self, path):
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(2)).save(path)
        refused(load_torch_file, path, "torch cannot read")


def save_as_torchvggish(path, module, dtype=np.float64, **changes):
    """Write the PCA as torchvggish published it: arrays in torch's format before the zip."""
    with np.load(PCA) as arrays:
        arrays = {name: arrays[name].astype(dtype) for name in arrays} | changes
    torch.save(arrays, path, _use_new_zipfile_serialization=False)
    # The name that the arrays' own module had when they were saved.
    content = path.read_bytes()
    assert b"multiarray" in content
    for old in (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"):
        content = content.replace(old, b"c%s\n" % module)
    path.write_bytes(content)


class TestPca:
    def test_the_original(self):
        eigenvectors, means = load_pca(PCA)
        with np.load(PCA) as arrays:
            # The published float64 values are float32 ones: nothing is lost.
            assert np.array_equal(eigenvectors.numpy(), arrays["pca_eigen_vectors"])
            assert np.array_equal(means.numpy(), arrays["pca_means"])
        assert eigenvectors.dtype == means.dtype == torch.float32

    @pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_torchvggish(self, path, module, dtype):
        save_as_torchvggish(path, module, dtype)
        assert module in path.read_bytes()
        assert all(map(torch.equal, load_pca(path), load_pca(PCA)))

    def test_tensors_and_columns(self, save):
        eigenvectors, means = load_pca(PCA)
        path = save({"pca_eigen_vectors": eigenvectors, "pca_means": means[:, None].double()})
        assert all(map(torch.equal, load_pca(path), (eigenvectors, means)))

    def test_by_content(self, path):
        shutil.copy(PCA, path)
        assert torch.equal(load_pca(path)[0], load_pca(PCA)[0])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pca_means": np.zeros(127)}, r"got \(128, 128\) and \(127,\)"),
            ({"pca_eigen_vectors": np.zeros((128, 64))}, r"got \(128, 64\) and \(128,\)"),
            ({"pca_means": np.full(128, np.nan)}, "'pca_means' of finite floats"),
            ({"pca_eigen_vectors": np.full((128, 128), np.inf)}, "'pca_eigen_vectors' of finite"),
            ({"pca_means": np.zeros(128, np.int64)}, "'pca_means' of finite floats"),
            ({"pca_means": np.array(["a"] * 128)}, "'pca_means' of finite floats"),
            ({"pca_means": np.float64(3.0)}, r"got \(128, 128\) and \(1,\)"),
        ],
    )
    def test_no_pca(self, changes, message, path):
        with np.load(PCA) as arrays:
            values = dict(arrays) | changes
        with path.open("wb") as file:
            np.savez_compressed(file, **values)
        with pytest.raises(ValueError, match=message):
            load_pca(path)

    def test_other_names(self, save, path):
        refused(load_pca, save(TENSORS), "and 'pca_means', got .* which lacks them")
        with path.open("wb") as file:
            np.savez(file, pca_means=np.zeros(3))
        refused(load_pca, path, "torch cannot read|Expected a PCA")

    def test_missing(self, path, tmp_path):
        for missing in (path, tmp_path):
            with pytest.raises(FileNotFoundError, match="there is no file"):
                load_pca(missing)

    @pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"PK\x05\x06"])
    def test_foreign(self, content, path):
        path.write_bytes(content)
        refused(load_pca, path, "Expected a PCA as .npz or .pth")

    def test_a_bomb(self, path):
        arrays = {"pca_eigen_vectors": np.zeros((1448, 1448)), "pca_means": np.zeros(1448)}
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)
        assert path.stat().st_size < 1 << 16
        refused(load_pca, path, "it unpacks to more than 16 MiB")

    def test_a_header_that_claims_too_much(self, path):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 44,)}
        )
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("pca_eigen_vectors.npy", "pca_means.npy"):
                archive.writestr(name, header.getvalue() + bytes(8))
        refused(load_pca, path, "numpy cannot read")

    def test_objects_in_an_npz_do_not_run(self, path, tmp_path):
        witness = tmp_path / "ran"
        hostile = np.array([Touch(io.open, str(witness), "w")], dtype=object)
        with path.open("wb") as file:
            np.savez(file, pca_eigen_vectors=hostile, pca_means=hostile)
        refused(load_pca, path, "numpy cannot read")
        assert not witness.exists()

    def test_any_damaged_byte_gives_a_pca_or_a_line(self, path):
        content = PCA.read_bytes()
        rng = np.random.Generator(np.random.PCG64(0))
        tail = rng.integers(len(content) - 400, len(content), 150)
        complaints = []
        for position in (*range(60), *rng.integers(0, len(content), 60), *tail):
            damaged = bytearray(content)
            damaged[position] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            complaints.append(complaint(load_pca, path))
        assert sum(map(bool, complaints)) > 100
        assert not any("\n" in text for text in complaints)
