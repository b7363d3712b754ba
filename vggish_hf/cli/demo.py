"""`vggish-hf demo`: the main job on a bundled clip."""

import argparse
from pathlib import Path

from vggish_hf.audio import load_audio
from vggish_hf.configuration import VGGishFeatureConfig
from vggish_hf.conversion import convert_checkpoint
from vggish_hf.feature_extraction import VGGishFeatureExtractor
from vggish_hf.pipeline import VGGishPipeline

_ASSETS = Path(__file__).parents[1] / "assets"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "demo",
        help="embed a bundled clip and draw it",
        description="Embed a bundled clip, print its embeddings and draw them; offline, by a tiny "
        "network of random weights, whose embeddings mean nothing.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo.png"), metavar="PICTURE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        from vggish_hf.plotting import draw_clip
    except ModuleNotFoundError:
        raise ImportError("The demo draws with matplotlib: pip install 'vggish-hf[plot]'") from None

    print("converting a tiny TensorFlow checkpoint of random weights: its embeddings mean nothing")
    model = convert_checkpoint(_ASSETS / "tiny_v1.ckpt").model
    extractor = VGGishFeatureExtractor(VGGishFeatureConfig(padding="short"))
    waveform, sampling_rate = load_audio(_ASSETS / "jfk.ogg")
    output = VGGishPipeline(extractor, model)((waveform, sampling_rate))
    print(f"jfk.ogg, {len(waveform) / sampling_rate:.1f} s at {sampling_rate} Hz:")
    print("  start  embedding")
    for start, embedding in zip(output.start_seconds, output.embeddings, strict=True):
        values = " ".join(f"{value:6.2f}" for value in embedding[:6])
        print(f"{start:5.2f} s  {values} ... ({len(embedding)} numbers)")
    examples = extractor(waveform, sampling_rate)
    draw_clip(args.output, waveform, sampling_rate, examples, output, extractor.config)
    print(f"drawn in {args.output}")
    return 0
