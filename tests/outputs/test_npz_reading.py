"""Embeddings in `.npz` files: what `embed` writes, and what others make of it."""

import json
import zipfile

import numpy as np
import pytest
import torch

from vggish_hf import VGGishOutput
from vggish_hf.modeling import VGGishPostprocessor
from vggish_hf.outputs import open_output
from vggish_hf.outputs.npz_reading import EmbeddingArrays, is_npz_of_embeddings

PROVENANCE = {"model": "demo", "dtype": "float32"}


def write(path, counts, dtype=torch.float32, size=8):
    generator = torch.Generator().manual_seed(0)
    clips = []
    with open_output(path, size, dtype, PROVENANCE) as write_clip:
        for number, count in enumerate(counts):
            rows = (torch.rand(count, size, generator=generator) * 255).to(dtype)
            write_clip(f"clip {number}", VGGishOutput(rows, torch.arange(count).double()))
            clips.append((f"clip {number}", rows))
    return clips


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize(
    "counts", [[3, 1, 5], [1] * 50, pytest.param([270_000, 2], marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("again", [None, np.savez])
def test_clips(counts, dtype, again, tmp_path):
    path = tmp_path / "clips.npz"
    clips = write(path, counts, dtype)
    if again is not None:
        with np.load(path) as arrays:
            again(path, **arrays)
    file = EmbeddingArrays(path)
    assert (file.size, file.provenance, file.has_metadata) == (8, PROVENANCE, True)
    found = list(file.clips())
    assert [name for name, _ in found] == [name for name, _ in clips]
    for (_, rows), (_, wanted) in zip(found, clips, strict=True):
        expected = VGGishPostprocessor.dequantize(wanted) if dtype == torch.uint8 else wanted
        assert np.array_equal(rows, expected.numpy())


def test_without_metadata(tmp_path):
    np.savez(tmp_path / "a.npz", id=np.array(["a", "a"]), embedding=np.zeros((2, 3)))
    file = EmbeddingArrays(tmp_path / "a.npz")
    assert (file.provenance, file.has_metadata) == ({}, False)
    assert is_npz_of_embeddings(tmp_path / "a.npz")


GOOD = {
    "id": np.array(["a", "b"]),
    "embedding": np.zeros((2, 3), np.float32),
    "vggish_hf": np.array("{}"),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": np.array(["a"])}, r"`id` \(1,\) and `embedding` \(2, 3\)"),
        ({"id": np.array([1, 2])}, "`id` is of int64"),
        ({"id": np.array(["a", "b"], object)}, "`id` is of object"),
        ({"embedding": np.zeros((2, 3), np.int64)}, "a float type or uint8, .* has int64"),
        ({"embedding": np.zeros((2, 0))}, r"`embedding` is \(2, 0\)"),
        ({"embedding": np.zeros((2, 70_000), np.uint8)}, r"`embedding` is \(2, 70000\)"),
        ({"embedding": np.zeros((3, 2)).T}, "in Fortran's order"),
        ({"vggish_hf": np.array("{")}, "property name"),
        ({"vggish_hf": np.array("[" * 9000 + "]" * 9000)}, "nested more than 32 deep"),
    ],
)
def test_what_does_not_fit(change, message, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    assert len(list(EmbeddingArrays(path).clips())) == 2
    np.savez(path, **GOOD | change)
    with pytest.raises(ValueError, match=rf"(?s)a\.npz.*{message}"):
        EmbeddingArrays(path)


def test_an_array_that_ends_early_or_late(tmp_path):
    path = tmp_path / "a.npz"
    for rows, message in ((1, "`embedding` ends early"), (3, "more values than its header says")):
        np.savez(path, id=GOOD["id"])
        with zipfile.ZipFile(path, "a") as archive, archive.open("embedding.npy", "w") as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (2, 3)}
            np.lib.format.write_array_header_1_0(member, header)
            member.write(bytes(12 * rows))
        with pytest.raises(ValueError, match=message):
            list(EmbeddingArrays(path).clips())


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        EmbeddingArrays(tmp_path / "none.npz")
    (tmp_path / "a.npz").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"Expected an \.npz file of embeddings, .* is not: File"):
        EmbeddingArrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "count", [pytest.param(100), pytest.param(3000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_damage_raises_nothing_else(count, tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **GOOD)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(count):
        mutant = bytearray(content)
        for position in rng.integers(len(mutant), size=rng.integers(1, 5)):
            mutant[position] = rng.integers(256)
        path.write_bytes(mutant[: rng.integers(len(mutant) // 2, len(mutant) + 1)])
        try:
            list(EmbeddingArrays(path).clips())
        except ValueError as error:
            assert "a.npz" in str(error)  # noqa: PT017 - of each of many
            refused += 1
    assert refused > count // 2
