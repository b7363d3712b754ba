"""The exported folder, opened by `datasets` in processes that have nothing of ours."""

import io
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from clip_sources import AUDIO, IDS, SPEECH, write_csv, write_folder, write_parquet, write_tar
from datasets import Audio, load_dataset

from vggish_hf.audioset import export_clips
from vggish_hf.audioset.clips.tables import clip_features

OGG = (AUDIO / "librosa__198-209-0000.ogg").read_bytes()

# What somebody runs who has `datasets`, without torchcodec and without ours.
READER = """
import pickle, sys
sys.modules["vggish_hf"] = sys.modules["torchcodec"] = None
from datasets import Audio, load_dataset
path, *streaming = sys.argv[1:]
dataset = load_dataset(path, "clips", split="eval", streaming=bool(streaming))
assert dataset.features["audio"] == Audio(), dataset.features["audio"]
assert dataset.features["labels"].feature.int2str(0) == "Speech"
rows = list(dataset.cast_column("audio", Audio(decode=False)))
sys.stdout.buffer.write(pickle.dumps(rows))
"""


@pytest.fixture
def csv(tmp_path):
    times = {IDS[0]: (0, 4), IDS[1]: (2, 12), IDS[2]: (30, 40), IDS[3]: (5, 9)}
    return write_csv(tmp_path / "eval_segments.csv", times)


@pytest.fixture
def folder(tmp_path):
    """A clip, a whole video, a file that is no audio, and nothing of the fourth clip."""
    files = {f"{IDS[0]}.wav": SPEECH, f"Y{IDS[1]}.ogg": OGG, f"{IDS[2]}.wav": b"no audio"}
    return write_folder(tmp_path / "audio", files)


def load_elsewhere(path, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path), *arguments], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [[], ["streaming"]])
def test_plain_datasets_opens_it(csv, folder, tmp_path, streaming):
    export_clips(csv, folder, tmp_path / "out")
    whole, cut = load_elsewhere(tmp_path / "out", *streaming)
    assert whole == {
        "video_id": IDS[0],
        "start_time_seconds": 0.0,
        "end_time_seconds": 4.0,
        "labels": [0, 451],
        "audio": {"bytes": SPEECH, "path": f"{IDS[0]}.wav"},  # byte for byte
    }
    assert cut["video_id"] == IDS[1]
    assert cut["audio"]["path"] == f"{IDS[1]}.wav"
    samples, rate = soundfile.read(io.BytesIO(cut["audio"]["bytes"]), dtype="float32")
    expected, _ = soundfile.read(io.BytesIO(OGG), dtype="float32")
    assert np.array_equal(samples, expected[2 * rate : 12 * rate])


def test_torchcodec_decodes_it(csv, folder, tmp_path):
    pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError, OSError))
    export_clips(csv, folder, tmp_path / "out")
    dataset = load_dataset(
        str(tmp_path / "out"), "clips", split="eval", cache_dir=str(tmp_path / "cache")
    )
    assert dataset.features == clip_features()
    lengths = [audio.get_all_samples().data.shape[1] for audio in dataset["audio"]]
    assert lengths == [64_000, 220_500]


def test_failed_clips_are_listed(csv, folder, tmp_path):
    done = export_clips(csv, folder, tmp_path / "out")
    assert done.clips == 2
    assert [entry.video_id for entry in done.left_out] == [IDS[3], IDS[2]]
    assert done.report == tmp_path / "out" / "failed_clips_eval.csv"
    lines = done.report.read_text().splitlines()
    assert lines[0] == "video_id,reason"
    assert [line.split(",")[0] for line in lines[1:]] == [IDS[3], IDS[2]]


@pytest.mark.parametrize(
    "kind",
    [
        "tar",
        pytest.param("tar.gz", marks=pytest.mark.slow),
        pytest.param("parquet", marks=pytest.mark.slow),
    ],
)
def test_archives_give_what_their_files_give(csv, folder, tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    files = {IDS[0]: SPEECH, IDS[1]: OGG, IDS[2]: b"no audio"}
    if kind == "parquet":
        write_parquet(path, files)
    else:
        write_tar(path, {f"{name}.wav": data for name, data in files.items()})
    export_clips(csv, folder, tmp_path / "a")
    export_clips(csv, path, tmp_path / "b")
    rows = [pq.read_table(tmp_path / out / "clips")["video_id"].to_pylist() for out in "ab"]
    assert rows[0] == rows[1] == list(IDS[:2])
    audio = [pq.read_table(tmp_path / out / "clips")["audio"].to_pylist() for out in "ab"]
    assert [clip["bytes"][:44] for clip in audio[0]] == [clip["bytes"][:44] for clip in audio[1]]


@pytest.mark.slow
def test_files_hold_so_many_clips(csv, folder, tmp_path):
    done = export_clips(csv, folder, tmp_path / "out", file_clips=1)
    assert [path.name for path in done.files] == [f"eval-{i:05}-of-00003.parquet" for i in range(3)]
    assert [pq.read_metadata(path).num_rows for path in done.files] == [1, 1, 0]
    assert len(load_elsewhere(tmp_path / "out")) == 2


def test_splits_stand_side_by_side(csv, folder, tmp_path):
    export_clips(csv, folder, tmp_path / "out")
    other = write_csv(tmp_path / "balanced_train_segments.csv", {IDS[0]: (0, 4)})
    export_clips(other, folder, tmp_path / "out")
    loaded = load_dataset(str(tmp_path / "out"), "clips", cache_dir=str(tmp_path / "cache"))
    loaded = loaded.cast_column("audio", Audio(decode=False))
    assert {split: rows["video_id"][:] for split, rows in loaded.items()} == {
        "eval": list(IDS[:2]),
        "bal_train": [IDS[0]],
    }


@pytest.mark.slow
def test_a_killed_run_is_resumed(tmp_path):
    ids = [f"{i:011}" for i in range(80)]
    csv = write_csv(tmp_path / "eval_segments.csv", dict.fromkeys(ids, (1, 2)))
    folder = write_folder(tmp_path / "audio", {f"{i}.wav": SPEECH for i in ids})
    (folder / f"{ids[0]}.wav").write_bytes(b"no audio")
    code = (
        "import sys; from vggish_hf.audioset import export_clips\n"
        "export_clips(*sys.argv[1:], file_clips=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, csv, folder, tmp_path / "out"], stderr=subprocess.DEVNULL
    )
    first = tmp_path / "out" / "clips" / "eval-00000-of-00080.parquet"
    deadline = time.monotonic() + 60
    while not first.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "README.md").exists()
    made = first.stat().st_ino
    done = export_clips(csv, folder, tmp_path / "out", file_clips=1)
    assert first.stat().st_ino == made
    assert done.clips == 79
    assert [entry.video_id for entry in done.left_out] == [ids[0]]  # the first run found it
    export_clips(csv, folder, tmp_path / "at once", file_clips=1)
    assert content(tmp_path / "out") == content(tmp_path / "at once")


def test_other_clips_do_not_mix(csv, folder, tmp_path):
    export_clips(csv, folder, tmp_path / "out")
    before = content(tmp_path / "out")
    os.utime(folder / f"{IDS[0]}.wav", (0, 0))
    with pytest.raises(ValueError, match="another source or other options"):
        export_clips(csv, folder, tmp_path / "out")
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "../eval"}, "Expected a split named by letters"),
        ({"split": "a-b"}, "Expected a split named by letters"),
        ({"file_clips": 0}, "Expected `file_clips` of at least 1, got 0"),
    ],
)
def test_arguments_are_checked(csv, folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_clips(csv, folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_a_finished_export_is_noticed(csv, folder, tmp_path):
    done = export_clips(csv, folder, tmp_path / "out", file_clips=1)
    whole = done.files[1].read_bytes()
    column = pq.read_metadata(done.files[1]).row_group(0).column(4)
    at = column.dictionary_page_offset + column.total_compressed_size // 2
    for damaged in (whole[:at] + b"damage" + whole[at + 6 :], whole[:at], b""):
        done.files[1].write_bytes(damaged)
        with pytest.raises(
            ValueError, match=rf"{done.files[1]} is not a complete Parquet file: .*; delete it and"
        ):
            export_clips(csv, folder, tmp_path / "out", file_clips=1)
    done.files[1].unlink()
    assert export_clips(csv, folder, tmp_path / "out", file_clips=1) == done
    assert done.files[1].read_bytes() == whole
