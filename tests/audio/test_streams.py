"""Files that hold more than their first stream or their header says: nothing is lost in silence."""

import io
import struct
import sys

import numpy as np
import pytest
import soundfile
import torch

from vggish_hf.audio import AudioError, IsolatedDecoders, load_audio

RATE = 16_000
SECONDS = 1
TAG = b"TAG" + bytes(125)
APE = b"APETAGEX" + bytes(500) + b"APETAGEX" + bytes(24)


def encoded(kind, subtype, seed, *, rate=RATE, channels=1, seconds=SECONDS):
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (rate * seconds, channels))
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=kind) as sound:
        for first in range(0, len(samples), rate):
            sound.write(samples[first : first + rate])
    return file.getvalue()


def samples_of(content):
    return load_audio(content)[0]


@pytest.fixture(scope="module")
def decoders():
    with IsolatedDecoders() as decoders:
        yield decoders


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("FLAC", "PCM_16"),
        ("MP3", "MPEG_LAYER_III"),
        ("WAV", "PCM_16"),
        ("WAV", "IMA_ADPCM"),
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("VOC", "PCM_16"),
        ("NIST", "PCM_16"),
        ("NIST", "ULAW"),
    ],
)
@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_joined_files_give_all_samples(kind, subtype, channels, decoders, tmp_path):
    parts = [
        encoded(kind, subtype, 0, seconds=2),
        encoded(kind, subtype, 1, channels=channels),
        encoded(kind, subtype, 2),
    ]
    expected = torch.cat([samples_of(part) for part in parts])
    assert len(expected) >= 4 * RATE
    path = tmp_path / "joined"
    path.write_bytes(b"".join(parts))
    for opened in (path, path.read_bytes()):
        assert torch.equal(samples_of(opened), expected)
        assert torch.equal(decoders.open(opened).read()[0], expected)


def test_joined_files_of_several_kinds():
    parts = [
        encoded(*kind, 0)
        for kind in (("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("AIFF", "PCM_16"))
    ]
    expected = torch.cat([samples_of(part) for part in parts])
    assert torch.equal(samples_of(b"".join(parts)), expected)


@pytest.mark.parametrize("after", [b"", TAG])
@pytest.mark.parametrize("kind", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16")])
def test_mp3_after_another_kind_is_named(kind, after):
    joined = encoded(*kind, 0) + encoded("MP3", "MPEG_LAYER_III", 1) + after
    with pytest.raises(AudioError, match="MP3 data follow its FLAC or Ogg data"):
        samples_of(joined)


@pytest.mark.parametrize(
    "kind", [("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("AU", "PCM_16")]
)
def test_another_kind_after_mp3_is_read(kind):
    parts = [encoded("MP3", "MPEG_LAYER_III", 0), encoded(*kind, 1)]
    expected = torch.cat([samples_of(part) for part in parts])
    assert torch.equal(samples_of(b"".join(parts)), expected)


@pytest.mark.parametrize("subtype", ["G721_32", "G723_24", "G723_40", "ULAW"])
@pytest.mark.parametrize("after", [bytes(5000), TAG, b"garbage" * 50])
def test_what_is_no_audio_after_au_is_left_alone(subtype, after):
    content = encoded("AU", subtype, 0)
    assert torch.equal(samples_of(content + after), samples_of(content))


@pytest.mark.parametrize("kind", [("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16")])
def test_another_rate_at_the_joint_is_named(kind):
    first, second = encoded(*kind, 0), encoded(*kind, 1, rate=8000)
    message = rf"holds 1 seconds .* from byte {len(first)} on, .* rate is 8000 Hz, not 16000 Hz"
    with pytest.raises(AudioError, match=message):
        samples_of(first + second)


def test_another_rate_in_mp3_is_named():
    first, second = (encoded("MP3", "MPEG_LAYER_III", 0, rate=rate) for rate in (16_000, 24_000))
    with pytest.raises(AudioError, match="rate is 24000 Hz, not 16000 Hz"):
        samples_of(first + second)


def without_info(content):
    """Take its first frame from an MP3, which tells how many there are."""
    start = content.index(b"\xff")
    following = content.index(content[start : start + 2], start + 24)
    assert content.find(b"Info", start, following) > 0 or content.find(b"Xing", start) > 0
    return content[following:]


def test_mp3_of_changing_bit_rates_without_an_info_frame_is_whole():
    # The first frame of noise is large: the size divided by it gives too few.
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", RATE, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE"
    ) as sound:
        sound.write(np.random.default_rng(0).uniform(-0.9, 0.9, RATE))
        for _ in range(9):
            sound.write(np.zeros(RATE))
    content = without_info(file.getvalue())
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        assert sound.frames < 9 * RATE  # what libsndfile makes of it
    assert len(samples_of(content)) >= 10 * RATE


def test_mp3_with_more_frames_than_its_info_frame_announces_is_whole():
    first, second = (encoded("MP3", "MPEG_LAYER_III", seed) for seed in (0, 1))
    joined = first + without_info(second)
    assert len(samples_of(joined)) >= 2 * RATE


@pytest.mark.parametrize("after", [b"\0", bytes(3000), TAG, b"\xff\xf8garbage", APE])
def test_flac_with_something_after_its_last_frame(after):
    content = encoded("FLAC", "PCM_16", 0)
    assert torch.equal(samples_of(content + after), samples_of(content))
    unknown = bytearray(content)
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    assert torch.equal(samples_of(bytes(unknown) + after), samples_of(content))


def test_flac_that_is_cut_off_is_still_an_error():
    content = encoded("FLAC", "PCM_16", 0)
    with pytest.raises(AudioError, match="lost sync"):
        samples_of(content[:-500])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_that_lost_pages_in_the_middle_is_named(subtype):
    content = encoded("OGG", subtype, 0, seconds=10)
    pages = [position for position in range(len(content)) if content.startswith(b"OggS", position)]
    middle = len(pages) // 2
    lost = content[: pages[middle]] + content[pages[middle + 1] :]
    zeroed = bytearray(content)
    zeroed[pages[middle] : pages[middle] + 20] = bytes(20)
    for damaged in (lost, bytes(zeroed)):
        with pytest.raises(AudioError, match=r"announce 160000 samples, of which \d+ are lost"):
            samples_of(damaged)
    cut = samples_of(content[: pages[middle]])  # as other formats that are cut off
    assert 0.3 * 160_000 < len(cut) < 0.7 * 160_000


def test_flac_that_announces_too_few_samples_is_named():
    content = bytearray(encoded("FLAC", "PCM_16", 0))
    content[22:26] = struct.pack(">I", 4096)
    with pytest.raises(AudioError, match=r"announces 4096 samples, .* ends at sample 16000"):
        samples_of(bytes(content))


@pytest.mark.parametrize(
    "kind", ["WAV", "AIFF", "FLAC", "CAF", "RF64", "OGG", "MP3", "VOC", "W64", "NIST"]
)
@pytest.mark.parametrize("after", [b"\0", bytes(100_000), TAG, APE, b"garbage" * 50])
def test_what_is_no_audio_after_the_audio_is_left_alone(kind, after):
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(kind, "PCM_16")
    content = encoded(kind, subtype, 0)
    assert torch.equal(samples_of(content + after), samples_of(content))


@pytest.mark.parametrize("name", [b"LIST", b"id3 ", b"bext"])
def test_chunks_after_the_samples_are_left_alone(name):
    content = encoded("WAV", "PCM_16", 0)
    chunk = name + struct.pack("<I", 9001) + bytes(range(1, 251)) * 36 + b"xx"
    riff = struct.pack("<I", len(content) + len(chunk) - 8)
    for head in (content[4:8], riff):
        joined = content[:4] + head + content[8:] + chunk
        assert torch.equal(samples_of(joined), samples_of(content))


@pytest.mark.parametrize("kind", ["VOC", "W64", "NIST"])
def test_more_audio_than_the_header_announces_is_named(kind):
    content = encoded(kind, "PCM_16", 0)
    message = f"its {kind} header ends the audio at byte .*, but 7000 more bytes follow"
    with pytest.raises(AudioError, match=message):
        samples_of(content + bytes(range(1, 251)) * 28)


def test_nist_header_with_its_size_in_another_width():
    content = encoded("NIST", "PCM_16", 0)
    assert content.startswith(b"NIST_1A\n   1024\n")
    # The header's size is a line of any width; a blank fewer leaves one for the padding.
    end = content.index(b"end_head\n") + 9
    narrow = content[:8] + b" 1024\n" + content[16:end] + b"  " + content[end:]
    with pytest.raises(AudioError, match=r"ends the audio at byte .*, but 7000 more bytes follow"):
        samples_of(narrow + bytes(range(1, 251)) * 28)


def test_w64_with_chunks_after_its_samples_of_no_round_number():
    samples = np.random.default_rng(0).integers(-9999, 9999, 4001, np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, "PCM_16", format="W64")
    content = file.getvalue()
    ending = content[content.index(b"data") + 4 :][:12]
    expected = torch.from_numpy(samples / np.float32(32768))
    padded = content + bytes(-len(content) % 8)
    for chunk in (b"", b"levl" + ending + struct.pack("<Q", 24 + 40) + b"x" * 40):
        assert torch.equal(samples_of(padded + chunk), expected)
    for size in (0, 24, 2**64 - 1):  # of those who could not know
        unknown = bytearray(content)
        struct.pack_into("<Q", unknown, content.index(b"data") + 16, size)
        assert torch.equal(samples_of(bytes(unknown)), expected)


U8 = np.random.default_rng(0).integers(0, 256, 4000, np.uint8)
BITS16 = np.random.default_rng(0).integers(-9999, 9999, 4000, np.int16)


def voc(*blocks):
    """Blocks are types and contents."""
    parts = [b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x10A, 0x1129)]
    parts += [struct.pack("<I", len(content) << 8 | kind) + content for kind, content in blocks]
    return b"".join(parts)


PLAIN = (1, b"\x83\0" + U8.tobytes())
LARGE = (9, struct.pack("<IBBH4x", 8000, 16, 1, 4) + BITS16.tobytes())
TEXT = (5, b"a voice\0")
MARKER = (4, b"\1\0")


@pytest.mark.parametrize("end", [b"\0", b"", b"\0" + TAG])
@pytest.mark.parametrize("before", [[], [TEXT]])
@pytest.mark.parametrize("after", [[], [MARKER], [TEXT, MARKER]])
def test_voc_with_texts_and_markers_around_its_samples(before, after, end):
    expected = torch.from_numpy((U8 - np.float32(128)) / 128)
    assert torch.equal(samples_of(voc(*before, PLAIN, *after) + end), expected)
    expected = torch.from_numpy(BITS16 / np.float32(32768))
    assert torch.equal(samples_of(voc(*before, LARGE, *after) + end), expected)


@pytest.mark.parametrize(
    "blocks",
    [
        [PLAIN, PLAIN],
        [LARGE, LARGE],
        [LARGE, (2, BITS16.tobytes())],
        [LARGE, MARKER, LARGE],
        [LARGE, (3, b"\xff\0\x83")],
        [(6, b"\2\0"), PLAIN, (7, b"")],
    ],
    ids=["plain", "large", "continued", "marker", "silence", "repeated"],
)
def test_voc_of_several_blocks_of_samples_is_named(blocks):
    with pytest.raises(AudioError, match=r"VOC file has several blocks .* write it as WAV: ffmpeg"):
        samples_of(voc(*blocks) + b"\0")


def test_voc_in_stereo_and_compressed():
    stereo = (8, struct.pack("<HBB", 65536 - 256_000_000 // 16_000, 0, 1))
    expected = torch.from_numpy((U8 - np.float32(128)) / 128).reshape(-1, 2).mean(1)
    assert torch.equal(samples_of(voc(stereo, PLAIN) + b"\0"), expected)
    compressed = (1, b"\x83\1" + U8.tobytes())
    for blocks in ([compressed], [(8, stereo[1][:2] + b"\1\1"), PLAIN]):
        with pytest.raises(AudioError, match=r"samples are compressed \(codec 1\)"):
            samples_of(voc(*blocks) + b"\0")


def test_voc_that_is_cut_off_gives_what_it_has():
    expected = torch.from_numpy(BITS16 / np.float32(32768))[:-100]
    assert torch.equal(samples_of(voc(LARGE)[:-200]), expected)


SIZES = {  # where the size of the samples stands, and how
    "WAV": (b"data", 4, "<I", 0),
    "AIFF": (b"SSND", 4, ">I", 8),
    "AU": (b".snd", 8, ">I", 0),
    "CAF": (b"data", 4, ">q", 4),
    "RF64": (b"ds64", 16, "<q", 0),
}


def with_size(kind, size, content):
    name, offset, layout, _ = SIZES[kind]
    changed = bytearray(content)
    struct.pack_into(layout, changed, content.index(name) + offset, size)
    return bytes(changed)


@pytest.mark.parametrize("kind", SIZES)
def test_a_header_that_announces_less_than_follows_is_named(kind):
    content = encoded(kind, "PCM_16", 0)
    size = 2000 + SIZES[kind][3]
    message = f"header announces {size} bytes of samples, but 30000 more bytes follow"
    with pytest.raises(AudioError, match=message):
        samples_of(with_size(kind, size, content))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *(("WAV", size) for size in (0, 0xFFFFFFFF, 0x7FFFF000, 0xFFFFFFFE)),
        *(("AU", size) for size in (0, 0xFFFFFFFF, 0x7FFFFFFF)),
        *(("AIFF", size) for size in (0, 0xFFFFFFFF)),
        *(("CAF", size) for size in (0, -1)),
        *(("RF64", size) for size in (0, -1)),
    ],
)
def test_sizes_of_those_who_could_not_know_are_read_to_the_end(kind, size):
    content = encoded(kind, "PCM_16", 0)
    assert torch.equal(samples_of(with_size(kind, size, content)), samples_of(content))
    silent = content[: -2 * RATE] + bytes(2 * RATE)
    assert len(samples_of(with_size(kind, size, silent))) == RATE


@pytest.mark.skipif(sys.platform != "linux", reason="needs files with holes")
@pytest.mark.parametrize("announced", [5_000_000 * 64 % 2**32, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [2**32 + 64, 5_000_000 * 1024])
def test_a_wav_file_of_more_than_4_gib_needs_rf64(announced, size, tmp_path):
    path = tmp_path / "large.wav"
    head = bytearray(encoded("WAV", "PCM_32", 0, rate=192_000, channels=8)[:44])
    struct.pack_into("<I", head, 4, (size + 36) % 2**32)
    struct.pack_into("<I", head, 40, size % 2**32 if announced != 0xFFFFFFFF else announced)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(44 + size)
    with pytest.raises(AudioError, match=r"of more than 4 GiB needs RF64, write it again: ffmpeg"):
        load_audio(path)


FOREIGN = {
    "HTML": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>",
    "a zip archive": b"PK\3\4" + bytes(100),
    "gzip data": b"\x1f\x8b\x08" + bytes(100),
    "xz data": b"\xfd7zXZ\0" + bytes(100),
    "a tar archive": b"a.wav".ljust(257, b"\0") + b"ustar\x0000" + bytes(248),
    "an empty file": b"",
    "JSON": b'{"error": "not found"}',
    "text": b"Access denied for this user",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "an image": b"\xff\xd8\xff\xe0" + bytes(100),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.raw"])
def test_what_is_no_audio_is_called_what_it_is(kind, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FOREIGN[kind])
    for source in (path, FOREIGN[kind]):
        with pytest.raises(AudioError, match=f"not audio, but {kind}"):
            load_audio(source)


@pytest.mark.parametrize("kind", [("MP3", "MPEG_LAYER_III"), ("WAV", "PCM_16"), ("OGG", "VORBIS")])
def test_files_beside_a_file_are_not_looked_at(kind, decoders, tmp_path):
    content = encoded(*kind, 0)
    path = tmp_path / "x.mp3"
    path.write_bytes(content)
    expected = samples_of(content)
    (tmp_path / "._x.mp3").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200))
    assert torch.equal(samples_of(path), expected)
    assert torch.equal(decoders.open(path).read()[0], expected)


def test_joined_containers(tmp_path):
    pytest.importorskip("torchcodec", exc_type=ImportError, reason="needs the extra `video`")
    try:
        from torchcodec.encoders import AudioEncoder
    except (OSError, RuntimeError) as error:
        pytest.skip(f"FFmpeg is not here: {str(error).splitlines()[0]}")
    parts = []
    for seed in (0, 1):
        samples = torch.rand(1, 2 * RATE, generator=torch.Generator().manual_seed(seed)) - 0.5
        parts.append(AudioEncoder(samples, sample_rate=RATE).to_tensor("mp4").numpy().tobytes())
    expected = torch.cat([samples_of(part) for part in parts])
    path = tmp_path / "joined.m4a"
    path.write_bytes(b"".join(parts))
    for source in (path, path.read_bytes()):
        assert torch.equal(samples_of(source), expected)


@pytest.mark.slow
def test_small_joined_files_without_end_are_refused():
    tiny = encoded("WAV", "PCM_16", 0)[:44][:40] + struct.pack("<I", 2) + b"\1\0"
    with pytest.raises(AudioError, match="more than 10000 joined files"):
        samples_of(tiny * 10_001)
