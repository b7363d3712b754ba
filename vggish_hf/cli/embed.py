"""`vggish-hf embed`: audio files in, one file of embeddings out."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_args

import torch
from tqdm import tqdm

from vggish_hf.audio import AudioSource
from vggish_hf.cli._options import add_model_options, load_pipeline
from vggish_hf.configuration import Padding
from vggish_hf.inputs import find_inputs, readable_id
from vggish_hf.outputs import check_output, open_output
from vggish_hf.pipeline import Postprocess

_EPILOG = """\
OUT may end in .parquet (a row an example: id, example, start_seconds, embedding), .npz (the same as
arrays) or .tfrecord (a SequenceExample a clip, as AudioSet's; uint8 alone; what made it stands in
OUT.json). It is replaced where it exists, once all is done. Paths in a list are relative to the
working folder. Of a folder, files that end as audio files do are taken; links to folders are not
followed.

examples:
  vggish-hf embed clip.wav -o clip.parquet
  vggish-hf embed music/ 'talks/**/*.mp3' -o all.parquet --postprocess uint8
  vggish-hf embed list.txt -o clips.npz --model org/vggish --example-hop 0.48

exit code: 0 all inputs done, 1 some failed (the others are written), 2 a usage error
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "embed",
        help="embed audio files",
        description="Embed audio files of any length, rate and format.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file, folder (searched recursively), glob, or .txt list with a path a line",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    output: Path = args.output
    postprocess: Postprocess = args.postprocess or (
        "uint8" if output.suffix == ".tfrecord" else "none"
    )
    dtype = torch.uint8 if postprocess == "uint8" else torch.float32
    check_output(output, dtype)
    paths = find_inputs(args.inputs)
    pipeline = load_pipeline(args, padding=args.padding, example_hop_seconds=args.example_hop)
    options = {"batch_size": args.batch_size, "inputs": args.inputs}
    provenance = {**pipeline.provenance(postprocess), "options": options}
    size = pipeline.model.config.embedding_size
    failures: dict[int, str] = {}
    too_short: list[str] = []

    def note_failure(index: int, _source: AudioSource, error: Exception) -> None:
        failures[index] = str(error)

    outputs = pipeline.stream(
        paths,
        postprocess=postprocess,
        batch_size=args.batch_size,
        num_workers=args.workers,
        on_error=note_failure,
    )
    examples = 0
    with (
        suppress(_NothingEmbeddedError),
        tqdm(total=len(paths), unit="file", disable=None) as progress,
        open_output(output, size, dtype, provenance) as write,
    ):
        for out in outputs:
            write(readable_id(paths[out.index]), out)
            examples += len(out.embeddings)
            if not len(out.embeddings):
                too_short.append(readable_id(paths[out.index]))
            progress.update(out.index + 1 - progress.n)
        progress.update(len(paths) - progress.n)
        if len(failures) == len(paths):
            raise _NothingEmbeddedError
    for index, reason in failures.items():
        print(f"failed: {readable_id(paths[index])}: {reason}", file=sys.stderr)
    for name in too_short:
        print(f"shorter than an example: {name}", file=sys.stderr)
    if len(failures) == len(paths):
        print(f"no file was embedded, {output} is not written", file=sys.stderr)
        return 1
    summary = f"{examples} examples of {_files(len(paths) - len(failures))} in {output}"
    print(summary + (f"; {_files(len(failures))} failed" if failures else ""))
    return 1 if failures else 0


class _NothingEmbeddedError(Exception):
    """Every input failed: the output, and one that is there, stay as they are."""


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
