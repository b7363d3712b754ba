"""`vggish-hf audioset export-clips`: a segments CSV and audio in, a Hub-ready folder out."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vggish_hf.cli._options import in_flags, printable, say

if TYPE_CHECKING:
    from vggish_hf.audioset.clips.splits import ClipSplit

_EPILOG = """\
AUDIO is what `vggish-hf embed` takes: audio files, folders (searched recursively), globs, lists,
archives (.tar, .tar.gz, .zip), Parquet files with the columns `video_id` and `audio`, or URLs.
Files are named ID, YID or "Title [ID]"; _START, _START_END, _START-END or _START,END may follow, in
seconds or milliseconds. A file that is the whole video is cut.

examples:
  vggish-hf audioset export-clips eval_segments.csv audio/ -o audioset/
  vggish-hf audioset export-clips balanced_train_segments.csv bal.tar -o audioset/ --push org/clips

then, anywhere:
  datasets.load_dataset("audioset/", "clips", split="eval")

After an interruption run the same command to resume.

exit code: 0 all clips of the CSV exported, 1 some failed (DIR/failed_clips_SPLIT.csv lists
them), 2 a usage error
"""
_SHOWN = 20


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "export-clips",
        help="export audio clips to a folder that load_dataset opens",
        description="Write the audio of AudioSet's clips, with their labels, as Parquet, with a "
        "README.md that tells `datasets` what is where.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("segments", metavar="CSV", help="one of AudioSet's segments CSVs")
    parser.add_argument(
        "audio", nargs="+", metavar="AUDIO", help="audio files, folders or archives of them, URLs"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--split", help="name of the split (default: by the CSV's name)")
    parser.add_argument(
        "--file-clips",
        type=int,
        default=512,
        metavar="N",
        help="clips that make up one Parquet file (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="clips decoded at once (default: %(default)s)"
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="data set to upload it to, on the Hub")
    parser.add_argument("--revision", help="branch to upload to (default: main)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from vggish_hf.audioset.clips.export import CONFIG, export_clips
    from vggish_hf.audioset.hub_folder import push_config
    from vggish_hf.audioset.segments import split_of

    split = args.split or split_of(args.segments)
    exported = export_clips(
        args.segments,
        args.audio,
        args.output,
        split=split,
        file_clips=args.file_clips,
        num_workers=args.workers,
    )
    print_split(split, exported, f"{args.output / CONFIG}/{split}-*.parquet")
    if args.push:
        private = args.private or None
        say(push_config(args.output, CONFIG, args.push, revision=args.revision, private=private))
    return 1 if exported.left_out else 0


def print_split(name: str, split: "ClipSplit", where: str) -> None:
    """Print what was written and what was not; of many, some and the list's place."""
    for path, reason in split.skipped[:_SHOWN]:
        say(f"skipped: {printable(path)}: {reason}", sys.stderr)
    if len(split.skipped) > _SHOWN:
        say(f"skipped: {len(split.skipped) - _SHOWN} more", sys.stderr)
    if split.unmatched.count:
        say(printable(str(split.unmatched)), sys.stderr)
    for entry in split.left_out[:_SHOWN]:
        say(f"failed: {printable(in_flags(': '.join(filter(None, entry))))}", sys.stderr)
    if len(split.left_out) > _SHOWN:
        say(f"failed: {len(split.left_out) - _SHOWN} more, see {split.report}", sys.stderr)
    say(f"{name}: {split.clips} clips in {where}; {len(split.left_out)} failed")
