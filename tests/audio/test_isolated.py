"""The same as `open_audio` in every case, and whatever happens to the processes."""

import io
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS

from vggish_hf.audio import (
    AudioError,
    AudioLimits,
    DecoderStartError,
    IsolatedDecoders,
    _worker,
    open_audio,
)
from vggish_hf.audio.process import parse_block, parse_rate

CASES = TESTS / "data" / "audio_cases"
FILES = sorted(path for path in CASES.iterdir() if path.suffix != ".json")
LIMITS = AudioLimits()

# Longer than a process may need to start on a busy machine.
SHORT_TIMEOUT_SECONDS = 4.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


def noise(*shape):
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


def encoded(samples, rate, kind="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=kind)
    return file.getvalue()


def decoder_pids(parent=None):
    """Find the processes that decode for this one, or another."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes()
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if b"_worker.py" in arguments and ppid == (parent or os.getpid()):
            found.add(int(folder.name))
    return found


def wait_until_gone(pids):
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"{pids} still run"
        time.sleep(0.01)


def outcome(opener, source, limits=LIMITS):
    try:
        stream = opener(source, limits)
        return stream.sampling_rate, [block.numpy().tobytes() for block in stream.blocks]
    except (ValueError, OSError, TypeError) as error:
        return type(error), str(error)


@pytest.fixture
def decoders():
    with IsolatedDecoders() as decoders:
        yield decoders
    assert decoder_pids() == set()


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """Four blocks, each more than a pipe holds."""
    path = tmp_path_factory.mktemp("audio") / "long.wav"
    path.write_bytes(encoded(noise(70 * 8000, 2), 8000))
    return path


@pytest.fixture(scope="module")
def long_blocks(long_file):
    return [block.numpy().tobytes() for block in open_audio(long_file).blocks]


def the_pid():
    (pid,) = decoder_pids()
    return pid


# The same as open_audio


def test_real_files_by_path_and_content(decoders):
    for path in FILES:
        for source in (path, str(path), path.read_bytes()):
            assert outcome(decoders.open, source) == outcome(open_audio, source), path
    the_pid()  # one for all
    assert any(outcome(open_audio, path)[0] is AudioError for path in FILES)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 32])
def test_channels_are_mixed_alike(channels, decoders):
    content = encoded(noise(12_345, channels), 16_000, subtype="FLOAT")
    assert outcome(decoders.open, content) == outcome(open_audio, content)


def test_blocks_of_a_long_file(decoders, long_file, long_blocks):
    assert outcome(decoders.open, long_file) == (8000, long_blocks)
    assert len(long_blocks) == 4


def test_damaged_content(decoders):
    contents = [encoded(noise(4000), 8000, kind) for kind in ("WAV", "FLAC", "AIFF")]
    for content in (b"", b"no audio", *(c[: len(c) * n // 4] for c in contents for n in (1, 2, 3))):
        assert outcome(decoders.open, content) == outcome(open_audio, content)
    the_pid()


def test_every_kind_of_encoded_source_is_decoded_elsewhere(tmp_path):
    content = encoded(noise(4000), 8000)
    path = tmp_path / "clip"
    path.write_bytes(content)
    expected = outcome(open_audio, content)
    for source in (
        *(content, bytearray(content), memoryview(content), io.BytesIO(content), path),
        *({"bytes": content, "path": None}, {"path": str(path)}),
    ):
        with IsolatedDecoders() as decoders:
            assert outcome(decoders.open, source) == expected
            assert len(decoder_pids()) == 1


@pytest.mark.parametrize(
    "source",
    [
        (torch.ones(2, 800), 8000),
        {"array": np.ones(800), "sampling_rate": 8000},
        (torch.ones(0), 8000),
        None,
        io.StringIO("RIFF"),
        Path("no.wav"),
        CASES,
    ],
    ids=["tensor", "array", "empty", "None", "text", "missing", "folder"],
)
def test_what_needs_no_process(source, decoders):
    assert outcome(decoders.open, source) == outcome(open_audio, source)
    assert decoder_pids() == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is allowed to root")
def test_file_that_may_not_be_read(decoders, tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(encoded(noise(400), 8000))
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"secret\.wav"):
        decoders.open(path)


@pytest.mark.parametrize("name", [b"caf\xe9.wav", "без имени.wav".encode(), b"a\nb.wav"])
def test_names(name, decoders, tmp_path):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    with open(path, "wb") as file:
        file.write(encoded(noise(400), 8000))
    assert outcome(decoders.open, path) == outcome(open_audio, path)
    assert outcome(open_audio, path)[0] == 8000


def test_a_name_that_leads_out_of_where_a_link_leads(decoders, tmp_path):
    for name, rate in (("there/a.wav", 8000), ("here/a.wav", 16_000)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded(noise(400), rate))
    (tmp_path / "there" / "inner").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there" / "inner")
    path = tmp_path / "here" / "link" / ".." / "a.wav"
    assert outcome(decoders.open, path) == outcome(open_audio, path)
    assert outcome(open_audio, path)[0] == 8000


def test_relative_names_after_a_change_of_folder(decoders, tmp_path, monkeypatch):
    content = encoded(noise(400), 8000)
    outcome(decoders.open, content)
    (tmp_path / "clip.wav").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert outcome(decoders.open, "clip.wav") == outcome(open_audio, content)
    the_pid()


@pytest.mark.parametrize(
    "limits",
    [
        AudioLimits(max_seconds=45),
        AudioLimits(max_seconds=None),
        AudioLimits(max_channels=1),
        AudioLimits(max_sampling_rate=4000),
    ],
)
@pytest.mark.parametrize("kind", ["WAV", pytest.param("FLAC", marks=pytest.mark.slow)])
def test_limits(limits, kind, decoders):
    content = encoded(noise(70 * 8000, 2), 8000, kind)
    expected = outcome(open_audio, content, limits)
    assert (expected[0] is AudioError) == (limits.max_seconds is not None)
    assert outcome(decoders.open, content, limits) == expected


def test_a_clip_beyond_the_duration_ends_its_process_at_once(decoders):
    stream = decoders.open(encoded(noise(70 * 8000), 8000, "FLAC"), AudioLimits(max_seconds=30))
    assert len(next(stream.blocks)) == 160_000
    with pytest.raises(AudioError, match="at most 30 seconds, got 40 or more") as caught:
        next(stream.blocks)
    assert decoder_pids() == set()
    assert caught.value.__traceback__ is not None  # whose frames still are


def test_containers(decoders):
    pytest.importorskip("torchcodec", exc_type=ImportError, reason="needs the extra `video`")
    try:
        from torchcodec.encoders import AudioEncoder
    except (OSError, RuntimeError) as error:
        pytest.skip(f"FFmpeg is not here: {str(error).splitlines()[0]}")
    for channels in (1, 2, 6):
        samples = torch.from_numpy(noise(channels, 50 * 16_000))
        content = AudioEncoder(samples, sample_rate=16_000).to_tensor("mp4").numpy().tobytes()
        for limits in (LIMITS, AudioLimits(max_seconds=30), AudioLimits(max_channels=1)):
            expected = outcome(open_audio, content, limits)
            assert outcome(decoders.open, content, limits) == expected
        assert outcome(open_audio, content)[0] == 16_000
    assert_limited(the_pid())


# What a process is


def assert_limited(pid):
    mapped = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    assert 0 < resource.prlimit(pid, resource.RLIMIT_AS)[0] <= mapped + (5 << 30)
    assert 0 < resource.prlimit(pid, resource.RLIMIT_FSIZE)[0] <= 1 << 20
    assert resource.prlimit(pid, resource.RLIMIT_CORE)[0] == 0


def test_a_process_is_light_and_limited(decoders):
    outcome(decoders.open, FILES[0])
    pid = the_pid()
    assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
    assert "numpy" in Path(f"/proc/{pid}/maps").read_text()
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert_limited(pid)


@pytest.fixture(scope="module")
def damaged_mp3():
    content = bytearray((CASES / "facebookresearch__bach.mp3").read_bytes())
    content[20_000:100_000:397] = bytes(202)
    return bytes(content)


def test_what_a_decoder_complains_of_does_not_reach_the_terminal(decoders, damaged_mp3, capfd):
    expected = outcome(open_audio, damaged_mp3)
    assert "mpg123" in capfd.readouterr().err
    assert outcome(decoders.open, damaged_mp3) == expected
    assert capfd.readouterr().err == ""


def test_processes_are_as_many_as_streams_and_serve_again(decoders, long_file, long_blocks):
    streams = [decoders.open(long_file) for _ in range(3)]
    pids = decoder_pids()
    assert len(pids) == 3
    for stream in streams:
        assert [block.numpy().tobytes() for block in stream.blocks] == long_blocks
    streams = [decoders.open(long_file) for _ in range(3)]
    assert decoder_pids() == pids


@pytest.mark.slow
def test_many_threads(decoders):
    sources = [path for path in FILES if path.suffix == ".wav"] * 8
    expected = {path: outcome(open_audio, path) for path in sources}
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda path: outcome(decoders.open, path), sources))
    assert results == [expected[path] for path in sources]
    assert 1 <= len(decoder_pids()) <= 6


def test_a_stream_may_be_read_in_another_thread(decoders, long_file, long_blocks):
    stream = decoders.open(long_file)
    found = []
    thread = threading.Thread(target=lambda: found.extend(stream.blocks))
    thread.start()
    thread.join()
    assert [block.numpy().tobytes() for block in found] == long_blocks


def test_a_decoder_that_cannot_be_started_is_no_clips_fault(monkeypatch, long_file):
    monkeypatch.setattr(sys, "executable", str(long_file))  # which may not be executed
    with IsolatedDecoders() as decoders:
        with pytest.raises(
            DecoderStartError, match="Expected to start a decoder process"
        ) as caught:
            decoders.open(long_file)
        assert not isinstance(caught.value, (ValueError, OSError, TypeError))  # as batch jobs catch
    monkeypatch.setattr(sys, "executable", "/bin/false")  # which ends before it answers
    with IsolatedDecoders() as decoders, pytest.raises(DecoderStartError, match="exit status 1"):
        decoders.open(long_file)
    assert decoder_pids() == set()


# Deaths


@pytest.mark.parametrize(
    "name",
    [
        "SIGSEGV",
        pytest.param("SIGABRT", marks=pytest.mark.slow),
        "SIGKILL",
        pytest.param("SIGBUS", marks=pytest.mark.slow),
    ],
)
def test_a_death_costs_one_clip(name, decoders, long_file, long_blocks):
    stream = decoders.open(long_file)
    next(stream.blocks)
    pid = the_pid()
    other = decoders.open(long_file)
    os.kill(pid, getattr(signal, name))
    with pytest.raises(AudioError, match=rf"\Athe decoder process died \(signal {name}\)\Z"):
        list(stream.blocks)
    assert [block.numpy().tobytes() for block in other.blocks] == long_blocks
    assert outcome(decoders.open, long_file) == (8000, long_blocks)
    assert pid not in decoder_pids()
    assert list(stream.blocks) == []


def test_a_death_is_not_told_with_complaints_of_an_earlier_clip(decoders, damaged_mp3, long_file):
    outcome(decoders.open, damaged_mp3)
    stream = decoders.open(long_file)
    os.kill(the_pid(), signal.SIGKILL)
    with pytest.raises(AudioError, match=r"\(signal SIGKILL\)\Z"):
        list(stream.blocks)


def test_an_idle_process_that_died_costs_no_clip(decoders, long_file, long_blocks):
    for _ in range(2):
        assert outcome(decoders.open, long_file) == (8000, long_blocks)
        pid = the_pid()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize(
    ("in_memory", "message"), [(False, "Unable to allocate"), (True, "MemoryError")]
)
def test_a_bomb_ends_its_process_alone(in_memory, message, decoders, tmp_path):
    outcome(decoders.open, FILES[0])
    pid = the_pid()
    mapped = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + (4 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
    content = encoded(np.zeros(1 << 22, np.float32), 192_000)  # a block of it has 15 MiB
    path = tmp_path / "bomb.wav"
    path.write_bytes(content)
    source = content if in_memory else path
    with pytest.raises(AudioError, match=rf"process died \(exit status 1\): .*{message}"):
        list(decoders.open(source).blocks)
    assert outcome(decoders.open, source) == outcome(open_audio, source)


@pytest.mark.slow
def test_a_process_that_hangs_while_it_decodes(long_file, long_blocks):
    with IsolatedDecoders(timeout_seconds=SHORT_TIMEOUT_SECONDS) as decoders:
        stream = decoders.open(long_file)
        next(stream.blocks)
        pid = the_pid()
        os.kill(pid, signal.SIGSTOP)
        message = r"gave nothing for 4 seconds and was killed; pass a larger `timeout_seconds`"
        with pytest.raises(AudioError, match=message):
            list(stream.blocks)
        assert decoder_pids() == set()
        assert outcome(decoders.open, long_file) == (8000, long_blocks)


@pytest.mark.slow
def test_a_process_that_hangs_before_it_has_read_a_file():
    small, large = encoded(noise(400), 8000), encoded(noise(200_000), 8000)
    with IsolatedDecoders(timeout_seconds=SHORT_TIMEOUT_SECONDS) as decoders:
        outcome(decoders.open, small)
        os.kill(the_pid(), signal.SIGSTOP)
        with pytest.raises(AudioError, match="gave nothing for 4 seconds"):
            decoders.open(large)  # more than a pipe holds
        assert decoder_pids() == set()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_timeout_that_is_none(seconds):
    with pytest.raises(
        ValueError, match=f"Expected `timeout_seconds` to be above 0.*got {seconds}"
    ):
        IsolatedDecoders(timeout_seconds=seconds)


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 64, struct.pack("<IQ", 2, 1 << 40) + b"{}", struct.pack("<IQ", 2, 0) + b"{}"],
    ids=["noise", "large message", "empty message"],
)
def test_a_process_that_answers_nonsense(garbage, decoders):
    clip = encoded(noise(400), 8000)
    outcome(decoders.open, clip)
    pid = the_pid()
    (answers,) = [
        number
        for number in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(number).startswith("pipe:") and number.name != "0"
    ]
    with open(answers, "wb") as pipe:
        pipe.write(garbage)
    with pytest.raises(AudioError, match="the decoder process gave no valid answer"):
        decoders.open(clip)
    assert decoder_pids() == set()
    assert outcome(decoders.open, clip) == outcome(open_audio, clip)


# Ends


@pytest.mark.parametrize("blocks_read", [0, 1, 3])
def test_an_abandoned_stream_leaves_no_process_and_no_open_file(blocks_read, decoders, long_file):
    before = os.listdir("/dev/fd")
    stream = decoders.open(long_file)
    for _ in range(blocks_read):
        next(stream.blocks)
    assert len(decoder_pids()) == 1
    del stream
    assert decoder_pids() == set()
    assert os.listdir("/dev/fd") == before


def test_a_stream_that_is_closed_leaves_no_process(decoders, long_file):
    blocks = decoders.open(long_file).blocks
    next(blocks)
    blocks.close()
    assert decoder_pids() == set()


def test_closing_ends_idle_and_leased_processes(long_file):
    before = os.listdir("/dev/fd")
    decoders = IsolatedDecoders()
    streams = [decoders.open(long_file) for _ in range(3)]
    list(streams.pop().blocks)
    next(streams[0].blocks)
    assert len(decoder_pids()) == 3
    decoders.close()
    decoders.close()
    assert decoder_pids() == set()
    for stream in streams:
        with pytest.raises(AudioError, match="the decoders were closed"):
            list(stream.blocks)
    with pytest.raises(RuntimeError, match="these are closed; make new ones"):
        decoders.open(long_file)
    del streams, stream
    assert os.listdir("/dev/fd") == before


def run_script(body, *arguments, **options):
    script = "import os, signal, sys\nfrom vggish_hf.audio import IsolatedDecoders\n" + body
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


THREE_STREAMS = """
decoders = IsolatedDecoders()
streams = [decoders.open(sys.argv[1]) for _ in range(3)]
list(streams[0].blocks)
next(streams[1].blocks)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_processes_end_with_their_parent(number, long_file):
    with run_script(THREE_STREAMS, long_file) as parent:
        assert parent.stdout.readline() == "ready\n"
        pids = decoder_pids(parent.pid)
        assert len(pids) == 3
        if number is not None:
            parent.send_signal(number)
        _, errors = parent.communicate()  # and so ends its input
    wait_until_gone(pids)
    assert errors == ""


@pytest.mark.slow
def test_ctrl_c_is_the_parents_matter(long_file):
    body = """
with IsolatedDecoders() as decoders:
    blocks = decoders.open(sys.argv[1]).blocks
    received = len(next(blocks))
    try:
        print("ready", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print(received + sum(map(len, blocks)))
"""
    with run_script(body, long_file, start_new_session=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, signal.SIGINT)
        output, errors = parent.communicate()
    assert (output, errors) == (f"{70 * 8000}\n", "")


@pytest.mark.slow
def test_a_fork_neither_uses_nor_ends_them(long_file):
    body = """
decoders = IsolatedDecoders()
stream = decoders.open(sys.argv[1])
child = os.fork()
if not child:
    try:
        decoders.open(sys.argv[1])
    except RuntimeError as error:
        print(error, flush=True)
    sys.exit()  # which cleans up
os.waitpid(child, 0)
print(sum(map(len, stream.blocks)))
decoders.close()
"""
    with run_script(body, long_file) as parent:
        output, errors = parent.communicate()
    lines = output.splitlines()
    assert re.match(
        r"Expected to decode in process \d+, .*; make IsolatedDecoders in each process", lines[0]
    )
    assert (lines[1], errors) == (str(70 * 8000), "")


# Messages


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (struct.pack("<IQ", 2, 1 << 60) + b"{}", ValueError, "at most .* bytes, got 2 and 1152921"),
        (struct.pack("<IQ", 1 << 31, 0), ValueError, "at most .* bytes, got 2147483648 and 0"),
        (struct.pack("<IQ", 2, 11) + b"{}" + bytes(11), ValueError, "and 10 bytes, got 2 and 11"),
        (struct.pack("<IQ", 2, 0) + b"[]", ValueError, r"a JSON object .* got \[\]"),
        (struct.pack("<IQ", 2, 0) + b"\xff!", ValueError, "decode|JSON"),
        (struct.pack("<IQ", 2, 10) + b"{}", EOFError, "10 bytes more, the stream ends"),
        (b"", EOFError, "the stream ends"),
    ],
    ids=["payload", "header", "over the limit", "no object", "no JSON", "cut off", "nothing"],
)
def test_messages_that_are_refused(content, error, message):
    with pytest.raises(error, match=message):
        _worker.receive(io.BytesIO(content), 10)


def test_messages_come_back():
    stream = io.BytesIO()
    _worker.send(stream, {"path": "caf\xe9\n"}, b"0123456789")
    stream.seek(0)
    assert _worker.receive(stream, 10) == ({"path": "caf\xe9\n"}, b"0123456789")


@pytest.mark.parametrize("rate", [None, "8000", 0, -1, 8000.0, LIMITS.max_sampling_rate + 1])
def test_rates_that_are_refused(rate):
    with pytest.raises(ValueError, match=f"expected a sampling rate, got {rate!r}"):
        parse_rate({"sampling_rate": rate}, LIMITS)


@pytest.mark.parametrize(
    ("channels", "num_bytes", "message"),
    [
        (None, 8, "expected a number of channels, got None"),
        (0, 8, "expected a number of channels, got 0"),
        (33, 33 * 4, "expected a number of channels, got 33"),
        (2, 12, "expected samples of 2 channels, got 12 bytes"),
        (2, 0, "expected samples of 2 channels, got 0 bytes"),
    ],
)
def test_blocks_that_are_refused(channels, num_bytes, message):
    with pytest.raises(ValueError, match=message):
        parse_block({"channels": channels}, bytearray(num_bytes), LIMITS)
