"""`vggish-hf embed`: audio in; one file of embeddings out, or a folder that can be gone on with."""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits, IsolatedDecoders
from vggish_hf.cli._interrupts import Ending, ending_soon
from vggish_hf.cli._options import add_model_options, load_pipeline
from vggish_hf.configuration import Padding
from vggish_hf.distributed import ClusterError, embed_dataset
from vggish_hf.inputs import Clip, find_clips, make_decoder
from vggish_hf.jobs.job import EmbeddingSummary
from vggish_hf.jobs.to_folder import embed_clips_to_folder
from vggish_hf.modeling.loading import parse_dtype
from vggish_hf.modeling.postprocessor import find_postprocess
from vggish_hf.outputs import check_output, open_output
from vggish_hf.pipeline import Postprocess

Engine = Literal["local", "ray"]

_EPILOG = """\
INPUT may be a tar of audio files, a Parquet file with a column of them, and a URL: s3://, gs://,
https://, or hf://datasets/org/name for a dataset on the Hub. A folder is searched for all of these.
Links that lead out of it are passed over, and told. Paths in a list are relative to the working
folder. Files are decoded in processes of their own, so that none of them can break the job.

OUT is a file, .parquet (a row an example: id, example, start_seconds, embedding), .npz (the same as
arrays) or .tfrecord (a SequenceExample a clip, as AudioSet's; uint8 alone; what made it stands in
OUT.json), which is replaced where it exists, once all is done. Or it is a folder, by a slash at its
end, for many clips: of Parquet files, each whole. After an interruption the same command goes on,
and it tries again what has failed; other weights or options are refused. With --engine ray a
cluster does the same.

examples:
  vggish-hf embed clip.wav -o clip.parquet
  vggish-hf embed music/ 'talks/**/*.mp3' -o all.parquet --postprocess uint8
  vggish-hf embed list.txt -o clips.npz --model org/vggish --example-hop 0.48
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
        help="audio file, folder (searched recursively), glob, .txt list with a path a line, tar, "
        "Parquet file, or URL",
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
        "--follow-symlinks", action="store_true", help="follow links out of folders, too"
    )
    parser.add_argument(
        "--part-clips",
        type=int,
        default=256,
        help="clips of a file of a folder; an interruption costs two such files at most "
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
        help="the Ray cluster's; auto: the one that this machine belongs to (default: RAY_ADDRESS, "
        "or a new one on this machine)",
    )
    parser.add_argument(
        "--actors",
        type=int,
        help="copies of the network on the cluster (default: one a GPU, or for every second CPU)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
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
    postprocess: Postprocess = args.postprocess or (
        "uint8" if output.suffix == ".tfrecord" else "none"
    )
    dtype = find_postprocess(postprocess).dtype()
    check_output(output, dtype)
    limits = AudioLimits(max_seconds=args.max_seconds)
    clips = _find_clips(args)
    pipeline = load_pipeline(args, **_settings(args))
    options = {"batch_size": args.batch_size, "inputs": args.inputs, "limits": asdict(limits)}
    provenance = {**pipeline.provenance(postprocess), "options": options}
    size = pipeline.model.config.embedding_size
    failed: dict[str, str] = {}
    too_short: list[str] = []
    decoders = IsolatedDecoders()
    outputs = pipeline.stream(
        clips,
        postprocess=postprocess,
        batch_size=args.batch_size,
        num_workers=args.workers,
        on_error=lambda _index, clip, error: failed.update({clip.id: str(error)}),
        decode=make_decoder(decoders, limits),
    )
    examples = 0
    with (
        closing(outputs),
        decoders,  # which end before the threads that wait for them
        suppress(_NothingEmbeddedError),
        tqdm(total=len(clips), unit="clip", disable=None) as progress,
        open_output(output, size, dtype, provenance) as write,
    ):
        for out in outputs:
            write(clips[out.index].id, out)
            examples += len(out.embeddings)
            if not len(out.embeddings):
                too_short.append(clips[out.index].id)
            progress.update(out.index + 1 - progress.n)
        progress.update(len(clips) - progress.n)
        if len(failed) == len(clips):
            raise _NothingEmbeddedError
    _print_left_out(failed, too_short)
    if len(failed) == len(clips):
        print(f"no clip was embedded, {output} is not written", file=sys.stderr)
        return 1
    summary = f"{examples} examples of {_clips(len(clips) - len(failed))} in {output}"
    print(summary + (f"; {len(failed)} failed" if failed else ""))
    return 1 if failed else 0


def _embed_to_folder(args: argparse.Namespace, ending: Ending) -> int:
    limits = AudioLimits(max_seconds=args.max_seconds)
    clips = _find_clips(args)
    done = 0
    with tqdm(total=len(clips), unit="clip", disable=None) as progress:

        def note(count: int) -> None:
            nonlocal done
            done += count
            progress.update(count)

        options: dict[str, Any] = {
            "postprocess": args.postprocess or "none",
            "batch_size": args.batch_size,
            "num_workers": args.workers,
            "part_clips": args.part_clips,
            "limits": limits,
            "progress": note,
        }
        ending.last_words = lambda: (
            f"{done} of {len(clips)} clips are done, in {args.output}, which gets "
            f"{args.part_clips} at a time; the same command goes on"
        )
        try:
            summary = _run_engine(args, clips, options)
        except ClusterError as error:
            progress.close()
            print(f"vggish-hf: error: {error}", file=sys.stderr)
            return 2
    _print_left_out(summary.failed, summary.too_short)
    parts = [f"{summary.examples} examples of {_clips(summary.clips)} in {args.output}"]
    if summary.skipped:
        parts.append(f"{summary.skipped} were done before")
    if summary.failed:
        parts.append(f"{len(summary.failed)} failed")
    print("; ".join(parts))
    return 1 if summary.failed else 0


def _run_engine(
    args: argparse.Namespace, clips: Sequence[Clip], options: Mapping[str, Any]
) -> EmbeddingSummary:
    if args.engine == "local":
        return embed_clips_to_folder(
            load_pipeline(args, **_settings(args)), clips, args.output, **options
        )
    if args.device != "cpu":
        raise ValueError(
            f"Expected no `--device` with `--engine ray`, got {args.device!r}; every actor takes a "
            "GPU where the cluster has any"
        )
    return embed_dataset(
        clips,
        args.output,
        model=args.model,
        revision=args.revision,
        dtype=parse_dtype(args.dtype),
        address=args.address,
        num_actors=args.actors,
        **_settings(args),
        **options,
    )


def _find_clips(args: argparse.Namespace) -> list[Clip]:
    def note(path: str, reason: str) -> None:
        # An output of an earlier run that lies among the inputs is no news.
        if not os.path.abspath(path).startswith(os.path.abspath(args.output)):
            print(f"passed over: {path}: {reason}", file=sys.stderr)

    return find_clips(args.inputs, follow_symlinks=args.follow_symlinks, on_skip=note)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {"padding": args.padding, "example_hop_seconds": args.example_hop}


def _print_left_out(failed: Mapping[str, str], too_short: Iterable[str]) -> None:
    for clip, reason in failed.items():
        print(f"failed: {clip}: {reason}", file=sys.stderr)
    for clip in too_short:
        print(f"shorter than an example: {clip}", file=sys.stderr)


class _NothingEmbeddedError(Exception):
    """Every input failed: the output, and one that is there, stay as they are."""


def _clips(count: int) -> str:
    return f"{count} clip" if count == 1 else f"{count} clips"
