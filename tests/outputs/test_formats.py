"""What the formats hold, that they are there whole or not at all, and in bounded memory."""

import csv
import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vggish_hf import VGGishOutput
from vggish_hf.audioset.released.records import parse_audioset
from vggish_hf.outputs import check_output, open_output, rows
from vggish_hf.outputs.schema import embedding_schema
from vggish_hf.tf_files.protobuf import read_fields
from vggish_hf.tf_files.records import RecordReader

SIZE = 128
PROVENANCE = {"model": "demo", "options": {"inputs": ["ж.wav"]}}
ENDINGS = (".parquet", ".npz", ".csv", ".tfrecord")
TABLES = (".parquet", ".npz", ".csv")
ODD_IDS = ["", "a b/ж\t\"',\n.wav", "日本" * 200, "\\xff.wav", "😀"]


def output(count, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, SIZE, generator=generator, dtype=torch.float64)
    embeddings = (values * 255).to(dtype) if dtype == torch.uint8 else values.to(dtype)
    return VGGishOutput(embeddings, torch.arange(count, dtype=torch.float64) * 0.96)


def dtype_for(ending):
    return torch.uint8 if ending == ".tfrecord" else torch.float32


def write(path, clips, dtype=None):
    with open_output(path, SIZE, dtype or dtype_for(path.suffix), PROVENANCE) as write_clip:
        for clip, out in clips:
            write_clip(clip, out)


def messages(data):
    """The fields of a protocol-buffer message: number to contents."""
    found = {}
    for number, value in read_fields(data):
        found.setdefault(number, []).append(bytes(value))
    return found


def read(path):
    """The columns `id`, `example`, `start_seconds` and `embedding`, and the provenance."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        numbers = [table[name].to_numpy() for name in ("example", "start_seconds")]
        embeddings = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, SIZE)
        return table["id"].to_pylist(), *numbers, embeddings, table.schema.metadata[b"vggish_hf"]
    if path.suffix == ".csv":
        return read_csv(path)
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {"id", "example", "start_seconds", "embedding", "vggish_hf"}
        assert [arrays[name].dtype for name in ("example", "start_seconds")] == ["i4", "f8"]
        columns = [arrays[name] for name in ("example", "start_seconds", "embedding", "vggish_hf")]
        return arrays["id"].tolist(), *columns[:3], columns[3].item()


def read_csv(path):
    """By Python's own reader."""
    with path.open(encoding="utf-8", newline="") as file:
        names, *lines = csv.reader(file)
    assert names == ["id", "example", "start_seconds", *(f"e{i}" for i in range(SIZE))]
    columns = list(zip(*lines, strict=True)) or [()] * len(names)
    is_bytes = all(value.isdigit() for line in lines for value in line[3:]) and lines
    dtype = np.uint8 if is_bytes or "uint8" in path.parent.name else np.float32
    embeddings = np.array([line[3:] for line in lines], dtype).reshape(-1, SIZE)
    numbers = np.array(columns[1], np.int32), np.array(columns[2], np.float64)
    return list(columns[0]), *numbers, embeddings, Path(f"{path}.json").read_text()


CLIPS = {
    "none": [],
    "one without examples": [("a", 0)],
    "several": [("a", 2), ("b", 0), ("c", 3), ("a", 1)],
    "odd ids": [(clip, 1) for clip in ODD_IDS],
    "an empty id": [("", 2)],
}


@pytest.mark.parametrize("ending", TABLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("clips", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("group_rows", [1, 2, 16_384])
def test_rows(ending, dtype, clips, group_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "GROUP_ROWS", group_rows)
    path = tmp_path / str(dtype).removeprefix("torch.") / f"out{ending}"
    path.parent.mkdir()
    outs = [(clip, output(count, dtype, seed)) for seed, (clip, count) in enumerate(clips)]
    write(path, outs, dtype)
    ids, examples, times, embeddings, provenance = read(path)
    assert ids == [clip for clip, count in clips for _ in range(count)]
    assert examples.tolist() == [example for _, count in clips for example in range(count)]
    assert times.tolist() == [time for _, out in outs for time in out.start_seconds.tolist()]
    expected = torch.cat([torch.empty(0, SIZE, dtype=dtype), *(o.embeddings for _, o in outs)])
    assert embeddings.dtype == expected.numpy().dtype
    assert np.array_equal(embeddings, expected.numpy())
    assert json.loads(provenance) == PROVENANCE
    beside = [f"{path.name}.json"] if ending == ".csv" else []
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, *beside]


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float32, pa.float32()), (torch.uint8, pa.uint8())]
)
def test_schema_of_parquet(dtype, value, tmp_path):
    path = tmp_path / "out.parquet"
    write(path, [("a", output(2, dtype))], dtype)
    schema = pq.read_schema(path)
    assert list(zip(schema.names, schema.types, strict=True)) == [
        ("id", pa.string()),
        ("example", pa.int32()),
        ("start_seconds", pa.float64()),
        ("embedding", pa.list_(value, SIZE)),
    ]
    assert not any(field.nullable for field in schema)
    assert json.loads(schema.metadata[b"vggish_hf"]) == PROVENANCE
    assert schema.equals(embedding_schema(SIZE, dtype, json.dumps(PROVENANCE)))


def test_csv_is_exact_and_quotes_text_alone(tmp_path):
    path = tmp_path / "out.csv"
    special = torch.tensor(
        [[0.1, 1 / 3, -0.0, 1e-45, 3.4028235e38, float("inf"), 16777217.0, 1e16]]
    )
    with open_output(path, 8, torch.float32, {}) as write_clip:
        write_clip("=1+1", VGGishOutput(special, torch.tensor([0.1 + 0.2], dtype=torch.float64)))
        write_clip('@a,\n"b"', VGGishOutput(special * 2, torch.zeros(1, dtype=torch.float64)))
    with path.open(encoding="utf-8", newline="") as file:
        _, first, second = csv.reader(file)
    assert (first[0], second[0]) == ("=1+1", '@a,\n"b"')
    assert first[2] == repr(0.1 + 0.2)
    found = np.array(first[3:], np.float32)
    assert np.array_equal(found.view("u4"), special.numpy()[0].view("u4"))
    assert first[3] == "0.1"
    assert b'"=1+1",0,0.30000000000000004,0.1,' in path.read_bytes()


def test_the_ending_may_be_in_capitals(tmp_path):
    write(tmp_path / "OUT.CSV", [("a", output(1))], torch.float32)
    assert (tmp_path / "OUT.CSV.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_one_process_at_a_time_writes_a_file(ending, tmp_path):
    path = tmp_path / f"out{ending}"
    code = """
import sys, time
from pathlib import Path
import torch
from vggish_hf.outputs import open_output
dtype = torch.uint8 if sys.argv[1].endswith("tfrecord") else torch.float32
with open_output(Path(sys.argv[1]), 128, dtype, {}):
    print("writing", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "writing\n"
        with pytest.raises(OSError, match=f"process {holder.pid} on .* since 2.* is writing"):
            write(path, [("a", output(1, dtype_for(ending)))])
    finally:
        holder.kill()
        holder.communicate()
    assert not path.exists()
    write(path, [("a", output(1, dtype_for(ending)))])  # the system lets go of the lock
    assert {entry.name for entry in tmp_path.iterdir()} <= {
        path.name,
        f"{path.name}.json",
        *(entry.name for entry in tmp_path.glob(".*.tfrecord.part")),  # of the one that was killed
        *(entry.name for entry in tmp_path.glob(f".{path.name}.*") if entry.is_dir()),
    }


@pytest.mark.parametrize("ending", TABLES)
def test_float64_is_stored_as_float32(ending, tmp_path):
    path = tmp_path / f"out{ending}"
    out = output(3, torch.float64)
    write(path, [("a", out)])
    _, _, _, embeddings, _ = read(path)
    assert embeddings.dtype == np.float32
    assert np.array_equal(embeddings, out.embeddings.float().numpy())


def test_tfrecord_is_what_the_reference_demo_writes(tmp_path):
    path = tmp_path / "out.tfrecord"
    counts = {"a": 2, "none": 0, ODD_IDS[1]: 3}
    outs = {clip: output(count, torch.uint8, count) for clip, count in counts.items()}
    write(path, outs.items())
    records = [messages(record) for record in RecordReader(path)]
    assert len(records) == len(outs)
    for (clip, out), record in zip(outs.items(), records, strict=True):
        (context,), (lists,) = record[1], record[2]
        released = ["video_id", "start_time_seconds", "end_time_seconds", "labels"]
        entries = messages(context)[1]
        assert [messages(entry)[1] for entry in entries] == [[name.encode()] for name in released]
        assert bytes_of_feature(messages(entries[0])[2][0]) == clip.encode()
        (entry,) = messages(lists)[1]
        assert messages(entry)[1] == [b"audio_embedding"]
        features = messages(messages(entry).get(2, [b""])[0]).get(1, [])
        assert [bytes_of_feature(feature) for feature in features] == [
            row.tobytes() for row in out.embeddings.numpy()
        ]
    if SIZE == 128:
        for out, record in zip(outs.values(), RecordReader(path), strict=True):
            parsed = parse_audioset(record)
            assert np.array_equal(parsed.embedding, out.embeddings)
            assert parsed.end_time_seconds == pytest.approx(out.end_seconds)
    beside = tmp_path / "out.tfrecord.json"
    assert json.loads(beside.read_text()) == PROVENANCE
    assert set(tmp_path.iterdir()) == {path, beside}


def bytes_of_feature(feature):
    (bytes_list,) = messages(feature)[1]
    (value,) = messages(bytes_list)[1]
    return value


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [LookupError, KeyboardInterrupt])
def test_an_exception_leaves_no_file(ending, kind, tmp_path):
    path = tmp_path / f"out{ending}"

    def clips():
        yield "a", output(3, dtype_for(ending))
        raise kind

    with pytest.raises(kind):
        write(path, clips())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_older_file_stays_until_the_new_one_is_whole(ending, tmp_path):
    path, beside = tmp_path / f"out{ending}", tmp_path / f"out{ending}.json"
    older = {path: b"older"} | ({beside: b"older too"} if ending in (".csv", ".tfrecord") else {})
    for file, content in older.items():
        file.write_bytes(content)
    dtype = dtype_for(ending)

    def clips(error):
        for _ in range(3):
            assert {file: file.read_bytes() for file in older} == older
            yield "a", output(3, dtype)
        if error:
            raise error

    with pytest.raises(LookupError):
        write(path, clips(LookupError()))
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == older
    write(path, clips(None))
    assert set(tmp_path.iterdir()) == set(older)
    assert all(file.read_bytes() != content for file, content in older.items())


@pytest.mark.parametrize("ending", ENDINGS)
def test_memory_is_bounded_by_a_group_of_rows(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "GROUP_ROWS", 10)
    path = tmp_path / f"out{ending}"
    references = []

    def clips():
        for clip in range(50):
            array = np.zeros((3, SIZE), "u1" if ending == ".tfrecord" else "f4")
            references.append(weakref.ref(array))
            out = VGGishOutput(torch.from_numpy(array), torch.zeros(3, dtype=torch.float64))
            del array
            yield str(clip), out
            del out
            # four clips fill a group; the last one's name is bound in the loop of `write`
            assert sum(reference() is not None for reference in references) <= 5

    write(path, clips())
    if ending == ".parquet":
        metadata = pq.read_metadata(path)
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert sizes == [10] * 15


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_output_that_is_not_what_was_announced(ending, tmp_path):
    dtype = dtype_for(ending)
    other = torch.uint8 if dtype == torch.float32 else torch.float32
    narrow = VGGishOutput(torch.zeros(2, 64, dtype=dtype), torch.zeros(2, dtype=torch.float64))
    for wrong, message in (
        (output(2, other), rf"Expected embeddings of {dtype} .* got {other} .* of 'clip'"),
        (narrow, r"shape \(examples, 128\), got .* \(2, 64\) of 'clip'"),
    ):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / f"out{ending}", [("clip", wrong)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("out.txt", torch.float32, r"in \.parquet, \.npz, \.csv, \.tfrecord, or .* got .*out\.txt"),
        ("out", torch.float32, "ends in"),
        ("out.tfrecord", torch.float32, "uint8 embeddings for .tfrecord"),
        ("no/out.npz", torch.float32, "a file in an existing folder, got .*no"),
        ("folder.npz", torch.float32, r"a file in an existing folder, got .*folder\.npz"),
    ],
)
def test_output_that_cannot_be_written(name, dtype, message, tmp_path):
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    for refuse in (check_output, lambda *args: open_output(args[0], SIZE, args[1], {}).__enter__()):
        with pytest.raises(ValueError, match=message):
            refuse(tmp_path / name, dtype)
    assert list(tmp_path.iterdir()) == [folder]
