"""`vggish-hf audioset export-embeddings`: TFRecord files in, a Hub-ready folder out."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from vggish_hf.cli._options import printable, say
from vggish_hf.tf_files.records import Errors

_EPILOG = """\
examples:
  vggish-hf audioset export-embeddings features.tar.gz -o audioset/
  vggish-hf audioset export-embeddings audioset_v1_embeddings/ -o audioset/ --push org/audioset

then, anywhere:
  datasets.load_dataset("audioset/", "embeddings", split="eval")

After an interruption run the same command to resume.

exit code: 0 all records exported, 1 some were skipped, 2 a usage error or a damaged source
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "export-embeddings",
        help="export the released embeddings to a folder that load_dataset opens",
        description="Write the released AudioSet embeddings, or files laid out like them, as "
        "Parquet, with a README.md that tells `datasets` what is where.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="folder, .tar or .tar.gz with TFRecord files in folders named bal_train, eval or "
        "unbal_train",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--errors",
        choices=get_args(Errors),
        default="raise",
        help="what to do at a damaged record: stop, or skip it and report it (default: raise)",
    )
    parser.add_argument(
        "--file-size",
        type=int,
        default=256,
        metavar="MIB",
        help="size of the TFRecord files that make up one Parquet file (default: %(default)s)",
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="data set to upload it to, on the Hub")
    parser.add_argument("--revision", help="branch to upload to (default: main)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from vggish_hf.audioset.hub_folder import push_config
    from vggish_hf.audioset.released.export import CONFIG, export_embeddings

    exported = export_embeddings(
        args.source, args.output, errors=args.errors, file_bytes=args.file_size << 20
    )
    left_out = 0
    for name, split in exported.items():
        for shard, count in split.skipped.items():
            say(f"skipped: {count} damaged in {printable(shard)}", sys.stderr)
            left_out += count
        say(f"{name}: {split.records} records in {args.output / CONFIG}/{name}-*.parquet")
    if args.push:
        private = args.private or None
        say(push_config(args.output, CONFIG, args.push, revision=args.revision, private=private))
    return 1 if left_out else 0
