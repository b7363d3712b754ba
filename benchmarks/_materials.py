"""What several benchmarks work on: real sounds, clips made of them, a full-size network."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor, nn

from vggish_hf import VGGishConfig, VGGishFeatureExtractor, VGGishModel
from vggish_hf.audio import AudioError, load_audio
from vggish_hf.inputs import find_clips

ROOT = Path(__file__).parents[1]
SOUNDS = [ROOT / "tests/data/audio_cases", *(ROOT.parent / "shared/data").glob("esc10")]
PCA = ROOT / "tests/data/vggish_pca_params.npz"
CLIP_RATE = 44_100  # Hz, in stereo
CLIP_SECONDS = 10
ENDINGS = ("wav", "flac", "mp3")


def read_sounds() -> list[tuple[Tensor, int]]:
    """The waveforms, with their rates, of the files that last a second and are not silent."""
    sounds = []
    for path in (clip.path for clip in find_clips(map(str, SOUNDS))):
        try:
            waveform, rate = load_audio(path)
        except AudioError:  # some are damaged on purpose
            continue
        if len(waveform) >= rate and waveform.abs().max() > 0:
            sounds.append((waveform, rate))
    return sounds


def make_examples(count: int) -> Tensor:
    """Log-mel examples of real sounds, (count, 96, 64), from the start again where they end."""
    extractor = VGGishFeatureExtractor()
    examples = torch.cat([extractor(waveform, rate) for waveform, rate in read_sounds()])
    return examples[torch.arange(count) % len(examples)]


def write_clips(folder: Path, count: int, seconds: int = CLIP_SECONDS) -> None:
    """Write so many files, WAV, FLAC and MP3 in turn, of which no two sound the same."""
    generator = np.random.default_rng(0)
    sounds = [waveform.numpy() for waveform, _ in read_sounds()]
    for number in range(count):
        sound = sounds[number % len(sounds)]
        path = folder / f"{number:05}.{ENDINGS[number % len(ENDINGS)]}"
        write_clip(path, sound, seconds, generator)


def write_clip(
    path: Path, sound: npt.NDArray[np.float32], seconds: int, generator: np.random.Generator
) -> None:
    """Write a sound, repeated, in stereo and with faint noise, a second at a time."""
    # Each channel begins elsewhere.
    places = generator.integers(len(sound), size=2)[None] + np.arange(CLIP_RATE)[:, None]
    with soundfile.SoundFile(path, "w", CLIP_RATE, 2) as file:
        for second in range(seconds):
            noise = generator.normal(0, 1e-3, places.shape)
            file.write(0.9 * sound[(places + second * CLIP_RATE) % len(sound)] + noise)


def make_model() -> VGGishModel:
    """The original network, where VGGISH_WEIGHTS names its folder; else a random one of its size.

    Random weights, the same every time, with the original PCA. They are scaled as in a network that
    was trained with normalization: what a layer gives for real sounds, before its ReLU, has mean 0
    and variance 1 in every channel, and the last one's are the whitened embeddings. Unscaled, all
    sounds would be embedded nearly alike, far out of the range of eight bits.
    """
    if weights := os.environ.get("VGGISH_WEIGHTS"):
        return VGGishModel.from_pretrained(weights, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    model = VGGishModel(VGGishConfig(postprocessor=True)).eval()
    layers = [layer for layer in model.children() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    hooks = [layer.register_forward_hook(_normalize) for layer in layers]
    model(make_examples(64))
    for hook in hooks:
        hook.remove()
    with np.load(PCA) as pca, torch.no_grad():
        model.postprocessor.eigenvectors.copy_(torch.from_numpy(pca["pca_eigen_vectors"]))
        model.postprocessor.means.copy_(torch.from_numpy(pca["pca_means"]).flatten())
        unwhiten = torch.linalg.inv(model.postprocessor.eigenvectors)
        model.fc2.weight.copy_(unwhiten @ model.fc2.weight)
        model.fc2.bias.copy_(model.postprocessor.means + unwhiten @ model.fc2.bias)
    return model


@torch.no_grad()
def _normalize(layer: nn.Conv2d | nn.Linear, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Change a layer so that these outputs have mean 0 and variance 1, and return them so."""
    others = [dim for dim in range(output.ndim) if dim != 1]
    deviation, mean = torch.std_mean(output, others, keepdim=True)
    layer.weight.div_(deviation.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.sub_(mean.flatten()).div_(deviation.flatten())
    return (output - mean) / deviation


def save_model(folder: Path) -> None:
    """Write the network and its front end into a folder."""
    make_model().save_pretrained(folder)
    VGGishFeatureExtractor().save_pretrained(folder)
