"""A web server of files in memory, on localhost, with ranges and pages that list folders."""

import re
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class FileServer:
    """Serves `files`, content by path, while its `with` block lasts.

    Attributes:
        url: The address, without a slash at its end.
        sent: Bytes of content that were sent so far.
        has_ranges: Whether it answers requests for parts of a file.
        says_size: Whether it tells how long a file is.
        pause: Seconds that it waits before each quarter of what it sends.
        lost: Bytes that are missing where it breaks off an answer.
        claimed: Bytes that files have lost since it was told their size.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.sent = 0
        self.has_ranges = True
        self.says_size = True
        self.pause = 0.0
        self.lost = 0
        self.claimed = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        serve = partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request, by HTTP/1.0: an answer without a length ends with the connection."""

    def __init__(self, server: FileServer, *args: Any) -> None:
        self.files = server
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.path.lstrip("/").partition("?")[0]
        if path == "" or path.endswith("/"):
            below = [name.removeprefix(path) for name in self.files.files if name.startswith(path)]
            names = sorted({re.sub(r"/.*", "/", name) for name in below})
            page = "".join(f'<a href="/{path}{name}">{name}</a>\n' for name in names)
            return self.answer(200 if names else 404, page.encode(), {"Content-Type": "text/html"})
        if path not in self.files.files:
            is_folder = any(name.startswith(f"{path}/") for name in self.files.files)
            if is_folder:
                return self.answer(301, b"", {"Location": f"/{path}/"})
            return self.answer(404, b"")
        content = self.files.files[path]
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is None or not self.files.has_ranges:
            return self.answer(200, content)
        start, stop = int(part[1]), min(int(part[2]) + 1, len(content))
        where = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        return self.answer(206, content[start:stop], where)

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if self.files.says_size:
            more = self.files.claimed if self.command == "HEAD" else 0
            self.send_header("Content-Length", str(len(body) + more))
        if self.files.has_ranges:
            self.send_header("Accept-Ranges", "bytes")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body[: len(body) - self.files.lost]
        quarter = len(body) // 4 + 1
        with suppress(ConnectionError):  # the client may have had enough
            for start in range(0, len(body), quarter):
                time.sleep(self.files.pause)
                part = body[start : start + quarter]
                self.files.sent += len(part)  # before the client has it, and asks
                self.wfile.write(part)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps stderr clean."""
