import re
import shutil

import pytest
import soundfile
import torch
from folders import TESTS

from vggish_hf.audio import AudioError, Excerpt, IsolatedDecoders, load_audio, open_excerpt
from vggish_hf.training.crops import load_random_crop, load_start

AUDIO = TESTS / "data" / "audio_cases"
WAV = AUDIO / "rochars__8bit-16kHz-bext-mono.wav"  # 13.7 s, 16 kHz
MP3 = AUDIO / "facebookresearch__bach.mp3"  # 10 s, 44.1 kHz, stereo
OGG = AUDIO / "librosa__198-209-0000.ogg"  # 13.9 s, 22.05 kHz
ALAW = AUDIO / "rochars__8bit-alaw-8kHz-noBext-mono-encoded.wav"  # 6 s, 8 kHz


def place_of(part, whole):
    """Where a part stands in the whole: where the squared difference is the least."""
    part, whole = part.double(), whole.double()
    size = 1 << (len(whole) + len(part)).bit_length()
    product = torch.fft.irfft(torch.fft.rfft(whole, size) * torch.fft.rfft(part, size).conj(), size)
    energy = torch.nn.functional.pad(whole.square().cumsum(0), (1, 0))
    energy = energy[len(part) :] - energy[: -len(part)]
    return int((energy - 2 * product[: len(energy)]).argmin())


@pytest.mark.parametrize("path", [WAV, MP3, OGG, ALAW])
def test_start(path):
    whole, rate = load_audio(path)
    waveform, found = load_start(path, 1.5)
    assert found == rate
    assert torch.equal(waveform, whole[: round(1.5 * rate)])
    assert torch.equal(load_start(path, 60.0)[0], whole)


def test_start_of_several_blocks(tmp_path):
    whole, rate = load_audio(ALAW)
    long = torch.cat([whole] * 8)  # 48 s, which is decoded in blocks of 20 s
    soundfile.write(tmp_path / "long.wav", long.numpy(), rate, "FLOAT")
    waveform, _ = load_start(tmp_path / "long.wav", 45.0)
    assert torch.equal(waveform, long[: 45 * rate])


@pytest.mark.parametrize("path", [WAV, MP3, OGG, ALAW])
def test_crop(path):
    torch.manual_seed(0)
    whole, rate = load_audio(path)
    places = []
    for _ in range(10):
        waveform, found = load_random_crop(path, 1.5, max_seconds=2.0)
        assert found == rate
        assert waveform.shape == (round(1.5 * rate),)
        place = place_of(waveform, whole)
        assert torch.equal(waveform, whole[place : place + len(waveform)])
        places.append(place / (len(whole) - len(waveform)))
    assert min(places) < 0.3  # anywhere in the file, not in its first two seconds alone
    assert max(places) > 0.7


def test_crop_draws_from_torch():
    torch.manual_seed(1)
    first = load_random_crop(WAV, 1.0, 2.0)[0]
    torch.manual_seed(1)
    assert torch.equal(load_random_crop(WAV, 1.0, 2.0)[0], first)
    assert not torch.equal(load_random_crop(WAV, 1.0, 2.0)[0], first)


def test_crop_longer_than_the_file():
    assert torch.equal(load_random_crop(ALAW, 8.0, 2.0)[0], load_audio(ALAW)[0])


def test_crop_of_a_file_that_ends_early(tmp_path):
    # Its header says 72 seconds, it holds less than two.
    cut = tmp_path / "cut.mp3"
    whole, rate = load_audio(ALAW)
    soundfile.write(cut, torch.cat([whole] * 12).numpy(), rate)
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) // 40])
    whole, _ = load_audio(cut)
    assert rate < len(whole) < 2 * rate < soundfile.info(cut).frames
    torch.manual_seed(0)
    places = set()
    for _ in range(10):
        waveform, _ = load_random_crop(cut, 0.2, max_seconds=0.8)
        assert len(waveform) == round(0.2 * rate)
        place = place_of(waveform, whole)
        assert torch.equal(waveform, whole[place : place + len(waveform)])
        assert place + len(waveform) <= 0.8 * rate
        places.add(place)
    assert len(places) > 5


@pytest.mark.parametrize(
    "load", [lambda p: load_start(p, 1.0), lambda p: load_random_crop(p, 1, 2)]
)
def test_what_cannot_be_decoded_is_named(load, tmp_path):
    empty = AUDIO / "marl__empty.wav"
    with pytest.raises(AudioError, match=f"{empty}: it holds no samples"):
        load(empty)
    text = AUDIO / "index.json"
    with pytest.raises(AudioError, match=f"{text}: not audio, but JSON"):
        load(text)
    with pytest.raises(FileNotFoundError, match=r"No such audio file: .*missing\.wav"):
        load(tmp_path / "missing.wav")


def crops_of(path, seconds=0.2, max_seconds=0.8, draws=20):
    torch.manual_seed(0)
    return [load_random_crop(path, seconds, max_seconds)[0] for _ in range(draws)]


def test_crop_beside_a_file_of_macos(tmp_path):
    # libsndfile takes it for a part of the file that it opens by name.
    shutil.copy(MP3, tmp_path / "x.mp3")
    (tmp_path / "._x.mp3").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200))
    expected = crops_of(MP3)
    assert all(map(torch.equal, crops_of(tmp_path / "x.mp3"), expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_crop_with_wrong_samples_is_named_with_their_place(value, tmp_path):
    samples = torch.full((8000,), 0.25)
    samples[4000:] = value
    soundfile.write(tmp_path / "a.wav", samples.numpy(), 8000, "FLOAT")
    torch.manual_seed(0)
    named = 0
    for _ in range(20):
        try:
            waveform, _ = load_random_crop(tmp_path / "a.wav", 0.2, 0.8)
        except AudioError as error:
            found = re.search(r"a\.wav: Expected .* at sample (\d+) ", str(error))
            assert 4000 <= int(found[1]) < 8000
            named += 1
        else:
            assert torch.equal(waveform, samples[:1600])
    assert 5 < named < 20


@pytest.mark.parametrize("name", ["a.ogg", "a.wav", "a.flac"])
def test_crop_of_joined_files_sees_all_of_them(name, tmp_path):
    for part, level in (("1", 0.25), ("2", -0.25)):
        soundfile.write(tmp_path / (part + name), [level] * 8000, 8000)
    joined = tmp_path / name
    joined.write_bytes((tmp_path / f"1{name}").read_bytes() + (tmp_path / f"2{name}").read_bytes())
    levels = {round(crop.median().item(), 1) for crop in crops_of(joined, 0.2, 2.0)}
    assert len(levels) == 2


@pytest.mark.slow
def test_crop_of_mp3_that_does_not_say_how_long_it_is_comes_from_anywhere(tmp_path):
    whole, rate = load_audio(ALAW)
    with soundfile.SoundFile(
        tmp_path / "a.mp3", "w", rate, 1, "MPEG_LAYER_III", bitrate_mode="CONSTANT"
    ) as sound:
        sound.write(torch.cat([whole] * 8).numpy())  # 48 s
    content = (tmp_path / "a.mp3").read_bytes()
    start = content.index(b"\xff")
    following = content.index(content[start : start + 2], start + 24)
    (tmp_path / "a.mp3").write_bytes(content[following:])  # without the frame that says so
    whole, rate = load_audio(tmp_path / "a.mp3")
    places = [place_of(crop, whole) / rate for crop in crops_of(tmp_path / "a.mp3", 1.0, 2.0)]
    assert max(places) > 20


def test_crop_of_a_damaged_part_is_named(tmp_path):
    noise = torch.rand(80_000, generator=torch.Generator().manual_seed(0)) - 0.5
    soundfile.write(tmp_path / "a.flac", noise.numpy(), 8000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[len(content) // 4 : -len(content) // 4] = bytes(len(content) - 2 * (len(content) // 4))
    (tmp_path / "a.flac").write_bytes(content)
    messages = []
    torch.manual_seed(0)
    for _ in range(20):
        try:
            waveform, _ = load_random_crop(tmp_path / "a.flac", 0.5, 0.5)
        except AudioError as error:
            messages.append(str(error))
        else:
            assert len(waveform) == 4000
            assert (waveform - noise[: place_of(waveform, noise) + 4000][-4000:]).abs().max() < 1e-4
    assert messages
    assert all(re.match(r".*/a\.flac: decoding failed a(t|fter) ", message) for message in messages)


@pytest.mark.parametrize(("name", "subtype"), [("a.gsm", "GSM610"), ("a.vox", "VOX_ADPCM")])
@pytest.mark.parametrize("load", [load_audio, lambda path: load_random_crop(path, 0.2, 0.8)])
def test_audio_without_a_header_is_named(load, name, subtype, tmp_path):
    # Opened by name, libsndfile takes what such a name promises for granted.
    samples = torch.rand(8000, generator=torch.Generator().manual_seed(0)) - 0.5
    soundfile.write(tmp_path / name, samples.numpy(), 8000, subtype, format="RAW")
    with pytest.raises(AudioError, match=r"write audio without a header \(.*\) as WAV"):
        load(tmp_path / name)


@pytest.fixture(scope="module")
def decoders():
    with IsolatedDecoders() as decoders:
        yield decoders


@pytest.mark.parametrize("path", [WAV, MP3, OGG, ALAW, AUDIO / "marl__empty.wav"])
@pytest.mark.parametrize("excerpt", [Excerpt(0.4), Excerpt(1.5, 0.6, 2.0), Excerpt(60.0, 0.5)])
def test_crop_in_a_process_of_its_own(path, excerpt, decoders):
    def outcome(open_part):
        try:
            stream = open_part(path, excerpt)
            return stream.sampling_rate, torch.cat(list(stream.blocks)).numpy().tobytes()
        except AudioError as error:
            return str(error)

    assert outcome(decoders.open_excerpt) == outcome(open_excerpt)


def test_wrong_samples_in_a_process_of_their_own_keep_their_place(tmp_path):
    samples = torch.full((8000,), 0.25)
    samples[4000:] = float("nan")
    soundfile.write(tmp_path / "a.wav", samples.numpy(), 8000, "FLOAT")
    with IsolatedDecoders() as decoders:
        for open_part in (open_excerpt, decoders.open_excerpt):
            stream = open_part(tmp_path / "a.wav", Excerpt(0.4, 0.5))
            with pytest.raises(AudioError, match=r"at sample 4000 \(0\.5 s\)"):
                list(stream.blocks)
