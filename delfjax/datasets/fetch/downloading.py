"""Downloading one file over HTTP: resumed, retried, and either complete or absent at the end.

A download grows as ``NAME.part``, with the version of the file noted beside it in
``NAME.part.json``, and is renamed to ``NAME`` once it has the length that the server announced. A
later run requests only the missing bytes, unless the server cannot tell whether the file is still
the same version.

It is written on urllib because no library resumes this carefully: pooch starts a broken download
again from its first byte; requests, urllib3 and httpx retry a request but leave ranges, validators
and half-written files to their caller, which is most of what is here.

Source: RFC 9110, 13.1.5 (If-Range), 14.2 (Range), 15.5.17 (416).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
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
from delfjax.errors import DelfjaxError, quoted
from delfjax.files import move_file, read_json_object, write_json

# Statuses after which the same request may succeed later.
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Longest file that is downloaded unless a limit is given, bytes.
MAX_BYTES = 1 << 44
# Longest text accepted as a checksum file, bytes; real ones are a few lines.
_MAX_TEXT = 1 << 16
# Longer numbers are no lengths of files.
_NUMBER = r"[0-9]{1,18}"
_LENGTH = re.compile(_NUMBER)
_CONTENT_RANGE = re.compile(rf"bytes ({_NUMBER})-({_NUMBER})/({_NUMBER}|\*)")
_UNSATISFIED = re.compile(rf"bytes \*/({_NUMBER})")
_DIGEST = {"md5": re.compile(r"[0-9a-f]{32}"), "sha256": re.compile(r"[0-9a-f]{64}")}

T = TypeVar("T")


class FetchError(DelfjaxError):
    """A file that could not be fetched; the message names file, cause and remedy."""


class StatusError(FetchError):
    """A response that will not change if the request is repeated.

    Attributes:
        status: the HTTP status.
        content_range: header Content-Range, which for status 416 holds the length of the file.
    """

    def __init__(self, message: str, status: int, content_range: str = "") -> None:
        super().__init__(message)
        self.status, self.content_range = status, content_range


class GivenUpError(FetchError):
    """A server that could not be reached, or broke off, in every attempt."""


class DiskFullError(FetchError):
    """No room left on the disk; what was written stays, to be resumed."""


class _PassingError(Exception):
    """A failure that may pass by itself: a dropped connection, a busy server."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to try again.

    Attributes:
        timeout_s: silence after which a connection is abandoned, seconds.
        attempts: consecutive attempts without progress after which the file is given up.
        backoff_s: wait after the first such attempt, seconds; doubled after each further one.
        longest_wait_s: longest wait, even if the server asks for a longer one, seconds.
        block_bytes: bytes read at a time.
    """

    timeout_s: float = 60.0
    attempts: int = 6
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    block_bytes: int = 1 << 20


def download(
    url: str,
    target: Path,
    *,
    limit: int = MAX_BYTES,
    trusted: bool = False,
    patience: Patience | None = None,
) -> None:
    """Download one file, or the rest of it, to ``target``.

    Args:
        url: its address, http or https.
        target: its destination; the folder is created.
        limit: largest length of the file, bytes.
        trusted: whether a checksum will be compared afterwards. A part may then be resumed even if
            the server cannot tell whether the file is still the same version.
        patience: timeouts and retries.

    Raises:
        StatusError: the server refuses the request.
        GivenUpError: no attempt made progress; the part stays, to be resumed.
        DiskFullError: there is no room for the file; the part stays.
        FetchError: the file is longer than ``limit``, whether its server announces a length or not;
            the part is deleted.
    """
    patience = patience or Patience()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target, url, limit)
    _persist(lambda: _attempt(part, trusted=trusted, patience=patience), url, patience, part.size)
    part.finish()


def drop_part(target: Path) -> None:
    """Delete what an unfinished download of ``target`` left."""
    _Part(target, "", 0).drop()


def read_small_text(url: str, *, patience: Patience | None = None) -> str:
    """Download a short text file, such as one with a checksum.

    Raises:
        StatusError: there is no such file.
        FetchError: the file could not be fetched, is not text, or is too long.
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
        raise FetchError(f"{url}: more than {_MAX_TEXT} bytes, expected a few lines of text")
    return text


def remote_size(url: str, *, patience: Patience | None = None) -> int | None:
    """Length of a file in bytes, as its server announces it; ``None`` if it does not.

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
    """Compare a file with a checksum.

    Args:
        path: the file.
        checksum: ``md5:…`` or ``sha256:…``.
        source: where the file came from, for the message.

    Raises:
        FetchError: they differ.
    """
    kind, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()
    if found != expected.lower():
        raise FetchError(
            f"{source}: {kind} is {found}, expected {expected}: "
            "damaged on the way, or another version"
        )


def parse_checksum(text: str, kind: str, where: str) -> str:
    """The checksum at the start of a text as ``md5sum`` writes it, as ``md5:…``.

    Args:
        text: content of the checksum file.
        kind: ``md5`` or ``sha256``.
        where: its address or path, for the message.

    Raises:
        FetchError: the text does not begin with a checksum.
    """
    word = (text.split() or [""])[0].lower().lstrip("\\")
    if not _DIGEST[kind].fullmatch(word):
        raise FetchError(
            f"{where}: begins with {word!r:.60}, expected {kind} in hexadecimal digits"
        )
    return f"{kind}:{word}"


def require_room(folder: Path, needed: int) -> None:
    """Refuse to begin when the disk lacks the room.

    Raises:
        DiskFullError: fewer than ``needed`` bytes are free on the disk of ``folder``, which need
            not exist yet.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFullError(
            f"{folder}: {readable(needed)} needed, {readable(free)} free on this disk; "
            "make room, or choose another with --root"
        )


def disk_full(error: OSError) -> bool:
    """Whether an error means that the disk or the quota is full."""
    return error.errno in _DISK_FULL


def readable(size: int) -> str:
    """A number of bytes to three digits: ``1.94 GB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


class _Part:
    """A download in progress: the bytes so far, and the version of the file they belong to."""

    def __init__(self, target: Path, url: str, limit: int) -> None:
        self.target, self.url, self._limit = target, url, limit
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def require_length(self, length: int) -> None:
        """Refuse a file that is too long; nothing of it stays."""
        if length > self._limit:
            self.drop()
            raise FetchError(
                f"{self.url}: has {readable(length)} or more, expected at most"
                f" {readable(self._limit)}; it is another file"
            )

    def version(self) -> dict[str, Any]:
        """Version of the file that was begun: url, etag, last_modified, total; empty if it was not
        noted, or the note is damaged."""
        try:
            noted = read_json_object(self._note, error=FetchError)
        except FetchError:
            return {}
        texts = all(_is_header(noted.get(key)) for key in ("etag", "last_modified"))
        counted = noted.get("total") is None or type(noted["total"]) is int
        return noted if noted.get("url") == self.url and texts and counted else {}

    def headers(self, *, trusted: bool) -> dict[str, str]:
        """Headers that request the rest of the file; none if all of it must be requested."""
        offset, version = self.size(), self.version()
        validator = _validator(version)
        if not offset or not version or (validator is None and not trusted):
            return {}
        asked = {"Range": f"bytes={offset}-"}
        return asked if validator is None else asked | {"If-Range": validator}

    def begin(self, version: dict[str, Any]) -> None:
        """Start an empty part of a version of the file."""
        self.path.write_bytes(b"")
        write_json(self._note, version)

    def drop(self) -> None:
        """Delete the part and its note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the complete file its name."""
        move_file(self.path, self.target)
        self._note.unlink(missing_ok=True)


def _persist(
    attempt: Callable[[], T], url: str, patience: Patience, reached: Callable[[], int]
) -> T:
    """Repeat an attempt until it succeeds, fails for good, or makes no progress several times.

    Args:
        attempt: raises ``_PassingError`` if it may be repeated.
        url: the address, for messages.
        patience: attempts and waits.
        reached: number of bytes so far.
    """
    furthest = reached()
    failures = 0
    while True:
        try:
            return attempt()
        except _PassingError as error:
            now = reached()
            failures = 0 if now > furthest else failures + 1
            furthest = max(furthest, now)
            if failures >= patience.attempts:
                raise GivenUpError(
                    f"{url}: {error}; given up after {failures} attempts without progress; "
                    "the same command resumes"
                ) from None
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
            part.require_length(total)
            require_room(part.target.parent, total - part.size())
        _receive(part, response, total, patience)
    if total is not None and part.size() != total:
        raise _PassingError(f"ended after {part.size()} of {total} bytes")


def _begin(part: _Part, response: http.client.HTTPResponse) -> int | None:
    """Prepare the part for a response: empty for a whole file, unchanged for the rest of it.

    Returns:
        Length of the whole file, bytes; ``None`` if the server does not announce it.
    """
    headers = response.headers
    if headers.get_content_type() == "text/html" and not part.target.name.endswith(
        (".html", ".htm")
    ):
        raise FetchError(
            f"{part.url}: a web page came in place of the file; "
            "the file has moved, or the page wants an answer first"
        )
    if response.status not in (http.client.OK, http.client.PARTIAL_CONTENT):
        raise StatusError(
            f"{part.url}: HTTP {response.status} {quoted(response.reason)}, expected the file (200"
            " or 206)",
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
        raise _PassingError("the file has changed, or the server sent another part of it")
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
            part.require_length(part.size() + len(block))
            try:
                _write(file.fileno(), block)
            except OSError as error:
                if not disk_full(error):
                    raise
                of_total = "" if total is None else f" of {readable(total)}"
                raise DiskFullError(
                    f"{part.path}: the disk is full after {readable(part.size())}{of_total}; "
                    "make room, the same command resumes"
                ) from None
            bar.update(len(block))


def _write(file: int, data: bytes) -> None:
    """Write all of ``data``, unbuffered: a later run resumes from what the system accepted."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _read(read: Callable[[], bytes]) -> bytes:
    """Data from a connection; every failure of a connection may pass."""
    try:
        return read()
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(_reason(error)) from None


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but only to http and https."""

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message
    ) -> Any:
        """The response to the request that follows a redirect."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[arg-type]  # a Message is what comes
        except (http.client.InvalidURL, ValueError) as error:
            fp.close()
            where = headers.get("Location", headers.get("URI"))
            raise StatusError(
                f"{req.full_url}: HTTP {code} redirects to {where!r:.120}, which is not a valid"
                f" address: {_reason(error)}",
                code,
            ) from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that follows a redirect."""
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            fp.close()
            raise StatusError(
                f"{req.full_url}: HTTP {code} redirects to {newurl!r:.120}; "
                "only http and https are followed",
                code,
            )
        # urllib would follow a HEAD with a GET.
        made = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]  # a Message is what comes
        if made is not None and req.get_method() == "HEAD":
            made.method = "HEAD"
        return made


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https only, none of urllib's other schemes such as file and FTP."""
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
    """A successful response, whose body is still to be read.

    Raises:
        StatusError: the response will not change if the request is repeated.
        _PassingError: the failure may pass.
    """
    always = {"User-Agent": f"delfjax/{__version__}", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(url, headers=always | headers, method=method)
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
    except (http.client.InvalidURL, ValueError) as error:
        raise FetchError(f"{url}: not a valid address: {_reason(error)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(_reason(error)) from None
    return answer


def _refusal(url: str, error: urllib.error.HTTPError) -> StatusError | _PassingError:
    said = f"HTTP {error.code} {quoted(error.reason)}"
    if error.code in _PASSING_STATUS:
        wait = error.headers.get("Retry-After", "")
        return _PassingError(said, float(wait) if wait.isascii() and wait.isdigit() else 0.0)
    if error.code in _REDIRECTS:
        return StatusError(
            f"{url}: HTTP {error.code}: redirects in a circle, or to an unsupported address",
            error.code,
        )
    message = f"{url}: {said}; it has moved or is gone, --from can name a copy of it"
    return StatusError(message, error.code, error.headers.get("Content-Range", ""))


def _validator(version: dict[str, Any]) -> str | None:
    """The header value that identifies a version exactly, which weak tags do not."""
    etag, date = version.get("etag"), version.get("last_modified")
    if isinstance(etag, str) and etag.startswith('"'):
        return etag
    return date if isinstance(date, str) else None


def _length(headers: Message) -> int | None:
    length = headers.get("Content-Length", "").strip()
    return int(length) if _LENGTH.fullmatch(length) else None


def _is_header(value: object) -> bool:
    """Whether a value is a text that can be the value of a header, or ``None``."""
    return value is None or (isinstance(value, str) and value.isascii() and value.isprintable())


def _reason(error: object) -> str:
    """The text of an error in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return quoted(getattr(error, "strerror", None) or error) or type(error).__name__
