"""`vggish-hf predict`: audio files in, the scores of a trained classifier out."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from torch import Tensor
from tqdm import tqdm

from vggish_hf._files import unfinished_file
from vggish_hf.audio import AudioSource
from vggish_hf.inputs import find_inputs, readable_id
from vggish_hf.pipeline import VGGishPipeline

_WRITERS: dict[str, Any] = {
    ".csv": pyarrow.csv.CSVWriter,
    ".parquet": pyarrow.parquet.ParquetWriter,
}

_GROUP_ROWS = 1024

_EPILOG = """\
Without -o, a line a file: its path and its most likely classes. OUT, .csv or .parquet, has a row a
file: id, and a column for each class with its probability.

examples:
  vggish-hf predict street/ --classifier mine/
  vggish-hf predict street/ --classifier mine/ -o street.csv
  vggish-hf predict street/ --classifier tagger/ --model google

exit code: 0 all inputs done, 1 some failed (the others are done), 2 a usage error
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "predict",
        help="classify audio files",
        description="Score audio files by a classifier that `vggish-hf train` has saved.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="as for `vggish-hf embed`")
    parser.add_argument("--classifier", required=True, metavar="ID", help="local folder or Hub id")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT")
    parser.add_argument(
        "--model",
        metavar="ID",
        help="what embeds the audio, for a classifier that learnt from embeddings alone",
    )
    parser.add_argument(
        "--top", type=int, default=3, help="classes in a line (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from vggish_hf.lightning import VGGishClassifier

    if args.top < 1:
        raise ValueError(f"Expected --top of at least 1, got {args.top}")
    paths = find_inputs(args.inputs)
    classifier = VGGishClassifier.from_pretrained(args.classifier)
    pipeline = None if args.model is None else VGGishPipeline.from_pretrained(args.model)
    failures: dict[int, str] = {}

    def note_failure(index: int, _source: AudioSource, error: Exception) -> None:
        failures[index] = str(error)

    clips = classifier.classify(paths, pipeline=pipeline, on_error=note_failure)
    opened = (
        _print_lines(classifier.classes, args.top)
        if args.output is None
        else _write_table(args.output, classifier.classes)
    )
    with opened as write, tqdm(total=len(paths), unit="file", disable=None) as progress:
        for clip in clips:
            write(readable_id(paths[clip.index]), clip.scores)
            progress.update(clip.index + 1 - progress.n)
        progress.update(len(paths) - progress.n)
    for index, reason in failures.items():
        print(f"failed: {readable_id(paths[index])}: {reason}", file=sys.stderr)
    return 1 if failures else 0


@contextmanager
def _print_lines(classes: Sequence[str], top: int) -> Iterator[Callable[[str, Tensor], None]]:
    def write(clip: str, scores: Tensor) -> None:
        values, places = scores.topk(min(top, len(classes)))
        best = (
            f"{classes[place]} {value:.2f}"
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
        )
        print(f"{clip}: {', '.join(best)}")

    yield write


@contextmanager
def _write_table(path: Path, classes: Sequence[str]) -> Iterator[Callable[[str, Tensor], None]]:
    if path.suffix not in _WRITERS:
        raise ValueError(
            f"Expected an output that ends in {', '.join(_WRITERS)}, got {str(path)!r}"
        )
    if "id" in classes:
        raise ValueError("Expected no class named 'id', which names the column of paths")
    fields = [pa.field(name, pa.float32(), nullable=False) for name in classes]
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), *fields])
    rows: list[tuple[str, list[float]]] = []
    with unfinished_file(path) as unfinished, _WRITERS[path.suffix](unfinished, schema) as writer:

        def write(clip: str, scores: Tensor) -> None:
            rows.append((clip, scores.tolist()))
            if len(rows) == _GROUP_ROWS:
                flush()

        def flush() -> None:
            columns = zip(*((clip, *scores) for clip, scores in rows), strict=True)
            arrays = map(pa.array, columns, schema.types)
            writer.write_table(pa.Table.from_arrays(list(arrays), schema=schema))
            rows.clear()

        yield write
        if rows:
            flush()
