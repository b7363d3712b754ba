"""That a folder of embeddings opens as one table, grows by whole files and can be gone on with."""

import json
import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

from vggish_hf import VGGishOutput
from vggish_hf.outputs import parts
from vggish_hf.outputs.folder import EmbeddingFolder, part_name
from vggish_hf.outputs.schema import embedding_schema
from vggish_hf.outputs.stored import StoredFolder

SIZE = 8
PROVENANCE = {
    "version": "1",
    "weights_sha256": "aa",
    "feature_config": {"padding": "short", "example_hop_seconds": 0.96},
    "config": {"conv_channels": (4, 8)},
}


def output(clip, count=2, dtype=torch.float32):
    """Rows that tell their clip and example."""
    first = sum(clip.encode()) % 100
    rows = (torch.arange(count)[:, None] + first).expand(count, SIZE)
    return VGGishOutput(rows.to(dtype), torch.arange(count, dtype=torch.float64) * 0.96)


@pytest.fixture
def folder(tmp_path):
    folder = EmbeddingFolder(tmp_path / "out")
    folder.start(PROVENANCE, SIZE, torch.float32)
    return folder


def write(folder, *names, rank=0, count=2, failed=None):
    folder.write_part({name: output(name, count) for name in names}, failed, rank=rank)


def visible(folder):
    return sorted(path.name for path in folder.path.iterdir() if not path.name.startswith("."))


def check_rows(table, names, count=2):
    """That a table has the rows of these clips, those of each together and in order."""
    assert sorted(set(table["id"].to_pylist())) == sorted(names)
    assert len(table) == len(names) * count
    for start in range(0, len(table), count):
        rows = table.slice(start, count).to_pylist()
        expected = output(rows[0]["id"], count)
        assert [row["id"] for row in rows] == [rows[0]["id"]] * count
        assert [row["example"] for row in rows] == list(range(count))
        assert [row["start_seconds"] for row in rows] == expected.start_seconds.tolist()
        assert [row["embedding"] for row in rows] == expected.embeddings.tolist()


# What readers see


def test_pyarrow_opens_it_as_one(folder):
    write(folder, "b", "a", failed={"x": "broken"})
    write(folder, "c", rank=3)
    for merge in (False, True):
        table = pyarrow.dataset.dataset(folder.path).to_table()
        check_rows(table, ["a", "b", "c"])
        provenance = json.dumps(PROVENANCE)
        assert table.schema.equals(embedding_schema(SIZE, torch.float32, provenance))
        assert json.loads(table.schema.metadata[b"vggish_hf"]) == json.loads(provenance)
        folder.finish(merge=merge)


def test_pandas_opens_it_as_one(folder):
    pandas = pytest.importorskip("pandas")
    write(folder, "b", "a", failed={"x": "broken"})
    write(folder, "c", rank=3)
    frame = pandas.read_parquet(folder.path)
    assert list(frame.columns) == ["id", "example", "start_seconds", "embedding"]
    check_rows(pa.Table.from_pandas(frame, preserve_index=False), ["a", "b", "c"])


def test_datasets_opens_it_as_one(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    write(folder, "b", "a", failed={"x": "broken"})
    write(folder, "c", rank=3, failed={"y": "broken"})
    folder.finish()
    write(folder, "d", failed={"z": "broken"})
    (folder.path / ".part-00000-00000.parquet.0123.unfinished").write_bytes(b"half")
    (folder.path / ".part-01234567.01.unfinished").mkdir()
    (folder.path / ".part-01234567.01.unfinished" / "rows.parquet").write_bytes(b"half")
    opened = datasets.load_dataset(
        "parquet", data_dir=str(folder.path), cache_dir=str(tmp_path / "cache")
    )
    assert list(opened) == ["train"]
    check_rows(opened["train"].with_format("arrow")[:], ["a", "b", "c", "d"])


def test_uint8(tmp_path):
    folder = EmbeddingFolder(tmp_path)
    folder.start(PROVENANCE, SIZE, torch.uint8)
    folder.write_part({"a": output("a", 3, torch.uint8)})
    folder.finish(merge=True)
    table = pq.read_table(tmp_path / "embeddings.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.uint8(), SIZE)
    assert np.array_equal(np.stack(table["embedding"].to_numpy()), output("a", 3).embeddings)


# What is done


def test_ids(folder):
    assert list(folder.completed_ids()) == []
    write(folder, "b", "a")
    write(folder, "d", rank=1)
    write(folder, "too short", count=0, failed={"broken": "it holds no samples"})
    assert sorted(folder.completed_ids()) == ["a", "b", "d", "too short"]
    assert folder.failed() == {"broken": "it holds no samples"}
    for merge in (False, True):
        assert folder.finish(merge=merge) == 3
        again = EmbeddingFolder(folder.path)
        assert sorted(again.completed_ids()) == ["a", "b", "d", "too short"]
        assert again.failed() == {"broken": "it holds no samples"}
    lines = folder.failed_path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "broken", "reason": "it holds no samples"},
        {"id": "too short", "reason": None},
    ]


def test_ids_are_read_alone(folder):
    write(folder, "a", "b", count=50)
    (part,) = folder.path.glob("*.parquet")
    embedding = pq.read_metadata(part).row_group(0).column(3)
    assert embedding.path_in_schema.startswith("embedding")
    content = bytearray(part.read_bytes())
    start, size = embedding.data_page_offset, embedding.total_compressed_size
    if embedding.dictionary_page_offset is not None:
        start = embedding.dictionary_page_offset
    content[start : start + size] = bytes(size)
    part.write_bytes(content)
    with pytest.raises(OSError):  # noqa: PT011 - any: the column cannot be read
        pq.read_table(part)
    assert list(folder.completed_ids()) == ["a", "b"]


def test_ids_of_many_rows(folder, monkeypatch):
    monkeypatch.setattr(parts, "_BLOCK_ROWS", 3)  # clips that blocks divide
    write(folder, "a", "b", "c", count=7)
    assert list(folder.completed_ids()) == ["a", "b", "c"]


def test_a_clip_that_failed_before_is_embedded(folder):
    write(folder, failed={"a": "gone", "b": "gone"})
    folder.finish()
    write(folder, "a", failed={"b": "still gone"})
    assert folder.failed() == {"b": "still gone"}
    folder.finish()
    assert folder.failed() == {"b": "still gone"}
    write(folder, "b")
    folder.finish()
    assert folder.failed() == {}
    assert not folder.failed_path.exists()
    assert sorted(folder.completed_ids()) == ["a", "b"]


# Other weights, other folders


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"weights_sha256": "bb"}, ["provenance.weights_sha256: 'aa', now 'bb'"]),
        (
            {"feature_config": {"padding": "tail", "example_hop_seconds": 0.48}},
            [
                "provenance.feature_config.padding: 'short', now 'tail'",
                "provenance.feature_config.example_hop_seconds: 0.96, now 0.48",
            ],
        ),
        ({"options": {"loud": True}}, ["provenance.options.loud: None, now True"]),
    ],
)
def test_other_provenance_is_refused(folder, changes, keys):
    write(folder, "a")
    again = EmbeddingFolder(folder.path)
    again.check(PROVENANCE)
    other = {**PROVENANCE, **changes}
    for refuse in (lambda: again.check(other), lambda: again.start(other, SIZE, torch.float32)):
        with pytest.raises(ValueError, match="Differences:") as raised:
            refuse()
        assert str(raised.value).split("\n  ")[1:] == keys
    check_rows(pyarrow.dataset.dataset(folder.path).to_table(), ["a"])


@pytest.mark.parametrize("unknown", [{}, {"dtype": "float32", "weights_sha256": None}])
def test_weights_that_are_unknown_are_not_resumed(unknown, tmp_path):
    folder = EmbeddingFolder(tmp_path)
    folder.check(unknown)
    unknown = {key: value for key, value in unknown.items() if value is not None}
    folder.start(unknown, SIZE, torch.float32)
    folder.start(unknown, SIZE, torch.float32)  # another process of the same job
    with pytest.raises(ValueError, match=r"Expected to know which weights .* another folder"):
        EmbeddingFolder(tmp_path).check(unknown)


def test_parts_of_unknown_provenance_are_read_together(tmp_path):
    folder = EmbeddingFolder(tmp_path)
    folder.start({"version": "1"}, SIZE, torch.float32)
    write(folder, "a")
    write(folder, "b")
    stored = StoredFolder(tmp_path)
    assert sorted(name for name, _ in stored.clips()) == ["a", "b"]


def test_other_size_and_dtype_are_refused(folder):
    with pytest.raises(ValueError, match=r"embedding_size: 8, now 9\n  dtype: 'float32', now 'u"):
        folder.start(PROVENANCE, 9, torch.uint8)
    with pytest.raises(ValueError, match=r"float32 and shape \(examples, 8\), got .*uint8"):
        folder.write_part({"a": output("a", dtype=torch.uint8)})
    assert visible(folder) == []


def test_foreign_content_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("private")
    with pytest.raises(ValueError, match=r"has other content, such as 'notes\.txt'; choose"):
        EmbeddingFolder(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt' is a file"):
        EmbeddingFolder(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_new_folder_is_made_by_start(tmp_path):
    folder = EmbeddingFolder(tmp_path / "a" / "b")
    folder.check(PROVENANCE)
    assert folder.manifest is None
    assert list(folder.completed_ids()) == []
    with pytest.raises(ValueError, match="Expected `start` before `write_part`"):
        folder.write_part({"a": output("a")})
    assert list(tmp_path.iterdir()) == []
    folder.start(PROVENANCE, SIZE, torch.float32)
    assert folder.manifest["provenance"]["config"] == {"conv_channels": [4, 8]}
    folder.start(PROVENANCE, SIZE, torch.float32)


# Several processes


def test_parts_never_collide(tmp_path):
    barrier = threading.Barrier(8)
    errors = []

    def run(number):
        try:
            barrier.wait()
            folder = EmbeddingFolder(tmp_path)  # all of one rank, as two runs at the same time
            folder.start(PROVENANCE, SIZE, torch.float32)
            for part in range(5):
                write(folder, f"{number}-{part}", failed={f"bad {number}-{part}": "broken"})
        except BaseException as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    folder = EmbeddingFolder(tmp_path)
    assert len(visible(folder)) == 40
    assert folder.finish() == 40
    assert len(folder.failed()) == 40


def test_parts_of_a_rank_stand_together(folder):
    for rank in (1, 0, 1):
        write(folder, f"{rank}", rank=rank)
    assert [name.rpartition("-")[0] for name in visible(folder)] == [
        "part-00000-00000",
        "part-00001-00000",
        "part-00001-00001",
    ]


def test_a_part_of_a_name_replaces_itself(folder):
    name = part_name(["a", "b", "c", "d"])
    failed = {"c": "gone", "d": "gone"}
    folder.write_part({"a": output("a", 0), "b": output("b")}, failed, name=name)
    folder.write_part({"a": output("a"), "b": output("b"), "c": output("c")}, {}, name=name)
    assert visible(folder) == [f"{name}.parquet"]
    check_rows(pyarrow.dataset.dataset(folder.path).to_table(), ["a", "b", "c"])
    assert folder.failed() == {"d": "gone"}
    assert folder.finish() == 3
    assert sorted(folder.completed_ids()) == ["a", "b", "c"]


def test_the_newest_reason_counts(folder):
    names = sorted((part_name(["a"]), part_name(["a", "b"])), reverse=True)
    for number, name in enumerate(names):
        folder.write_part({}, {"a": f"reason {number}"}, name=name)
        os.utime(folder.path / f".failed.{name}.jsonl", ns=(number, number))
    assert folder.failed() == {"a": "reason 1"}
    folder.finish()
    assert folder.failed() == {"a": "reason 1"}


def test_the_same_weights_by_another_name(tmp_path):
    folder = EmbeddingFolder(tmp_path / "out")
    made_by = {"model": "a", "weights_sha256": "1f"}
    folder.start(made_by, SIZE, torch.float32)
    folder.start({**made_by, "model": "a/"}, SIZE, torch.float32)
    with pytest.raises(ValueError, match="weights_sha256: '1f', now '2f'"):
        folder.start({**made_by, "weights_sha256": "2f"}, SIZE, torch.float32)


def test_names_follow_from_the_ids():
    name = part_name(["a", "b"])
    assert name == part_name(iter(["b", "a"]))
    others = [part_name(ids) for ids in (["ab"], ["a", "b", ""], ["a"], ['a", "b'], [])]
    assert len({name, *others}) == 6
    assert part_name(["caf\udce9"]) != part_name(["café"])


def test_two_writers_of_a_part(folder):
    # A task that is thought dead, and is not, beside the one that was started in its place.
    name = part_name(["a", "b"])
    reached, go_on = threading.Event(), threading.Event()

    class Slow(dict):
        def __getitem__(self, clip):
            reached.set()
            assert go_on.wait(60)
            return super().__getitem__(clip)

    clips = {clip: output(clip) for clip in "ab"}
    slow = threading.Thread(target=folder.write_part, args=(Slow(clips),), kwargs={"name": name})
    slow.start()
    assert reached.wait(60)
    folder.write_part(clips, name=name)
    before = (folder.path / f"{name}.parquet").stat().st_ino
    go_on.set()
    slow.join()
    assert (folder.path / f"{name}.parquet").stat().st_ino != before
    check_rows(pyarrow.dataset.dataset(folder.path).to_table(), ["a", "b"])
    assert not list(folder.path.glob(".*.unfinished"))


def test_what_killed_processes_left_is_not_seen_and_goes(folder):
    write(folder, "a")
    for name in (".part-00000-00001-0123abcd.parquet", ".failed.part-00001.jsonl"):
        (folder.path / f"{name}.4567.unfinished").write_bytes(b"half")
    (folder.path / ".merged.01.unfinished").mkdir()
    (folder.path / ".merged.01.unfinished" / "0.parquet").write_bytes(b"half")
    (folder.path / ".part-0123456789abcdef.01.unfinished").mkdir()
    (folder.path / ".part-0123456789abcdef.01.unfinished" / "rows.parquet").write_bytes(b"half")
    assert len(list(folder.path.glob(".*.unfinished"))) == 4
    assert list(folder.completed_ids()) == ["a"]
    check_rows(pyarrow.dataset.dataset(folder.path).to_table(), ["a"])
    folder.finish()
    assert not list(folder.path.glob(".*.unfinished"))
    assert list(folder.completed_ids()) == ["a"]


def test_an_exception_leaves_no_part(folder):
    clips = {"a": output("a"), "b": VGGishOutput(torch.zeros(2, 99), torch.zeros(2))}
    with pytest.raises(ValueError, match="of 'b'"):
        folder.write_part(clips)
    assert [path.name for path in folder.path.iterdir()] == [".embeddings.json"]


@pytest.mark.parametrize("merge", [False, True])
def test_each_clip_once(folder, merge):
    write(folder, "b", "a", "c", rank=0)
    write(folder, "c", "d", "a", rank=1)  # what a sampler repeats
    write(folder, "d", rank=2)
    assert sorted(folder.completed_ids()) == ["a", "a", "b", "c", "c", "d", "d"]
    assert folder.finish(merge=merge) == 4
    check_rows(pyarrow.dataset.dataset(folder.path).to_table(), ["a", "b", "c", "d"])
    assert len(visible(folder)) == (1 if merge else 3)  # the newest part keeps a clip
    assert folder.finish(merge=merge) == 4


def test_merge_sorts_and_resumes(folder, monkeypatch):
    monkeypatch.setattr(parts, "_OPEN_FILES", 2)
    names = [f"{number * 7 % 20:02}" for number in range(20)] + ["é", "z", "日本", "😀"]
    for name in names:
        write(folder, name)
    assert folder.finish(merge=True) == len(names)
    assert visible(folder) == ["embeddings.parquet"]
    table = pq.read_table(folder.path / "embeddings.parquet")
    check_rows(table, names)
    assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
    write(folder, "00", "aa")  # a later run
    assert folder.finish(merge=True) == len(names) + 1
    assert visible(folder) == ["embeddings.parquet"]
    table = pq.read_table(folder.path / "embeddings.parquet")
    check_rows(table, [*names, "aa"])
    assert table["id"].to_pylist() == sorted(table["id"].to_pylist())


def test_a_merge_that_was_killed_before_it_deleted(folder):
    write(folder, "b", "a")
    write(folder, "c")
    parts = {path: path.read_bytes() for path in folder.path.glob("part-*")}
    folder.finish(merge=True)
    for path, content in parts.items():
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))
    assert folder.finish() == 3
    assert visible(folder) == ["embeddings.parquet"]
    check_rows(pyarrow.dataset.dataset(folder.path).to_table(), ["a", "b", "c"])


def test_finish_without_a_part(tmp_path):
    assert EmbeddingFolder(tmp_path / "none").finish(merge=True) == 0
    assert not (tmp_path / "none").exists()
    folder = EmbeddingFolder(tmp_path / "out")
    folder.start(PROVENANCE, SIZE, torch.float32)
    folder.write_part({}, {"a": "broken"})
    assert folder.finish(merge=True) == 0
    assert folder.failed() == {"a": "broken"}


def test_a_damaged_part_is_named(folder):
    (folder.path / "part-00000-00000-01234567.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"part-00000-00000-01234567.parquet'; delete it"):
        list(folder.completed_ids())


# Files that have changed


def test_sources_are_kept(folder):
    clips = {"a": output("a"), "b": output("b"), "short": output("short", 0)}
    folder.write_part(clips, sources={"a": (1, 2**60), "short": (3, 4)})
    write(folder, "c")
    expected = {"a": (1, 2**60), "b": None, "c": None, "short": (3, 4)}
    for merge in (False, True, True):
        folder.finish(merge=merge)
        assert {clip.id: clip.source for clip in folder.completed()} == expected
    folder.write_part({"d": output("d")}, sources={"d": (5, 6)})
    folder.finish(merge=True)
    assert {clip.id: clip.source for clip in folder.completed()} == {**expected, "d": (5, 6)}


def test_the_newest_rows_count(folder):
    folder.write_part({"a": output("a"), "b": output("b")}, name=part_name(["a", "b"]))
    folder.write_part({"a": output("z"), "c": output("c")}, name=part_name(["a", "c"]))
    for age, name in enumerate((part_name(["a", "c"]), part_name(["a", "b"]))):
        path = folder.path / f"{name}.parquet"
        os.utime(path, ns=(0, 10**18 - age))
    assert folder.finish() == 3
    (rows,) = [
        table.to_pylist()
        for part in folder.path.glob("part-*")
        if "a" in (table := pq.read_table(part, filters=[("id", "==", "a")]))["id"].to_pylist()
    ]
    assert [row["embedding"] for row in rows] == output("z").embeddings.tolist()
    # One that loses rows does not become the newest.
    times = [path.stat().st_mtime_ns for path in folder.path.glob("part-*")]
    assert sorted(times) == [10**18 - 1, 10**18]


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "{",
        "nothing",
        "[" * 100_000,
        "\xff",
        '{"id": "a"}',
        '{"id": 1, "reason": null}',
        '{"id": "a", "reason": 3}',
        '{"id": "a", "reason": null, "source": [1]}',
    ],
    ids=lambda line: line[:20],
)
def test_a_damaged_list_of_failures_is_named(folder, line):
    write(folder, failed={"a": "broken"})
    folder.finish()
    content = folder.failed_path.read_bytes()
    folder.failed_path.write_bytes(content + line.encode("latin-1") + b"\n")
    for use in (folder.failed, folder.finish, lambda: list(folder.completed_ids())):
        with pytest.raises(ValueError, match=r"in line 2 of '.*\.failed\.jsonl'; delete the line"):
            use()
    folder.failed_path.write_bytes(content)
    assert folder.failed() == {"a": "broken"}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": [1, "2"]}'])
def test_damaged_sources_are_named(folder, text):
    write(folder, "a")
    (part,) = folder.path.glob("*.parquet")
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({"vggish_hf_sources": text}), part)
    with pytest.raises(ValueError, match=r"part-.*parquet'; delete it"):
        list(folder.completed_ids())


def test_one_job_at_a_time(folder):
    with (
        folder.lock(),
        pytest.raises(OSError, match=f"process {os.getpid()} on .* since .* is writing"),
        EmbeddingFolder(folder.path).lock(),
    ):
        pass
    with EmbeddingFolder(folder.path).lock():
        assert (folder.path / ".embeddings.lock").exists()
    assert not (folder.path / ".embeddings.lock").exists()
    with EmbeddingFolder(folder.path / "new").lock():
        pass
