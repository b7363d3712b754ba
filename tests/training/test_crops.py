import pytest
import soundfile
import torch
from folders import TESTS

from vggish_hf.audio import AudioError, load_audio
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
