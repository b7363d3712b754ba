"""What may happen to an embedding job, for each engine the same."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from clip_server import ClipServer
from folders import TESTS

from vggish_hf.outputs.folder import EmbeddingFolder

SCRIPT = TESTS / "embedding_run.py"
SECONDS = 300  # for a job on a cluster, on a busy machine
RATE = 16_000

Engine = Mapping[str, Any]
LOCAL: Engine = {"engine": "local", "options": {}}
Clips = Sequence[tuple[str, str]]
Rows = dict[str, np.ndarray]


def make_files(folder: Path, count: int, seconds: float = 2.0) -> dict[str, bytes]:
    """Write files of noise, each of its own, and return their content by name."""
    folder.mkdir()
    content = {}
    for number in range(count):
        path = folder / f"{number:02}.wav"
        generator = np.random.default_rng(number)
        soundfile.write(path, generator.uniform(-0.5, 0.5, int(seconds * RATE)), RATE)
        content[path.name] = path.read_bytes()
    return content


def make_clips(folder: Path, count: int, seconds: float = 2.0) -> list[tuple[str, str]]:
    """Write files of noise, and return their ids and paths."""
    return [(name, str(folder / name)) for name in make_files(folder, count, seconds)]


class Run:
    """A job in a process of its own, to which all paths but those of clips are relative."""

    def __init__(
        self, engine: Engine, clips: Clips, folder: Path, model: Path, **options: Any
    ) -> None:
        job = {
            **engine,
            "clips": clips,
            "folder": folder.name,
            "model": os.path.relpath(model, folder.parent),
            "options": {**engine["options"], **options},
        }
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=folder.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGKILL)
        self.process.communicate()

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def summary(self) -> dict[str, Any]:
        """Wait for its end, and return the summary."""
        output, errors = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, errors
        return json.loads(output.splitlines()[-1])

    def error(self) -> str:
        """Wait for its failure, and return the last lines of what it says."""
        _, errors = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode != 0
        return "\n".join(errors.strip().splitlines()[-3:])

    def wait_until(self, is_so: Any) -> None:
        end = time.monotonic() + SECONDS
        while not is_so():
            if self.process.poll() is not None:
                pytest.fail(f"it ended too soon: {self.process.communicate()[1]}")
            assert time.monotonic() < end
            time.sleep(0.02)


def run(engine: Engine, clips: Clips, folder: Path, model: Path, **options: Any) -> dict[str, Any]:
    """Run a job to its end, and return its summary."""
    with Run(engine, clips, folder, model, **options) as job:
        return job.summary()


def parts(folder: Path) -> dict[str, bytes]:
    """The files that readers see, each of which is whole."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if not path.name.startswith("."):
            assert path.name.startswith("part-")
            pq.read_table(path)
            found[path.name] = path.read_bytes()
    return found


def read_rows(folder: Path) -> Rows:
    """The embeddings by id, where each id is in the folder once."""
    rows: Rows = {}
    for name in parts(folder):
        table = pq.read_table(folder / name)
        ids = table["id"].to_pylist()
        for clip in dict.fromkeys(ids):
            assert clip not in rows
            own = table.slice(ids.index(clip), ids.count(clip))
            assert own["example"].to_pylist() == list(range(len(own)))
            rows[clip] = np.stack(own["embedding"].to_numpy())
    return rows


def assert_complete(folder: Path, good: Clips, failed: Mapping[str, str] | None = None) -> None:
    """That each good clip is there once, and each bad one is named."""
    assert sorted(read_rows(folder)) == sorted(name for name, _ in good)
    found = EmbeddingFolder(folder).failed()
    assert found.keys() == (failed or {}).keys()
    for clip, reason in (failed or {}).items():
        assert reason in found[clip]
    assert not list(folder.glob(".*.unfinished"))


def assert_same_rows(folder: Path, other: Path) -> None:
    """That two folders have the same rows, bit for bit, and the same that failed."""
    found, expected = read_rows(folder), read_rows(other)
    assert expected
    assert found.keys() == expected.keys()
    for clip in expected:
        assert found[clip].dtype == expected[clip].dtype
        assert np.array_equal(found[clip], expected[clip])
    assert EmbeddingFolder(folder).failed() == EmbeddingFolder(other).failed()


@contextmanager
def held_job(
    engine: Engine, tmp_path: Path, model: Path, count: int = 6, **options: Any
) -> Iterator[tuple[Run, ClipServer, list[tuple[str, str]]]]:
    """Run a job of `count` clips in parts of two, which waits for the fifth when a part is done."""
    files = make_files(tmp_path / "files", count)
    held = sorted(files)[4]
    clips = [(name, str(tmp_path / "files" / name)) for name in files]
    with ClipServer(files, held=held) as server:
        clips[4] = (held, f"{server.url}/{held}")
        job = Run(engine, clips, tmp_path / "out", model, part_clips=2, **options)
        with job:
            job.wait_until(lambda: server.reached.is_set() and parts(tmp_path / "out"))
            yield job, server, clips


def check_killed_and_repeated(engine: Engine, tmp_path: Path, model: Path, number: int) -> None:
    """A run that is killed leaves whole files, and the next does what is missing."""
    out = tmp_path / "out"
    with held_job(engine, tmp_path, model) as (job, server, clips):
        if number == signal.SIGINT:
            time.sleep(1)  # the second part leaves the network, and the third is not there yet
        job.signal(number)
        if number != signal.SIGKILL:
            server.release()  # a thread that waits for a store is waited for
        job.process.communicate(timeout=SECONDS)
        assert job.process.returncode != 0
        before = parts(out)
        done = read_rows(out).keys()
        assert (4 if number == signal.SIGINT else 2) <= len(done) < len(clips)
        server.release()
        summary = run(engine, clips, out, model, part_clips=2)
        run(LOCAL, clips, tmp_path / "whole", model, part_clips=2)
    assert summary["skipped"] == len(done)
    assert summary["clips"] == len(clips) - len(done)
    assert_complete(out, clips)
    after = parts(out)
    assert {name: after[name] for name in before} == before
    # The names follow from the listing, whichever engine writes them.
    assert parts(tmp_path / "whole") == after


def check_poison(engine: Engine, tmp_path: Path, model: Path) -> None:
    """A clip that kills the process which decodes it costs that clip alone."""
    clips = make_clips(tmp_path / "files", 4)
    poison = tmp_path / "poison.wav"
    # More than may wait for the front end: the decoder is still at it when it is found.
    with soundfile.SoundFile(poison, "w", 8000, 1, subtype="PCM_U8") as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8000, np.float32))
    clips.insert(2, ("poison", str(poison)))
    out = tmp_path / "out"
    with Run(engine, clips, out, model, part_clips=3) as job:
        job.wait_until(lambda: kill_readers(poison))
        summary = job.summary()
    assert summary["clips"] == 4
    assert list(summary["failed"]) == ["poison"]
    good = [clip for clip in clips if clip[0] != "poison"]
    assert_complete(out, good, {"poison": "the decoder process died (signal SIGKILL)"})
    # The next run, of either engine, tries it again, and nothing else.
    summary = run(LOCAL, clips, out, model, part_clips=3)
    assert (summary["clips"], summary["skipped"], summary["failed"]) == (1, 4, {})
    assert_complete(out, clips)


def kill_readers(path: Path) -> bool:
    """Kill the decoders that have a file open; whether there were any."""
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"audio/_worker.py" in (process / "cmdline").read_bytes() and any(
                entry.readlink() == path for entry in (process / "fd").iterdir()
            ):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    return found


def check_full_disk(engine: Engine, tmp_path: Path, model: Path) -> None:
    """A disk that is full ends the job; the next goes on when there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no command to mount a small disk")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        out = disk / "out"
        clips = make_clips(tmp_path / "files", 10, seconds=40)  # 40 KB of embeddings a part
        with Run(engine, clips, out, model, part_clips=2) as job:
            error = job.error()
        assert "OSError: [Errno 28]" in error
        assert (
            "parts already written are complete. Fix the cause and run the command again" in error
        )
        done = read_rows(out).keys()
        before = parts(out)
        assert 0 < len(done) < len(clips)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        summary = run(LOCAL, clips, out, model, part_clips=2)
        assert summary["skipped"] == len(done)
        assert_complete(out, clips)
        after = parts(out)
        assert {name: after[name] for name in before} == before
    finally:
        # At once or later: a process of Ray may still have its working folder there.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def check_slow_store(engine: Engine, tmp_path: Path, model: Path) -> None:
    """A store that takes its time, and lacks a file, gives the same rows."""
    files = make_files(tmp_path / "files", 6)
    local = [(name, str(tmp_path / "files" / name)) for name in files]
    with ClipServer(files, delay_seconds=0.3) as server:
        clips = [(name, f"{server.url}/{name}") for name in files]
        clips.insert(3, ("none", f"{server.url}/none.wav"))
        summary = run(engine, clips, tmp_path / "out", model, part_clips=4, num_workers=4)
    assert summary["clips"] == 6
    assert_complete(tmp_path / "out", local, {"none": "No such file"})
    run(LOCAL, [*local[:3], ("none", "none"), *local[3:]], tmp_path / "local", model, part_clips=4)
    found, expected = read_rows(tmp_path / "out"), read_rows(tmp_path / "local")
    assert all(np.array_equal(found[clip], expected[clip]) for clip in expected)
