"""Sources of AudioSet clips for the tests: CSVs, folders and archives of short real audio."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from folders import TESTS

AUDIO = TESTS / "data" / "audio_cases"

#: Four seconds of speech, 16 kHz, PCM of 16 bits.
SPEECH = (AUDIO / "harritaylor__test.wav").read_bytes()

#: Ids of every awkward form: leading dash and underscore, underscores before digits, a leading Y.
IDS = ("-_aaaaaaa_1", "_-bbbbb_2_3", "Yccccccccc4", "ddddddddddd")


def write_csv(path: Path, times: Mapping[str, tuple[float, float]]) -> Path:
    """A CSV laid out as AudioSet's; of every clip the labels are Speech and Gush."""
    lines = [
        "# Segments csv created Sun Mar  5 10:54:25 2017\n",
        f"# num_ytids={len(times)}, num_segs={len(times)}\n",
        "# YTID, start_seconds, end_seconds, positive_labels\n",
        *(f'{k}, {a:.3f}, {b:.3f}, "/m/09x0r,/t/dd00088"\n' for k, (a, b) in times.items()),
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A folder of files, with those of subfolders."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """An archive, gzipped where its name says so."""
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_parquet(path: Path, files: Mapping[str, bytes | None]) -> Path:
    """A table in the schema of the mirrors on the Hub, by video id."""
    columns = {
        "video_id": list(files),
        "audio": [{"bytes": content, "path": f"{name}.wav"} for name, content in files.items()],
        "labels": [["/m/09x0r"]] * len(files),
        "human_labels": [["Speech"]] * len(files),
    }
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path
