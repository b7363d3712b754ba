"""Files that hold many clips: which endings they have, and who reads each."""

import os
from collections.abc import Iterator

from vggish_hf.inputs.addresses import has_ending, is_url
from vggish_hf.inputs.clip import Clip
from vggish_hf.inputs.stores import NoAudioError, StoredFile
from vggish_hf.inputs.tars import list_tar

#: Endings of the files that hold many clips. A member of a compressed tar cannot be read without
#: all that stands before it: such a tar is refused.
CONTAINER_EXTENSIONS = frozenset({".tar", ".tar.gz", ".tgz", ".parquet"})


def is_container(path: str) -> bool:
    """Tell whether a file holds many clips, by its name."""
    return has_ending(path, CONTAINER_EXTENSIONS)


def list_container(file: StoredFile) -> list[Clip]:
    """List the clips in a tar or a Parquet file.

    Of a tar these are the plain files whose names end as audio files do, without those in hidden
    folders and hidden themselves. A member's name is part of an id, and never a path on disk. Of
    several members of one name, as appending makes them, all are clips: the ids of the second and
    those behind it end in `#2`, `#3` and so on.

    Returns:
        The clips, in order. Where the file is damaged or cannot be read, the last of them is the
        file itself, with the problem.

    Raises:
        NoAudioError: It holds no audio.
    """
    if not (is_url(file.path) or os.path.isfile(file.path)):  # a pipe would be waited for
        return [_damaged(file, f"Expected a file, there is none at {file.name!r}")]
    clips = []
    members = _table_clips(file) if has_ending(file.name, {".parquet"}) else list_tar(file)
    try:
        # Piece by piece: what was found before the damage stays.
        for clip in members:
            clips.append(clip)  # noqa: PERF402
    except OSError as error:
        return [*clips, _damaged(file, str(error))]
    if not clips:
        raise NoAudioError(f"Expected audio in {file.name!r}, it holds none")
    return clips


def _damaged(file: StoredFile, problem: str) -> Clip:
    return Clip(file.name, file.path, problem=problem)


def _table_clips(file: StoredFile) -> Iterator[Clip]:
    from vggish_hf.inputs.tables import list_rows

    for row, row_id in enumerate(list_rows(file)):
        yield Clip(f"{file.name}/{row_id}", file.path, str(row))
