"""Files: durable replacement, locks, JSON, and dotted names for nested values.

Files are written completely or not at all, even if the process is killed or the machine stops
(:func:`append_json_line` is the exception): the content goes to a temporary file in the same
folder, is synced to disk, and is then renamed. Names of temporary files start with a dot and end in
:data:`TEMPORARY`. A symbolic link stays: what it points to is written.

A temporary file is never read, and is locked for as long as its process writes it. The next process
that writes the same file therefore knows whether the temporary was left by a process that was
killed, and takes it over; :func:`remove_leftovers` deletes the temporaries in a whole folder.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import filelock

from delfjax.errors import quoted

T = TypeVar("T")

# Suffix of the temporary name under which a file or folder is written.
TEMPORARY = ".tmp"
# Deepest nesting of JSON that is read; deeper values exhaust the stack of whatever walks them.
MAX_JSON_DEPTH = 100
_MAX_INT = 1 << 63
# Errors of systems or disks without locks.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})
# Errors of disks that cannot sync a folder.
_NO_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
# Between two attempts to take a lock, seconds; temporary files are held for a shorter time.
_POLL_S = 0.1
_TEMPORARY_POLL_S = 0.005
# How often a reader starts again because what it reads is being replaced.
_READINGS = 100


class LockHeldError(Exception):
    """Another holder has the lock; callers turn this into an error of their own.

    Attributes:
        holder: description of the holder, for instance ``process 123 on laptop``.
    """

    def __init__(self, file: Path, holder: str) -> None:
        super().__init__(f"{file}: held by {holder}")
        self.holder = holder


class Lock:
    """An exclusive lock between processes, as a context manager; two instances in the same process
    exclude each other as well.

    The lock belongs to the operating system, which releases it when the process ends for whatever
    reason. On a system without locks, a marker file beside ``file`` is used instead; it is ignored
    once its process is gone. ``file`` is never deleted: it names the holder, and is empty while the
    lock is free.
    """

    def __init__(
        self,
        file: Path,
        *,
        wait_s: float = 0.0,
        on_wait: Callable[[str], object] = lambda holder: None,
    ) -> None:
        """Set up the lock without acquiring it.

        Args:
            file: created if missing; its folder must exist.
            wait_s: how long to wait for another holder, seconds; ``math.inf`` waits forever.
            on_wait: called once with a description of the holder, if it takes longer than a moment.
        """
        self.file = file
        self._wait_s = wait_s
        self._on_wait = on_wait
        self._descriptor = -1
        self._marker: filelock.SoftFileLock | None = None

    def acquire(self) -> None:
        """Take the lock; this object must not hold it already.

        Raises:
            LockHeldError: another holder still has the lock after ``wait_s``.
            OSError: the file cannot be opened for writing.
        """
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._wait(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        # The lock is valid even if a full disk leaves no room to name the holder. The first byte is
        # a blank because on Windows only the holder can read the first byte of a locked file.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f" process {os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        """Release the lock."""
        os.ftruncate(self._descriptor, 0)
        if self._marker is None:
            # A child process forked meanwhile shares the descriptor, so closing ours would leave
            # the lock with the child.
            filelock.unlock_descriptor(self._descriptor)
        else:
            self._marker.release()
        os.close(self._descriptor)
        self._descriptor = -1
        self._marker = None

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _wait(self, descriptor: int) -> None:
        deadline = time.monotonic() + self._wait_s
        for attempt in itertools.count():
            if self._try(descriptor):
                return
            if time.monotonic() >= deadline:
                raise LockHeldError(self.file, _holder(self.file))
            # By the second attempt, a holder that has just taken the lock is named in the file.
            if attempt == 1:
                self._on_wait(_holder(self.file))
            time.sleep(_POLL_S)

    def _try(self, descriptor: int) -> bool:
        try:
            return filelock.lock_descriptor(descriptor, blocking=False)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        # The file itself cannot be the marker: it is never deleted, and a marker holds the lock for
        # as long as it exists.
        marker = filelock.SoftFileLock(f"{self.file}.held", thread_local=False)
        try:
            marker.acquire(blocking=False)
        except filelock.Timeout:
            return False
        self._marker = marker
        return True


def _holder(file: Path) -> str:
    for start in (0, 1):
        with suppress(OSError), file.open("rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(200).decode("utf-8", "replace").strip() or "another process"
    return "another process"


def replace_file(file: Path, content: bytes | memoryview) -> None:
    """Write a whole file, or replace one; its folder must exist.

    Raises:
        OSError: it cannot be written, for instance because the disk is full; an older file stays
            as it was.
    """
    with replacing(file) as stream:
        stream.write(content)


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes ``file`` when the block ends without an error.

    Another writer of the same file waits until the block has ended. A symbolic link stays a link:
    its target is written, whether or not it exists.

    Raises:
        OSError: it cannot be written, or is a link that leads back to itself; the error names
            ``file`` or the target of the link, and an older file stays as it was.
    """
    target = link_target(file)
    with _temporary(target) as temporary, naming(target):
        try:
            with temporary.open("wb") as stream:
                yield stream
            move_file(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def link_target(file: Path) -> Path:
    """The file that a symbolic link leads to, through any number of links, whether or not it
    exists; any other file is returned as it is.

    Raises:
        OSError: the link leads back to itself.
    """
    if not file.is_symlink():
        return file
    with suppress(FileNotFoundError):
        # Only this tells a circle of links from a target that does not exist.
        file.stat()
    return Path(os.path.realpath(file))


def move_file(source: Path, target: Path) -> None:
    """Give a complete file its final name, on the same disk; an older file is replaced.

    Raises:
        OSError: ``source`` is missing, or cannot be moved.
    """
    _sync_file(source)
    os.replace(source, target)
    _sync_folder(target.parent)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block ends without an error.

    Parent folders are created. Another process that makes the same folder waits until the block has
    ended.

    Raises:
        OSError: a file cannot be written, or ``folder`` exists by the end of the block; the
            temporary folder is deleted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder, is_folder=True) as temporary, naming(folder):
        try:
            yield temporary
            for place, _, names in os.walk(temporary):
                for name in names:
                    _sync_file(Path(place, name))
                _sync_folder(Path(place))
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    _sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder and everything in it; nobody sees it half deleted, whenever the process is
    killed.

    Raises:
        OSError: it does not exist, or something in it cannot be deleted.
    """
    with _temporary(folder, is_folder=True) as temporary:
        os.rename(folder, temporary / "removed")
        shutil.rmtree(temporary)


@contextmanager
def naming(file: Path | str) -> Iterator[None]:
    """Let errors of the system that name no file, or a temporary one, name ``file``.

    Where a disk is full, for instance, the system itself does not say what was being written.
    """
    try:
        yield
    except OSError as error:
        named = error.filename
        if error.errno is not None and (named is None or _is_temporary_of(str(named), Path(file))):
            error.filename = str(file)
        raise


def sync_disks() -> None:
    """Sync everything written so far, if the system can; faster than syncing thousands of files one
    by one."""
    if hasattr(os, "sync"):
        os.sync()


def read_whole(file: Path, load: Callable[[], T], *, error: type[Exception]) -> T:
    """What ``load`` makes of files of which ``file`` is replaced last; it is called again if it
    fails because they were replaced meanwhile.

    Raises:
        Exception: the ``error`` that ``load`` raised.
    """
    for _ in range(_READINGS):
        before = _version(file)
        try:
            return load()
        except error:
            if _version(file) == before:
                raise
    return load()


def _version(file: Path) -> tuple[int, ...] | None:
    """What changes whenever a file is replaced."""
    with suppress(OSError):
        found = file.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed processes left in a folder or below it.

    No other process may be writing there: files that are still being written would be deleted too.

    Raises:
        OSError: something cannot be deleted.
    """
    for leftover in list(folder.rglob(f".*{TEMPORARY}")):
        _delete(leftover)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _temporary(target: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """The place where the content of ``target`` is written, reserved for the block; a folder exists
    and is empty.

    Where there are locks, the place always has the same name, so whoever writes ``target`` next
    finds what a killed process left there.
    """
    place = target.with_name(f".{target.name}{TEMPORARY}")
    with naming(target):
        # Windows neither renames nor deletes a file that is open, as a locked one is.
        descriptor = None if os.name == "nt" else _reserve(place, is_folder)
        if descriptor is None:
            place = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY}")
            if is_folder:
                place.mkdir()
    try:
        if is_folder:
            for left in place.iterdir():
                _delete(left)
        yield place
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _reserve(place: Path, is_folder: bool) -> int | None:
    """Create and lock a temporary, after any other process that writes it; ``None`` where there are
    no locks."""
    # A link of that name is not followed: it was not made here.
    no_links = getattr(os, "O_NOFOLLOW", 0)
    while True:
        if is_folder:
            place.mkdir(exist_ok=True)
            descriptor = os.open(place, os.O_RDONLY | no_links)
        else:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | no_links, 0o666)
        try:
            while not filelock.lock_descriptor(descriptor, blocking=False):
                time.sleep(_TEMPORARY_POLL_S)
            # The writer before may have renamed or deleted what was opened here.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(place)):
                    return descriptor
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError) and error.errno in _NO_LOCKS:
                with suppress(OSError):
                    place.rmdir() if is_folder else place.unlink()
                return None
            raise
        os.close(descriptor)


def _is_temporary_of(name: str, target: Path) -> bool:
    own = os.path.basename(name)
    return own.startswith(f".{target.name}.") and own.endswith(TEMPORARY)


def _sync_file(file: Path) -> None:
    # Windows syncs a file only if it is open for writing.
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        # Windows cannot open folders, and does not need to sync them.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def read_json(file: Path, *, error: Callable[[str], Exception]) -> Any:
    """The value in a JSON file.

    Args:
        file: the file, in UTF-8.
        error: makes an exception from a message that names the file; usually an error class.

    Raises:
        Exception: made by ``error``: the file cannot be read, or is not JSON.
    """
    try:
        data = file.read_bytes()
    except OSError as failure:
        raise error(f"{file}: cannot be read: {failure.strerror}") from None
    return parse_json(data, where=str(file), error=error)


def parse_json(data: bytes, *, where: str, error: Callable[[str], Exception]) -> Any:
    """The value of a JSON text.

    Args:
        data: the text, in UTF-8.
        where: where it was read, for the error.
        error: makes an exception from a message; usually an error class.

    Raises:
        Exception: made by ``error``: the text is not JSON.
    """
    try:
        return _parsed(data, finite=True)
    except (ValueError, RecursionError) as failure:
        raise error(f"{where}: damaged or not JSON ({quoted(failure)})") from None


def _parsed(data: bytes, *, finite: bool) -> Any:
    """The JSON value in ``data``, which whoever uses it can walk, compute with, write and print.

    Raises:
        ValueError: the data is not JSON, is nested too deeply, or holds half a character, an
            integer of more than 64 bits, or, where numbers must be finite, one that is not.
        RecursionError: the data is nested so deeply that it cannot even be parsed.
    """
    value = json.loads(data)
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        if any(type(part) is int and not -_MAX_INT <= part < _MAX_INT for part in level):
            raise ValueError("holds an integer of more than 64 bits")
        if finite and any(type(part) is float and not math.isfinite(part) for part in level):
            raise ValueError("holds a number that is not finite")
        inner = [part for part in level if isinstance(part, dict | list)]
        if not inner:
            break
        level = [part for items in inner for part in _parts(items)]
    else:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")
    if b"\\u" in data:
        # An escape may stand for half of a character, which no file and no terminal takes. Python
        # keeps bytes of a file name that are not UTF-8 as such halves; only these are admitted.
        json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
    return value


def _parts(items: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return items.values() if isinstance(items, dict) else items


def read_json_object(file: Path, *, error: Callable[[str], Exception]) -> dict[str, Any]:
    """The named values in a JSON file; see :func:`read_json`.

    Raises:
        Exception: made by ``error``: the file cannot be read, or is not a JSON object.
    """
    values = read_json(file, error=error)
    if not isinstance(values, dict):
        raise error(f"{file}: damaged: holds a {type(values).__name__}, expected a JSON object")
    return values


def write_json_lines(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, durably; see :func:`replace_file`.

    Raises:
        OSError: the file cannot be written; an older file stays as it was.
    """
    replace_file(file, "".join(json.dumps(line) + "\n" for line in lines).encode())


def append_json_line(file: Path, values: Mapping[str, Any]) -> None:
    """Append named values to a file as one line of JSON; the file is created if missing.

    Raises:
        OSError: the file cannot be written.
    """
    with naming(file), file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(values) + "\n")


def write_json(
    file: Path,
    values: Mapping[str, Any],
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = True,
    end: str = "",
) -> None:
    """Write named values as JSON, durably; see :func:`replace_file`.

    Args:
        file: the file to write or replace.
        values: plain values; all numbers must be finite.
        indent: spaces per level; without it, everything is on one line.
        sort_keys: sort by name instead of keeping the order given.
        ensure_ascii: escape all characters that are not ASCII.
        end: text after the closing brace, for instance a line break.

    Raises:
        OSError: the file cannot be written; an older file stays as it was.
        ValueError: a number is not finite.
    """
    content = json_bytes(values, indent=indent, sort_keys=sort_keys, ensure_ascii=ensure_ascii)
    replace_file(file, content + end.encode())


def json_bytes(
    values: Mapping[str, Any],
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = True,
) -> bytes:
    """JSON of named values as :func:`write_json` writes it.

    Raises:
        ValueError: a number is not finite; JSON knows neither NaN nor infinity.
    """
    options: dict[str, Any] = {"indent": indent, "sort_keys": sort_keys, "allow_nan": False}
    try:
        return json.dumps(values, ensure_ascii=ensure_ascii, **options).encode()
    except UnicodeEncodeError:
        # The name of a file that is not UTF-8: only an escape keeps the file valid and the name.
        return json.dumps(values, **options).encode()


def flatten(values: Mapping[str, Any], *, lists: bool = False) -> dict[str, Any]:
    """Nested values by dotted name: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``.

    Args:
        values: mappings nested to any depth; an empty one contributes no name.
        lists: also descend into lists and tuples, whose items are named 0, 1, …; by default, a list
            is a value like any other.
    """
    return dict(_leaves(values, "", lists))


def _leaves(values: Any, prefix: str, lists: bool) -> Iterator[tuple[str, Any]]:
    numbered = lists and isinstance(values, list | tuple)
    for name, value in enumerate(values) if numbered else values.items():
        if isinstance(value, Mapping) or (lists and isinstance(value, list | tuple)):
            yield from _leaves(value, f"{prefix}{name}.", lists)
        else:
            yield f"{prefix}{name}", value
