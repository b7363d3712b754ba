import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from folders import TESTS

from vggish_hf import VGGishOutput
from vggish_hf.audioset import RecordReader, export_embeddings, parse_audioset
from vggish_hf.modeling import VGGishPostprocessor
from vggish_hf.outputs import open_output
from vggish_hf.outputs.reading import EmbeddingFile

PROVENANCE = {"model": "demo", "dtype": "float32"}


def outputs(counts, dtype=torch.float32, size=8):
    generator = torch.Generator().manual_seed(0)
    for number, count in enumerate(counts):
        rows = (torch.rand(count, size, generator=generator) * 255).to(dtype)
        yield f"clip {number}", VGGishOutput(rows, torch.arange(count, dtype=torch.float64))


def write(path, clips, dtype=torch.float32, size=8):
    with open_output(path, size, dtype, PROVENANCE) as write_clip:
        for name, output in clips:
            write_clip(name, output)


def assert_clips(path, expected):
    found = list(EmbeddingFile(path).clips())
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, rows), (_, wanted) in zip(found, expected, strict=True):
        assert np.array_equal(rows, wanted)


@pytest.mark.parametrize("counts", [[3, 1, 5], [], [1] * 50, [40_000, 2]])
def test_what_embed_writes(tmp_path, counts):
    path = tmp_path / "clips.parquet"
    clips = list(outputs(counts))
    write(path, clips)
    file = EmbeddingFile(path)
    assert (file.size, file.provenance) == (8, PROVENANCE)
    assert_clips(path, [(name, output.embeddings.numpy()) for name, output in clips])


def test_eight_bits_are_dequantized(tmp_path):
    path = tmp_path / "clips.parquet"
    clips = list(outputs([3, 2], torch.uint8))
    write(path, clips, torch.uint8)
    dequantize = VGGishPostprocessor.dequantize
    assert_clips(path, [(name, dequantize(out.embeddings).numpy()) for name, out in clips])


def test_columns_in_another_order_and_precision(tmp_path):
    path = tmp_path / "clips.parquet"
    rows = np.arange(12, dtype=np.float64)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows), 4)
    table = pa.table({"embedding": embedding, "other": [1, 2, 3], "id": ["a", "a", "b"]})
    pq.write_table(table, path)
    assert EmbeddingFile(path).provenance == {}
    rows = rows.reshape(3, 4)
    assert_clips(path, [("a", rows[:2]), ("b", rows[2:])])


def test_audioset_exports(tmp_path):
    released = TESTS / "data" / "audioset"
    export_embeddings(released, tmp_path)
    records = [
        parse_audioset(data)
        for path in sorted((released / "bal_train").iterdir())
        for data in RecordReader(path)
    ]
    (path,) = (tmp_path / "embeddings").glob("bal_train-*.parquet")
    assert EmbeddingFile(path).size == 128
    expected = [
        (record.video_id, VGGishPostprocessor.dequantize(torch.tensor(record.embedding)).numpy())
        for record in records
    ]
    assert_clips(path, expected)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"id": ["a"]}),
        pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array([1.0]), 1)}),
        pa.table({"id": ["a"], "embedding": ["b"]}),
        pa.table({"video_id": ["a"], "embedding": [[1.0]]}),
    ],
    ids=lambda table: str(table.schema),
)
def test_other_columns(table, tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=r"columns `id` and `embedding`, .* has "):
        EmbeddingFile(path)


@pytest.mark.parametrize("missing", ["id", "embedding", "value"])
def test_missing_values(missing, tmp_path):
    path = tmp_path / "clips.parquet"
    values = [[1.0, 2.0], [3.0, None] if missing == "value" else [3.0, 4.0]]
    if missing == "embedding":
        values[1] = None
    ids = ["a", None if missing == "id" else "a"]
    embedding = pa.array(values, pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"id": ids, "embedding": embedding}), path)
    with pytest.raises(ValueError, match=r"no missing values|Expected all lists to be of size"):
        list(EmbeddingFile(path).clips())


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        EmbeddingFile(tmp_path / "none.parquet")
    path = tmp_path / "noise.parquet"
    path.write_bytes(b"noise" * 100)
    with pytest.raises(ValueError, match=r"Not a Parquet file, or damaged: .*noise"):
        EmbeddingFile(path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_damaged_metadata(text, tmp_path):
    path = tmp_path / "clips.parquet"
    embedding = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0]), 2)
    schema = pa.schema({"id": pa.string(), "embedding": embedding.type}, {"vggish_hf": text})
    pq.write_table(pa.table([["a"], embedding], schema), path)
    with pytest.raises(ValueError, match="Expected JSON in the metadata"):
        EmbeddingFile(path)


def test_metadata_of_another_kind(tmp_path):
    path = tmp_path / "clips.parquet"
    embedding = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0]), 2)
    metadata = {"vggish_hf": json.dumps([1])}
    schema = pa.schema({"id": pa.string(), "embedding": embedding.type}, metadata)
    pq.write_table(pa.table([["a"], embedding], schema), path)
    assert EmbeddingFile(path).provenance == {}


def rewritten(path, target, how):
    """Read a file and write it again, as people do."""
    table = pq.read_table(path)
    if how == "pandas":
        table.to_pandas().to_parquet(target)
    elif how == "datasets":
        datasets = pytest.importorskip("datasets")
        columns = {"id": table["id"].to_pylist(), "embedding": table["embedding"].to_pylist()}
        datasets.Dataset.from_dict(columns).to_parquet(target)
    else:
        value, kind = {
            "large_list": (pa.float32(), pa.large_list),
            "float64": (pa.float64(), pa.list_),
            "halves": (pa.float16(), pa.list_),
        }[how]
        columns = {"id": table["id"], "embedding": table["embedding"].cast(kind(value))}
        pq.write_table(pa.table(columns), target)


@pytest.mark.parametrize("how", ["pandas", "datasets", "large_list", "float64", "halves"])
def test_lists_of_variable_length(how, tmp_path):
    path, target = tmp_path / "clips.parquet", tmp_path / "again.parquet"
    write(path, list(outputs([3, 1, 20_000])))
    rewritten(path, target, how)
    file = EmbeddingFile(target)
    assert (file.size, file.provenance, file.has_metadata) == (8, {}, False)
    found, expected = list(file.clips()), list(EmbeddingFile(path).clips())
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, rows), (_, wanted) in zip(found, expected, strict=True):
        assert np.allclose(rows, wanted, rtol=1e-3)


def test_eight_bits_through_pandas(tmp_path):
    path, target = tmp_path / "clips.parquet", tmp_path / "again.parquet"
    write(path, list(outputs([3, 2], torch.uint8)), torch.uint8)
    rewritten(path, target, "pandas")
    assert_clips(target, list(EmbeddingFile(path).clips()))


def test_audioset_exports_through_pandas(tmp_path):
    values = [[[1, 2], [3, 4]], [[5, 6]]]
    columns = {
        "video_id": ["a", "b"],
        "embedding": pa.array(values, pa.list_(pa.list_(pa.uint8()))),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    file = EmbeddingFile(tmp_path / "a.parquet")
    assert file.size == 2
    assert [(name, rows.shape) for name, rows in file.clips()] == [("a", (2, 2)), ("b", (1, 2))]


@pytest.mark.parametrize("lengths", [(3, 2), (2, 3), (0, 2)])
def test_embeddings_of_unequal_lengths(lengths, tmp_path):
    values = [[0.5] * length for length in lengths]
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": values}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"embeddings of one length, '.*a\.parquet' has some of"):
        list(EmbeddingFile(tmp_path / "a.parquet").clips())


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.uint16()])
@pytest.mark.parametrize("make", [pa.list_, lambda value: pa.list_(value, 2)])
def test_other_integers(kind, make, tmp_path):
    values = pa.array([[1, 2]], make(kind))
    pq.write_table(pa.table({"id": ["a"], "embedding": values}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"float type or uint8, '.*a.parquet' has {kind}; cast"):
        EmbeddingFile(tmp_path / "a.parquet")


def test_a_long_id_that_is_repeated_fills_no_memory(tmp_path):
    path = tmp_path / "a.parquet"
    embedding = pa.array([[1.0, 2.0]] * 10_000, pa.list_(pa.float32(), 2))
    ids = pa.DictionaryArray.from_arrays(np.zeros(10_000, np.int32), ["a" * (1 << 20)])
    # Stored as strings: what the file says of dictionaries is not needed to make it small.
    pq.write_table(pa.table({"id": ids, "embedding": embedding}), path, store_schema=False)
    before = pa.total_allocated_bytes()
    peak = 0
    for name, rows in EmbeddingFile(path).clips():
        peak = max(peak, pa.total_allocated_bytes() - before)
        assert (len(name), len(rows)) == (1 << 20, 10_000)
    assert peak < 64 << 20


def test_an_embedding_that_is_too_wide(tmp_path):
    path = tmp_path / "a.parquet"
    values = pa.array([[0.5] * 70_000], pa.list_(pa.float32(), 70_000))
    pq.write_table(pa.table({"id": ["a"], "embedding": values}), path)
    with pytest.raises(ValueError, match=r"at most 65536 values, '.*a\.parquet' has 70000"):
        EmbeddingFile(path)


def test_a_url(tmp_path):
    import fsspec

    path = tmp_path / "clips.parquet"
    write(path, list(outputs([3, 2])))
    store = fsspec.filesystem("memory")
    store.pipe("/sets/clips.parquet", path.read_bytes())
    file = EmbeddingFile("memory://sets/clips.parquet")
    assert file.provenance == PROVENANCE
    found = list(file.clips())
    assert [(name, len(rows)) for name, rows in found] == [("clip 0", 3), ("clip 1", 2)]
    with pytest.raises(FileNotFoundError):
        EmbeddingFile("memory://sets/none.parquet")
