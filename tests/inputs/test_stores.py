"""Files behind URLs: a web server on localhost, fsspec's memory, a Hub on localhost."""

import os
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from file_server import FileServer

from vggish_hf.inputs.stores import (
    StoredFile,
    check_size,
    find_remote,
    locate,
    open_store,
    read_file,
    read_range,
    storage_errors,
)

CONTENT = bytes(range(256)) * 300
ENDINGS = {".wav", ".tar"}


@pytest.fixture
def server():
    names = ("a.wav", "b/c.WAV", "b/d.tar", "b/e/f.wav", "b/notes.md")
    with FileServer(dict.fromkeys(names, CONTENT)) as server:
        yield server


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    store.store.clear()
    for name in ("a.wav", "b/c.wav", "b/d.tar", "b/e/f.wav", "b/notes.md", "b/x[1].wav"):
        store.pipe_file(f"/{name}", CONTENT)
    yield store
    store.store.clear()


@contextmanager
def refusing_server(head, get):
    """A server that answers with these statuses, and claims a hundred bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(head)

        def do_GET(self):
            self.answer(get)

        def answer(self, status):
            self.send_response(status)
            self.send_header("Content-Length", "100" if status == 200 else "0")
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stored(url):
    return StoredFile(url, url)


def find(url, endings=ENDINGS):
    return find_remote(url, endings, lambda *_: None)


def found(url):
    files, is_search = find(url)
    return [file.name for file in files], is_search


class TestFind:
    def test_a_folder_on_the_web(self, server):
        names = [f"{server.url}/b/{name}" for name in ("c.WAV", "d.tar", "e/f.wav")]
        assert found(f"{server.url}/b/") == (names, True)

    def test_compressed_tars_in_a_folder(self, memory):
        memory.pipe_file("/z/s.tar.gz", CONTENT)
        assert find("memory://z", {".tar.gz"})[0] == [stored("memory:///z/s.tar.gz")]

    def test_a_file_on_the_web_is_not_asked_for(self, server):
        url = f"{server.url}/gone.wav?number=3"
        assert found(f"{url}&token=1") == ([url], False)
        assert find(f"{url}&token=1")[0][0].path == f"{url}&token=1"

    def test_a_glob_on_the_web(self, server):
        names = [f"{server.url}/b/c.WAV", f"{server.url}/b/d.tar"]
        assert found(f"{server.url}/b/[cd].*") == (names, False)

    def test_a_folder(self, memory):
        names = ["memory:///b/c.wav", "memory:///b/d.tar", "memory:///b/e/f.wav"]
        assert found("memory://b") == ([*names, "memory:///b/x[1].wav"], True)

    def test_a_glob_and_a_name_that_looks_like_one(self, memory):
        assert found("memory://b/*.wav")[0] == ["memory:///b/c.wav", "memory:///b/x[1].wav"]
        assert found("memory://b/*.ogg")[0] == []
        assert found("memory://b/x[1].wav")[0] == ["memory:///b/x[1].wav"]

    def test_a_dataset_on_the_hub_is_read_at_one_commit(self, hub):
        first = hub.add("org/sounds", {"x/a.wav": b"one", "b.wav": b"b"}, repo_type="dataset")
        url = "hf://datasets/org/sounds"
        files, is_search = find(url)
        assert is_search
        assert files == [
            (f"{url}@{first}/b.wav", f"{url}/b.wav"),
            (f"{url}@{first}/x/a.wav", f"{url}/x/a.wav"),
        ]
        second = hub.add("org/sounds", {"x/a.wav": b"other"}, repo_type="dataset")
        assert read_file(files[1], 100) == b"one"
        files, _ = find(f"{url}@main/x/*.wav")
        assert [file.path for file in files] == [f"{url}@{second}/x/a.wav"]
        assert read_file(files[0], 100) == b"other"

    def test_a_branch_of_a_dataset(self, hub):
        commit = hub.add("org/birds", {"a.wav": b"1"}, repo_type="dataset", revision="feature")
        hub.add("org/birds", {"b.wav": b"1"}, repo_type="dataset")
        url = "hf://datasets/org/birds@feature"
        expected = f"hf://datasets/org/birds@{commit}/a.wav"
        assert find(url)[0] == [(expected, f"{url}/a.wav")]
        assert find(f"{url}/a.wav")[0] == [(expected, f"{url}/a.wav")]

    def test_there_is_no_such_dataset(self):
        with pytest.raises(FileNotFoundError, match="No such file: 'hf://datasets/org/missing'"):
            find("hf://datasets/org/missing")


class TestRead:
    def test_from_the_web(self, server):
        assert read_file(stored(f"{server.url}/a.wav"), len(CONTENT)) == CONTENT

    def test_slowly(self, server):
        server.pause = 0.05
        assert read_file(stored(f"{server.url}/a.wav"), len(CONTENT)) == CONTENT
        assert read_range(stored(f"{server.url}/a.wav"), 1000, 100) == CONTENT[1000:1100]

    def test_a_part_takes_no_more_than_it_has(self, server):
        assert read_range(stored(f"{server.url}/a.wav"), 5000, 100) == CONTENT[5000:5100]
        assert server.sent == 100

    def test_a_part_from_a_server_without_ranges(self, server):
        server.has_ranges = False
        file = stored(f"{server.url}/a.wav")
        assert read_file(file, len(CONTENT)) == CONTENT
        with pytest.raises(OSError, match=r"a\.wav' cannot be read: ValueError: The HTTP server"):
            read_range(file, 5000, 100)

    def test_too_much_is_refused_before_it_is_sent(self, server):
        with pytest.raises(ValueError, match=f"at most 100 bytes, .*a.wav' has {len(CONTENT)}; "):
            read_file(stored(f"{server.url}/a.wav"), 100)
        assert server.sent == 0

    def test_too_much_of_unknown_size(self, server):
        server.says_size = server.has_ranges = False
        file = stored(f"{server.url}/a.wav")
        with pytest.raises(ValueError, match=r"at most 100 bytes, .* has 101 or more; copy it"):
            read_file(file, 100)
        assert read_file(file, len(CONTENT)) == CONTENT

    def test_an_answer_that_breaks_off(self, server):
        server.lost = 1000
        with pytest.raises(OSError, match=r"a\.wav' (cannot be read|is cut short)"):
            read_file(stored(f"{server.url}/a.wav"), len(CONTENT))

    def test_a_file_that_has_become_shorter(self, server):
        server.claimed = 1000
        size = len(CONTENT)
        with pytest.raises(OSError, match=f"is cut short: {size} of {size + 1000} bytes came"):
            read_file(stored(f"{server.url}/a.wav"), 1 << 20)

    def test_a_range_after_the_end(self, server, tmp_path):
        (tmp_path / "a").write_bytes(CONTENT)
        for url in (str(tmp_path / "a"), f"{server.url}/a.wav"):
            with pytest.raises(OSError, match="is cut short: 10 of 100 bytes came"):
                read_range(stored(url), len(CONTENT) - 10, 100)

    def test_what_is_not_there(self, server, tmp_path):
        for url in (f"{server.url}/gone.wav", str(tmp_path / "gone.wav")):
            with pytest.raises(FileNotFoundError, match=r"No such file: .*gone\.wav"):
                read_range(stored(url), 1, 1)

    def test_a_server_that_is_not_there(self):
        with FileServer({}) as gone:
            url = f"{gone.url}/a.wav"
        with pytest.raises(OSError, match=r"none at|cannot be read"):
            read_file(stored(url), 100)

    def test_errors_do_not_tell_secrets(self, server):
        url = f"{server.url}/gone.wav?signature=secret"
        file = locate(url)
        with pytest.raises(FileNotFoundError) as caught:
            read_file(file, 100)
        assert "secret" not in str(caught.value)


class TestErrors:
    URL = "http://me:word@host/a.wav?signature=secret"

    @staticmethod
    def said(error, name="http://host/a.wav"):
        with pytest.raises(OSError, match=name) as caught, storage_errors(name):
            raise error
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert "word" not in "".join(traceback.format_exception(caught.value))
        return type(caught.value), str(caught.value)

    @pytest.mark.parametrize("status", [403, 503])
    def test_a_server_that_refuses(self, status):
        with refusing_server(head=status, get=status) as url:
            file = locate(f"{url}/a.wav?signature=secret")
            with pytest.raises(
                OSError, match=f"cannot be read: ClientResponseError: {status}, "
            ) as e:
                read_file(file, 100)
        assert f"url='{url}/a.wav'" in str(e.value)
        assert "secret" not in "".join(traceback.format_exception(e.value))
        assert not isinstance(e.value, FileNotFoundError)

    def test_a_server_that_refuses_the_content_alone(self):
        with refusing_server(head=200, get=503) as url:
            file = locate(f"{url}/a.wav?signature=secret")
            with pytest.raises(OSError, match=r"ClientResponseError: 503, .*/a\.wav'\Z") as caught:
                read_file(file, 100)
        assert "secret" not in str(caught.value)

    def test_any_kind(self):
        kind, text = self.said(ValueError(f"no answer from {self.URL}"))
        assert (kind, text) == (
            OSError,
            "'http://host/a.wav' cannot be read: ValueError: no answer from http://host/a.wav",
        )
        assert self.said(TimeoutError())[1].endswith("cannot be read: TimeoutError")

    def test_what_a_missing_file_comes_from(self):
        missing = FileNotFoundError(self.URL)
        assert self.said(missing)[0] is FileNotFoundError
        missing.__cause__ = TimeoutError()
        assert self.said(missing)[1] == "'http://host/a.wav' cannot be read: TimeoutError"
        assert self.said(missing, "s3://bucket/a.wav")[0] is FileNotFoundError


def test_sizes_at_the_limit():
    check_size("a", 100, 100)
    with pytest.raises(ValueError, match="at most 100 bytes, 'a' has 101; copy it to this machine"):
        check_size("a", 101, 100)


class TestOpenStore:
    def test_unknown_kinds(self):
        with pytest.raises(ValueError, match="Expected a URL that fsspec knows, got 'foo://bar'"):
            open_store("foo://bar")

    def test_chains(self):
        with pytest.raises(ValueError, match="Expected a URL of one file system, got the chain"):
            open_store("simplecache::https://host/a.wav")

    @pytest.mark.slow
    def test_a_missing_package_is_named(self):
        code = """
import sys
for package in ("s3fs", "gcsfs", "aiohttp"):
    sys.modules[package] = None
from vggish_hf.inputs.stores import open_store
for scheme in ("s3", "gs", "https"):
    try:
        open_store(f"{scheme}://bucket/a.wav")
    except ImportError as error:
        print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        names = [("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp")]
        for (scheme, package), line in zip(names, done.stdout.splitlines(), strict=True):
            assert line.startswith(f"{scheme}:// needs a package that is missing: ")
            assert package in line


@pytest.mark.slow
def test_local_files_need_no_fsspec(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    code = f"""
import sys
sys.modules["fsspec"] = None
from vggish_hf.inputs.stores import StoredFile, read_range
print(read_range(StoredFile({os.fspath(tmp_path / "a")!r}, "a"), 1, 1))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "b'b'\n", done.stderr
