"""Unpacking archives that are not trusted: tar, gzipped or not, and zip.

Members are written to numbered files in a work folder and renamed into place once all of them are
there, so an archive that is refused or damaged changes nothing. Owners, modes and times of the
archive are ignored. Tens of thousands of files are not synced one by one: whoever records that an
archive is unpacked syncs them together (:func:`delfjax.files.sync_disks`).

``tarfile.data_filter`` replaces none of this. It guards ``extract``, which writes under the names
that members have, and is never called here. It admits what no dataset holds (symbolic links inside
the folder, absolute names, whose slash it drops, backslashes, our own records), and says nothing
about zip, total size, a header of a gigabyte, a missing end mark or gzip's checksum. What it does
refuse, names with ``..`` and devices, zip needs refused as well.
"""

from __future__ import annotations

import errno
import gzip
import io
import lzma
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

from delfjax.errors import DelfjaxError, quoted
from delfjax.files import TEMPORARY

# Folder, inside that of a dataset, where fetching keeps its records; archives may not write there.
CONTROL = ".fetch"
# Largest number of members; the largest published archive has some ten thousand.
MAX_MEMBERS = 2_000_000
# Longest path of a member, characters, and its largest number of folders.
_MAX_NAME, _MAX_DEPTH = 4096, 64
# Most that is read of a tar between the contents of two members, bytes: headers, with long names or
# maps of holes. Kilobytes are usual, but tarfile would allocate any size that a header claims.
_MAX_HEADER = 1 << 22
# Largest list of members of a zip, bytes; each member takes at least 46.
_MAX_DIRECTORY = 1 << 24
_BLOCK = 1 << 20
# Bytes allowed after the end of a tar: zeros that fill its last record, a few megabytes at most.
_MAX_PADDING = 64 << 20
_FORBIDDEN = re.compile(r"^/|\\|\x00|(^|/)\.\.(/|$)|^[A-Za-z]:")
_ENCRYPTED = 0x1

_MALFORMED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    ValueError,
)
# Errors of the system for positions before the start of a file, and for names that no disk accepts.
_DAMAGE = frozenset({errno.EINVAL, errno.ENAMETOOLONG})


class UnpackError(DelfjaxError):
    """An archive that is damaged or refused; nothing of it was unpacked."""


@dataclass(frozen=True)
class Unpacked:
    """The content of an unpacked archive.

    Attributes:
        names: paths of its files.
        size: their total size, bytes.
    """

    names: tuple[str, ...]
    size: int


@runtime_checkable
class _Readable(Protocol):
    """A source of bytes; members of archives do not have all methods of a file."""

    def read(self, size: int = ..., /) -> bytes:
        """At most ``size`` bytes."""
        ...


@runtime_checkable
class _Seekable(_Readable, Protocol):
    """A source of bytes with a position."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Move to a position."""
        ...

    def tell(self) -> int:
        """The current position."""
        ...


class _Refused(Exception):
    """Why an archive is refused; the public function adds which archive."""


@dataclass
class _Members:
    """Members being unpacked: the path that each will have, and the numbered file it is in."""

    work: Path
    limit: int
    size: int = 0
    seen: int = 0
    files: dict[str, Path] = field(default_factory=dict)

    def admit(self, name: str, size: int) -> str:
        """Clean path of a member, refused if it exceeds a limit."""
        self.seen += 1
        self.size += size
        clean = _inside(name)
        if self.seen > MAX_MEMBERS:
            raise _Refused(f"more than {MAX_MEMBERS} members")
        if size < 0 or self.size > self.limit:
            raise _Refused(f"unpacks to more than {self.limit} bytes")
        return clean

    def write(self, name: str, content: _Readable, size: int) -> None:
        """Write a member's content to the next numbered file."""
        place = self.work / f"{self.seen:08d}"
        with place.open("xb") as file:
            shutil.copyfileobj(content, file, _BLOCK)
            written = file.tell()
        if written != size:
            raise _Refused(f"member {name!r:.80} ends after {written} of {size} bytes")
        self.files[name] = place

    def link(self, name: str, target: str) -> None:
        """Give an earlier member a second name."""
        if target not in self.files:
            raise _Refused(
                f"member {name!r:.80} is a link to {target!r:.80}, which is not an earlier member"
            )
        place = self.work / f"{self.seen:08d}"
        os.link(self.files[target], place)
        self.files[name] = place


def unpack(archive: Path, destination: Path, *, limit: int, work: Path | None = None) -> Unpacked:
    """Unpack an archive into a folder, all of it or nothing.

    Members replace files of the same name. A hard link to an earlier member becomes a file with the
    same content; symbolic links, devices and names that leave the folder are refused.

    Args:
        archive: a tar, gzipped or not, or a zip, identified by its first bytes.
        destination: the folder; created if there is something to put into it.
        limit: largest total size of the members, bytes.
        work: folder for unfinished files, on the disk of ``destination``; emptied before and
            removed afterwards. The default is a hidden folder beside ``destination``, named as a
        temporary of :mod:`delfjax.files`.

    Raises:
        UnpackError: the archive is damaged or refused; the message says which member and why.
        OSError: a file cannot be read or written, for instance because the disk is full.
    """
    work = work or destination.with_name(f".{destination.name}.unpacking{TEMPORARY}")
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
            # Decompressors raise errors without a number.
            and error.errno is not None
            and error.errno not in _DAMAGE
        ):
            raise
        said = f"{type(error).__name__}: {quoted(error)}"
        raise UnpackError(
            f"{archive}: truncated or damaged archive ({said}); not unpacked"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Unpacked(tuple(members.files), members.size)


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
    bounded = _Bounded(file, left=_MAX_HEADER)
    with tarfile.open(fileobj=bounded, mode="r:") as tar:
        last = -1
        while (member := _next_member(tar, bounded)) is not None:
            # A negative size would send the reader back, and round in a circle.
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
            # Without this, tarfile keeps a list of all members.
            tar.members = []  # type: ignore[attr-defined]  # an attribute its stubs leave out
        # tarfile takes a damaged header for the end of the archive.
        if bounded.last != bytes(tarfile.BLOCKSIZE):
            raise _Refused("truncated or damaged: no end mark after its last member")
        # Reading to the end makes gzip compare its checksum.
        rest = 0
        while block := bounded.read(_BLOCK):
            rest += len(block)
            if rest > _MAX_PADDING:
                raise _Refused(f"more than {_MAX_PADDING} bytes after its end mark")


def _next_member(tar: tarfile.TarFile, bounded: _Bounded) -> tarfile.TarInfo | None:
    bounded.left = _MAX_HEADER
    member = tar.next()
    bounded.left = None
    return member


def _unpack_zip(file: IO[bytes], members: _Members) -> None:
    bounded = _Bounded(file, left=_MAX_DIRECTORY)
    with zipfile.ZipFile(bounded) as opened:
        bounded.left = None
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a symbolic link" if kind == stat.S_IFLNK else "neither file nor folder"
                raise _Refused(f"member {member.filename!r:.80} is {what}; no dataset has one")
            if member.flag_bits & _ENCRYPTED:
                raise _Refused(f"member {member.filename!r:.80} is encrypted")
            # Not `filename`: ZipInfo replaces separators in it, and cuts it at a zero.
            name = members.admit(member.orig_filename, member.file_size)
            if not member.is_dir():
                with opened.open(member) as content:
                    members.write(name, content, member.file_size)


def _inside(name: str) -> str:
    """A member's path in its shortest form, refused if it leaves the folder."""
    if not name:
        raise _Refused("has a member without a name")
    if len(name) > _MAX_NAME:
        raise _Refused(
            f"member {name!r:.80} has a name of {len(name)} characters, expected at most"
            f" {_MAX_NAME}"
        )
    if _FORBIDDEN.search(name):
        raise _Refused(f"member {name!r:.80} would leave the folder it is unpacked into")
    clean = PurePosixPath(name)
    if len(clean.parts) > _MAX_DEPTH:
        raise _Refused(
            f"member {name!r:.80} lies in {len(clean.parts) - 1} folders, expected fewer than"
            f" {_MAX_DEPTH}"
        )
    if CONTROL in clean.parts:
        raise _Refused(f"member {name!r:.80} would overwrite records of what was fetched")
    return clean.as_posix()


def _place(members: _Members, destination: Path) -> None:
    """Rename all members into place, or none if one of them has no free place."""
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
    """A file that bounds how much is read of it, and remembers its last read.

    Attributes:
        left: bytes that may be read; ``None`` while contents are read, which are read block by
            block.
        last: what was read last.
    """

    def __init__(self, file: _Seekable, left: int | None = None) -> None:
        super().__init__()
        self._file = file
        self.left = left
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, refused if that is more than is left, or than a block."""
        allowed = _BLOCK if self.left is None else self.left
        self.last = self._file.read(min(size, allowed + 1) if size >= 0 else allowed + 1)
        if max(size, len(self.last)) > allowed:
            raise _Refused(f"a header of more than {allowed} bytes")
        if self.left is not None:
            self.left -= len(self.last)
        return self.last

    def seekable(self) -> bool:
        """See :class:`io.IOBase`."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See :class:`io.IOBase`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See :class:`io.IOBase`."""
        return self._file.tell()
