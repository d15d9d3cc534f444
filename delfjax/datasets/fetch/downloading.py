"""One file over HTTP: resumed from where it stopped, retried, and whole or not there at all.

A download grows as ``NAME.part`` with ``NAME.part.json`` beside it (which version of the file this
is) and is renamed to ``NAME`` once it has the length the server announced. What is there already is
asked for no second time, unless the server cannot say that it still is the same version.

Source: RFC 9110, 13.1.5 (If-Range), 14.2 (Range), 15.5.17 (416).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from delfjax import __version__
from delfjax.errors import DelfjaxError

# Answers after which the same question may be answered differently later.
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Lists of checksums are lines; anything longer is something else, bytes.
_MAX_TEXT = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d+)")
_DIGEST = {"md5": re.compile(r"[0-9a-f]{32}"), "sha256": re.compile(r"[0-9a-f]{64}")}

T = TypeVar("T")


class FetchError(DelfjaxError):
    """A file that could not be fetched; the message names it, what happened and the remedy."""


class StatusError(FetchError):
    """An answer that will stay the same.

    Attributes:
        status: the HTTP status.
        content_range: what the answer says of the file's length, for 416.
    """

    def __init__(self, message: str, status: int, content_range: str = "") -> None:
        super().__init__(message)
        self.status, self.content_range = status, content_range


class GivenUpError(FetchError):
    """A server that could not be reached, or broke off, over all attempts."""


class DiskFullError(FetchError):
    """No room left; what was written stays, to be resumed."""


class _PassingError(Exception):
    """What may go away by itself: a dropped connection, a busy server."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Patience:
    """How long to put up with a server.

    Attributes:
        timeout_s: silence after which a connection is given up, seconds.
        attempts: attempts in a row that bring nothing before the file is given up.
        backoff_s: wait after the first of them, seconds; doubled after each further one.
        longest_wait_s: the longest wait, whatever the server asks for, seconds.
        block_bytes: how much is read at a time.
    """

    timeout_s: float = 60.0
    attempts: int = 6
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    block_bytes: int = 1 << 20


def download(
    url: str, target: Path, *, trusted: bool = False, patience: Patience | None = None
) -> None:
    """Fetch one file, or the rest of it, and put it at ``target``.

    Args:
        url: its address, http or https.
        target: where it goes; its folder is made.
        trusted: whether a checksum will be compared, so that a part may be continued even where the
            server cannot say whether the file is still the same.
        patience: how long to try.

    Raises:
        StatusError: the server refuses.
        GivenUpError: it gave nothing over all attempts; the part stays, to be resumed.
        DiskFullError: no room for it; the part stays.
    """
    patience = patience or Patience()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target, url)
    _persist(lambda: _attempt(part, trusted=trusted, patience=patience), url, patience, part.size)
    part.finish()


def read_small_text(url: str, *, patience: Patience | None = None) -> str:
    """A short text file, such as one with a checksum.

    Raises:
        StatusError: there is none.
        FetchError: it could not be fetched, or is no short text.
    """
    patience = patience or Patience()

    def read() -> bytes:
        with _open(url, {}, patience) as response:
            return _read(lambda: response.read(_MAX_TEXT + 1))

    data = _persist(read, url, patience, lambda: 0)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise FetchError(f"{url}: not text") from None
    if len(data) > _MAX_TEXT:
        raise FetchError(f"{url}: more than {_MAX_TEXT} bytes, expected a few lines")
    return text


def remote_size(url: str, *, patience: Patience | None = None) -> int | None:
    """Length of a file in bytes, as its server announces it without sending it; ``None`` where it
    does not.

    Raises:
        GivenUpError: the server does not answer.
    """
    patience = patience or Patience()

    def ask() -> int | None:
        with _open(url, {}, patience, method="HEAD") as response:
            return _length(response.headers)

    try:
        return _persist(ask, url, patience, lambda: 0)
    except StatusError:
        return None


def require_checksum(path: Path, checksum: str, source: str) -> None:
    """Compare a file with ``md5:…`` or ``sha256:…``.

    Raises:
        FetchError: they differ; ``source`` says where the file came from.
    """
    kind, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()
    if found != expected.lower():
        raise FetchError(
            f"{source}: {kind} is {found}, expected {expected}: damaged on the way, or another"
            " version"
        )


def parse_checksum(text: str, kind: str, where: str) -> str:
    """``md5:…`` from the first word of a file as ``md5sum`` writes it.

    Raises:
        FetchError: it does not begin with such a number.
    """
    word = (text.split() or [""])[0].lower().lstrip("\\")
    if not _DIGEST[kind].fullmatch(word):
        raise FetchError(
            f"{where}: begins with {word!r:.60}, expected {kind} in hexadecimal digits"
        )
    return f"{kind}:{word}"


def require_room(folder: Path, needed: int) -> None:
    """Refuse what the disk has no room for.

    Raises:
        DiskFullError: fewer than ``needed`` bytes are free where ``folder`` is, or will be.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFullError(
            f"{folder}: {readable(needed)} needed, {readable(free)} free on this disk; make room,"
            " or choose another with --root"
        )


def disk_full(error: OSError) -> bool:
    """Whether an error means that there is no room left, on the disk or in the quota."""
    return error.errno in _DISK_FULL


def readable(size: int) -> str:
    """A number of bytes with three digits: ``1.94 GB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


class _Part:
    """A download on its way: the bytes so far, and which version of the file they are of."""

    def __init__(self, target: Path, url: str) -> None:
        self.target, self.url = target, url
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self) -> dict[str, Any]:
        """What the server said of the file when the first byte came: url, etag, last_modified,
        total."""
        try:
            noted = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) and noted.get("url") == self.url else {}

    def headers(self, *, trusted: bool) -> dict[str, str]:
        """Headers that ask for the rest; none where all of it must be asked for."""
        offset, version = self.size(), self.version()
        validator = _validator(version)
        if not offset or not version or (validator is None and not trusted):
            return {}
        asked = {"Range": f"bytes={offset}-"}
        return asked if validator is None else asked | {"If-Range": validator}

    def begin(self, version: dict[str, Any]) -> None:
        """Start from nothing with a version of the file."""
        self.path.write_bytes(b"")
        written = self._note.with_name(f"{self._note.name}.new")
        written.write_text(json.dumps(version), encoding="utf-8")
        written.replace(self._note)

    def drop(self) -> None:
        """Forget what is there."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the complete file its name."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)


def _persist(
    attempt: Callable[[], T], url: str, patience: Patience, reached: Callable[[], int]
) -> T:
    """Try until it succeeds, fails for good, or a number of attempts in a row got no further than
    any before."""
    furthest, failures = reached(), 0
    while True:
        try:
            return attempt()
        except _PassingError as error:
            now = reached()
            failures = 0 if now > furthest else failures + 1
            furthest = max(furthest, now)
            if failures >= patience.attempts:
                said = f"{url}: {error}; given up after {failures} attempts that brought nothing"
                raise GivenUpError(f"{said}; the same command resumes") from None
            time.sleep(
                min(
                    max(patience.backoff_s * 2 ** max(failures - 1, 0), error.wait_s),
                    patience.longest_wait_s,
                )
            )


def _attempt(part: _Part, *, trusted: bool, patience: Patience) -> None:
    """One connection: the rest of a file, or all of it."""
    asked = part.headers(trusted=trusted)
    try:
        response = _open(part.url, asked, patience)
    except StatusError as error:
        if error.status != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not asked:
            raise
        found = _UNSATISFIED.fullmatch(error.content_range)
        if found and int(found[1]) == part.size():
            return
        part.drop()
        raise _PassingError("the file has changed") from None
    with response:
        total = _begin(part, response)
        if total is not None:
            require_room(part.target.parent, total - part.size())
        _receive(part, response, total, patience)
    if total is not None and part.size() != total:
        raise _PassingError(f"ended after {part.size()} of {total} bytes")


def _begin(part: _Part, response: http.client.HTTPResponse) -> int | None:
    """Make the part what the answer continues; returns the length of the whole file, if the server
    says it."""
    headers = response.headers
    if headers.get_content_type() == "text/html" and not part.target.name.endswith(
        (".html", ".htm")
    ):
        raise FetchError(
            f"{part.url}: a web page came in place of the file; it has moved, or asks for something"
            " first"
        )
    if response.status not in (http.client.OK, http.client.PARTIAL_CONTENT):
        raise StatusError(
            f"{part.url}: HTTP {response.status} {response.reason}, expected the file",
            response.status,
        )
    version = {
        "url": part.url,
        "etag": headers.get("ETag"),
        "last_modified": headers.get("Last-Modified"),
    }
    if response.status != http.client.PARTIAL_CONTENT:
        total = _length(headers)
        part.begin(version | {"total": total})
        return total
    before = part.version()
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    total = int(found[3]) if found and found[3] != "*" else None
    changed = any(
        version[key] is not None and before.get(key) != version[key]
        for key in ("etag", "last_modified")
    )
    changed = changed or (total is not None and before.get("total") not in (None, total))
    if found is None or int(found[1]) != part.size() or changed:
        part.drop()
        raise _PassingError("the file has changed, or another part of it came than was asked for")
    return total if total is not None else before.get("total")


def _receive(
    part: _Part, response: http.client.HTTPResponse, total: int | None, patience: Patience
) -> None:
    name = part.target.name
    with (
        part.path.open("ab", buffering=0) as file,
        tqdm(
            desc=name, total=total, initial=part.size(), unit="B", unit_scale=True, leave=False
        ) as bar,
    ):
        while block := _read(lambda: response.read1(patience.block_bytes)):
            try:
                _write(file.fileno(), block)
            except OSError as error:
                if not disk_full(error):
                    raise
                raise DiskFullError(
                    f"{part.path}: the disk is full after"
                    f" {readable(part.size())}{'' if total is None else f' of {readable(total)}'};"
                    " make room, the same command resumes"
                ) from None
            bar.update(len(block))


def _write(file: int, data: bytes) -> None:
    """All of ``data``, unbuffered: what the system took is what a later run resumes from."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _read(read: Callable[[], bytes]) -> bytes:
    """What a connection brings; whatever breaks it passes."""
    try:
        return read()
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(_reason(error)) from None


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to follow a redirect with."""
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            fp.close()
            raise StatusError(
                f"{req.full_url}: HTTP {code} redirects to {newurl!r:.120}; only http and https are"
                " followed",
                code,
            )
        # A HEAD stays one: urllib would follow it with a GET.
        made = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]  # a Message is what comes
        if made is not None and req.get_method() == "HEAD":
            made.method = "HEAD"
        return made


def _opener() -> urllib.request.OpenerDirector:
    """Speaks http and https, and nothing else that urllib can: no files, no FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _HttpOnly(),
    ):
        opener.add_handler(handler)
    return opener


def _open(
    url: str, headers: dict[str, str], patience: Patience, *, method: str = "GET"
) -> http.client.HTTPResponse:
    """An answer with a body to read.

    Raises:
        StatusError: an answer that will stay the same.
        _PassingError: one that may not.
    """
    always = {"User-Agent": f"delfjax/{__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=always | headers, method=method)
    try:
        answer: http.client.HTTPResponse = _opener().open(request, timeout=patience.timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError) or "unknown url type" in str(
            error.reason
        ):
            raise FetchError(f"{url}: {_reason(error.reason)}") from None
        raise _PassingError(_reason(error.reason)) from None
    except http.client.InvalidURL as error:
        raise FetchError(f"{url}: no address: {_reason(error)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(_reason(error)) from None
    return answer


def _refusal(url: str, error: urllib.error.HTTPError) -> StatusError | _PassingError:
    said = f"HTTP {error.code} {' '.join(str(error.reason).split())[:80]}"
    if error.code in _PASSING_STATUS:
        wait = error.headers.get("Retry-After", "")
        return _PassingError(said, float(wait) if wait.isascii() and wait.isdigit() else 0.0)
    if error.code in _REDIRECTS:
        return StatusError(
            f"{url}: HTTP {error.code}: redirects in a circle, or to where it cannot be followed",
            error.code,
        )
    message = f"{url}: {said}; it has moved or is gone, a copy of it can be given with --from"
    return StatusError(message, error.code, error.headers.get("Content-Range", ""))


def _validator(version: dict[str, Any]) -> str | None:
    """What names a version of a file exactly; weak tags do not."""
    etag, date = version.get("etag"), version.get("last_modified")
    if isinstance(etag, str) and etag.startswith('"'):
        return etag
    return date if isinstance(date, str) else None


def _length(headers: Message) -> int | None:
    length = headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _reason(error: object) -> str:
    """One line of an error's own words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return said[:160] or type(error).__name__
