"""What a file of statistics holds, that it is there whole or not at all, and that it is checked."""

import io
import pickle
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from limits import files_of_at_most

from vggish_hf.metrics import EmbeddingStatistics

PROVENANCE = {"model": "ж", "config": {"conv_channels": [1, 2]}, "weights_sha256": None}


@pytest.fixture
def statistics():
    data = np.random.default_rng(0).normal(size=(200, 16)) + 3
    return EmbeddingStatistics.from_embeddings(data, PROVENANCE)


@pytest.fixture
def path(statistics, tmp_path):
    path = tmp_path / "real.npz"
    statistics.save(path)
    return path


def test_round_trip(statistics, path):
    loaded = EmbeddingStatistics.load(str(path))
    assert loaded.count == 200
    assert np.array_equal(loaded.mean, statistics.mean)
    assert np.array_equal(loaded.covariance, statistics.covariance) or np.allclose(
        loaded.covariance, statistics.covariance, rtol=1e-15
    )
    assert loaded.provenance == PROVENANCE
    assert loaded.distance(statistics, force=True) < 1e-20


def test_numpy_reads_it(statistics, path):
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {"mean", "covariance", "count", "provenance"}
        assert np.array_equal(arrays["covariance"], statistics.covariance)
        assert arrays["count"] == 200


def test_it_is_whole_or_not_there(statistics, path, tmp_path):
    before = path.read_bytes()
    with files_of_at_most(1000), pytest.raises(OSError, match="too large"):
        statistics.update(np.ones((5, 16))).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_saved(statistics, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.npz, got '.*a\.txt'"):
        statistics.save(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="at least 2 examples for a covariance, got 0"):
        EmbeddingStatistics.empty(3).save(tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        EmbeddingStatistics.load(tmp_path / "none.npz")


def test_no_statistics(tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"", b"PK\x03\x04", b"RIFF" * 100):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"Expected a file of embedding statistics, .* is not: "
        ):
            EmbeddingStatistics.load(path)
    np.savez(path, embedding=np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"no item named 'mean\.npy'"):
        EmbeddingStatistics.load(path)


GOOD = {
    "mean": np.zeros(3),
    "covariance": np.eye(3),
    "count": np.array(5),
    "provenance": np.array("{}"),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros(3, np.float32)}, "`mean` is .* of float32"),
        ({"mean": np.zeros(5000)}, r"`mean` is \(5000,\)"),
        ({"mean": np.zeros(0)}, r"`mean` is \(0,\)"),
        ({"mean": np.zeros((3, 1))}, r"a mean \(3, 1\)"),
        ({"mean": np.array([0, np.nan, 0])}, "finite moments"),
        ({"covariance": np.eye(4)}, r"`covariance` is \(4, 4\)"),
        ({"covariance": np.eye(2)}, r"covariance \(2, 2\)"),
        ({"count": np.array(1)}, "at least 2 examples, got .* and 1"),
        ({"count": np.array(-5)}, "at least 2 examples, got .* and -5"),
        ({"count": np.array(5.0)}, "`count` is .* of float64"),
        ({"count": np.array([5, 6])}, r"`count` is \(2,\)"),
        ({"provenance": np.array("[]")}, "a provenance of list"),
        ({"provenance": np.array("{")}, "property name"),
        ({"provenance": np.array("[" * 100_000)}, "nested more than 32 deep"),
        ({"provenance": np.array(b"{}")}, r"`provenance` is \(\) of \|S2"),
        ({"provenance": np.array(" " * 300_000)}, r"`provenance` is \(\) of <U300000"),
    ],
)
def test_what_does_not_fit(change, message, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    assert EmbeddingStatistics.load(path).count == 5
    np.savez(path, **GOOD | change)
    with pytest.raises(ValueError, match=message):
        EmbeddingStatistics.load(path)


class Poison:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def rewrite(path, name, content):
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (members | {name: content}).items():
            archive.writestr(member, data)


def test_a_pickle_is_not_opened(path):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    rewrite(path, "mean.npy", content.getvalue() + pickle.dumps([Poison()]))
    with pytest.raises(ValueError, match=r"`mean` is .* of object"):
        EmbeddingStatistics.load(path)


@pytest.mark.parametrize("shape", [(4096, 4096, 4096), (1 << 60,), (1 << 40, 1 << 40)])
def test_what_a_header_claims_is_not_allocated(path, shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    rewrite(path, "covariance.npy", content.getvalue())
    tracemalloc.start()
    with pytest.raises(ValueError, match="`covariance` is"):
        EmbeddingStatistics.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_an_array_that_ends_early(path):
    with zipfile.ZipFile(path) as archive:
        content = archive.read("covariance.npy")
    rewrite(path, "covariance.npy", content[:-8])
    with pytest.raises(ValueError, match="`covariance` ends early"):
        EmbeddingStatistics.load(path)


def test_the_number_of_clips_is_kept(statistics, tmp_path):
    path = tmp_path / "a.npz"
    replace(statistics, clips=7).save(path)
    assert EmbeddingStatistics.load(path).clips == 7
    statistics.save(path)
    assert EmbeddingStatistics.load(path).clips is None
    with zipfile.ZipFile(path, "a") as archive, archive.open("clips.npy", "w") as member:
        np.save(member, np.array(-1))
    with pytest.raises(ValueError, match=r"a\.npz.*`clips` is -1"):
        EmbeddingStatistics.load(path)


@pytest.mark.parametrize("compression", ["ZIP_BZIP2", "ZIP_LZMA"])
def test_a_compression_that_numpy_does_not_write(compression, path):
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", getattr(zipfile, compression)) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=r"real\.npz.*`mean` has the compression 1[24]"):
        EmbeddingStatistics.load(path)


def test_deflated_arrays_are_read(statistics, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **GOOD)
    assert EmbeddingStatistics.load(tmp_path / "a.npz").count == 5


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9**9**9,), }",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (16,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "(" * 500,
        "{'descr': '<f8', 'fortran_order': False, 'shape': (16,), 'more': 1}",
    ],
)
def test_a_header_is_not_evaluated(header, path):
    text = header.encode().ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    rewrite(path, "mean.npy", content + bytes(128))
    with pytest.raises(ValueError, match="`mean` has another header than numpy writes"):
        EmbeddingStatistics.load(path)


def test_moments_too_large_to_be_multiplied(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD | {"covariance": np.eye(3) * 1e308})
    with pytest.raises(ValueError, match=r"finite moments, .*a\.npz"):
        EmbeddingStatistics.load(tmp_path / "a.npz")


def mutants(content, count, seed=0):
    """Files with bytes changed, cut out, put in twice, or without their end."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(rng.integers(1, 5)):
            position = int(rng.integers(len(mutant)))
            match rng.integers(4):
                case 0 | 1:
                    mutant[position] = rng.choice([0, 1, 9, 12, 14, 127, 255, rng.integers(256)])
                case 2:
                    del mutant[position : position + rng.integers(1, 9)]
                case 3:
                    mutant[position:position] = mutant[position : position + rng.integers(1, 9)]
        if not rng.integers(5):
            del mutant[rng.integers(len(mutant)) :]
        yield bytes(mutant)


@pytest.mark.parametrize(
    "count", [pytest.param(200), pytest.param(2000, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_raises_nothing_else(count, save, path):
    # The places that matter, headers and the directory, are most of so small a file.
    save(path, **GOOD)
    refused = 0
    tracemalloc.start()
    for mutant in mutants(path.read_bytes(), count):
        path.write_bytes(mutant)
        try:
            EmbeddingStatistics.load(path)
        except ValueError as error:
            assert "real.npz" in str(error)  # noqa: PT017 - of each of many
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > count // 2
    assert peak < 4 << 20
