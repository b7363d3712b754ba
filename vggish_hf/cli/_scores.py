"""Tables of scores: one row per clip, one column per class; atomic."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from vggish_hf._runtime.files import unfinished_file, write_json
from vggish_hf.outputs.schema import METADATA_KEY

if TYPE_CHECKING:
    from vggish_hf.lightning import ClassifiedClip

WriteScores: TypeAlias = "Callable[[str, ClassifiedClip], None]"

_WRITERS: dict[str, Any] = {
    ".csv": pyarrow.csv.CSVWriter,
    ".parquet": pyarrow.parquet.ParquetWriter,
}
_GROUP_ROWS = 1024


def check_scores_file(path: Path) -> None:
    """Raise ValueError unless `open_scores` can write the file."""
    if path.suffix not in _WRITERS:
        raise ValueError(
            f"Expected an output that ends in {', '.join(_WRITERS)}, got {str(path)!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"Expected the name of a file in an existing folder, got {str(path)!r}")


@contextmanager
def open_scores(
    path: Path, classes: Sequence[str], provenance: dict[str, Any]
) -> Iterator[WriteScores]:
    """Open a table of scores; the file appears when the context ends.

    Args:
        path: The file, `.csv` or `.parquet`.
        classes: The names of the classes.
        provenance: What made the scores, JSON: in a Parquet file's metadata, beside a CSV.

    Yields:
        A function that writes a clip's scores under an id.

    Raises:
        ValueError: A class is named as the column of ids.
    """
    if "id" in classes:
        raise ValueError("Expected no class named 'id', which is the name of the column of ids")
    fields = [pa.field(name, pa.float32(), nullable=False) for name in classes]
    schema = pa.schema(
        [pa.field("id", pa.string(), nullable=False), *fields],
        metadata={METADATA_KEY: json.dumps(provenance)},
    )
    rows: list[tuple[str, list[float]]] = []
    with unfinished_file(path) as unfinished:
        with _WRITERS[path.suffix](unfinished, schema) as writer:

            def write(clip_id: str, clip: "ClassifiedClip") -> None:
                rows.append((clip_id, clip.scores.tolist()))
                if len(rows) == _GROUP_ROWS:
                    flush()

            def flush() -> None:
                columns = zip(*((clip_id, *scores) for clip_id, scores in rows), strict=True)
                arrays = map(pa.array, columns, schema.types)
                writer.write_table(pa.Table.from_arrays(list(arrays), schema=schema))
                rows.clear()

            yield write
            if rows:
                flush()
        if path.suffix == ".csv":
            with unfinished_file(path.with_name(f"{path.name}.json")) as beside:
                write_json(beside, provenance)
