"""A store of clips behind HTTP that answers late, or not before it is told to."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class ClipServer:
    """Serves files by name; use it as a context manager.

    Args:
        files: Their content.
        delay_seconds: How late each answer comes.
        held: A file that is not answered before `release`.
    """

    def __init__(
        self, files: Mapping[str, bytes], *, delay_seconds: float = 0.0, held: str | None = None
    ) -> None:
        #: Set when `held` is asked for.
        self.reached = threading.Event()
        self._released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(b"")

            def do_GET(self) -> None:
                self._answer(files.get(self.path[1:], b""))

            def _answer(self, body: bytes) -> None:
                name = self.path[1:]
                if name == held:
                    server.reached.set()
                    server._released.wait()
                server._released.wait(delay_seconds)
                with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked was killed
                    self.send_response(200 if name in files else 404)
                    self.send_header("Content-Length", str(len(files.get(name, b""))))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def release(self) -> None:
        """Answer everything from now on."""
        self._released.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
