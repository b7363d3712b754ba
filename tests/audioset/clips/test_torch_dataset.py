import numpy as np
import pytest
import torch
from clip_sources import AUDIO, IDS, SPEECH, write_csv, write_folder
from datasets import Value

from vggish_hf import VGGishFeatureExtractor
from vggish_hf.audio import AudioError, load_audio
from vggish_hf.audioset import AudioSetClips, AudioSetClipsDataset

OGG = AUDIO / "librosa__198-209-0000.ogg"  # 13.9 s, 22.05 kHz


@pytest.fixture
def split(tmp_path):
    files = {f"{IDS[0]}.wav": SPEECH, f"{IDS[1]}.ogg": OGG.read_bytes()}
    folder = write_folder(tmp_path / "audio", files)
    csv = write_csv(tmp_path / "eval_segments.csv", {IDS[0]: (0, 4), IDS[1]: (2, 12)})
    builder = AudioSetClips(csv, folder, cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    return builder.as_dataset(split="eval")


def test_clips_are_waveforms(split):
    dataset = AudioSetClipsDataset(split)
    assert len(dataset) == 2
    first, second = dataset[0], dataset[1]
    assert first["video_id"] == IDS[0]
    assert (first["start_time_seconds"], first["end_time_seconds"]) == (0.0, 4.0)
    assert first["waveform"].equal(load_audio(SPEECH)[0])
    assert first["target"].nonzero().flatten().tolist() == [0, 451]
    assert first["target"].shape == (527,)
    assert second["waveform"].shape == (160_000,)  # resampled
    assert VGGishFeatureExtractor()(second["waveform"]).shape == (10, 96, 64)


def test_another_rate(split):
    clip = AudioSetClipsDataset(split, sampling_rate=22_050)[1]
    waveform = clip["waveform"]
    assert clip["sampling_rate"] == 22_050
    whole, rate = load_audio(OGG)
    assert np.array_equal(waveform, whole[2 * rate : 12 * rate])


def test_each_at_its_own_rate(split):
    first, second = AudioSetClipsDataset(split, sampling_rate=None, seconds=6)
    assert (first["sampling_rate"], second["sampling_rate"]) == (16_000, 22_050)
    assert (len(first["waveform"]), len(second["waveform"])) == (96_000, 132_300)
    assert second["waveform"].equal(load_audio(OGG)[0][44_100:176_400])


def test_clips_may_be_decoded_in_processes_of_their_own(split, tmp_path):
    expected = AudioSetClipsDataset(split)[1]["waveform"]
    isolated = AudioSetClipsDataset(split, isolated=True)
    assert torch.equal(isolated[1]["waveform"], expected)
    loader = torch.utils.data.DataLoader(isolated, batch_size=None, num_workers=1)
    assert torch.equal(list(loader)[1]["waveform"], expected)
    assert isolated._decoders.here()._idle  # which one process has decoded for


def test_clips_of_one_length_make_batches(split):
    loader = torch.utils.data.DataLoader(AudioSetClipsDataset(split, seconds=6), batch_size=2)
    (batch,) = loader
    assert batch["waveform"].shape == (2, 96_000)
    assert batch["target"].shape == (2, 527)
    assert batch["video_id"] == list(IDS[:2])
    assert batch["waveform"][0, 64_000:].eq(0).all()
    assert batch["waveform"][0, :64_000].equal(load_audio(SPEECH)[0])
    whole = AudioSetClipsDataset(split)[1]["waveform"]
    assert batch["waveform"][1].equal(whole[:96_000])


def test_selected_and_shuffled_splits(split):
    dataset = AudioSetClipsDataset(split.select([1]))
    assert [clip["video_id"] for clip in dataset] == [IDS[1]]
    with pytest.raises(IndexError):
        dataset[1]


def test_a_clip_that_cannot_be_decoded_is_named(split, tmp_path):
    (tmp_path / "audio" / f"{IDS[0]}.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=f"{IDS[0]}: .*cannot open|{IDS[0]}: neither"):
        AudioSetClipsDataset(split)[0]


def test_other_datasets_are_refused(split):
    with pytest.raises(
        ValueError, match=r"Expected a column `labels` of List, .* got the columns video_id: "
    ):
        AudioSetClipsDataset(split.remove_columns("labels"))
    with pytest.raises(ValueError, match=r"Expected a datasets\.Dataset, got IterableDataset"):
        AudioSetClipsDataset(split.to_iterable_dataset())


@pytest.mark.parametrize("is_cast", [False, True])
def test_a_renamed_or_cast_column_is_named(split, is_cast):
    name = "audio" if is_cast else "sound"
    if is_cast:
        split = split.cast_column("audio", {"bytes": Value("binary"), "path": Value("string")})
    else:
        split = split.rename_column("audio", "sound")
    with pytest.raises(ValueError, match=rf"Expected a column `audio` of Audio, .*, {name}: "):
        AudioSetClipsDataset(split)
