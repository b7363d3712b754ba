"""`vggish-hf audioset embed`: clips in, embeddings in the format of AudioSet's release out."""

import argparse
from pathlib import Path

from vggish_hf.cli._options import add_model_options, load_pipeline
from vggish_hf.cli.audioset_export_clips import print_split

_EPILOG = """\
DIR gets, for each split, SPLIT/XX.tfrecord as in the release (XX: first two characters of the video
ids) and embeddings/SPLIT-*.parquet, with a README.md: a row for each 0.96 s, 128 uint8.

examples:
  vggish-hf audioset embed audioset/ -o embedded/ --model org/vggish
  vggish-hf audioset embed audio.tar --segments eval_segments.csv -o embedded/

then, anywhere:
  datasets.load_dataset("embedded/", "embeddings", split="eval")

After an interruption run the same command to resume.

exit code: 0 all clips embedded, 1 some failed (DIR/failed_embeddings_SPLIT.csv lists
them), 2 a usage error
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "embed",
        help="embed clips as the released embeddings are",
        description="Embed AudioSet's clips, and write them in the format of the release.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "clips",
        nargs="+",
        metavar="CLIPS",
        help="the folder that export-clips wrote; with --segments audio files, folders or archives "
        "of them, URLs",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--segments", metavar="CSV", help="CSV of the clips, if CLIPS is audio")
    parser.add_argument("--split", help="name of the split (default: all of them)")
    add_model_options(parser)
    parser.add_argument(
        "--batch-size", type=int, default=32, help="examples at once (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="clips decoded at once (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from vggish_hf.audioset.clips.embed import embed_clips
    from vggish_hf.audioset.released.export import CONFIG

    embedded = embed_clips(
        args.clips,
        load_pipeline(args),
        args.output,
        segments=args.segments,
        split=args.split,
        batch_size=args.batch_size,
        num_workers=args.workers,
    )
    for name, split in embedded.items():
        where = f"{args.output / name}/*.tfrecord and {args.output / CONFIG}/{name}-*.parquet"
        print_split(name, split, where)
    return 1 if any(split.left_out for split in embedded.values()) else 0
