"""Fetching from a real server: whole, in several tries, and from servers that misbehave."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from folders import TESTS
from huggingface_hub.constants import HF_HOME

from vggish_hf.conversion import sources
from vggish_hf.conversion.sources import (
    GOOGLE_CHECKPOINT,
    GOOGLE_PCA,
    PublishedFile,
    cache_folder,
    fetch,
)

CONTENT = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serves `content`; `break_off` ends an answer after so many bytes, `status` refuses."""

    daemon_threads = False  # so that closing waits for them

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.chunked = False
        self.break_off = None
        self.status = None
        self.asked = []  # the first byte that each request asked for

    @property
    def file(self):
        url = f"http://127.0.0.1:{self.server_port}/models/weights.ckpt"
        return PublishedFile(url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # which chunks need

    def do_GET(self):
        server = self.server
        first = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        server.asked.append(first)
        self.close_connection = True
        if server.status or (server.ranges and first >= len(server.content)):
            self.send_error(server.status or 416)
            return
        if server.ranges:
            self.send_response(206)
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        else:
            self.send_response(200)
        answer = server.content[first if server.ranges else 0 :]
        length = (
            ("Transfer-Encoding", "chunked") if server.chunked else ("Content-Length", len(answer))
        )
        self.send_header(*length)
        self.end_headers()
        answer = answer[: server.break_off]
        if server.chunked:
            answer = b"%x\r\n%s\r\n" % (len(answer), answer)
            answer += b"" if server.break_off else b"0\r\n\r\n"
        try:
            self.wfile.write(answer)
        except ConnectionError:
            assert len(server.content) > len(CONTENT)  # the client has had enough

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_fetch(server, ranges, chunked, tmp_path, capfd):
    server.ranges, server.chunked = ranges, chunked
    folder = tmp_path / "new" / "folder"
    path = fetch(server.file, folder)
    assert path == folder / "weights.ckpt"
    assert path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]
    assert server.asked == [0]
    assert capfd.readouterr() == ("", "")  # no terminal, so no progress bar


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    first = fetch(server.file, tmp_path)
    assert fetch(server.file, tmp_path) == first
    assert server.asked == [0]


def test_what_is_there_but_damaged_is_fetched_again(server, tmp_path):
    (tmp_path / "weights.ckpt").write_bytes(CONTENT[:-1] + b"?")
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_fetch_that_breaks_off_is_resumed(server, ranges, chunked, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 1000)
    server.ranges, server.chunked, server.break_off = ranges, chunked, 100_000
    with pytest.raises(OSError, match=re.escape(server.file.url)):
        fetch(server.file, tmp_path)
    assert not (tmp_path / "weights.ckpt").exists()
    server.break_off = None
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    # of an answer in chunks, the last read is lost
    assert server.asked in ([0, 100_000], [0, 99_000])
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.ckpt"]


def test_a_fetch_makes_progress_however_often_it_breaks_off(server, tmp_path):
    server.break_off = 100_000
    for _ in range(2):
        with pytest.raises(OSError, match=r"broke off after \d00000 of 256000 bytes; run it again"):
            fetch(server.file, tmp_path)
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [0, 100_000, 200_000]


@pytest.mark.parametrize(
    "content",
    [CONTENT[:-1] + b"?", CONTENT + b"?", CONTENT * 40],
    ids=["other", "longer by a byte", "much longer"],
)
@pytest.mark.parametrize("ranges", [True, False])
def test_wrong_content_is_thrown_away(server, content, ranges, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 1000)
    server.content, server.ranges = content, ranges
    # of more than is expected, no more than a chunk is fetched
    message = rf"Expected 256000 bytes of SHA-256 {server.file.sha256} .* got 25[67]\d\d\d of "
    with pytest.raises(ValueError, match=message):
        fetch(server.file, tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [CONTENT[:99] + b"?", b"?" * len(CONTENT), CONTENT + b"?"])
def test_a_stale_part_poisons_one_try_at_most(server, stale, tmp_path):
    (tmp_path / "weights.ckpt.part").write_bytes(stale)
    with pytest.raises(ValueError, match="Expected 256000 bytes"):
        fetch(server.file, tmp_path)
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT


def test_a_part_left_complete_is_used(server, tmp_path):
    (tmp_path / "weights.ckpt.part").write_bytes(CONTENT)
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


def test_a_part_longer_than_what_the_server_has(server, tmp_path):
    (tmp_path / "weights.ckpt.part").write_bytes(CONTENT[:1000])
    server.content = CONTENT[:500]
    with pytest.raises(OSError, match="416"):
        fetch(server.file, tmp_path)
    server.content = CONTENT
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [1000, 0]


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_server_that_refuses(server, status, tmp_path):
    (tmp_path / "weights.ckpt.part").write_bytes(CONTENT[:1000])
    server.status = status
    url = re.escape(server.file.url)
    with pytest.raises(OSError, match=f"{url} cannot be fetched: HTTP Error {status}"):
        fetch(server.file, tmp_path)
    server.status = None
    assert fetch(server.file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [1000, 1000]  # what came before is kept


def test_no_server(tmp_path):
    with Server() as server:
        file = server.file
    with pytest.raises(OSError, match=r"weights\.ckpt cannot be fetched: .*refused"):
        fetch(file, tmp_path)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGISH_HF_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("VGGISH_HF_CACHE", "")
    assert Path(HF_HOME) in cache_folder().parents
    monkeypatch.delenv("VGGISH_HF_CACHE")
    assert Path(HF_HOME) in cache_folder().parents


def test_published_files():
    assert (GOOGLE_CHECKPOINT.name, GOOGLE_CHECKPOINT.size) == ("vggish_model.ckpt", 291_108_469)
    pca = TESTS / "data" / GOOGLE_PCA.name
    assert hashlib.sha256(pca.read_bytes()).hexdigest() == GOOGLE_PCA.sha256
    assert pca.stat().st_size == GOOGLE_PCA.size
