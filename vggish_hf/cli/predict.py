"""`vggish-hf predict`: audio files in, the scores of a trained classifier out."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from torch import Tensor
from tqdm import tqdm

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.audio import AudioSource
from vggish_hf.inputs import find_inputs, readable_id
from vggish_hf.modeling.loading import check_device
from vggish_hf.pipeline import VGGishPipeline

if TYPE_CHECKING:
    from vggish_hf.lightning import VGGishClassifier

WriteScores: TypeAlias = Callable[[str, Tensor], None]

_WRITERS: dict[str, Any] = {
    ".csv": pyarrow.csv.CSVWriter,
    ".parquet": pyarrow.parquet.ParquetWriter,
}

_GROUP_ROWS = 1024

_EPILOG = """\
Without -o, a line a file: its path and its most likely classes. OUT, .csv or .parquet, has a row a
file: id, and a column for each class with its probability. It is replaced where it exists, once all
is done.

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
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="a table, .csv or .parquet"
    )
    parser.add_argument(
        "--model",
        metavar="ID",
        help="what embeds the audio, for a classifier that learnt from embeddings alone",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--top", type=int, default=3, help="classes in a line (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from vggish_hf.lightning import VGGishClassifier

    output: Path | None = args.output
    if args.top < 1:
        raise ValueError(f"Expected --top of at least 1, got {args.top}")
    if output is not None:
        _check_output(output)
    check_device(args.device)
    paths = find_inputs(args.inputs)
    classifier = VGGishClassifier.from_pretrained(args.classifier, device=args.device)
    pipeline = _load_pipeline(args, classifier)
    failures: dict[int, str] = {}

    def note_failure(index: int, _source: AudioSource, error: Exception) -> None:
        failures[index] = str(error)

    clips = classifier.classify(paths, pipeline=pipeline, on_error=note_failure)
    with (
        suppress(_NothingClassifiedError),
        # Lines and a bar would stand in each other's way.
        tqdm(total=len(paths), unit="file", disable=None if output else True) as progress,
        _open_output(output, classifier.classes, args.top) as write,
    ):
        for clip in clips:
            write(readable_id(paths[clip.index]), clip.scores)
            progress.update(clip.index + 1 - progress.n)
        progress.update(len(paths) - progress.n)
        if len(failures) == len(paths):
            raise _NothingClassifiedError
    for index, reason in failures.items():
        print(f"failed: {readable_id(paths[index])}: {reason}", file=sys.stderr)
    if output is not None and len(failures) == len(paths):
        print(f"no file was classified, {output} is not written", file=sys.stderr)
    return 1 if failures else 0


class _NothingClassifiedError(Exception):
    """Every input failed: the output, and one that is there, stay as they are."""


def _load_pipeline(
    args: argparse.Namespace, classifier: "VGGishClassifier"
) -> VGGishPipeline | None:
    if classifier.backbone is not None:
        if args.model is not None:
            raise ValueError(f"Expected no --model: {args.classifier!r} has a network of its own")
        return None
    if args.model is None:
        raise ValueError(
            f"Expected --model, the network whose embeddings {args.classifier!r} has learnt from"
        )
    pipeline = VGGishPipeline.from_pretrained(args.model, device=args.device)
    size, expected = pipeline.model.config.embedding_size, classifier.hparams.embedding_size
    if size != expected:
        raise ValueError(
            f"Expected a model of {expected}-d embeddings, as {args.classifier!r} has learnt from, "
            f"{args.model!r} has {size}-d ones"
        )
    return pipeline


def _open_output(
    path: Path | None, classes: Sequence[str], top: int
) -> AbstractContextManager[WriteScores]:
    return _print_lines(classes, top) if path is None else _write_table(path, classes)


@contextmanager
def _print_lines(classes: Sequence[str], top: int) -> Iterator[WriteScores]:
    def write(clip: str, scores: Tensor) -> None:
        values, places = scores.topk(min(top, len(classes)))
        best = (
            f"{classes[place]} {value:.2f}"
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
        )
        print(f"{clip}: {', '.join(best)}")

    yield write


def _check_output(path: Path) -> None:
    if path.suffix not in _WRITERS:
        raise ValueError(
            f"Expected an output that ends in {', '.join(_WRITERS)}, got {str(path)!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"Expected the name of a file in an existing folder, got {str(path)!r}")


@contextmanager
def _write_table(path: Path, classes: Sequence[str]) -> Iterator[WriteScores]:
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
