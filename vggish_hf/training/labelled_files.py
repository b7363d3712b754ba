"""Which audio files there are and what classes they have, from a folder or from a table."""

import csv
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from vggish_hf.inputs import find_inputs, readable_id


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """An audio file and its classes.

    Args:
        id: Its path inside the folder, or beside the table, with `/` between the parts.
        path: Where it is.
        labels: Its classes.
        fold: The fold that it belongs to, if any.
    """

    id: str
    path: Path
    labels: tuple[str, ...]
    fold: str | None = None


def read_folder(folder: Path, fold_pattern: str | None = None) -> list[LabelledFile]:
    """List the audio files of a folder that has a folder for each class.

    Args:
        folder: Holds the folders that the classes are named for, those apart that begin with a
            dot. In them, also further down, files count that end as audio files do.
        fold_pattern: A regular expression with one group, searched for in each file's name: the
            group is the file's fold.

    Returns:
        The files, sorted by class and name.

    Raises:
        ValueError: There are no such folders, one of them holds no audio, or the pattern is
            refused or not found in a name.
    """
    folders = sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not folders:
        raise ValueError(f"Expected a folder for each class in {str(folder)!r}, there is none")
    files = [
        LabelledFile(readable_id(name.relative_to(folder).as_posix()), name, (path.name,))
        for path in folders
        for name in map(Path, find_inputs([str(path)]))
    ]
    return _with_folds(files, fold_pattern)


def read_table(table: Path, fold_pattern: str | None = None) -> tuple[list[LabelledFile], bool]:
    """Read a table of audio files.

    Args:
        table: CSV with a header, or Parquet, with the columns `path`, relative to the table's own
            folder, `label`, and if need be `fold`. Several classes stand in one label with `;`
            between them, or in a column of lists, where a clip may have none.
        fold_pattern: As for `read_folder`; without it the column `fold` counts.

    Returns:
        The files, in the order of the rows, and whether a file may have several classes: some have,
        or the column holds lists.

    Raises:
        ValueError: A column or a label is missing, a path leaves the folder or is there twice, or
            the pattern is refused or not found in a name.
        FileNotFoundError: There is no file at a path.
    """
    rows = _read_parquet(table) if table.suffix == ".parquet" else _read_csv(table)
    missing = {"path", "label"} - {name for row in rows[:1] for name in row}
    if missing:
        raise ValueError(
            f"Expected rows with the columns path and label in {str(table)!r}, got "
            f"{sorted(map(str, rows[0])) if rows else 'no rows'}"
        )
    files = [_read_row(row, table, f"row {i} of {str(table)!r}") for i, row in enumerate(rows, 1)]
    id_, count = Counter(file.id for file in files).most_common(1)[0]
    if count > 1:
        raise ValueError(f"Expected each path once in {str(table)!r}, got {id_!r} {count} times")
    is_multi_label = isinstance(rows[0]["label"], list) or any(len(f.labels) > 1 for f in files)
    return _with_folds(files, fold_pattern), is_multi_label


def _read_csv(table: Path) -> list[dict[str, Any]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _read_parquet(table: Path) -> list[dict[str, Any]]:
    with pq.ParquetFile(table) as file:
        rows: list[dict[str, Any]] = file.read(["path", "label", "fold"]).to_pylist()
        return rows


def _read_row(row: dict[str, Any], table: Path, where: str) -> LabelledFile:
    name, label, fold = row["path"], row["label"], row.get("fold")
    if not name or not isinstance(name, str):
        raise ValueError(f"Expected a path in {where}, got {name!r}")
    # The table may come from elsewhere, and must not make other files look like data.
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"Expected a path inside the table's folder in {where}, got {name!r}")
    labels = [part.strip() for part in label.split(";")] if isinstance(label, str) else label
    if not isinstance(labels, list) or not all(part and isinstance(part, str) for part in labels):
        raise ValueError(
            f"Expected a label, or several with ; between them, in {where}, got {label!r}"
        )
    path = table.parent / name
    if not path.is_file():
        raise FileNotFoundError(f"Expected the file of {where}, there is none at {str(path)!r}")
    return LabelledFile(
        id=PurePosixPath(name).as_posix(),
        path=path,
        labels=tuple(dict.fromkeys(labels)),
        fold=None if fold is None else str(fold),
    )


def _with_folds(files: list[LabelledFile], pattern: str | None) -> list[LabelledFile]:
    if pattern is None:
        return files
    expression = re.compile(pattern)
    if expression.groups != 1:
        raise ValueError(f"Expected a fold pattern with one group, got {pattern!r}")
    found = []
    for file in files:
        match = expression.search(file.path.name)
        if match is None:
            raise ValueError(f"Expected {pattern!r} in the name of each file, got {file.id!r}")
        found.append(replace(file, fold=match[1]))
    return found
