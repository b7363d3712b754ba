import os
import subprocess
import sys
from pathlib import Path

import pytest
from clip_sources import AUDIO, IDS, SPEECH, write_csv, write_folder, write_parquet, write_tar
from datasets import Audio, ClassLabel, List, Value

from vggish_hf.audioset import AudioSetClips
from vggish_hf.audioset.clips.index import LeftOut
from vggish_hf.audioset.clips.tables import clip_features

TIMES = {IDS[0]: (0, 4), IDS[1]: (1, 2.5), IDS[2]: (30, 40), IDS[3]: (5, 9)}
MISSING = LeftOut(IDS[3], "there is no file of it, or only one that is named for other times")
OGG = (AUDIO / "librosa__198-209-0000.ogg").read_bytes()


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "eval_segments.csv", TIMES)


@pytest.fixture
def folder(tmp_path):
    """A clip, a whole video, a file that is no audio, and nothing of the fourth clip."""
    files = {f"{IDS[0]}.wav": SPEECH, f"a/Y{IDS[1]}.wav": SPEECH, f"{IDS[2]}.ogg": b"no audio"}
    return write_folder(tmp_path / "audio", files)


@pytest.fixture
def build(csv, folder, tmp_path):
    def run(audio=folder, **options):
        return AudioSetClips(csv, audio, cache_dir=tmp_path / "cache", **options)

    return run


def prepare(builder, **options):
    with pytest.warns(UserWarning, match=r"eval: \d clips failed"):
        builder.download_and_prepare(**options)
    return builder.as_dataset(split="eval")


def encoded(dataset):
    return dataset.cast_column("audio", Audio(decode=False))


def test_features(build):
    dataset = prepare(build())
    assert dataset.features == clip_features()
    assert dataset.features["start_time_seconds"] == Value("float64")
    assert isinstance(dataset.features["labels"], List)
    assert isinstance(dataset.features["labels"].feature, ClassLabel)
    assert dataset.features["audio"] == Audio()


@pytest.mark.parametrize("num_proc", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_clips_and_failed_ones(build, folder, num_proc):
    builder = build()
    assert builder.left_out == [MISSING]
    whole, cut = encoded(prepare(builder, num_proc=num_proc))
    assert whole == {
        "video_id": IDS[0],
        "start_time_seconds": 0.0,
        "end_time_seconds": 4.0,
        "labels": [0, 451],
        "audio": {"bytes": None, "path": str(folder / f"{IDS[0]}.wav")},
    }
    assert cut["video_id"] == IDS[1]
    assert cut["audio"]["path"] == f"{IDS[1]}.flac"
    assert cut["audio"]["bytes"].startswith(b"fLaC")
    missing, undecodable = builder.left_out
    assert missing == MISSING
    assert undecodable.video_id == IDS[2]
    assert "neither libsndfile" in undecodable.reason or "cannot open" in undecodable.reason


def test_a_prepared_split_is_reused_with_its_list(build, folder):
    first = build()
    dataset = prepare(first)
    again = build()
    (folder / f"{IDS[2]}.ogg").unlink()  # would be missed if it were prepared anew
    prepare(again)
    assert again.left_out == first.left_out
    assert Path(again.cache_dir, "left_out.csv").read_text().count("\n") == 3
    changed = build()
    assert changed.cache_dir != first.cache_dir
    assert len(prepare(changed)) == len(dataset)


def test_decodes_when_asked(build):
    pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError, OSError))
    whole, cut = prepare(build())["audio"]
    assert whole.get_all_samples().data.shape == (1, 64_000)
    samples = cut.get_all_samples()
    assert samples.data.shape == (1, 24_000)
    assert samples.data.equal(whole.get_samples_played_in_range(1, 2.5).data)


def test_streams(build):
    stream = build().as_streaming_dataset(split="eval")
    assert stream.num_shards == 3
    with pytest.warns(UserWarning, match=f"1 clips failed.*{IDS[2]}"):
        rows = list(stream.decode(False))
    assert [row["video_id"] for row in rows] == list(IDS[:2])


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "parquet"])
def test_archives(build, tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    files = {IDS[0]: SPEECH, IDS[1]: SPEECH, IDS[2]: b"no audio"}
    if kind == "parquet":
        write_parquet(path, files)
    else:
        write_tar(path, {f"eval/{name}.wav": content for name, content in files.items()})
    builder = build(path)
    whole, cut = encoded(prepare(builder))
    assert whole["audio"]["bytes"] == SPEECH
    assert cut["audio"]["path"] == f"{IDS[1]}.flac"
    assert [entry.video_id for entry in builder.left_out] == [IDS[3], IDS[2]]


def test_no_clip_fails(tmp_path):
    csv = write_csv(tmp_path / "mine.csv", {IDS[0]: (0, 4)})
    folder = write_folder(tmp_path / "audio", {f"{IDS[0]}.wav": SPEECH})
    with pytest.raises(ValueError, match="say which split it is"):
        AudioSetClips(csv, folder)
    builder = AudioSetClips(csv, folder, split="mine", cache_dir=tmp_path / "cache")
    builder.download_and_prepare()  # warns of nothing
    assert builder.left_out == []
    assert builder.as_dataset(split="mine").num_rows == 1


@pytest.mark.slow
def test_needs_no_torchcodec(csv, folder, tmp_path):
    code = (
        "import sys, warnings; sys.modules['torchcodec'] = None; warnings.simplefilter('ignore')\n"
        "from datasets import Audio; from vggish_hf.audioset import AudioSetClips\n"
        "from vggish_hf.audioset import AudioSetClipsDataset\n"
        f"builder = AudioSetClips({str(csv)!r}, {str(folder)!r}, cache_dir={str(tmp_path)!r})\n"
        "builder.download_and_prepare(); dataset = builder.as_dataset(split='eval')\n"
        "print([tuple(c['waveform'].shape) for c in AudioSetClipsDataset(dataset)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.stdout.splitlines()[-1:] == ["[(64000,), (24000,)]"], done.stderr
