"""Archives from the network, unpacked without trusting them: tar, gzipped or not, and zip.

Members go to files with numbers for names in a work folder and are renamed into place once all of
them are there: an archive that is refused or damaged changes nothing. Owners, modes and times in
the archive are not taken over.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, runtime_checkable

from delfjax.errors import DelfjaxError

# Where fetching keeps its own records, in the folder of a dataset; no archive writes there.
CONTROL = ".fetch"
# The largest published archive has some ten thousand members.
MAX_MEMBERS = 2_000_000
# A tar header with a long name has kilobytes; tarfile would allocate whatever it says, bytes.
_MAX_HEADER = 1 << 22
_BLOCK = 1 << 20
# Zeros after the end of a tar fill its last record, which has at most megabytes.
_MAX_PADDING = 64 << 20
_FORBIDDEN = re.compile(r"^/|\\|\x00|(^|/)\.\.(/|$)|^[A-Za-z]:")
_ENCRYPTED = 0x1

_MALFORMED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    ValueError,
)
# What the system says of places before the beginning of a file, and of names that no disk takes.
_DAMAGE = frozenset({errno.EINVAL, errno.ENAMETOOLONG})


class UnpackError(DelfjaxError):
    """An archive that is damaged, or holds what no dataset has; nothing of it was unpacked."""


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive.

    Attributes:
        files: how many.
        size: their bytes together.
    """

    files: int
    size: int


@runtime_checkable
class _Readable(Protocol):
    """Whatever bytes come out of: members of archives have less than a file has."""

    def read(self, size: int = ..., /) -> bytes:
        """At most ``size`` bytes."""
        ...


@runtime_checkable
class _Seekable(_Readable, Protocol):
    """And can be gone back in."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Go to a place."""
        ...

    def tell(self) -> int:
        """Where it is."""
        ...


class _Refused(Exception):
    """Why an archive is refused; the public function adds which."""


@dataclass
class _Members:
    """Members on their way: where each goes, and the numbered file it is in."""

    work: Path
    limit: int
    size: int = 0
    seen: int = 0
    files: dict[str, Path] = field(default_factory=dict)

    def admit(self, name: str, size: int) -> str:
        """The clean path of a member, once it fits."""
        self.seen += 1
        self.size += size
        clean = _inside(name)
        if self.seen > MAX_MEMBERS:
            raise _Refused(f"more than {MAX_MEMBERS} members")
        if size < 0 or self.size > self.limit:
            raise _Refused(f"unpacks to more than {self.limit} bytes")
        return clean

    def write(self, name: str, content: _Readable, size: int) -> None:
        """Put a member's bytes into the next numbered file."""
        place = self.work / f"{self.seen:08d}"
        with place.open("xb") as file:
            shutil.copyfileobj(content, file, _BLOCK)
            written = file.tell()
        if written != size:
            raise _Refused(f"member {name!r:.80} ends after {written} of {size} bytes")
        self.files[name] = place

    def link(self, name: str, target: str) -> None:
        """A second name of an earlier member."""
        if target not in self.files:
            raise _Refused(
                f"member {name!r:.80} is a link to {target!r:.80}, which is no earlier member"
            )
        place = self.work / f"{self.seen:08d}"
        os.link(self.files[target], place)
        self.files[name] = place


def unpack(archive: Path, destination: Path, *, limit: int, work: Path | None = None) -> Unpacked:
    """Unpack an archive into a folder, all of it or nothing.

    Files there already are replaced by members of the same name. Links to earlier members become
    copies of them; symbolic links, devices and names that leave the folder are refused.

    Args:
        archive: a tar, gzipped or not, or a zip, told by its first bytes.
        destination: a folder; made when there is something to put in.
        limit: what it may unpack to, bytes.
        work: folder for what is half done, on the disk of ``destination``; emptied before and
            removed after. The default is a hidden one beside it.

    Raises:
        UnpackError: damaged, or refused; the message says which member and why.
        OSError: it cannot be read or written, such as for want of room.
    """
    work = work or destination.with_name(f".{destination.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        members = _Members(work, limit)
        with archive.open("rb") as file:
            _unpack(file, members)
        if not members.files:
            raise _Refused("holds no files")
        _place(members, destination)
    except _Refused as reason:
        raise UnpackError(f"{archive}: {reason}; not unpacked") from None
    except (*_MALFORMED, OSError) as error:
        if (
            isinstance(error, OSError)
            and not isinstance(error, gzip.BadGzipFile)
            and error.errno not in _DAMAGE
        ):
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UnpackError(
            f"{archive}: truncated or damaged archive ({said}); not unpacked"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Unpacked(len(members.files), members.size)


def _unpack(file: IO[bytes], members: _Members) -> None:
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK"):
        _unpack_zip(file, members)
    elif head.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as plain:
            _unpack_tar(plain, members)
    elif head[257:262] == b"ustar" or not any(head):
        _unpack_tar(file, members)
    else:
        raise _Refused(f"begins with {head[:16]!r}, neither tar, gzip nor zip")


def _unpack_tar(file: _Seekable, members: _Members) -> None:
    bounded = _Bounded(file)
    with tarfile.open(fileobj=bounded, mode="r:") as tar:
        last = -1
        while (member := tar.next()) is not None:
            # Sizes below zero would have the reader go round in a circle.
            if member.size < 0 or member.offset <= last:
                raise _Refused(f"member {member.name!r:.80} has the size {member.size}")
            last = member.offset
            if member.isdir():
                members.admit(member.name, 0)
            elif member.islnk():
                members.link(members.admit(member.name, 0), _inside(member.linkname))
            elif member.isreg():
                name = members.admit(member.name, member.size)
                content = tar.extractfile(member)
                if content is None:
                    raise _Refused(f"member {name!r:.80} has no content")
                with content:
                    members.write(name, content, member.size)
            else:
                what = "a symbolic link" if member.issym() else "neither file nor folder"
                raise _Refused(f"member {member.name!r:.80} is {what}; no dataset has one")
            # Otherwise a list of all members is kept.
            tar.members = []  # type: ignore[attr-defined]  # an attribute its stubs leave out
        # The reader takes a damaged header for the end.
        if bounded.last != bytes(tarfile.BLOCKSIZE):
            raise _Refused("truncated or damaged: no end mark after its last member")
        # A gzipped file is compared with its own checksum once its end is reached.
        rest = 0
        while block := bounded.read(_BLOCK):
            rest += len(block)
            if rest > _MAX_PADDING:
                raise _Refused(f"more than {_MAX_PADDING} bytes after its end mark")


def _unpack_zip(file: IO[bytes], members: _Members) -> None:
    with zipfile.ZipFile(file) as opened:
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a symbolic link" if kind == stat.S_IFLNK else "neither file nor folder"
                raise _Refused(f"member {member.filename!r:.80} is {what}; no dataset has one")
            if member.flag_bits & _ENCRYPTED:
                raise _Refused(f"member {member.filename!r:.80} is encrypted")
            # ZipInfo has replaced what separates folders here, and cut the name at a zero.
            name = members.admit(member.orig_filename, member.file_size)
            if not member.is_dir():
                with opened.open(member) as content:
                    members.write(name, content, member.file_size)


def _inside(name: str) -> str:
    """A member's path without dots, if it stays inside the folder it is unpacked into."""
    if _FORBIDDEN.search(name):
        raise _Refused(f"member {name!r:.80} would leave the folder it is unpacked into")
    clean = PurePosixPath(name)
    if CONTROL in clean.parts:
        raise _Refused(f"member {name!r:.80} would overwrite records of what was fetched")
    return clean.as_posix()


def _place(members: _Members, destination: Path) -> None:
    """Rename everything into place; nothing where something stands in the way."""
    for name in members.files:
        blocked = next(
            (
                above.as_posix()
                for above in PurePosixPath(name).parents
                if above.as_posix() in members.files
            ),
            None,
        )
        if name == "." or blocked is not None:
            raise _Refused(
                f"member {name!r:.80} lies under {blocked or name!r:.80}, which is a file"
            )
        _require_free(destination, name)
    for name, place in members.files.items():
        target = destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        place.replace(target)


def _require_free(destination: Path, name: str) -> None:
    target = destination / name
    if target.is_dir():
        raise _Refused(f"member {name!r:.80} is a file, but {target} is a folder")
    above = target.parent
    while above != destination.parent and not above.exists():
        above = above.parent
    if above != destination.parent and not above.is_dir():
        raise _Refused(f"member {name!r:.80} needs the folder {above}, which is a file")


class _Bounded(io.RawIOBase):
    """A file that gives no more at a time than a header may have, and remembers what it gave
    last."""

    def __init__(self, file: _Seekable) -> None:
        super().__init__()
        self._file = file
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        """At most what was asked for, if that is no more than a header or a block."""
        if size < 0 or size > max(_MAX_HEADER, _BLOCK):
            raise _Refused(f"a header of {size} bytes")
        self.last = self._file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As the file itself."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As the file itself."""
        return self._file.tell()
