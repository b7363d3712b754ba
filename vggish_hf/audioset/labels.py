"""AudioSet's classes and its ontology, looked up by index, machine id (mid) or name."""

import csv
import difflib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AudioSetClass:
    """A class of AudioSet's labels.

    Args:
        index: Its place in label vectors, and its number in AudioSet's records.
        mid: Its machine id, used in the segment CSVs and the ontology.
        name: Its display name.
    """

    index: int
    mid: str
    name: str


class AudioSetLabels:
    """The 527 classes of AudioSet.

    A label is an index, a mid, a name or an `AudioSetClass`.

    Args:
        path: A table to use instead of AudioSet's `class_labels_indices.csv`, with the same layout.

    Attributes:
        classes: The classes, in the order of their indices.

    Raises:
        ValueError: The table has another layout.

    Example:
        >>> labels = AudioSetLabels()
        >>> labels.find("Speech")
        AudioSetClass(index=0, mid='/m/09x0r', name='Speech')
        >>> labels.find("/m/09x0r").index, labels.find(526).name
        (0, 'Field recording')
        >>> [found.name for found in labels.decode(labels.encode(["Whale vocalization", 0]))]
        ['Speech', 'Whale vocalization']
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        bundled = files("vggish_hf") / "assets/audioset/class_labels_indices.csv"
        table = bundled if path is None else Path(path)
        lines = table.read_text(encoding="utf-8").splitlines()
        columns, *rows = csv.reader(lines or [""])
        if columns != ["index", "mid", "display_name"]:
            raise ValueError(
                f"Expected {table} to have the columns index, mid and display_name, got {columns}"
            )
        for index, row in enumerate(rows):
            if row[:1] != [str(index)] or len(row) != len(columns):
                raise ValueError(
                    f"Expected index {index}, a mid and a name in line {index + 2} of {table}, "
                    f"got {row}"
                )
        self.classes = tuple(AudioSetClass(int(index), mid, name) for index, mid, name in rows)
        self._by_key: dict[str, AudioSetClass] = {}
        for found in self.classes:
            for key in (found.mid, found.name):
                if self._by_key.setdefault(key, found) is not found:
                    raise ValueError(f"Expected each class once in {table}, got {key!r} again")

    def __len__(self) -> int:
        return len(self.classes)

    def find(self, label: int | str | AudioSetClass) -> AudioSetClass:
        """Look up a class.

        Raises:
            ValueError: It is unknown; for a misspelt name, the error lists close ones.
        """
        if isinstance(label, AudioSetClass):
            label = label.mid
        if isinstance(label, str):
            return _find(label, self._by_key)
        if not 0 <= label < len(self):
            raise ValueError(f"Expected the index of a class, 0 to {len(self) - 1}, got {label}")
        return self.classes[label]

    def encode(
        self, labels: Iterable[int | str | AudioSetClass], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Turn the labels of a clip into a multi-hot vector.

        Returns:
            1 at the index of each label, 0 elsewhere.

        Raises:
            ValueError: A label is not in the table, or `labels` is a single string.

        Shape:
            - Output: `(classes,)`
        """
        return self.encode_batch([labels], dtype)[0]

    def encode_batch(
        self,
        batch: Sequence[Iterable[int | str | AudioSetClass]],
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Turn the labels of several clips into multi-hot vectors; see `encode`.

        Shape:
            - Output: `(clips, classes)`
        """
        target = torch.zeros(len(batch), len(self), dtype=dtype)
        for row, labels in zip(target, batch, strict=True):
            if isinstance(labels, str):
                raise ValueError(f"Expected a list of labels per clip, got {labels!r}; pass a list")
            row[[self.find(label).index for label in labels]] = 1
        return target

    def decode(self, scores: Tensor, threshold: float = 0.5) -> list[AudioSetClass]:
        """List the classes of a clip whose score, or multi-hot value, reaches the threshold.

        Raises:
            ValueError: `scores` has another shape.

        Shape:
            - `scores`: `(classes,)`
        """
        if scores.shape != (len(self),):
            raise ValueError(
                f"Expected `scores` of shape ({len(self)},), got {tuple(scores.shape)}; decode "
                "a batch row by row"
            )
        return [self.classes[i] for i in (scores >= threshold).nonzero().flatten().tolist()]


@dataclass(frozen=True, slots=True)
class OntologyNode:
    """A class of the ontology; not all of them are AudioSet labels.

    Args:
        mid: Its machine id.
        name: Its display name.
        children: Mids of the classes directly below it.
        parents: Mids of the classes directly above it; a class may have several, or none.
        restrictions: `"abstract"`: only a group, not a label. `"blacklist"`: too obscure or too
            confusing to be rated, though a few are labels.
    """

    mid: str
    name: str
    children: tuple[str, ...]
    parents: tuple[str, ...]
    restrictions: frozenset[str]


class Ontology:
    """The tree (with a few classes in several places) of AudioSet's classes.

    Args:
        path: AudioSet's `ontology.json`, which this package does not contain; get it from
            https://github.com/audioset/ontology (CC BY-SA 4.0).

    Attributes:
        nodes: The classes by mid, in the order of the file.

    Raises:
        ValueError: The file has another layout.

    Example:
        >>> ontology = Ontology("ontology.json")  # doctest: +SKIP
        >>> [ontology.nodes[mid].name for mid in ontology.find("Cowbell").parents]  # doctest: +SKIP
        ['Cattle, bovinae', 'Percussion', 'Bell']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            entries = {entry["id"]: entry for entry in json.loads(Path(path).read_text("utf-8"))}
            parents: dict[str, list[str]] = {mid: [] for mid in entries}
            for mid, entry in entries.items():
                for child in entry["child_ids"]:
                    parents[child].append(mid)
            self.nodes = {
                mid: OntologyNode(
                    mid=mid,
                    name=entry["name"],
                    children=tuple(entry["child_ids"]),
                    parents=tuple(parents[mid]),
                    restrictions=frozenset(entry["restrictions"]),
                )
                for mid, entry in entries.items()
            }
        except (KeyError, TypeError) as error:
            raise ValueError(f"Expected {path} to be AudioSet's ontology, but {error!r}") from error
        self._by_key = self.nodes | {node.name: node for node in self.nodes.values()}

    def find(self, key: str) -> OntologyNode:
        """Look up a class by its mid or its name.

        Raises:
            ValueError: It is unknown; for a misspelt name, the error lists close ones.
        """
        return _find(key, self._by_key)

    def descendants(self, key: str) -> dict[str, OntologyNode]:
        """List the classes below a class, at any depth.

        Args:
            key: The mid or the name of the class.

        Returns:
            The classes by mid, each once, without the class itself.

        Raises:
            ValueError: There is no such class.

        Example:
            >>> music = ontology.descendants("Music")  # doctest: +SKIP
            >>> "/m/0239kh" in music  # Cowbell  # doctest: +SKIP
            True
        """
        top = self.find(key)
        found: dict[str, OntologyNode] = {}
        waiting = list(top.children)
        while waiting:
            mid = waiting.pop(0)
            if mid not in found and mid != top.mid:
                found[mid] = self.nodes[mid]
                waiting += found[mid].children
        return found


def _find(key: str, table: dict[str, T]) -> T:
    if key in table:
        return table[key]
    folded = {name.casefold(): name for name in table}
    close = [folded[name] for name in difflib.get_close_matches(key.casefold(), folded)]
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ValueError(f"Expected the mid or the name of a class, got {key!r}{hint}")
