"""File sets: folders whose files are replaced together, in one step.

A file set is a folder with data files and a header, a JSON file that lists them under ``files``
with the digests of their contents. A data file carries its digest in its name, as in
``scales-0123….npy``, so that files of an older and a newer set never share a name. A new set is
complete as soon as its header replaces the older one. Files that the header does not list are then
deleted, as are those that a killed process left.

Writers exclude each other by a lock. Readers need none: what a header lists is whole, and a reader
whose files were deleted because a newer set appeared starts again with the newer header.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from delfjax.files import (
    TEMPORARY,
    Lock,
    move_file,
    naming,
    read_whole,
    remove_leftovers,
    write_json,
)

T = TypeVar("T")

# Held by the process that writes the set, and by one that makes a new set from the present one.
LOCK, _REVISION = "writer.lock", "revision.lock"


@dataclass(frozen=True)
class FileSet:
    """A kind of file set.

    Attributes:
        what: what a set of this kind is, for errors: ``an index``.
        header: name of the header.
        parts: names of the data files, without digests.
        error: what is raised for a folder that holds no intact set.
        optional: those of the parts that a set may lack.
    """

    what: str
    header: str
    parts: tuple[str, ...]
    error: type[Exception]
    optional: frozenset[str] = frozenset()

    def require_replaceable(self, folder: Path) -> None:
        """Check that a set can be written to ``folder`` without replacing anything but an older
        set; a folder that is empty or missing is accepted.

        Raises:
            error: there is something else, or ``folder`` cannot be written.
        """
        if folder.is_dir():
            found = sorted(entry.name for entry in folder.iterdir())
            foreign = [name for name in found if not self._is_own(name)]
            if foreign and self.header not in found:
                raise self.error(
                    f"{folder}: exists and is not {self.what}, so it is not overwritten"
                    f" ({foreign[0]!r} is there); name another folder"
                )
        elif folder.exists() or folder.is_symlink():
            there = "is not a folder" if folder.exists() else "is a link to nothing"
            raise self.error(f"{folder}: exists and {there}; name another folder")
        above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise self.error(f"{folder}: {above} is not a folder that can be written to")

    def write(
        self,
        folder: Path,
        contents: Mapping[str, Callable[[BinaryIO], object]],
        header: Callable[[dict[str, dict[str, Any]]], Mapping[str, Any]],
    ) -> None:
        """Write a set; an older one in the folder is replaced in one step.

        Another process that writes the same folder is waited for.

        Args:
            folder: created if missing.
            contents: for each part, what writes its content to a stream.
            header: makes the header from the list of files, which it must hold as ``files``.

        Raises:
            error: the folder holds something else.
            OSError: a file cannot be written; the error names it, and the older set stays.
        """
        self.require_replaceable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with Lock(folder / LOCK, wait_s=math.inf):
            self._remove_unlisted(folder)
            try:
                files = {part: _add(folder / part, write) for part, write in contents.items()}
                write_json(folder / self.header, header(files), indent=1, ensure_ascii=False)
            finally:
                self._remove_unlisted(folder)

    @contextmanager
    def revising(self, folder: Path, *, on_wait: Callable[[str], object]) -> Iterator[None]:
        """Let no other process make a new set from the present one until the block ends, so that
        neither loses what the other adds; a process that does is waited for.

        Args:
            folder: a folder that does not exist yet holds no set, and is not locked.
            on_wait: is told for whom this process waits, as in ``process 123 on laptop``.

        Raises:
            OSError: the lock cannot be created.
        """
        with ExitStack() as held:
            if folder.is_dir():
                held.enter_context(Lock(folder / _REVISION, wait_s=math.inf, on_wait=on_wait))
            yield

    def read(self, folder: Path, load: Callable[[], T]) -> T:
        """What ``load`` makes of a set; it is called again if it fails because the set was replaced
        meanwhile.

        Raises:
            error: raised by ``load``.
        """
        return read_whole(folder / self.header, load, error=self.error)

    @contextmanager
    def opened(self, folder: Path, files: object) -> Iterator[dict[str, io.BufferedReader]]:
        """The data files that a header lists, as streams by part, each compared with its digest.

        Args:
            folder: the folder of the set.
            files: what the header lists. Sets written by older versions list a digest for each
                part, whose file has no digest in its name.

        Raises:
            error: a file is missing or damaged, or the list is.
        """
        listed = files if isinstance(files, dict) else {}
        with ExitStack() as opened:
            streams: dict[str, io.BufferedReader] = {}
            for part in self.parts:
                if part in self.optional and part not in listed:
                    continue
                file = folder / _listed_name(part, files)
                try:
                    # Anything but a regular file could block.
                    if not file.is_file():
                        raise FileNotFoundError
                    streams[part] = opened.enter_context(file.open("rb"))
                except OSError as error:
                    raise self._damaged(file, error.strerror or "no such file") from None
            # Once they are open, another process may delete them.
            for part, stream in streams.items():
                wrong = _difference(stream, listed.get(part))
                if wrong:
                    raise self._damaged(folder / _listed_name(part, files), wrong)
            yield streams

    def _damaged(self, file: Path, reason: str) -> Exception:
        return self.error(f"{file}: missing or damaged ({reason}); make {self.what} again")

    def _is_own(self, name: str) -> bool:
        """Whether a process that writes a set may have left a file of this name."""
        return (
            name in (self.header, LOCK, _REVISION)
            or (name.startswith(".") and name.endswith(TEMPORARY))
            or self._is_data(name)
        )

    def _is_data(self, name: str) -> bool:
        own = re.compile("(.*)-[0-9a-f]{32}(.*?)").fullmatch(name)
        return name in self.parts or (own is not None and "".join(own.groups()) in self.parts)

    def _remove_unlisted(self, folder: Path) -> None:
        """Delete temporary files, and the data files of other sets than the current one; the lock
        must be held."""
        remove_leftovers(folder)
        try:
            files = json.loads((folder / self.header).read_bytes()).get("files")
        except FileNotFoundError:
            listed: set[str] = set()
        except (OSError, ValueError, RecursionError, AttributeError):
            # Nobody can say what a damaged header lists.
            return
        else:
            listed = {_listed_name(part, files) for part in self.parts}
        for file in list(folder.iterdir()):
            if self._is_data(file.name) and file.name not in listed:
                file.unlink()


def _add(place: Path, write: Callable[[BinaryIO], object]) -> dict[str, Any]:
    """Write a data file and return its entry in the header."""
    temporary = place.with_name(f".{place.name}{TEMPORARY}")
    with naming(place):
        with temporary.open("xb") as stream:
            write(stream)
        with temporary.open("rb") as written:
            entry = {"digest": _digest(written), "bytes": os.fstat(written.fileno()).st_size}
        move_file(temporary, place.with_name(_listed_name(place.name, {place.name: entry})))
    return entry


def _listed_name(part: str, files: object) -> str:
    """Name of the file of a part; older versions list the digest alone, and the name lacks it."""
    entry = files.get(part) if isinstance(files, dict) else None
    digest = entry.get("digest") if isinstance(entry, dict) else None
    if isinstance(digest, str) and re.fullmatch("[0-9a-f]{32}", digest):
        return f"{Path(part).stem}-{digest}{Path(part).suffix}"
    return part


def _difference(stream: io.BufferedReader, entry: object) -> str | None:
    """How a data file differs from its entry in the header; ``None`` where it does not."""
    digest = entry
    if isinstance(entry, dict):
        digest, size = entry.get("digest"), os.fstat(stream.fileno()).st_size
        if size != entry.get("bytes"):
            return f"it holds {size} bytes, expected {entry.get('bytes')}"
    if _digest(stream) != digest:
        return "its digest is not the recorded one"
    stream.seek(0)
    return None


def _digest(stream: io.BufferedReader) -> str:
    return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
