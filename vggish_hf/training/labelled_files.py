"""List audio files and their classes, from a folder or a table."""

import csv
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from vggish_hf.audio import AUDIO_EXTENSIONS
from vggish_hf.inputs import is_litter, readable_id


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """An audio file and its classes.

    Args:
        id: Its path inside the folder, or relative to the table, with `/` as separator.
        path: Its place on disk.
        labels: Its classes.
        fold: Its fold, if any.
    """

    id: str
    path: Path
    labels: tuple[str, ...]
    fold: str | None = None


@dataclass(frozen=True, slots=True)
class TableLayout:
    """The layout of a table of audio files.

    Args:
        path: The column of paths.
        label: The column of classes.
        fold: The column of folds; a table may lack it.
        audio_folder: The base folder of the paths, relative to the working folder; it may contain
            columns, such as `UrbanSound8K/audio/fold{fold}`. The default is the table's own folder.
    """

    path: str = "path"
    label: str = "label"
    fold: str = "fold"
    audio_folder: str | None = None

    def columns(self) -> list[str]:
        """All columns to read, each once."""
        named = _COLUMN.findall(self.audio_folder or "")
        return list(dict.fromkeys([self.path, self.label, self.fold, *named]))

    def place(self, row: Mapping[str, Any], table: Path) -> tuple[Path, PurePosixPath]:
        """The place of a row's file: the user's folder, and the row's path."""
        if self.audio_folder is None:
            return table.parent, PurePosixPath(row[self.path])
        parts = PurePosixPath(self.audio_folder).parts
        fixed = list(takewhile(lambda part: _COLUMN.search(part) is None, parts))
        named = [
            _COLUMN.sub(lambda match: str(row[match[1]]), part) for part in parts[len(fixed) :]
        ]
        return Path(*fixed), PurePosixPath(*named, row[self.path])


_COLUMN = re.compile(r"\{([^{}]+)\}")


def read_folder(folder: Path, fold_pattern: str | None = None) -> list[LabelledFile]:
    """List the audio files of a folder that has one sub-folder per class.

    Args:
        folder: Has one folder per class, with the class's name. Hidden ones and litter of operating
            systems (`__MACOSX`) are skipped. All files in the others, at any depth, with the ending
            of an audio file count.
        fold_pattern: A regular expression with one group, searched in each file's name: the group
            is the file's fold.

    Returns:
        The files, sorted by class and name.

    Raises:
        ValueError: There are no class folders, one has no audio, or the pattern is invalid or not
            found in a name.
    """
    folders = sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and not is_litter(path.name)
    )
    if not folders:
        raise ValueError(f"Expected one sub-folder per class in {str(folder)!r}, found none")
    files = []
    for path in folders:
        found = sorted(
            name
            for name in path.rglob("*")
            if name.suffix.lower() in AUDIO_EXTENSIONS
            and not is_litter(name.relative_to(folder).as_posix())
            and name.is_file()
        )
        if not found:
            raise ValueError(
                f"Expected audio files in each class's folder, found none in {str(path)!r}"
            )
        files += [
            LabelledFile(readable_id(name.relative_to(folder).as_posix()), name, (path.name,))
            for name in found
        ]
    return _with_folds(files, fold_pattern)


def read_table(
    table: Path, fold_pattern: str | None = None, layout: TableLayout | None = None
) -> tuple[list[LabelledFile], bool]:
    """Read a table of audio files.

    Args:
        table: CSV with a header, or Parquet. Several classes are one label separated by `;`, or a
            list in a column of lists, where a clip may have none.
        fold_pattern: As for `read_folder`; the default is the column of folds.
        layout: The names of the columns; the default is `path`, relative to the table's own folder,
            `label` and, if needed, `fold`.

    Returns:
        The files, in the order of the rows, and whether a file may have several classes: some do,
        or the column holds lists.

    Raises:
        ValueError: A column or a label is missing, a path leaves the folder or occurs twice, or the
            pattern is invalid or not found in a name.
        FileNotFoundError: A file does not exist.
    """
    layout = layout or TableLayout()
    rows, present = (_read_parquet if table.suffix == ".parquet" else _read_csv)(table, layout)
    needed = [name for name in layout.columns() if name != layout.fold]
    if not rows or not set(needed) <= set(present):
        raise ValueError(
            f"Expected rows with the columns {' and '.join(needed)} in {str(table)!r}, got "
            f"{sorted(present) if rows else 'no rows'}; name its columns by `path_column`, "
            "`label_column` and `fold_column`"
        )
    files = [
        _read_row(row, table, layout, f"row {i} of {str(table)!r}") for i, row in enumerate(rows, 1)
    ]
    id_, count = Counter(file.id for file in files).most_common(1)[0]
    if count > 1:
        raise ValueError(f"Expected each path once in {str(table)!r}, got {id_!r} {count} times")
    is_multi_label = isinstance(rows[0][layout.label], list) or any(
        len(file.labels) > 1 for file in files
    )
    return _with_folds(files, fold_pattern), is_multi_label


def _read_csv(table: Path, _layout: TableLayout) -> tuple[list[dict[str, Any]], list[str]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        return list(reader), list(reader.fieldnames or [])


def _read_parquet(table: Path, layout: TableLayout) -> tuple[list[dict[str, Any]], list[str]]:
    with pq.ParquetFile(table) as file:
        rows: list[dict[str, Any]] = file.read(layout.columns()).to_pylist()
        return rows, file.schema_arrow.names


def _read_row(row: dict[str, Any], table: Path, layout: TableLayout, where: str) -> LabelledFile:
    name, label, fold = row[layout.path], row[layout.label], row.get(layout.fold)
    if not name or not isinstance(name, str):
        raise ValueError(f"Expected a path in {where}, got {name!r}")
    labels = [part.strip() for part in label.split(";")] if isinstance(label, str) else label
    if not isinstance(labels, list) or not all(part and isinstance(part, str) for part in labels):
        raise ValueError(
            f"Expected a label, or several with ; between them, in {where}, got {label!r}"
        )
    root, inner = layout.place(row, table)
    # The table may be untrusted, and must not make other files look like data.
    if PurePosixPath(name).is_absolute() or ".." in inner.parts or inner.is_absolute():
        raise ValueError(f"Expected a path inside the table's folder in {where}, got {name!r}")
    path = root / inner
    if not path.is_file():
        raise FileNotFoundError(
            f"No file at {str(path)!r} for {where}; pass the folder of the paths as `audio_folder`"
        )
    return LabelledFile(
        id=inner.as_posix(),
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
