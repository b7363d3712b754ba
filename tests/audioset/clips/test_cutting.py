"""Which files are cut, and that what is cut out of them is what they hold."""

import io
import os
import shutil
import subprocess
from functools import partial

import numpy as np
import pytest
import soundfile
from clip_sources import AUDIO, IDS, SPEECH, write_folder
from processes import only_decoders_of_their_own

from vggish_hf.audio import AudioError, DecoderStartError, IsolatedDecoders, load_audio
from vggish_hf.audioset.clips import cutting
from vggish_hf.audioset.clips.cutting import Clip, cut_clip, read_clips
from vggish_hf.audioset.clips.index import LeftOut, index_clips
from vggish_hf.audioset.clips.names import ClipError
from vggish_hf.audioset.segments import Segment

RATE = 8_000


def segment(start, end):
    return Segment("abcdefghijk", float(start), float(end), (0,))


def noise(seconds, channels=1):
    shape = (round(seconds * RATE), channels)
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape)


def encode(samples, container="WAV", subtype="PCM_16", rate=RATE):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, samples.shape[1], subtype, format=container) as sound:
        for block in np.array_split(samples, 1 + len(samples) // 4000):
            sound.write(block)
    return file.getvalue()


def decode(content, dtype="float64"):
    # At once and without a seek, which soundfile.read makes: in MP3 it loses samples.
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        return sound.read(dtype=dtype, always_2d=True), sound.samplerate


# Which files hold the clip alone.


@pytest.mark.parametrize("length", [0.5, 2, 2.04, 3])
@pytest.mark.parametrize("times", [(0, 2), (30, 32), (1, 3)])
def test_a_file_as_long_as_the_clip_is_the_clip(length, times):
    assert cut_clip(encode(noise(length)), segment(*times)) is None


@pytest.mark.parametrize(
    ("length", "times", "seconds"),
    [
        (8, (3, 5), 2),
        (8, (0, 2), 2),
        (8, (6, 8), 2),
        (8, (7, 9), 1),  # the video ends a second before its clip
        (8, (7.25, 8.75), 0.75),
        (8, (1.25, 4.75), 3.5),
        (8, (7.5, 8.25), 0.5),  # and half of a clip that is shorter
    ],
)
def test_the_clip_is_cut_out_of_the_whole_video(length, times, seconds):
    samples = noise(length)
    cut, rate = decode(cut_clip(encode(samples), segment(*times)))
    assert rate == RATE
    assert len(cut) == seconds * RATE
    whole, _ = decode(encode(samples))
    start = round(times[0] * RATE)
    assert np.array_equal(cut, whole[start : start + len(cut)])


@pytest.mark.parametrize("times", [(7.5, 9.75), (30, 32), (7.75, 8.5)])
def test_what_is_neither_is_refused(times):
    with pytest.raises(ClipError, match=r"longer than the clip, .* would last at least to"):
        cut_clip(encode(noise(8)), segment(*times))


def test_a_file_named_for_the_times_is_the_clip():
    assert cut_clip(encode(noise(8)), segment(3, 5), is_cut=True) is None


@pytest.mark.parametrize("is_cut", [False, True])
def test_what_cannot_be_decoded_is_refused(is_cut):
    whole = encode(noise(2), "FLAC")
    for content in (b"no audio", b"", (AUDIO / "marl__empty.wav").read_bytes(), whole[:9000]):
        with pytest.raises(AudioError):
            cut_clip(content, segment(0, 2), is_cut=is_cut)


# What is cut.


@pytest.mark.parametrize(
    ("container", "subtype", "cut_as"),
    [
        ("WAV", "PCM_U8", ("FLAC", "PCM_S8")),
        ("AIFF", "PCM_S8", ("FLAC", "PCM_S8")),
        ("WAV", "PCM_16", ("FLAC", "PCM_16")),
        ("FLAC", "PCM_16", ("FLAC", "PCM_16")),
        ("WAV", "PCM_24", ("FLAC", "PCM_24")),
        ("WAV", "PCM_32", ("WAV", "PCM_32")),
        ("WAV", "FLOAT", ("WAV", "FLOAT")),
        ("WAV", "DOUBLE", ("WAV", "DOUBLE")),
        ("WAV", "ALAW", ("WAV", "FLOAT")),
        ("OGG", "VORBIS", ("WAV", "FLOAT")),
        ("OGG", "OPUS", ("WAV", "FLOAT")),
        ("MP3", "MPEG_LAYER_III", ("WAV", "FLOAT")),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_cut_loses_nothing(container, subtype, cut_as, channels, monkeypatch):
    monkeypatch.setattr(cutting, "_MAX_BLOCK_VALUES", 3_000)  # many blocks
    content = encode(noise(9, channels), container, subtype)
    cut = cut_clip(content, segment(3.5, 6.25))
    info = soundfile.info(io.BytesIO(cut))
    assert (info.format, info.subtype) == cut_as
    # Integers as they are stored; what a lossy codec decodes to is float32.
    kinds = {"FLOAT": "float32", "DOUBLE": "float64"}
    dtype = kinds.get(cut_as[1], "int32")
    whole, _ = decode(content, dtype)
    samples, rate = decode(cut, dtype)
    assert rate == RATE
    assert samples.shape == (2.75 * RATE, channels)
    assert np.array_equal(samples, whole[round(3.5 * RATE) : round(6.25 * RATE)])


def test_more_channels_than_flac_has():
    content = encode(noise(8, 12), subtype="PCM_24")
    cut = cut_clip(content, segment(3, 5))
    assert soundfile.info(io.BytesIO(cut)).channels == 12
    assert np.array_equal(decode(cut)[0], decode(content)[0][3 * RATE : 5 * RATE])


def test_real_files():
    path = AUDIO / "librosa__198-209-0000.ogg"  # fourteen seconds, 22.05 kHz
    cut, rate = decode(cut_clip(path, segment(2, 12)), "float32")
    whole, _ = decode(path.read_bytes(), "float32")
    assert np.array_equal(cut, whole[2 * rate : 12 * rate])
    assert cut_clip(AUDIO / "facebookresearch__bach.mp3", segment(30, 40)) is None


@pytest.mark.skipif(os.name != "posix", reason="elsewhere names are text")
def test_names_need_not_be_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9") / "x.wav"
    path.parent.mkdir()
    path.write_bytes(SPEECH)
    assert cut_clip(path, segment(1, 2)) == cut_clip(SPEECH, segment(1, 2))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg makes the file")
def test_what_only_ffmpeg_decodes_is_cut(tmp_path):
    pytest.importorskip("torchcodec", exc_type=(ImportError, RuntimeError, OSError))
    (tmp_path / "x.wav").write_bytes(encode(noise(8, 2)))
    path = tmp_path / "x.m4a"
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", tmp_path / "x.wav", path], check=True)
    whole, rate = load_audio(path)
    for content in (path, path.read_bytes()):
        cut, _ = decode(cut_clip(content, segment(3, 5)), "float32")
        assert cut.shape == (2 * RATE, 2)
        assert np.allclose(cut.mean(1), whole[3 * rate : 5 * rate], atol=1e-7)
        with pytest.raises(ClipError, match="would last at least to 32 s"):
            cut_clip(content, segment(30, 32))


def test_a_cut_of_any_size_is_not_held(monkeypatch):
    monkeypatch.setattr(cutting, "MAX_CLIP_BYTES", 10_000)
    with pytest.raises(ClipError, match="at most 10000 are stored"):
        cut_clip(encode(noise(9)), segment(3, 5))


# All of them.


@pytest.fixture
def clips(tmp_path):
    """A file of each kind: a clip, a whole video, no audio, and one named for its times."""
    segments = {video_id: Segment(video_id, 2.0, 4.0, (i,)) for i, video_id in enumerate(IDS)}
    files = {
        f"{IDS[0]}.wav": encode(noise(2)),
        f"{IDS[1]}.wav": SPEECH,
        f"{IDS[2]}.wav": b"no audio",
        f"{IDS[3]}_2000_4000.wav": SPEECH,
    }
    write_folder(tmp_path, files)
    return index_clips(segments, tmp_path)


def by_id(clips):
    return {
        clip.video_id if isinstance(clip, LeftOut) else clip.segment.video_id: clip
        for clip in clips
    }


def test_read_clips(clips, tmp_path):
    found = by_id(read_clips(clips.read(), in_memory=True))
    assert list(found) == [file.segment.video_id for file in clips.read()]
    segments = clips.segments
    assert found[IDS[0]] == Clip(segments[IDS[0]], f"{IDS[0]}.wav", encode(noise(2)))
    assert found[IDS[1]].name == f"{IDS[1]}.flac"
    assert np.array_equal(decode(found[IDS[1]].content)[0], decode(SPEECH)[0][32_000:])
    assert isinstance(found[IDS[2]], LeftOut)
    assert "Format not recognised" in found[IDS[2]].reason
    assert found[IDS[3]] == Clip(segments[IDS[3]], f"{IDS[3]}_2000_4000.wav", SPEECH)


def test_decoders_of_this_process_see_only_what_is_cut(clips):
    before = by_id(read_clips(clips.read(), in_memory=False))

    whole = [file for file in clips.read() if file.segment.video_id != IDS[1]]
    with only_decoders_of_their_own():
        found = by_id(read_clips(whole, in_memory=False))
    assert found == {name: clip for name, clip in before.items() if name != IDS[1]}


def test_a_decoder_that_cannot_be_started_is_no_clips_fault(clips, monkeypatch):
    hasty = partial(IsolatedDecoders, timeout_seconds=1e-6)
    monkeypatch.setattr(cutting, "IsolatedDecoders", hasty)
    with pytest.raises(DecoderStartError):
        list(read_clips(clips.read(), in_memory=False))


def test_files_may_stay_where_they_are(clips, tmp_path):
    found = by_id(read_clips(clips.read(), in_memory=False))
    assert found[IDS[0]].content == tmp_path / f"{IDS[0]}.wav"
    assert isinstance(found[IDS[1]].content, bytes)


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_known_to_be_cut_need_not_be_verified(clips, tmp_path, verify):
    (tmp_path / f"{IDS[3]}_2000_4000.wav").write_bytes(b"no audio")
    found = by_id(read_clips(clips.read(), in_memory=False, verify=verify))
    assert isinstance(found[IDS[3]], LeftOut if verify else Clip)
    assert isinstance(found[IDS[2]], LeftOut)


def test_large_files_are_not_read(clips, monkeypatch):
    monkeypatch.setattr(cutting, "MAX_CLIP_BYTES", len(SPEECH) - 1)
    found = by_id(read_clips(clips.read(), in_memory=True))
    assert found[IDS[3]].reason.startswith(f"the clip has {len(SPEECH)} bytes")
    assert isinstance(found[IDS[1]], Clip)  # of the whole video, the clip is read alone


def test_a_missing_file_fails(clips, tmp_path):
    files = clips.read()
    first = next(files)
    (tmp_path / first.name).unlink()
    (left_out,) = read_clips([first], in_memory=True)
    assert left_out.video_id == first.segment.video_id
    assert "No such audio file" in left_out.reason


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_a_cut_does_not_depend_on_the_time(channels):
    # libsndfile notes when it wrote a WAV of floats.
    content = cut_clip(encode(noise(8, channels), subtype="DOUBLE"), segment(3, 5))
    peak = content.index(b"PEAK")
    assert content[peak + 12 : peak + 16] == bytes(4)
    assert np.array_equal(decode(content)[0], noise(8, channels)[3 * RATE : 5 * RATE])
