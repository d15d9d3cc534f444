"""A local web server that serves files from memory, with the faults that a test orders."""

from __future__ import annotations

import contextlib
import email.utils
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Fault:
    """A fault in the response to one or more requests.

    Attributes:
        status: status to respond with in place of the file.
        headers: headers of that response.
        cut: number of bytes of the body after which the connection is closed.
        times: number of requests with this fault.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    times: int = 1


@dataclass
class Served:
    """A file, and how it is served.

    Attributes:
        data: its bytes.
        etag: its version; not announced if empty.
        modified: time of its last change, seconds since 1970; not announced if negative.
        ranges: whether parts of it can be requested.
        mime: its announced type.
        pause_s: wait after each 16 kB, seconds.
        announced: whether its length is announced.
        lies: headers that replace or join the right ones.
        faults: faults of the next requests, in order.
    """

    data: bytes
    etag: str = '"one"'
    modified: float = -1
    ranges: bool = True
    mime: str = "application/octet-stream"
    pause_s: float = 0.0
    announced: bool = True
    lies: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


@dataclass
class FileServer:
    """A running server.

    Attributes:
        url: its address, without a slash at the end.
        files: what it serves, by path.
        asked: (method, path, Range) of every request so far.
    """

    url: str
    files: dict[str, Served]
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def ranges(self, name: str) -> list[str]:
        """The Range of every request for the content of a file; empty for all of it."""
        return [part for method, path, part in self.asked if method == "GET" and path == f"/{name}"]


@contextlib.contextmanager
def serving(files: dict[str, Served | bytes]) -> Iterator[FileServer]:
    """Serve files while the block runs."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    served = {
        name: Served(file) if isinstance(file, bytes) else file for name, file in files.items()
    }
    server = FileServer(f"http://127.0.0.1:{httpd.server_address[1]}", served)
    httpd.file_server = server  # type: ignore[attr-defined]  # how a handler finds what it serves
    thread = threading.Thread(
        target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        try:
            yield server
        finally:
            httpd.shutdown()
            httpd.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server: FileServer = self.server.file_server  # type: ignore[attr-defined]  # set by serving()
        server.asked.append((self.command, self.path, self.headers.get("Range", "")))
        self.close_connection = True
        file = server.files.get(self.path.lstrip("/"))
        if file is None:
            self._plain(404, {})
            return
        fault = self._fault(file) if body else Fault()
        if fault.status:
            self._plain(fault.status, fault.headers)
            return
        start = self._start(file)
        if start > len(file.data) or (start and start == len(file.data)):
            self._plain(416, {"Content-Range": f"bytes */{len(file.data)}"})
            return
        self.send_response(206 if start else 200)
        self._describe(file, start)
        self.end_headers()
        if body:
            self._send(file, start, fault.cut)

    def _fault(self, file: Served) -> Fault:
        if not file.faults:
            return Fault()
        file.faults[0].times -= 1
        return file.faults.pop(0) if not file.faults[0].times else file.faults[0]

    def _start(self, file: Served) -> int:
        asked, condition = self.headers.get("Range", ""), self.headers.get("If-Range")
        known = (file.etag, email.utils.formatdate(file.modified, usegmt=True))
        if not asked or not file.ranges or (condition is not None and condition not in known):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _describe(self, file: Served, start: int) -> None:
        self.send_header("Content-Type", file.mime)
        if file.announced and "Content-Length" not in file.lies:
            self.send_header("Content-Length", str(len(file.data) - start))
        for name, value in file.lies.items():
            self.send_header(name, value)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(file.data) - 1}/{len(file.data)}"
            )
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.modified >= 0:
            self.send_header("Last-Modified", email.utils.formatdate(file.modified, usegmt=True))

    def _send(self, file: Served, start: int, cut: int | None) -> None:
        rest = file.data[start:] if cut is None else file.data[start : start + cut]
        step = 1 << 14 if file.pause_s else max(len(rest), 1)
        # The client may have closed the connection.
        with contextlib.suppress(ConnectionError):
            for place in range(0, len(rest), step):
                self.wfile.write(rest[place : place + step])
                time.sleep(file.pause_s)

    def _plain(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()
