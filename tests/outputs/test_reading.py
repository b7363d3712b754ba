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
        pa.table({"id": ["a"], "embedding": [[1.0, 2.0]]}),
        pa.table({"id": ["a"], "embedding": ["b"]}),
        pa.table({"id": ["a"], "embedding": pa.FixedSizeListArray.from_arrays(pa.array([1]), 1)}),
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
    with pytest.raises(ValueError, match="no missing values"):
        list(EmbeddingFile(path).clips())


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        EmbeddingFile(tmp_path / "none.parquet")
    path = tmp_path / "noise.parquet"
    path.write_bytes(b"noise" * 100)
    with pytest.raises(ValueError, match=r"Expected a Parquet file, .*noise"):
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
