"""Every kind of source, real odd files, and headers that claim what is not there."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import wave
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS
from fuzzing import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from vggish_hf.audio import (
    AUDIO_EXTENSIONS,
    DEFAULT_LIMITS,
    AudioError,
    AudioLimits,
    IsolatedDecoders,
    ffmpeg,
    load_audio,
    open_audio,
)
from vggish_hf.audio import blocks as raw_blocks

DATA = TESTS / "data"
CASES = DATA / "audio_cases"

# Rate and samples, counted by other programs: see `info` in index.json.
READABLE = {
    "facebookresearch__bach.mp3": (44_100, 442_368),
    "harritaylor__test.wav": (16_000, 64_000),
    "iver56__digital_silence.wav": (48_000, 29_976),
    "iver56__signed_24bit.wav": (48_000, 54_514),
    "librosa__198-209-0000.ogg": (22_050, 306_717),
    "rochars__32bitIEEE-16kHz-bext-mono.wav": (16_000, 27_429),
    "rochars__8bit-16kHz-bext-mono.wav": (16_000, 219_429),
    "rochars__8bit-alaw-8kHz-noBext-mono-encoded.wav": (8_000, 48_000),
    "rochars__RIFX-16bit-mono.wav": (8_000, 48_000),
    "scipy__test-1234Hz-le-1ch-10S-20bit-extra.wav": (1_234, 10),
    "scipy__test-44100Hz-le-1ch-4bytes-early-eof.wav": (44_100, 236),
}
UNREADABLE = {
    "jiaaro__test1_empty.wav": "it holds no samples",
    "marl__empty.wav": "it holds no samples",
    "scipy__test-44100Hz-le-1ch-4bytes-incomplete-chunk.wav": "libsndfile.*No 'data' chunk",
}
OGG_FLAC = "jiaaro__bach.ogg"  # libsndfile gives up on it, FFmpeg does not

# ADPCM has blocks of its own, and the lossy codecs frames that overlap.
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("AIFF", "PCM_24"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
]

# MP3 decoders differ in what they cut off at the ends: up to one frame of 1152 samples.
MP3_SECONDS = 0.03


def encoded(samples, rate, kind="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    channels = samples.shape[1] if samples.ndim == 2 else 1
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=kind) as sound:
        for first in range(0, len(samples), rate):  # libsndfile crashes on long writes of Vorbis
            sound.write(samples[first : first + rate])
    return file.getvalue()


def wav_header(
    data_bytes, *, channels=1, rate=16_000, bits=16, claimed_bytes=None, format_code=1
) -> bytes:
    claimed = data_bytes if claimed_bytes is None else claimed_bytes
    frame = channels * bits // 8
    layout = (format_code, channels, rate, rate * frame % 2**32, frame % 2**16, bits)
    return b"".join(
        (
            struct.pack("<4sI4s", b"RIFF", (36 + claimed) % 2**32, b"WAVE"),
            struct.pack("<4sIHHIIHH", b"fmt ", 16, *layout),
            struct.pack("<4sI", b"data", claimed),
        )
    )


def noise(*shape):
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.fixture(scope="module")
def stereo():
    """A stereo file in bytes, and what it must decode to: an int16 is a 32768th."""
    values = (noise(4000, 2) * 32768).astype(np.int16)
    return encoded(values, 8000), torch.from_numpy(values / np.float32(32768)).mean(1)


@pytest.fixture
def audio_decoder():
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchcodec or FFmpeg is not here: {str(error).splitlines()[0]}")
    return AudioDecoder


# Real files


def test_the_table_names_every_file():
    files = {path.name for path in CASES.iterdir()} - {"index.json"}
    assert files == {*READABLE, *UNREADABLE, OGG_FLAC}
    assert {os.path.splitext(name)[1] for name in files} <= AUDIO_EXTENSIONS


@pytest.mark.parametrize("name", READABLE)
def test_real_file(name):
    waveform, rate = load_audio(CASES / name)
    assert (rate, len(waveform)) == READABLE[name]
    assert waveform.dtype == torch.float32
    values, _ = soundfile.read(CASES / name, dtype="float32", always_2d=True)
    assert torch.equal(waveform, torch.from_numpy(values).mean(1))


@pytest.mark.parametrize("name", UNREADABLE)
def test_real_file_that_cannot_be_read(name):
    with pytest.raises(AudioError, match=UNREADABLE[name]):
        load_audio(CASES / name)


def test_file_that_libsndfile_cannot_read(audio_decoder):
    waveform, rate = load_audio(CASES / OGG_FLAC)
    whole = audio_decoder(CASES / OGG_FLAC).get_all_samples()
    assert rate == whole.sample_rate
    assert torch.equal(waveform, whole.data.mean(0))


def test_all_shared_files(shared):
    folder = shared / "data" / "audio_cases"
    for entry in json.loads((folder / "index.json").read_text()):
        claim = re.match(r"(\d+) Hz \dch .* ([\d.]+)s$", entry["info"])
        if claim is None or claim[2] == "0.000":
            continue
        waveform, rate = load_audio(folder / entry["file"])
        assert rate == int(claim[1])
        assert len(waveform) / rate == pytest.approx(float(claim[2]), abs=MP3_SECONDS)


def test_pcm16_is_divided_by_32768():
    path = CASES / "harritaylor__test.wav"
    with wave.open(str(path)) as file:
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    waveform, _ = load_audio(path)
    assert np.array_equal(waveform.numpy(), values / np.float32(32768))


# Kinds of sources


def test_paths_and_bytes(stereo, tmp_path):
    content, expected = stereo
    path = tmp_path / "a clip, без имени.xyz"  # the format is told by the content
    path.write_bytes(content)
    for source in (path, str(path), content, bytearray(content), memoryview(content)):
        waveform, rate = load_audio(source)
        assert rate == 8000
        assert torch.equal(waveform, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_path_that_is_no_utf8(stereo, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav")
    with open(path, "wb") as file:
        file.write(stereo[0])
    assert torch.equal(load_audio(os.fsdecode(path))[0], stereo[1])


def test_file_objects(stereo, tmp_path):
    content, expected = stereo
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    with open(path, "rb") as file:
        assert torch.equal(load_audio(file)[0], expected)
        assert not file.closed
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe:
        os.write(writing, content)  # less than a pipe holds
        os.close(writing)
        assert not pipe.seekable()
        assert torch.equal(load_audio(pipe)[0], expected)


def test_file_object_that_breaks_off(stereo):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError("the peer is gone")

    with pytest.raises(ConnectionResetError, match="the peer is gone"):
        load_audio(Broken(stereo[0]))


def test_values_of_an_audio_column_that_is_not_decoded(stereo, tmp_path):
    content, expected = stereo
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    for value in (
        {"bytes": content, "path": None},
        {"bytes": content, "path": "only/a/name.wav"},
        {"bytes": None, "path": str(path)},
        {"path": str(path)},
    ):
        assert torch.equal(load_audio(value)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_arrays(dtype):
    array = torch.from_numpy(noise(2, 500)).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    expected = array.to(wide).mean(0)
    for source in ((array, 8000), {"array": array, "sampling_rate": 8000, "path": None}):
        waveform, rate = load_audio(source)
        assert rate == 8000
        assert waveform.dtype == wide
        assert torch.equal(waveform, expected)
    assert torch.equal(load_audio((array[0], 8000))[0], array[0].to(wide))


def test_numpy_arrays():
    array = noise(2, 500)
    array.flags.writeable = False  # as a memory map or a column in numpy format is
    waveform, rate = load_audio((array, np.int64(8000)))
    assert type(rate) is int
    assert torch.equal(waveform, torch.tensor(array).mean(0))
    assert torch.equal(load_audio((noise(500, 2).T, 8000))[0], torch.tensor(noise(500, 2)).mean(1))


def test_an_array_that_requires_gradients_builds_no_graph():
    waveform, _ = load_audio((torch.zeros(2, 10, requires_grad=True), 8000))
    assert not waveform.requires_grad


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((torch.zeros(10, dtype=torch.int16), 8000), "floats in .* got torch.int16.*32768"),
        ((np.zeros(10, np.uint8), 8000), "floats in .* got torch.uint8"),
        ((torch.zeros(8000, 2), 8000), r"\(8000, 2\).*\(time, channels\); pass its transpose"),
        ((torch.zeros(0), 8000), r"at least one sample, got shape \(0,\)"),
        ((torch.zeros(2, 0), 8000), r"at least one sample, got shape \(2, 0\)"),
        ((torch.zeros(1, 2, 8000), 8000), r"got shape \(1, 2, 8000\)"),
        ((torch.tensor(0.0), 8000), r"got shape \(\)"),
        ((torch.zeros(10), 0), "`sampling_rate`.*got 0"),
        ((torch.zeros(10), -8000), "`sampling_rate`.*got -8000"),
        ((torch.zeros(10), 8000.5), r"`sampling_rate`.*got 8000\.5"),
        ((torch.zeros(10), torch.tensor([8000, 8000])), "`sampling_rate`.*got tensor"),
        ((torch.zeros(10), np.nan), "`sampling_rate`.*got nan"),
        ((torch.zeros(10), np.inf), "`sampling_rate`.*got inf"),
        ((torch.zeros(10), torch.tensor(True)), "`sampling_rate`.*got True"),
        ((torch.zeros(10), None), "`sampling_rate`.*got None"),
    ],
)
def test_array_that_makes_no_clip(source, message):
    with pytest.raises(ValueError, match=message):
        open_audio(source)


@pytest.mark.parametrize("source", [None, 3, object(), [1, 2, 3], {"bytes": None, "path": None}])
def test_source_of_another_kind(source):
    kind = type(source).__name__
    with pytest.raises(TypeError, match=f"Expected audio as a path, .* got {kind}"):
        open_audio(source)


def test_file_object_of_text():
    with pytest.raises(TypeError, match=r"a binary file object, .* got StringIO"):
        open_audio(io.StringIO("RIFF"))


def test_paths_without_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such audio file: 'no\.wav'"):
        open_audio("no.wav")
    with pytest.raises(AudioError, match=re.escape(str(tmp_path))):
        open_audio(tmp_path)


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="everything is allowed to root")
def test_file_that_may_not_be_read(stereo, tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(stereo[0])
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"secret\.wav"):
        open_audio(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e19, -65.0])
def test_samples_that_are_not_finite_or_too_large_are_refused_with_their_place(value):
    rate = 16_000
    samples = noise(25 * rate, 2)
    samples[21 * rate + 8, 1] = value
    array = torch.from_numpy(samples.T)
    sources = [encoded(samples, rate, subtype="FLOAT"), (array, rate), (array.double(), rate)]
    with IsolatedDecoders() as decoders:
        for opener in (open_audio, decoders.open):
            for source in sources:
                blocks = opener(source).blocks
                next(blocks)
                message = r"got (nan|-?inf|1e\+19|-65) .*at sample 336008 \(21\.0005 s\)"
                with pytest.raises(AudioError, match=message) as caught:
                    next(blocks)
                assert ("divide integer PCM" in str(caught.value)) == np.isfinite(value)


def test_loud_music_is_not_refused_and_integers_as_floats_are():
    samples = noise(16_000) * 8  # peaks of 4
    assert torch.equal(load_audio((samples, 16_000))[0], torch.from_numpy(samples))
    scaled = (noise(16_000) * 32768).astype(np.int16).astype(np.float32)
    for source in ((scaled, 16_000), encoded(scaled, 16_000, subtype="FLOAT")):
        with pytest.raises(AudioError, match=r"peaks of at most 64, .*16 bits: 32768"):
            load_audio(source)


@pytest.mark.parametrize(
    "rate",
    [
        16_000.0,
        torch.tensor(16_000),
        torch.tensor([16_000.0]),
        np.float32(16_000),
        np.array(16_000),
    ],
)
def test_rates_that_are_whole_numbers(rate):
    for source in ((noise(10), rate), {"array": noise(10), "sampling_rate": rate}):
        stream = open_audio(source)
        assert stream.sampling_rate == 16_000
        assert type(stream.sampling_rate) is int


# Blocks


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_blocks_together_are_the_whole(kind, subtype, channels, tmp_path):
    path = tmp_path / "clip"
    path.write_bytes(encoded(noise(45 * 8000, channels), 8000, kind, subtype))
    with soundfile.SoundFile(path) as sound:
        whole = sound.read(dtype="float32", always_2d=True)
    blocks = list(open_audio(path).blocks)
    assert [len(block) for block in blocks[:2]] == [160_000, 160_000]
    assert torch.equal(torch.cat(blocks), torch.from_numpy(whole).mean(1))


def test_blocks_of_an_array():
    array = torch.from_numpy(noise(45 * 8000))
    blocks = list(open_audio((array, 8000)).blocks)
    assert [len(block) for block in blocks] == [160_000, 160_000, 40_000]
    assert torch.equal(torch.cat(blocks), array)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="open files cannot be listed")
@pytest.mark.parametrize("blocks_read", [0, 1, 2])
def test_the_file_is_closed_wherever_reading_stops(blocks_read, tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(encoded(noise(25 * 8000), 8000))
    before = os.listdir("/dev/fd")
    stream = open_audio(path)
    assert len(os.listdir("/dev/fd")) == len(before) + 1
    for _ in range(blocks_read):
        next(stream.blocks)
    del stream
    assert os.listdir("/dev/fd") == before


# Headers that lie, and damage


def flac_of_2_to_the_36():
    content = bytearray(encoded(noise(4000), 8000, "FLAC"))
    content[21] |= 15  # the upper 4 of the 36 bits of the number of samples
    content[22:26] = b"\xff" * 4
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "rate", "samples"),
    [
        (wav_header(2000, claimed_bytes=2**31 - 1) + bytes(2000), 16_000, 1000),
        (wav_header(2000, claimed_bytes=2**32 - 2) + bytes(2000), 16_000, 1000),
        (flac_of_2_to_the_36(), 8000, 4000),
        (wav_header(2000, rate=1) + bytes(2000), 1, 1000),
        (wav_header(2000, rate=2**31 - 1) + bytes(2000), 2**31 - 1, 1000),
        (wav_header(2**25, rate=2**31 - 1) + bytes(2**25), 2**31 - 1, 2**24),
        (wav_header(2**25, channels=512) + bytes(2**25), 16_000, 2**15),
        (wav_header(2000, channels=2) + bytes(1998), 16_000, 499),  # ends inside a frame
    ],
    ids=["2^31", "2^32", "2^36", "1 Hz", "2 GHz", "2 GHz, long", "512 channels", "truncated"],
)
def test_memory_follows_the_content_and_not_the_header(content, rate, samples):
    channels = content[22] + 256 * content[23] if content[:4] == b"RIFF" else 1
    tracemalloc.start()
    stream = open_audio(content, AudioLimits(max_channels=1024, max_sampling_rate=2**31))
    assert stream.sampling_rate == rate
    received = 0
    for block in stream.blocks:
        assert len(block) * channels <= 1 << 22
        received += len(block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert received == samples
    assert peak <= 36 << 20  # the block of 16 MiB that is read, and the one before


# Limits


def silence(seconds, rate=1000, kind="FLAC"):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, "PCM_16", format=kind) as sound:
        for _ in range(0, seconds, 600):
            sound.write(np.zeros(600 * rate, np.int16))
    return file.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        *({"max_seconds": value} for value in (0, -1.0, np.nan, np.inf, "60", True)),
        *({"max_channels": value} for value in (0, 1.5, None, True, "2")),
        *({"max_sampling_rate": value} for value in (0, -8000, 8000.0, None)),
    ],
)
def test_limits_that_are_none(values):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"Expected `{name}` to be a positive .*got {value!r}"):
        AudioLimits(**values)


def test_hours_of_silence_stop_at_the_limit():
    content = silence(7200)
    assert len(content) < 100_000
    blocks = open_audio(content, AudioLimits(max_seconds=3600)).blocks
    assert sum(len(next(blocks)) for _ in range(180)) == 3600 * 1000
    message = (
        "Expected audio of at most 3600 seconds, got 3620 or more; raise the limit `max_seconds`"
    )
    with pytest.raises(AudioError, match=message):
        next(blocks)
    for seconds in (7200, None):
        assert len(load_audio(content, AudioLimits(max_seconds=seconds))[0]) == 7200 * 1000


def test_half_a_day_is_the_default_limit():
    assert len(load_audio(silence(43_200, rate=100))[0]) == 4_320_000
    with pytest.raises(AudioError, match="at most 43200 seconds, got 43220 or more"):
        load_audio(silence(43_800, rate=100))


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU"])
def test_the_header_is_believed_where_the_file_holds_what_it_claims(kind):
    with pytest.raises(AudioError, match=r"at most 599\.5 seconds, got 600 or more"):
        open_audio(silence(600, kind=kind), AudioLimits(max_seconds=599.5))


@pytest.mark.parametrize(
    "content", [wav_header(56, claimed_bytes=2**31) + bytes(56), flac_of_2_to_the_36()]
)
def test_a_header_that_lies_fails_no_short_file(content):
    expected, _ = load_audio(content, AudioLimits(max_seconds=None))
    assert torch.equal(load_audio(content, AudioLimits(max_seconds=10))[0], expected)


@pytest.mark.parametrize(
    ("channels", "rate", "message"),
    [
        (33, 16_000, "at most 32 channels, got 33; .* `max_channels`"),
        (1, 768_001, "at most 768000 Hz, got 768001; .* `max_sampling_rate`"),
        (1, 2**31 - 1, "at most 768000 Hz, got 2147483647"),
    ],
)
def test_channels_and_rate_are_refused_before_decoding(channels, rate, message):
    content = wav_header(2**25, channels=channels, rate=rate) + bytes(2**25)
    tracemalloc.start()
    with pytest.raises(AudioError, match=message):
        open_audio(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_channels_and_rate_at_the_limit():
    content = wav_header(6400, channels=32, rate=768_000) + bytes(6400)
    waveform, rate = load_audio(content, DEFAULT_LIMITS)
    assert (rate, len(waveform)) == (768_000, 100)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="open files cannot be listed")
@pytest.mark.parametrize("limits", [AudioLimits(max_channels=1), AudioLimits(max_seconds=0.1)])
def test_a_file_beyond_the_limits_is_closed(limits, tmp_path):
    path = tmp_path / "clip.flac"
    path.write_bytes(encoded(noise(4000, 2), 8000, "FLAC"))
    before = os.listdir("/dev/fd")
    with pytest.raises(AudioError, match="Expected audio of at most") as caught:
        load_audio(path, limits)
    assert caught.value.__traceback__ is not None  # whose frames still are
    assert os.listdir("/dev/fd") == before


def test_arrays_are_not_limited():
    limits = AudioLimits(max_seconds=0.1, max_channels=1, max_sampling_rate=1)
    array = torch.from_numpy(noise(2, 16_000))
    assert torch.equal(load_audio((array, 16_000), limits)[0], array.mean(0))


DAMAGED = {
    "empty": b"",
    "text": b"no audio at all",
    "no channel": wav_header(2000, channels=0) + bytes(2000),
    "65535 channels": wav_header(2000, channels=65_535) + bytes(2000),
    "0 Hz": wav_header(2000, rate=0) + bytes(2000),
    "4 GHz": wav_header(2000, rate=2**32 - 1) + bytes(2000),
    "unknown codec": wav_header(2000, format_code=0xBAD) + bytes(2000),
    "no samples": wav_header(0),
    "half a header": wav_header(2000)[:30],
    "half a FLAC": encoded(noise(4000), 8000, "FLAC")[:3000],
    "head of an AIFF": encoded(noise(4000), 8000, "AIFF")[:30],
    "head of an OGG": encoded(noise(4000), 8000, "OGG", "VORBIS")[:3000],
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_content_gives_one_line_of_reason(content):
    with pytest.raises(AudioError, match=r"\A(\w| ).{10,300}\Z") as caught:
        load_audio(content)
    assert "\n" not in str(caught.value)


HEADS = [encoded(noise(400), 8000, *kind) for kind in FORMATS if kind[0] != "MP3"]


@settings(derandomize=True, deadline=None, max_examples=cases(200, quick=50))
@given(
    st.sampled_from(HEADS),
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from([0, 1, 127, 128, 255])), max_size=6),
)
def test_any_damage_is_an_audio_error_or_none(content, changes):
    damaged = bytearray(content)
    for position, value in changes:
        damaged[position] = value
    try:
        waveform, rate = load_audio(damaged)
    except AudioError:
        return
    assert rate >= 1
    assert 1 <= len(waveform) <= 8 * len(content)


# torchcodec

SYNCHSAFE_150 = b"\0\0\1\x16"
TAG = b"ID3\4\0\0" + SYNCHSAFE_150 + bytes(150)
SESSION = b"v=0\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n"
NO_CONTAINERS = {
    "concat": b"ffconcat version 1.0\nfile secret.mp3\n",
    "concat behind a tag": TAG + b"ffconcat version 1.0\nfile secret.mp3\n",
    "concat behind tags": TAG * 3 + b"ffconcat version 1.0\nfile secret.mp3\n",
    "playlist": b"#EXTM3U\n#EXTINF:2,\nfile:///secret.mp3\n",
    "session": SESSION,
    "session in a box": b"\1\0\0\0ftyp\n" + SESSION,
    "session in Matroska": b"\x1aE\xdf\xa3\1\xff\n" + SESSION,
    "session in a tag": TAG[:-150] + b"\n" + SESSION.ljust(149) + b"\xff\xfb" + bytes(99),
    "manifest": b'<?xml version="1.0"?><MPD profiles="urn:mpeg:dash:profile:isoff-live:2011"/>',
    "half a tag": b"ID3\4\0",
    "no tag": b"ID3\4\0\0\xff\0\0\0" + bytes(99),
}
CONTAINERS = {
    **{name: b"\0\0\0\x20" + name.encode() for name in ("ftyp", "moov", "mdat", "free", "wide")},
    "Matroska": b"\x1aE\xdf\xa3\x9fB\x86",
    "AAC": b"\xff\xf1\x50\x80",
    "AAC behind tags": TAG * 2 + b"\xff\xf9\x50\x80",
    "ASF": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "FLV": b"FLV\1\5",
    "AVI": b"RIFF\0\0\0\0AVI LIST",
    "program stream": b"\0\0\1\xba\x44",
    "transport stream": (b"G" + bytes(187)) * 2,
    "transport stream with times": (bytes(4) + b"G" + bytes(187)) * 2,
}


@pytest.fixture
def decoder_of_nothing(monkeypatch):
    """In the place of torchcodec, a decoder that counts what it is asked to open."""
    asked = []

    def decoder(source):
        asked.append(source)
        raise ValueError("it is none")

    modules = {
        "torchcodec": ModuleType("torchcodec"),
        "torchcodec.decoders": ModuleType("decoders"),
    }
    modules["torchcodec.decoders"].AudioDecoder = decoder
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return asked


@pytest.mark.parametrize("content", NO_CONTAINERS.values(), ids=NO_CONTAINERS)
def test_what_names_other_files_is_not_shown_to_ffmpeg(content, decoder_of_nothing, tmp_path):
    (tmp_path / "a.m4a").write_bytes(content)
    for source in (content, tmp_path / "a.m4a"):
        with pytest.raises(
            AudioError, match=r"not audio, but |FFmpeg does not get to see files of unknown formats"
        ):
            load_audio(source)
    assert decoder_of_nothing == []


@pytest.mark.parametrize("content", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_are_shown_to_ffmpeg(content, decoder_of_nothing, tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for source in (content, "a.m4a"):
        with pytest.raises(AudioError, match=r"libsndfile \(.*\) and FFmpeg cannot open it"):
            load_audio(source)
    assert decoder_of_nothing[0].getvalue() == content
    assert decoder_of_nothing[1:] == [tmp_path / "a.m4a"]


class GappedDecoder:
    """As torchcodec is: behind the end of what is searched it finds nothing until it goes back."""

    def __init__(self, spans, duration):
        self.metadata = SimpleNamespace(
            begin_stream_seconds_from_header=0.0, duration_seconds=duration
        )
        self._spans = spans
        self._last = 0.0
        self._at_end = False

    def get_samples_played_in_range(self, start, stop):
        if start < self._last:
            self._at_end = False
        parts = [(max(start, a), min(stop, b)) for a, b in self._spans if a < stop and b > start]
        if start < stop and (self._at_end or not parts):
            self._at_end = True
            raise RuntimeError("No audio frames were decoded.")
        self._last = max((b for _, b in parts), default=0.0)
        self._at_end = self._last < stop
        length = round(sum(b - a for a, b in parts) * 100)
        return SimpleNamespace(data=torch.ones(1, length), sample_rate=100)


@pytest.mark.parametrize("gap", [10, 400, 1000, 3000])
def test_gaps_in_a_container(gap):
    decoder = GappedDecoder([(0, 10), (10 + gap, 20 + gap)], 20 + gap)
    assert len(load_audio(decoder)[0]) == 2000


@pytest.mark.parametrize("seconds", [None, 3600])
def test_a_gap_of_years_ends(seconds):
    decoder = GappedDecoder([(0, 10)], 1e9)
    with pytest.raises(AudioError, match=f"at most {seconds or 43200} seconds, got .* or more"):
        load_audio(decoder, AudioLimits(max_seconds=seconds))


@pytest.mark.slow
def test_without_torchcodec_the_error_names_the_extra(tmp_path):
    package = tmp_path / "torchcodec"
    package.mkdir()
    (package / "__init__.py").write_text("import os\nraise eval(os.environ['KIND'])('no FFmpeg')\n")
    script = f"""
import os
from vggish_hf.audio import AudioError, load_audio
for kind in ("ImportError", "OSError", "RuntimeError"):  # not installed, broken, without FFmpeg
    os.environ["KIND"] = kind
    try:
        load_audio({str(CASES / OGG_FLAC)!r})
    except AudioError as error:
        print(error)
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stderr == ""
    lines = process.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "flac decoder" in line
        assert "need the extra `video` and FFmpeg: pip install 'vggish-hf[video]'" in line


@pytest.fixture
def m4a(audio_decoder):
    from torchcodec.encoders import AudioEncoder

    samples = torch.from_numpy(noise(2, 4 * 16_000))
    return AudioEncoder(samples, sample_rate=16_000).to_tensor("mp4").numpy().tobytes()


def test_container(m4a, audio_decoder, tmp_path):
    path = tmp_path / "clip.m4a"
    path.write_bytes(m4a)
    expected = audio_decoder(path).get_all_samples().data.mean(0)
    assert len(expected) >= 4 * 16_000
    for source in (path, m4a, io.BytesIO(m4a), audio_decoder(path)):
        waveform, rate = load_audio(source)
        assert rate == 16_000
        assert torch.equal(waveform, expected)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (AudioLimits(max_seconds=1.5), r"at most 1\.5 seconds, got 4"),
        (AudioLimits(max_channels=1), "at most 1 channels, got 2"),
        (AudioLimits(max_sampling_rate=8000), "at most 8000 Hz, got 16000"),
    ],
)
def test_limits_of_containers(limits, message, m4a, audio_decoder):
    for source in (m4a, audio_decoder(m4a)):
        with pytest.raises(AudioError, match=message):
            load_audio(source, limits)


def test_a_decoder_is_read_in_several_ranges(audio_decoder, monkeypatch):
    monkeypatch.setattr(raw_blocks, "_BLOCK_SECONDS", 1)
    monkeypatch.setattr(ffmpeg, "_RANGE_BLOCKS", 2)
    content = encoded(noise(5 * 8000 + 1, 2), 8000, "FLAC")
    blocks = list(open_audio(audio_decoder(content)).blocks)
    assert [len(block) for block in blocks] == [8000] * 5 + [1]
    assert torch.equal(torch.cat(blocks), audio_decoder(content).get_all_samples().data.mean(0))


def test_container_in_several_ranges(m4a, audio_decoder, monkeypatch):
    monkeypatch.setattr(raw_blocks, "_BLOCK_SECONDS", 1)
    monkeypatch.setattr(ffmpeg, "_RANGE_BLOCKS", 2)
    waveform, _ = load_audio(m4a)
    expected = audio_decoder(m4a).get_all_samples().data.mean(0)
    assert torch.equal(waveform[:32_000], expected[:32_000])
    assert len(waveform) == pytest.approx(len(expected), abs=1024)  # a frame of AAC


def test_a_format_in_which_ffmpeg_cannot_seek(audio_decoder):
    content = encoded(noise(8000), 8000, "CAF")[:8096]  # cut off, it is one
    waveform, rate = load_audio(audio_decoder(content))
    assert rate == 8000
    assert len(waveform) > 1000


def test_a_container_that_is_cut_off(m4a):
    with pytest.raises(AudioError, match=r"libsndfile .* and FFmpeg cannot open it"):
        load_audio(m4a[: len(m4a) // 2])


def test_values_of_a_decoded_audio_column(audio_decoder, stereo):
    datasets = pytest.importorskip("datasets", reason="needs the extra `audioset`")
    content, expected = stereo
    rows = datasets.Dataset.from_dict({"audio": [{"bytes": content, "path": None}]})
    decoded = rows.cast_column("audio", datasets.Audio())[0]["audio"]
    waveform, rate = load_audio(decoded)
    assert rate == 8000
    assert torch.equal(waveform, expected)
    resampled = rows.cast_column("audio", datasets.Audio(sampling_rate=4000))[0]["audio"]
    waveform, rate = load_audio(resampled)
    assert rate == 4000
    assert len(waveform) == pytest.approx(2000, abs=20)


@pytest.mark.parametrize("options", [{}, {"sampling_rate": 8000}])
def test_a_row_that_was_read_before_gives_the_same_samples(options, m4a):
    datasets = pytest.importorskip("datasets", reason="needs the extra `audioset`")
    rows = datasets.Dataset.from_dict({"audio": [{"bytes": m4a, "path": None}]})
    row = rows.cast_column("audio", datasets.Audio(**options))[0]["audio"]
    first, rate = load_audio(row)
    row.get_all_samples()
    assert rate == options.get("sampling_rate", 16_000)
    assert torch.equal(load_audio(row)[0], first)
