import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from clip_sources import AUDIO, IDS, SPEECH, write_csv, write_folder
from datasets import load_dataset
from processes import only_decoders_of_their_own

from vggish_hf import VGGishConfig, VGGishFeatureExtractor, VGGishModel, VGGishPipeline
from vggish_hf.audio import load_audio
from vggish_hf.audioset import (
    AudioSetEmbeddings,
    RecordReader,
    embed_clips,
    export_clips,
    parse_audioset,
)
from vggish_hf.audioset.clips.embed import find_exported
from vggish_hf.audioset.clips.tables import clip_features

OGG = (AUDIO / "librosa__198-209-0000.ogg").read_bytes()  # 13.9 s, 22.05 kHz
SHORT = (AUDIO / "iver56__digital_silence.wav").read_bytes()  # 0.6 s


@pytest.fixture
def pipeline(small_model_folder):
    return VGGishPipeline.from_pretrained(small_model_folder)


@pytest.fixture
def csv(tmp_path):
    times = {IDS[0]: (0, 4), IDS[1]: (2, 12), IDS[2]: (30, 40), IDS[3]: (5, 9)}
    return write_csv(tmp_path / "eval_segments.csv", times)


@pytest.fixture
def folder(tmp_path):
    """A clip, a whole video, a file that is no audio, and a clip of which little is left."""
    files = {
        f"{IDS[0]}.wav": SPEECH,
        f"Y{IDS[1]}.ogg": OGG,
        f"{IDS[2]}.wav": b"no audio",
        f"{IDS[3]}_5_9.wav": SHORT,
    }
    return write_folder(tmp_path / "audio", files)


@pytest.fixture
def exported(csv, folder, tmp_path):
    export_clips(csv, folder, tmp_path / "clips", file_clips=2)
    return tmp_path / "clips"


def records(folder):
    """The clips of the TFRecord files, by id."""
    found = [
        parse_audioset(data) for path in folder.glob("*/*.tfrecord") for data in RecordReader(path)
    ]
    return {record.video_id: record for record in found}


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_rows_are_those_of_the_pipeline(exported, pipeline, tmp_path):
    with only_decoders_of_their_own():
        done = embed_clips(exported, pipeline, tmp_path / "out")["eval"]
    whole, rate = load_audio(OGG)
    expected = {
        IDS[0]: pipeline(SPEECH, postprocess="uint8"),
        IDS[1]: pipeline((whole[2 * rate : 12 * rate], rate), postprocess="uint8"),
        IDS[3]: pipeline(SHORT, postprocess="uint8"),
    }
    found = records(tmp_path / "out")
    assert found.keys() == expected.keys()
    for video_id, record in found.items():
        assert np.array_equal(record.embedding, expected[video_id].embeddings)
        assert record.labels == (0, 451)
    assert [len(found[video_id].embedding) for video_id in expected] == [4, 10, 1]
    assert (found[IDS[1]].start_time_seconds, found[IDS[1]].end_time_seconds) == (2, 12)
    assert (done.clips, done.left_out) == (3, [])  # the export lacks the fourth


def test_both_forms_are_read_as_the_release_is(exported, pipeline, tmp_path):
    out = tmp_path / "out"
    embed_clips(exported, pipeline, out)
    assert sorted(path.name for path in (out / "eval").glob("*.tfrecord")) == [
        "-_.tfrecord",
        "_-.tfrecord",
        "dd.tfrecord",
    ]
    builder = AudioSetEmbeddings(out, cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    built = builder.as_dataset(split="eval")
    loaded = load_dataset(str(out), "embeddings", split="eval", cache_dir=str(tmp_path / "cache"))
    assert built.features == loaded.features
    assert sorted(map(str, built)) == sorted(map(str, loaded))
    assert loaded["video_id"][:] == [IDS[0], IDS[1], IDS[3]]


@pytest.mark.slow
def test_audio_and_its_csv_give_the_same(csv, folder, exported, pipeline, tmp_path):
    embed_clips(exported, pipeline, tmp_path / "a")
    done = embed_clips(folder, pipeline, tmp_path / "b", segments=csv)["eval"]
    assert [entry.video_id for entry in done.left_out] == [IDS[2]]
    assert "Format not recognised" in done.left_out[0].reason
    assert done.report.read_text().count("\n") == 2
    a, b = content(tmp_path / "a" / "eval"), content(tmp_path / "b" / "eval")
    assert a == b


def test_says_what_it_was_made_with(exported, pipeline, tmp_path):
    done = embed_clips(exported, pipeline, tmp_path / "out")["eval"]
    provenance = json.loads((tmp_path / "out" / "eval" / "provenance.json").read_text())
    assert provenance == json.loads(json.dumps(pipeline.provenance("uint8")))
    (path,) = done.files
    metadata = json.loads(pq.read_metadata(path).metadata[b"vggish_hf"])
    assert metadata["weights_sha256"] == pipeline.weights_sha256


def test_a_later_run_resumes(exported, pipeline, tmp_path):
    out = tmp_path / "out"
    first = embed_clips(exported, pipeline, out, file_clips=1)["eval"]
    before = content(out)
    assert len(first.files) == 3
    first.files[1].unlink()
    (out / "eval" / "dd.tfrecord").unlink()
    nodes = [path.stat().st_ino for path in (first.files[0], first.files[2])]
    again = embed_clips(exported, pipeline, out, file_clips=1)["eval"]
    assert again == first
    assert content(out) == before
    assert [path.stat().st_ino for path in (first.files[0], first.files[2])] == nodes


def test_other_weights_do_not_mix(exported, pipeline, small_model, tmp_path):
    embed_clips(exported, pipeline, tmp_path / "out")
    before = content(tmp_path / "out")
    torch.manual_seed(1)
    model = VGGishModel(replace(small_model.config))
    VGGishPipeline(VGGishFeatureExtractor(), model).save_pretrained(tmp_path / "other")
    other = VGGishPipeline.from_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="another source or other options"):
        embed_clips(exported, other, tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_a_file_longer_than_its_clip_has_no_more_rows(pipeline, tmp_path):
    csv = write_csv(tmp_path / "eval_segments.csv", {IDS[0]: (0, 3), IDS[1]: (2, 4)})
    folder = write_folder(
        tmp_path / "audio", {f"{IDS[0]}.wav": SPEECH, f"{IDS[1]}_2_4.wav": SPEECH}
    )
    embed_clips(folder, pipeline, tmp_path / "out", segments=csv)
    expected = pipeline(SPEECH, postprocess="uint8").embeddings
    for video_id, rows in ((IDS[0], 3), (IDS[1], 2)):
        embedding = records(tmp_path / "out")[video_id].embedding
        assert np.array_equal(embedding, expected[:rows])


def test_a_clip_without_a_row_fails(exported, small_model_folder, tmp_path):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder, padding="none")
    done = embed_clips(exported, pipeline, tmp_path / "out")["eval"]
    assert done.left_out == [(IDS[3], "shorter than one example")]
    assert records(tmp_path / "out").keys() == {IDS[0], IDS[1]}


def test_nothing_at_all_can_be_used(pipeline, tmp_path):
    csv = write_csv(tmp_path / "eval_segments.csv", {IDS[0]: (0, 3)})
    folder = write_folder(tmp_path / "audio", {f"{IDS[0]}.wav": b"no audio"})
    done = embed_clips(folder, pipeline, tmp_path / "out", segments=csv)["eval"]
    assert done.clips == 0
    assert [entry.video_id for entry in done.left_out] == [IDS[0]]


@pytest.mark.slow
def test_splits(exported, csv, folder, pipeline, tmp_path):
    other = write_csv(tmp_path / "balanced_train_segments.csv", {IDS[0]: (0, 4)})
    export_clips(other, folder, exported)
    assert embed_clips(exported, pipeline, tmp_path / "both").keys() == {"bal_train", "eval"}
    done = embed_clips(exported, pipeline, tmp_path / "one", split="bal_train")
    assert done["bal_train"].clips == 1
    assert not (tmp_path / "one" / "eval").exists()
    with pytest.raises(ValueError, match="Expected a split among bal_train, eval, got 'train'"):
        embed_clips(exported, pipeline, tmp_path / "one", split="train")


def test_the_pipeline_must_embed_as_the_release_does(exported, small_model_folder, tmp_path):
    extractor = VGGishFeatureExtractor()
    sizes = {"conv_channels": (4, 4, 8, 8, 8, 8), "hidden_size": 16}
    plain = VGGishPipeline(extractor, VGGishModel(VGGishConfig(**sizes)))
    narrow = VGGishPipeline(extractor, VGGishModel(VGGishConfig(**sizes, embedding_size=16)))
    dense = VGGishPipeline.from_pretrained(small_model_folder, example_hop_seconds=0.48)
    for pipeline, message in (
        (plain, "Expected a model with a post-processor"),
        (narrow, r"Expected a model of 128 dimensions .*; got 16, each 0\.96 s"),
        (dense, r"with an example per 0\.96 s, .*; got 128, each 0\.48 s"),
    ):
        with pytest.raises(ValueError, match=message):
            embed_clips(exported, pipeline, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Folders that somebody else has made.


def hostile(folder, **values):
    row = {
        "video_id": IDS[0],
        "start_time_seconds": 0.0,
        "end_time_seconds": 4.0,
        "labels": [0],
        "audio": {"bytes": SPEECH, "path": f"{IDS[0]}.wav"},
    }
    (folder / "clips").mkdir(parents=True)
    path = folder / "clips" / "eval-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist([row | values], clip_features().arrow_schema), path)
    return folder


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"video_id": "../../../etc"}, "Expected a YouTube id"),
        ({"video_id": "a/b/c/d/e/f"}, "Expected a YouTube id"),
        ({"video_id": None}, "to be a file of `export-clips`"),
        ({"labels": [527]}, "Expected labels of 0 to 526"),
        ({"labels": [-1]}, "Expected labels of 0 to 526"),
        ({"labels": None}, "to be a file of `export-clips`"),
        ({"end_time_seconds": float("nan")}, "ends after its start"),
        ({"end_time_seconds": None}, "to be a file of `export-clips`"),
    ],
)
def test_values_of_an_exported_file_are_checked(tmp_path, values, message):
    with pytest.raises(ValueError, match=f"eval-00000-of-00001.parquet .*{message}"):
        find_exported(hostile(tmp_path, **values))


def test_a_path_in_an_exported_file_is_not_followed(pipeline, tmp_path):
    (tmp_path / "secret.wav").write_bytes(SPEECH)
    audio = {"bytes": None, "path": str(tmp_path / "secret.wav")}
    done = embed_clips(hostile(tmp_path / "x", audio=audio), pipeline, tmp_path / "out")["eval"]
    assert done.clips == 0
    assert "a path in a table is not followed" in done.left_out[0].reason


def test_audio_of_an_exported_file_that_cannot_be_decoded(pipeline, tmp_path):
    audio = {"bytes": SPEECH[:44], "path": "x.wav"}
    done = embed_clips(hostile(tmp_path / "x", audio=audio), pipeline, tmp_path / "out")["eval"]
    assert done.left_out == [(IDS[0], "it holds no samples")]


@pytest.mark.parametrize("name", ["missing", "audio"])
def test_other_folders_are_refused(folder, tmp_path, name):
    with pytest.raises(ValueError, match=r"has no clips/SPLIT-\*\.parquet; audio"):
        find_exported(tmp_path / name)


def test_other_files_are_refused(tmp_path):
    path = hostile(tmp_path) / "clips" / "eval-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["labels"]), path)
    with pytest.raises(ValueError, match="to be a file of `export-clips`"):
        find_exported(tmp_path)
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match="to be a file of `export-clips`"):
        find_exported(tmp_path)
