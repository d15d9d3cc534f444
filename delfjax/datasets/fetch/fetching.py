"""Fetching datasets into the layout that their loaders open.

The files come from where they are published, from a mirror, or from a local copy. Each folder of a
dataset has a hidden folder ``.fetch``, which holds downloads in progress, and ``NAME.done`` for
each complete file; an archive is complete once all of it is unpacked. If a run is interrupted or
killed, the next one resumes, and deletes what the first left behind. Nothing half-written ever has
its final name: a file in ``.fetch`` is a whole download, and a local copy is never one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delfjax.datasets.catalogue import dataset_entry, dataset_root
from delfjax.datasets.fetch.archives import RemoteFile
from delfjax.datasets.fetch.downloading import (
    DiskFullError,
    FetchError,
    GivenUpError,
    Patience,
    StatusError,
    disk_full,
    download,
    drop_part,
    parse_checksum,
    read_small_text,
    readable,
    remote_size,
    require_checksum,
    require_room,
)
from delfjax.datasets.fetch.unpacking import CONTROL, UnpackError, unpack
from delfjax.datasets.photo_folder import as_utf8
from delfjax.files import (
    TEMPORARY,
    Lock,
    LockHeldError,
    move_file,
    read_json_object,
    remove_leftovers,
    sync_disks,
    write_json,
)

# Files of an unpacked archive that its record names; it counts as complete as long as they exist.
_SAMPLED = 16
# Consecutive files without an answer from their server after which the rest are not tried.
_GIVEN_UP_IN_A_ROW = 3


@dataclass(frozen=True)
class PlannedFile:
    """One file to fetch.

    Attributes:
        file: the file as published.
        root: folder of the dataset, or of the part of it, that the file belongs to.
        origin: address, or path in a local copy.
        size: bytes, approximately.
        complete: whether an earlier run completed it.
    """

    file: RemoteFile
    root: Path
    origin: str | Path
    size: int
    complete: bool

    @property
    def archive(self) -> Path:
        """Path the file is downloaded to."""
        return self.root / CONTROL / self.file.name

    @property
    def done(self) -> Path:
        """Path of the record that marks the file as complete."""
        return self.root / CONTROL / f"{self.file.name}.done"

    @property
    def copy(self) -> Path:
        """Path a local file is copied to before it is moved to its destination."""
        return self.archive.with_name(f".{self.archive.name}{TEMPORARY}")

    @property
    def destination(self) -> Path:
        """Folder an archive is unpacked into, or final path of any other file."""
        return self.root / (self.file.into if self.file.is_archive else self.file.placed)


@dataclass(frozen=True)
class FetchPlan:
    """The files to fetch for a dataset.

    Attributes:
        name: the dataset.
        files: all its files, complete ones included.
        remedies: for parts that cannot be fetched, why, and what to do instead.
    """

    name: str
    files: tuple[PlannedFile, ...]
    remedies: tuple[str, ...]

    def __str__(self) -> str:
        """One line: how many files are there, and how much is still to fetch into which folders."""
        missing = self.missing
        places = ", ".join(str(folder) for folder in sorted({planned.root for planned in missing}))
        todo = f"; {len(missing)} to fetch, ≈ {readable(self.size)}, into {places}"
        return (
            f"{self.name}: {len(self.files) - len(missing)} of {len(self.files)} files are there"
            f"{todo if missing else ''}"
        )

    @property
    def missing(self) -> tuple[PlannedFile, ...]:
        """Files that are not complete."""
        return tuple(planned for planned in self.files if not planned.complete)

    @property
    def size(self) -> int:
        """Bytes still to fetch, approximately."""
        return sum(planned.size for planned in self.missing)

    def room(self, *, keep_archives: bool) -> int:
        """Disk space needed, bytes, approximately.

        Unpacked photographs take about as much room as their archives.
        """
        archives = [
            planned.size
            for planned in self.missing
            if planned.file.is_archive and isinstance(planned.origin, str)
        ]
        return self.size + (sum(archives) if keep_archives else max(archives, default=0))


@dataclass(frozen=True)
class FetchReport:
    """The outcome of a fetch.

    Attributes:
        done: number of files fetched.
        skipped: number of files that were complete before.
        failed: (name, reason) of each file that could not be fetched.
        not_tried: number of files left because the disk was full or the server out of reach.
        unchecked: number of fetched files without a checksum to compare.
    """

    done: int
    skipped: int
    failed: tuple[tuple[str, str], ...]
    not_tried: int
    unchecked: int

    def __str__(self) -> str:
        """One line of counts."""
        rest = f", {self.not_tried} not tried" if self.not_tried else ""
        unchecked = f"; {self.unchecked} without a checksum to compare" if self.unchecked else ""
        return (
            f"{self.done} done, {self.skipped} skipped, {len(self.failed)} failed{rest}{unchecked}"
        )


def plan_fetch(
    name: str, root: Path | None = None, *, source: str = "", patience: Patience | None = None
) -> FetchPlan:
    """The files to fetch for a dataset; nothing is written.

    Args:
        name: the dataset.
        root: its folder; the default is its place under ``external`` of the data root. Files that
            its loader looks for in the folder of another dataset beside it (the images of
            ``roxford5k`` in ``oxford5k``) go there.
        source: address (http, https) or folder of a copy of the same files, under the same names;
            empty to fetch them from where they are published.
        patience: timeouts and retries when a mirror is asked for sizes.

    Raises:
        ConfigError: there is no dataset of that name.
        FetchError: no file of the dataset can be fetched, ``source`` is neither an address nor a
            folder, or the mirror does not answer.
    """
    entry = dataset_entry(name)
    place = dataset_root(name) if root is None else root.expanduser()
    if place is None or not entry.published:
        remedy = "pass its folder with --root to the commands that read it"
        if place is not None:
            remedy = (
                f"unpack a copy into {place}, "
                f"or name its folder: delfjax datasets verify {name} --root FOLDER"
            )
        raise FetchError(f"{name}: nothing to fetch: {entry.availability}; {remedy}")
    copy = _source(source)
    found: list[PlannedFile] = []
    remedies = []
    for files in entry.published:
        folder = _folder(place, files.folder, entry.folders)
        planned = [_planned(file, folder, copy, patience) for file in files.files]
        found += [file for file in planned if file is not None]
        # A folder that cannot be fetched may have been put there by hand.
        if None in planned or (not planned and not folder.is_dir()):
            remedies.append(files.remedy)
    if not found:
        raise FetchError(f"{name}: cannot be fetched: {remedies[0]}")
    return FetchPlan(name, tuple(found), tuple(remedies))


def fetch(
    plan: FetchPlan, *, keep_archives: bool = False, patience: Patience | None = None
) -> FetchReport:
    """Fetch, verify and unpack the missing files of a plan.

    A file that fails does not stop the others.

    Args:
        plan: from :func:`plan_fetch`.
        keep_archives: whether to leave downloaded archives in ``.fetch``.
        patience: timeouts and retries.

    Raises:
        DiskFullError: there is clearly not enough room; nothing was begun.
        FetchError: another run is fetching into the same folder.
    """
    patience = patience or Patience()
    require_room(plan.files[0].root, plan.room(keep_archives=keep_archives) - _present(plan))
    done = 0
    unchecked = 0
    in_a_row = 0
    failed: list[tuple[str, str]] = []
    with contextlib.ExitStack() as locks:
        for folder in sorted({planned.root for planned in plan.files}):
            locks.enter_context(_locked(folder / CONTROL))
        for planned in plan.files:
            if planned.complete:
                _tidy(planned)
            else:
                # From here on the place may hold a part of it.
                planned.done.unlink(missing_ok=True)
        for planned in plan.missing:
            try:
                unchecked += not _fetch(planned, keep_archives=keep_archives, patience=patience)
            except (FetchError, UnpackError, OSError) as error:
                reason = (
                    _unwritable(error, planned.destination) if isinstance(error, OSError) else error
                )
                failed.append((planned.file.name, str(reason)))
                in_a_row = in_a_row + 1 if isinstance(reason, GivenUpError) else 0
                if in_a_row == _GIVEN_UP_IN_A_ROW or isinstance(reason, DiskFullError):
                    break
            else:
                done += 1
                in_a_row = 0
    missing = len(plan.missing)
    return FetchReport(
        done, len(plan.files) - missing, tuple(failed), missing - done - len(failed), unchecked
    )


def _fetch(planned: PlannedFile, *, keep_archives: bool, patience: Patience) -> bool:
    """Fetch one file to its destination; returns whether it was compared with a checksum."""
    checksum = _checksum(planned, patience)
    local = isinstance(planned.origin, Path)
    if isinstance(planned.origin, str) and not planned.archive.is_file():
        download(
            planned.origin,
            planned.archive,
            limit=planned.file.download_limit,
            trusted=checksum is not None,
            patience=patience,
        )
    held = planned.origin if isinstance(planned.origin, Path) else planned.archive
    if not held.is_file():
        raise FetchError(
            f"{held}: no such file; --from expects a folder with the files "
            "under the names they are published by"
        )
    try:
        if checksum is not None:
            require_checksum(held, checksum, str(planned.origin))
        record = _unpacked(planned, held) if planned.file.is_archive else _placed(planned, held)
    except (FetchError, UnpackError) as error:
        if local or keep_archives:
            raise
        held.unlink(missing_ok=True)
        raise FetchError(
            f"{error}; the download was deleted, the same command fetches it again"
        ) from None
    planned.done.parent.mkdir(parents=True, exist_ok=True)
    record |= {"origin": as_utf8(str(planned.origin)), "checksum": checksum}
    write_json(planned.done, record | {"kept": keep_archives})
    _tidy(planned)
    return checksum is not None


def _tidy(planned: PlannedFile) -> None:
    """Delete what a complete file no longer needs: its archive, unless it was to be kept, and parts
    of a download."""
    # Records of earlier versions do not say whether it was.
    if _record(planned).get("kept", True) is False:
        planned.archive.unlink(missing_ok=True)
    drop_part(planned.archive)


def _unpacked(planned: PlannedFile, held: Path) -> dict[str, Any]:
    work = planned.root / CONTROL / f".unpacking{TEMPORARY}"
    content = unpack(held, planned.destination, limit=planned.file.unpacked_limit, work=work)
    sync_disks()
    names = [name for name in content.names if as_utf8(name) == name]
    return {
        "bytes": held.stat().st_size,
        "files": len(content.names),
        "unpacked_bytes": content.size,
        "samples": names[:: max(len(names) // _SAMPLED, 1)][:_SAMPLED],
    }


def _placed(planned: PlannedFile, held: Path) -> dict[str, Any]:
    """Put a file that is not an archive into its place; a local file is copied."""
    written = held
    if held != planned.archive:
        written = planned.copy
        written.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(held, written)
        except OSError:
            written.unlink(missing_ok=True)
            raise
    size = written.stat().st_size
    planned.destination.parent.mkdir(parents=True, exist_ok=True)
    move_file(written, planned.destination)
    return {"bytes": size}


def _unwritable(error: OSError, place: Path) -> FetchError:
    if disk_full(error):
        return DiskFullError(
            f"{place}: the disk is full; make room, the same command resumes with the archive"
        )
    return FetchError(f"{error.filename or place}: {error.strerror or error}")


def _checksum(planned: PlannedFile, patience: Patience) -> str | None:
    """The checksum of a file, known beforehand or published beside it; ``None`` without either."""
    file = planned.file
    if file.checksum is not None or not file.checksum_name:
        return file.checksum
    # The origin ends with the name of the file, and the checksum lies under the same base.
    origin = str(planned.origin)
    beside = origin[: len(origin) - len(file.name)] + file.checksum_name
    try:
        if isinstance(planned.origin, Path):
            text = Path(beside).read_text(encoding="utf-8")
        else:
            text = read_small_text(beside, patience=patience)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise FetchError(f"{beside}: cannot be read as text") from None
    except StatusError as error:
        if error.status not in (404, 410):
            raise
        return None
    return parse_checksum(text, "md5", beside)


def _source(source: str) -> str | Path | None:
    """Address or folder of a copy of the files; ``None`` to use the published addresses."""
    if not source:
        return None
    if source.startswith(("http://", "https://")):
        return source.rstrip("/")
    folder = Path(source).expanduser()
    if "://" in source or not folder.is_dir():
        raise FetchError(
            f"--from {source}: expected a folder, or an address that begins with http:// or https://"
        )
    return folder


def _planned(
    file: RemoteFile, root: Path, copy: str | Path | None, patience: Patience | None
) -> PlannedFile | None:
    """A file with its origin; ``None`` if it is missing and has no origin."""
    base = copy or file.base or ""
    origin = (
        base / file.name if isinstance(base, Path) else f"{base}/{urllib.parse.quote(file.name)}"
    )
    planned = PlannedFile(file, root, origin, file.size, complete=False)
    if _complete(planned):
        return dataclasses.replace(planned, complete=True)
    if not base:
        return None
    if isinstance(origin, Path):
        return dataclasses.replace(planned, size=origin.stat().st_size if origin.is_file() else 0)
    size = None if copy is None else remote_size(origin, patience=patience)
    return planned if size is None else dataclasses.replace(planned, size=size)


def _folder(place: Path, folder: str, folders: tuple[str, ...]) -> Path:
    """Folder of a file set: the dataset's own, one of its parts', or one beside it."""
    if len(folders) > 1:
        return place / folder
    return place if folder == folders[0] else place.absolute().parent / folder


def _complete(planned: PlannedFile) -> bool:
    record = _record(planned)
    place = planned.destination
    if not planned.file.is_archive:
        return place.is_file() and place.stat().st_size == record.get("bytes")
    samples = record.get("samples", [])
    return (
        bool(record)
        and place.is_dir()
        and isinstance(samples, list)
        and all(isinstance(name, str) and (place / name).is_file() for name in samples)
    )


def _record(planned: PlannedFile) -> dict[str, Any]:
    """What is recorded of a complete file; nothing if there is no record."""
    try:
        return read_json_object(planned.done, error=FetchError)
    except FetchError:
        return {}


def _present(plan: FetchPlan) -> int:
    """Bytes of incomplete files that are on the disk already."""
    held = [
        path
        for file in plan.missing
        for path in (file.archive, file.archive.with_name(f"{file.archive.name}.part"))
    ]
    return sum(path.stat().st_size for path in held if path.is_file())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, and clear away what one that was killed was writing."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / "lock")
    try:
        lock.acquire()
    except LockHeldError as error:
        raise FetchError(
            f"{folder}: another run is fetching into this folder ({error.holder}); wait for it"
        ) from None
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()
