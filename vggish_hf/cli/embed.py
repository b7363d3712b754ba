"""`vggish-hf embed`: audio in; one file of embeddings out, or a resumable folder."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits
from vggish_hf.cli._interrupts import Ending, ending_soon
from vggish_hf.cli._options import (
    add_model_options,
    in_flags,
    load_pipeline,
    open_missing_streams,
    printable,
    say,
)
from vggish_hf.configuration import Padding
from vggish_hf.distributed import ClusterError
from vggish_hf.distributed import embed_to_folder as embed_on_cluster
from vggish_hf.inputs import Clip, find_clips
from vggish_hf.jobs import EmbeddingSummary, Pool, Progress, embed_to_file, embed_to_folder
from vggish_hf.modeling.loading import parse_dtype
from vggish_hf.modeling.postprocessor import find_postprocess
from vggish_hf.outputs import check_output
from vggish_hf.outputs.formats import FORMATS
from vggish_hf.pipeline import Postprocess

Engine = Literal["local", "ray"]

_EPILOG = """\
INPUT may be a tar or zip of audio files, a Parquet file with a column of them, and a URL: s3://,
gs://, https://, or hf://datasets/org/name for a dataset on the Hub. A folder is searched for all of
these. Links that lead out of it are skipped and reported. Paths in a list are relative to the
working folder. Files are decoded in processes of their own, so that none of them can break the job.

OUT is a file: .parquet (one row per example: id, example, start_seconds, embedding), .npz (the same
as arrays), .csv (the same as text, with the columns e0, e1 and so on) or .tfrecord (a
SequenceExample per clip, as AudioSet's; uint8 only). The command replaces an existing file at its
end. OUT.json records how a .csv or .tfrecord was made. If OUT ends in a slash, it is a folder of
Parquet files, each complete, for many clips. Run the same command to resume after an interruption;
it also embeds clips again that failed or whose files have changed. Other weights or options are
refused. With --engine ray a cluster does the same.

examples:
  vggish-hf embed clip.wav -o clip.parquet
  vggish-hf embed music/ 'talks/**/*.mp3' -o all.parquet --postprocess uint8
  vggish-hf embed list.txt -o clips.npz --model org/vggish --example-hop 0.48
  vggish-hf embed music/ -o music.csv --pool mean
  vggish-hf embed shards/ hf://datasets/org/clips -o embeddings/
  vggish-hf embed s3://bucket/shards/ -o /shared/embeddings/ --engine ray --address auto

exit code: 0 all inputs done, 1 some failed (the others are written), 2 a usage error, 130 or 143
after Ctrl-C or SIGTERM
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "embed",
        help="embed audio files",
        description="Embed audio files of any number, length, rate and format.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file, folder (searched recursively), glob, .txt list with one path per line, "
        "tar, zip, Parquet file, or URL",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT")
    add_model_options(parser)
    parser.add_argument(
        "--postprocess",
        choices=get_args(Postprocess),
        help="none: the network's output; pca: whitened and clipped; uint8: as released AudioSet "
        "embeddings (default: none, and uint8 for .tfrecord)",
    )
    parser.add_argument(
        "--pool",
        choices=get_args(Pool),
        help="write one row per clip: the mean or the maximum over its examples, or mean and "
        "standard deviation side by side (default: one row per example)",
    )
    parser.add_argument(
        "--padding",
        choices=get_args(Padding),
        help="short: pad a clip shorter than an example; tail: also pad the last example; none: "
        "drop what fills no example, as the reference does (default: short)",
    )
    parser.add_argument(
        "--example-hop",
        type=float,
        metavar="SECONDS",
        help="distance between two examples (default: 0.96; less makes them overlap)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="examples at once (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="files decoded at once (default: %(default)s)"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=DEFAULT_LIMITS.max_seconds,
        metavar="SECONDS",
        help="longer clips fail (default: %(default)g)",
    )
    parser.add_argument(
        "--follow-symlinks", action="store_true", help="also follow links out of folders"
    )
    parser.add_argument(
        "--part-clips",
        type=int,
        default=256,
        help="clips per file of a folder; an interruption costs two such files at most "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        choices=get_args(Engine),
        default="local",
        help="local: this machine; ray: a Ray cluster, into a folder (default: %(default)s)",
    )
    parser.add_argument(
        "--address",
        help="address of the Ray cluster; auto: the one that this machine belongs to (default: "
        "RAY_ADDRESS, else the cluster that `ray start` started here, else a new one)",
    )
    parser.add_argument(
        "--actors",
        type=int,
        help="copies of the network on the cluster (default: one per GPU, or per two CPUs)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    open_missing_streams()
    with ending_soon() as ending:
        if args.output.endswith(("/", os.sep)) or os.path.isdir(args.output):
            return _embed_to_folder(args, ending)
        for name, given in (
            ("--engine ray", args.engine == "ray"),
            ("--address", args.address is not None),
            ("--actors", args.actors is not None),
        ):
            if given:
                raise ValueError(
                    f"Expected a folder as the output with {name}, got {args.output!r}; end it "
                    "with a slash"
                )
        return _embed_to_file(args, Path(args.output))


def _embed_to_file(args: argparse.Namespace, output: Path) -> int:
    file_format = FORMATS.get(output.suffix.lower())
    only_uint8 = file_format is not None and file_format.only_uint8
    postprocess: Postprocess = args.postprocess or ("uint8" if only_uint8 else "none")
    check_output(output, find_postprocess(postprocess).dtype())
    options = _options(args, postprocess)
    clips = _find_clips(args)
    pipeline = load_pipeline(args, **_settings(args))
    with _progress_bar(len(clips)) as progress:
        summary = embed_to_file(
            pipeline, clips, output, inputs=args.inputs, progress=progress, **options
        )
    if len(summary.failed) == len(clips):
        _report(summary)
        say(f"no clip was embedded, {printable(output)} is not written", sys.stderr)
        return 1
    return _finish(summary, args.output)


def _embed_to_folder(args: argparse.Namespace, ending: Ending) -> int:
    options = {**_options(args, args.postprocess or "none"), "part_clips": args.part_clips}
    if args.engine == "ray" and args.device != "cpu":
        raise ValueError(
            f"Expected no `--device` with `--engine ray`, got {args.device!r}; every actor takes a "
            "GPU where the cluster has any"
        )
    clips = _find_clips(args)
    done = 0
    try:
        with _progress_bar(len(clips)) as show:

            def progress(count: int, seconds: float) -> None:
                nonlocal done
                done += count
                show(count, seconds)

            options["progress"] = progress
            ending.message = lambda: (
                f"{done} of {len(clips)} clips are done, in {printable(args.output)}, "
                f"{args.part_clips} clips a part; run the same command to resume"
            )
            summary = _run_engine(args, clips, options)
    except ClusterError as error:
        say(f"vggish-hf: error: {printable(in_flags(error))}", sys.stderr)
        return 2
    return _finish(summary, args.output)


def _run_engine(
    args: argparse.Namespace, clips: Sequence[Clip], options: dict[str, Any]
) -> EmbeddingSummary:
    if args.engine == "local":
        pipeline = load_pipeline(args, **_settings(args))
        return embed_to_folder(pipeline, clips, args.output, **options)
    return embed_on_cluster(
        args.model,
        clips,
        args.output,
        revision=args.revision,
        dtype=parse_dtype(args.dtype),
        address=args.address,
        num_actors=args.actors,
        **_settings(args),
        **options,
    )


def _find_clips(args: argparse.Namespace) -> list[Clip]:
    output = os.path.abspath(args.output)

    def note(path: str, reason: str) -> None:
        # Do not report an earlier run's output among the inputs.
        place = os.path.abspath(path)
        if place != output and not place.startswith(os.path.join(output, "")):
            say(f"skipped: {printable(path)}: {reason}", sys.stderr)

    return find_clips(args.inputs, follow_symlinks=args.follow_symlinks, on_skip=note)


def _options(args: argparse.Namespace, postprocess: Postprocess) -> dict[str, Any]:
    return {
        "postprocess": postprocess,
        "pool": args.pool,
        "batch_size": args.batch_size,
        "num_workers": args.workers,
        "limits": AudioLimits(max_seconds=args.max_seconds),
    }


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {"padding": args.padding, "example_hop_seconds": args.example_hop}


@contextmanager
def _progress_bar(clips: int) -> Iterator[Progress]:
    """Show on a terminal how many clips are done, and how much audio has been read."""
    total = 0.0
    with tqdm(total=clips, unit="clip", disable=None, miniters=0) as bar:

        def progress(count: int, seconds: float) -> None:
            nonlocal total
            total += seconds
            audio = tqdm.format_interval(int(total))
            bar.set_postfix_str(f"{audio} of audio", refresh=False)
            bar.update(count)

        yield progress


def _finish(summary: EmbeddingSummary, output: str) -> int:
    _report(summary)
    parts = [f"{summary.examples} examples of {_clips(summary.clips)} in {printable(output)}"]
    if summary.skipped:
        parts.append(f"{summary.skipped} were done before")
    if summary.failed:
        parts.append(f"{len(summary.failed)} failed")
    say("; ".join(parts))
    return 1 if summary.failed else 0


def _report(summary: EmbeddingSummary) -> None:
    for clip, reason in summary.failed.items():
        say(f"failed: {printable(clip)}: {printable(in_flags(reason))}", sys.stderr)
    for clip in summary.too_short:
        say(f"shorter than an example: {printable(clip)}", sys.stderr)


def _clips(count: int) -> str:
    return f"{count} clip" if count == 1 else f"{count} clips"
