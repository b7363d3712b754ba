"""`vggish-hf embed` into a folder, from all kinds of inputs, and what interrupts it."""

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
import tarfile
import termios
import time

import embedding_faults as faults
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import soundfile
from clip_server import ClipServer

from vggish_hf.cli import main


@pytest.fixture
def files(tmp_path):
    """Clips of two examples by name, in the folder `clips`."""
    return faults.make_files(tmp_path / "clips", 3)


@pytest.fixture
def embed(lively_model_folder, tmp_path, monkeypatch):
    """Run `embed` in a folder of the test's own; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["embed", *arguments, "--model", str(lively_model_folder)])


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_folder_and_again(embed, files, tmp_path, capsys):
    (tmp_path / "clips" / "bad.wav").write_bytes(b"RIFF")
    assert embed("clips", "-o", "out/") == 1
    captured = capsys.readouterr()
    assert captured.out == "6 examples of 3 clips in out/; 1 failed\n"
    assert captured.err.startswith("failed: clips/bad.wav: ")
    soundfile.write("clips/bad.wav", np.zeros(16_000), 16_000)
    soundfile.write("clips/more.wav", np.zeros(16_000), 16_000)
    assert embed("clips", "-o", "out") == 0  # a folder by now
    captured = capsys.readouterr()
    assert captured.out == "2 examples of 2 clips in out; 3 were done before\n"
    assert captured.err == ""
    table = pyarrow.dataset.dataset("out").to_table()
    assert sorted(set(table["id"].to_pylist())) == sorted(
        f"clips/{name}" for name in [*files, "bad.wav", "more.wav"]
    )
    assert len(table) == 8


def test_it_opens_by_load_dataset(embed, files):
    datasets = pytest.importorskip("datasets")
    assert embed("clips", "-o", "out/", "--part-clips", "1") == 0
    dataset = datasets.load_dataset("parquet", data_dir="out", split="train", cache_dir="cache")
    assert sorted(dataset["id"]) == sorted(f"clips/{name}" for name in files for _ in range(2))


@pytest.mark.slow
def test_all_kinds_of_inputs(embed, files, tmp_path, capsys):
    write_tar(tmp_path / "shard.tar", {**files, "../../escape.wav": b"RIFF", "a.json": b"{}"})
    column = pa.array([{"bytes": content, "path": name} for name, content in files.items()])
    pq.write_table(pa.table({"audio": column}), tmp_path / "table.parquet")
    with ClipServer(files) as server:
        pytest.importorskip("aiohttp")
        links = [f"{server.url}/{name}" for name in files]
        (tmp_path / "list.txt").write_text("\n".join(links))
        inputs = ("clips", "shard.tar", "table.parquet", "list.txt")
        assert embed(*inputs, "-o", "out/") == 1
        assert embed(*inputs, "-o", "out.parquet") == 1
    failed = "failed: shard.tar/../../escape.wav: "  # an id, and no path
    assert [line[: len(failed)] for line in capsys.readouterr().err.splitlines()] == [failed] * 2
    assert not list(tmp_path.parent.glob("escape*"))
    rows = faults.read_rows(tmp_path / "out")
    places = ("clips/", "shard.tar/", "table.parquet/", f"{server.url}/")
    assert sorted(rows) == sorted(place + name for place in places for name in files)
    for name in files:
        for place in places[1:]:
            assert np.allclose(rows[place + name], rows[places[0] + name], rtol=1e-4, atol=1e-5)
    table = pq.read_table(tmp_path / "out.parquet")
    assert sorted(set(table["id"].to_pylist())) == sorted(rows)


def test_an_output_among_the_inputs(embed, files, capsys):
    assert embed("clips", "-o", "clips/out/") == 0
    assert embed("clips", "-o", "clips/out/") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1] == "0 examples of 0 clips in clips/out/; 3 were done before"
    assert captured.err == ""


def test_a_link_in_a_folder_whose_name_begins_as_the_output_s(embed, files, tmp_path, capsys):
    outside = tmp_path / "outside.wav"
    soundfile.write(outside, np.zeros(16_000), 16_000)
    (tmp_path / "clips").rename(tmp_path / "emb-inputs")
    (tmp_path / "emb-inputs" / "link.wav").symlink_to(outside)
    for out in ("emb/", "emb.parquet"):
        assert embed("emb-inputs", "-o", out) == 0
        skipped = "skipped: emb-inputs/link.wav: a link that leads out of its folder\n"
        assert capsys.readouterr().err == skipped


def test_names_cannot_steer_the_terminal(embed, tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    name = "a\x1b[2J\x9b\u202e\n.wav"
    (tmp_path / "clips" / name).write_bytes(b"RIFF")
    for out in ("out/", "out.csv"):
        assert embed("clips", "-o", out) == 1
        error = capsys.readouterr().err
        assert error.startswith("failed: clips/a\\x1b[2J\\x9b\\u202e\\n.wav: ")
        assert not set(error) & set("\x1b\x9b\u202e")


@pytest.mark.parametrize("pool", ["mean", "mean_std"])
def test_pool(embed, files, tmp_path, capsys, pool):
    assert embed("clips", "-o", "out/", "--pool", pool) == 0
    assert embed("clips", "-o", "out.parquet", "--pool", pool) == 0
    rows = faults.read_rows(tmp_path / "out")
    assert [row.shape for row in rows.values()] == [(1, 128 if pool == "mean" else 256)] * 3
    assert len(pq.read_table("out.parquet")) == 3
    assert embed("clips", "-o", "out.tfrecord", "--pool", pool) == 2
    assert "with `--pool`" in capsys.readouterr().err


def test_no_secret_reaches_the_output(embed, files, tmp_path):
    pytest.importorskip("aiohttp")
    asked = {"00.wav?X-Amz-Signature=SIGNED": files["00.wav"]}
    with ClipServer(asked) as server:
        url = server.url.replace("://", "://me:PASS@") + "/00.wav?X-Amz-Signature=SIGNED"
        assert embed(url, "-o", "out.parquet") == 0
    content = (tmp_path / "out.parquet").read_bytes()
    assert b"PASS" not in content
    assert b"SIGNED" not in content


def run_in_shell(tmp_path, model, redirection, out="out.parquet"):
    command = f'"{sys.executable}" -m vggish_hf.cli embed clips -o {out} --model "{model}"'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {redirection}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection", ["2>&-", ">&-", ">&- 2>&-", "| true", "2>&1 | true", ">/dev/full", "2>/dev/full"]
)
def test_that_nobody_listens_changes_nothing(files, lively_model_folder, tmp_path, redirection):
    (tmp_path / "clips" / "bad.wav").write_bytes(b"RIFF")
    done = run_in_shell(tmp_path, lively_model_folder, redirection)
    assert done.returncode == 1, done.stderr  # as of the clip that failed
    assert "Errno" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(pq.read_table(tmp_path / "out.parquet")) == 6


@pytest.mark.slow
def test_a_terminal_shows_progress_inside_a_clip(lively_model_folder, tmp_path):
    soundfile.write(
        tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 900), 16_000
    )
    terminal, inner = pty.openpty()
    termios.tcsetwinsize(inner, (24, 100))
    command = [sys.executable, "-m", "vggish_hf.cli", "embed", "long.wav", "-o", "out.npz"]
    command += ["--model", str(lively_model_folder)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=inner, stdout=subprocess.PIPE)
    os.close(inner)
    shown = b""
    with contextlib.suppress(OSError):  # as the end of a terminal is told
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    process.communicate()
    assert process.returncode == 0
    times = re.findall(rb"0/1 \[.*?, (\d\d:\d\d) of audio", shown)
    assert len(set(times)) > 1


def test_a_signal_ends_a_library_that_waits():
    # In one call of C, as Ray's that looks for a cluster: Python handles no signal before its end.
    code = """
import ctypes, os, signal, threading
from vggish_hf.cli import _interrupts
_interrupts._SECONDS = 0.5
lock = (ctypes.c_char * 64)()
with _interrupts.ending_soon() as ending:
    ending.message = lambda: "3 of 4"
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    library = ctypes.CDLL(None)
    library.pthread_mutex_init(lock, None)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)  # for ever
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "3 of 4\nvggish-hf: interrupted\n")


def test_links_that_lead_out(embed, files, tmp_path, capsys):
    outside = tmp_path / "outside.wav"
    soundfile.write(outside, np.zeros(16_000), 16_000)
    (tmp_path / "clips" / "link.wav").symlink_to(outside)
    assert embed("clips", "-o", "out/") == 0
    passed = "skipped: clips/link.wav: a link that leads out of its folder\n"
    assert capsys.readouterr().err == passed
    assert embed("clips", "-o", "out/", "--follow-symlinks") == 0
    assert sorted(faults.read_rows(tmp_path / "out")) == sorted(
        f"clips/{name}" for name in [*files, "link.wav"]
    )


@pytest.mark.parametrize("out", ["out/", "out.parquet"])
def test_a_limit(embed, files, tmp_path, capsys, out):
    soundfile.write("clips/long.wav", np.zeros(16_000 * 4), 16_000)
    assert embed("clips", "-o", out, "--max-seconds", "3") == 1
    captured = capsys.readouterr()
    assert "failed: clips/long.wav: Expected audio of at most 3 seconds" in captured.err
    assert "raise the limit `--max-seconds`" in captured.err
    assert captured.out == f"6 examples of 3 clips in {out}; 1 failed\n"


def test_other_options_are_refused(embed, files, capsys):
    assert embed("clips", "-o", "out/") == 0
    capsys.readouterr()
    assert embed("clips", "-o", "out/", "--example-hop", "0.48") == 2
    error = capsys.readouterr().err
    assert "write to another folder" in error
    assert "example_hop_seconds: 0.96, now 0.48" in error


def start(tmp_path, model, *arguments):
    command = [sys.executable, "-m", "vggish_hf.cli", "embed", *arguments, "--model", str(model)]
    return subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("out", ["out/", "out.parquet"])
def test_interrupted_while_a_store_hangs(lively_model_folder, tmp_path, embed, number, code, out):
    pytest.importorskip("aiohttp")
    files = faults.make_files(tmp_path / "clips", 6)
    held = sorted(files)[4]
    with ClipServer(files, held=held) as server:
        lines = [f"{server.url if name == held else 'clips'}/{name}" for name in sorted(files)]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        arguments = ("list.txt", "-o", out, "--part-clips", "2")
        process = start(tmp_path, lively_model_folder, *arguments)
        folder = tmp_path / "out"
        end = time.monotonic() + faults.SECONDS
        while not (server.reached.is_set() and (faults.parts(folder) or out != "out/")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(1)  # the second part leaves the network
        process.send_signal(number)
        # The store does not answer before it has ended.
        _, error = process.communicate(timeout=faults.SECONDS)
        assert process.returncode == code
        assert error.splitlines()[-1] == "vggish-hf: interrupted"
        assert "Traceback" not in error
        assert ("4 of 6 clips are done, in out/" in error) == (out == "out/")
        assert not (tmp_path / "out.parquet").exists()
        before = faults.parts(folder)
        server.release()
        assert embed(*arguments) == 0
    if out == "out/":
        assert before
        assert {name: faults.parts(folder)[name] for name in before} == before
        faults.assert_complete(folder, [(line, "") for line in lines])
    else:
        assert len(pq.read_table(tmp_path / out)) == 12


@pytest.mark.slow
def test_interrupted_while_a_file_is_written(lively_model_folder, tmp_path):
    pytest.importorskip("aiohttp")
    code = """
import contextlib, os, signal, sys, time
from vggish_hf.cli import main
from vggish_hf.jobs import to_file
real = to_file.open_output
def interrupt(*clip):
    time.sleep(1)  # the store has been asked for the last clip
    os.kill(os.getpid(), signal.SIGINT)
@contextlib.contextmanager
def interrupting(*arguments):
    with real(*arguments):
        yield interrupt
to_file.open_output = interrupting
sys.exit(main(sys.argv[1:]))
"""
    files = faults.make_files(tmp_path / "clips", 8)
    with ClipServer(files, held="07.wav") as server:
        inputs = [f"clips/{name}" for name in sorted(files)[:7]] + [f"{server.url}/07.wav"]
        inputs += ["-o", "out.npz", "--batch-size", "2", "--workers", "8"]
        command = [sys.executable, "-c", code, "embed", *inputs, "--model", lively_model_folder]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
    assert (done.returncode, done.stderr) == (130, "vggish-hf: interrupted\n")


def test_a_second_interrupt_ends_at_once(lively_model_folder, tmp_path):
    code = """
import os, signal, time
from vggish_hf.cli._interrupts import ending_soon
with ending_soon():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "vggish-hf: interrupted\n")
