"""`vggish-hf demo`: the main job on a bundled clip."""

import argparse
from importlib.util import find_spec
from pathlib import Path

_ASSETS = Path(__file__).parents[1] / "assets"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "demo",
        help="embed a bundled clip and draw it",
        description="Embed a bundled clip, print its embeddings and draw them; offline, by a small "
        "network that comes with the package.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo.png"), metavar="PICTURE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from vggish_hf.audio import load_audio
    from vggish_hf.pipeline import VGGishPipeline
    from vggish_hf.plotting import check_picture, draw_clip

    has_matplotlib = find_spec("matplotlib") is not None
    if has_matplotlib:
        check_picture(args.output)
    print("demo: a small VGGish, trained on 320 clips of ten kinds of sounds; not Google's")
    pipeline = VGGishPipeline.from_pretrained("demo")
    extractor = pipeline.extractor
    waveform, sampling_rate = load_audio(_ASSETS / "jfk.ogg")
    output = pipeline((waveform, sampling_rate))
    print(f"jfk.ogg, {len(waveform) / sampling_rate:.1f} s at {sampling_rate} Hz:")
    print("  start  embedding")
    for start, embedding in zip(output.start_seconds, output.embeddings, strict=True):
        values = " ".join(f"{value:6.2f}" for value in embedding[:6])
        print(f"{start:5.2f} s  {values} ... ({len(embedding)} numbers)")
    if not has_matplotlib:
        print("for a picture of it: pip install 'vggish-hf[plot]'")
        return 0
    examples = extractor(waveform, sampling_rate)
    draw_clip(args.output, waveform, sampling_rate, examples, output, extractor.config)
    print(f"drawn in {args.output}")
    return 0
