"""Files: durable replacement, locks, JSON, and dotted names for nested values.

Everything here writes whole files or none, even if the process is killed or the machine stops: the
content goes to a temporary file in the same folder, is synced to disk, and is then renamed. Names
of temporary files start with a dot and end in :data:`TEMPORARY`. Nothing reads one that a killed
process left behind; :func:`remove_leftovers` deletes them.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import filelock

# Ending of the name under which a file or folder is written before it gets its own.
TEMPORARY = ".tmp"
# Errors of systems or disks without locks, and of disks that cannot sync a folder.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})
_NO_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
# Between two attempts to take a lock, seconds.
_POLL_S = 0.1


class LockHeldError(Exception):
    """Somebody else holds the lock; callers say what that means for them.

    Attributes:
        holder: for instance ``process 123 on laptop``.
    """

    def __init__(self, file: Path, holder: str) -> None:
        super().__init__(f"{file}: held by {holder}")
        self.holder = holder


class Lock:
    """An exclusive lock between processes, as a context manager; two objects exclude each other
    within one process as well.

    The lock belongs to the operating system, so it ends with the process, however that ends. Where
    the system has no locks, a marker file beside ``file`` takes their place; it no longer counts
    once its process is gone. ``file`` stays: it names the holder, and is empty while there is none.
    """

    def __init__(self, file: Path, *, wait_s: float = 0.0) -> None:
        """Nothing happens until the lock is acquired.

        Args:
            file: created if missing; its folder must exist.
            wait_s: how long to wait for another holder, seconds; ``math.inf`` waits for ever.
        """
        self.file = file
        self._wait_s = wait_s
        self._descriptor = -1
        self._marker: filelock.SoftFileLock | None = None

    def acquire(self) -> None:
        """Take the lock; this object must not hold it already.

        Raises:
            LockHeldError: somebody else still holds it after ``wait_s``.
            OSError: the file cannot be opened for writing.
        """
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._wait(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        # The lock holds even where a full disk leaves no room to say whose it is. On Windows only
        # the holder can read the first byte of a locked file, so it is a blank.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f" process {os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        """Give the lock back."""
        os.ftruncate(self._descriptor, 0)
        if self._marker is None:
            # A child forked meanwhile shares the descriptor: closing ours would leave it the lock.
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
        while not self._try(descriptor):
            if time.monotonic() >= deadline:
                raise LockHeldError(self.file, _holder(self.file))
            time.sleep(_POLL_S)

    def _try(self, descriptor: int) -> bool:
        try:
            return filelock.lock_descriptor(descriptor, blocking=False)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        # Not the file itself: it stays there, and a marker counts as long as it exists.
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

    Raises:
        OSError: it cannot be written; an older file stays as it was.
    """
    temporary = _temporary(file)
    try:
        with temporary.open("xb") as stream:
            yield stream
        move_file(temporary, file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


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
    """A folder to fill that becomes ``folder`` when the block ends without an error.

    Folders above it are created.

    Raises:
        OSError: it cannot be written, or ``folder`` exists by the end of the block; nothing of it
            is left.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(folder)
    temporary.mkdir()
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


def sync_disks() -> None:
    """Sync everything written so far, where the system can: after thousands of files, quicker than
    one by one."""
    if hasattr(os, "sync"):
        os.sync()


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed processes left in a folder or below it.

    The caller must be the only one who writes there: files still being written go as well.

    Raises:
        OSError: something cannot be deleted.
    """
    for leftover in list(folder.rglob(f".*{TEMPORARY}")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.{secrets.token_hex(4)}{TEMPORARY}")


def _sync_file(file: Path) -> None:
    # Windows syncs only what is open for writing.
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        # Windows opens no folders, and needs no sync of them.
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
        file: in UTF-8.
        error: makes the exception from a message that names the file: an error class, usually.

    Raises:
        Exception: what ``error`` makes: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as failure:
        raise error(f"{file}: cannot be read: {failure.strerror}") from None
    except (ValueError, RecursionError) as failure:
        raise error(f"{file}: damaged or not JSON ({failure})") from None


def read_json_object(file: Path, *, error: Callable[[str], Exception]) -> dict[str, Any]:
    """The named values in a JSON file; see :func:`read_json`.

    Raises:
        Exception: what ``error`` makes: the file cannot be read, or is not a JSON object.
    """
    values = read_json(file, error=error)
    if not isinstance(values, dict):
        raise error(f"{file}: damaged, holds a {type(values).__name__} instead of a JSON object")
    return values


def read_json_lines(file: Path, *, error: Callable[[str], Exception]) -> list[Any]:
    """The values in a file that holds one JSON value per line.

    Raises:
        Exception: what ``error`` makes: the file cannot be read, or a line is not JSON.
    """
    values: list[Any] = []
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            values.append(json.loads(line))
    except OSError as failure:
        raise error(f"{file}: cannot be read: {failure.strerror}") from None
    except (ValueError, RecursionError) as failure:
        where = f"line {len(values) + 1} is damaged or not JSON"
        raise error(f"{file}: {where} ({failure})") from None
    return values


def write_json_lines(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, durably; see :func:`replace_file`.

    Raises:
        OSError: the file cannot be written; an older file stays as it was.
    """
    replace_file(file, "".join(json.dumps(line) + "\n" for line in lines).encode())


def append_json_line(file: Path, values: Mapping[str, Any], *, sort_keys: bool = False) -> None:
    """Append named values to a file as one line of JSON; the file is created if missing.

    Raises:
        OSError: the file cannot be written.
    """
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(values, sort_keys=sort_keys) + "\n")


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
        file: written, or replaced.
        values: plain values, all numbers finite.
        indent: spaces per level; without it, everything is on one line.
        sort_keys: sort by name instead of keeping the order given.
        ensure_ascii: write all other characters as escapes.
        end: follows the closing brace, a line break for instance.

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
    text = json.dumps(
        values, indent=indent, sort_keys=sort_keys, ensure_ascii=ensure_ascii, allow_nan=False
    )
    return text.encode()


def flatten(values: Mapping[str, Any], *, lists: bool = False) -> dict[str, Any]:
    """Nested values by dotted name: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``.

    Args:
        values: nested to any depth; empty ones leave no name.
        lists: descend into lists and tuples as well, whose items are named 0, 1, …; otherwise these
            are values like any other.
    """
    return dict(_leaves(values, "", lists))


def _leaves(values: Any, prefix: str, lists: bool) -> Iterator[tuple[str, Any]]:
    numbered = lists and isinstance(values, list | tuple)
    for name, value in enumerate(values) if numbered else values.items():
        if isinstance(value, Mapping) or (lists and isinstance(value, list | tuple)):
            yield from _leaves(value, f"{prefix}{name}.", lists)
        else:
            yield f"{prefix}{name}", value
