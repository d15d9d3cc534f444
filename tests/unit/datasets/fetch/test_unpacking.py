"""Good and malicious archives: either all of one is unpacked, or nothing and one line says why."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from delfjax.datasets.fetch import unpacking
from delfjax.datasets.fetch.unpacking import Unpacked, UnpackError, unpack

LIMIT = 1 << 20
GOOD = ("good.jpg", b"good")
FILES = {"jpg/100000.jpg": b"one" * 1000, "./jpg/100001.jpg": b"two", "list.txt": b""}


def write_tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> None:
    """A tar of files and of ready-made headers; gzipped if its name says so."""
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # the mode is one of two it knows
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(bytes(member.size)))
            else:
                header = tarfile.TarInfo(member[0])
                header.size = len(member[1])
                tar.addfile(header, io.BytesIO(member[1]))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member that is not a regular file."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def write_zip(path: Path, members: dict[str | zipfile.ZipInfo, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder that is empty."""
    if not root.exists():
        return {}
    below = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        if not path.is_dir() or not list(path.iterdir())
    }
    return {name: b"" if path.is_dir() else path.read_bytes() for name, path in below.items()}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.gz", "a.zip"])
def test_an_archive_is_unpacked_beside_existing_files(name: str, tmp_path: Path) -> None:
    archive, root = tmp_path / name, tmp_path / "root"
    if name.endswith("zip"):
        write_zip(archive, {"jpg/": b"", **FILES})
    else:
        write_tar(
            archive, special("./", tarfile.DIRTYPE), special("jpg", tarfile.DIRTYPE), *FILES.items()
        )
    (root / "jpg").mkdir(parents=True)
    (root / "jpg" / "100001.jpg").write_bytes(b"older")
    (root / "jpg" / "200000.jpg").write_bytes(b"other")
    names = ("jpg/100000.jpg", "jpg/100001.jpg", "list.txt")
    assert unpack(archive, root, limit=LIMIT) == Unpacked(names, 3003)
    assert tree(root) == {
        "jpg/100000.jpg": b"one" * 1000,
        "jpg/100001.jpg": b"two",
        "jpg/200000.jpg": b"other",
        "list.txt": b"",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "root"])


def test_modes_and_owners_are_those_of_the_user_who_unpacks(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.mode, header.uid, header.mtime = 0o6777, 4711, 1
    write_tar(tmp_path / "a.tar", header)
    unpack(tmp_path / "a.tar", tmp_path / "root", limit=LIMIT)
    found = (tmp_path / "root" / "a.jpg").stat()
    assert found.st_uid == os.getuid() and not found.st_mode & (
        stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR
    )


def test_a_hard_link_to_an_earlier_file_becomes_a_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ("a/x.jpg", b"x"), special("b/y.jpg", tarfile.LNKTYPE, "a/x.jpg"))
    unpack(tmp_path / "a.tar", tmp_path / "root", limit=LIMIT)
    assert tree(tmp_path / "root") == {"a/x.jpg": b"x", "b/y.jpg": b"x"}


def test_of_two_members_with_one_name_the_later_one_counts(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ("x.jpg", b"old"), ("./x.jpg", b"new"))
    unpack(tmp_path / "a.tar", tmp_path / "root", limit=LIMIT)
    assert tree(tmp_path / "root") == {"x.jpg": b"new"}


def linked(name: str) -> zipfile.ZipInfo:
    """A symbolic link, as zip has it: its target is its content."""
    made = zipfile.ZipInfo(name)
    made.external_attr = (stat.S_IFLNK | 0o777) << 16
    return made


def negative(path: Path) -> None:
    """A header with a negative size, which sends a reader back to where it was."""
    header = bytearray(tarfile.TarInfo("x.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    path.write_bytes(bytes(header[:512]) + bytes(2048))


def long_header(path: Path) -> None:
    """A header that claims a name of a gigabyte."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))


def damaged_header(path: Path) -> None:
    """A second header of noise, which a lenient reader takes for the end."""
    write_tar(path, ("x.jpg", b"x"), ("y.jpg", b"y"))
    data = bytearray(path.read_bytes())
    data[1024:1100] = b"\xaa" * 76
    path.write_bytes(bytes(data))


def cut(path: Path, kept: float) -> None:
    """The first part of a proper archive."""
    write_tar(path, *((f"{number}.jpg", os.urandom(3000)) for number in range(9)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])


def wrong_crc(path: Path) -> None:
    write_tar(path, GOOD)
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(bytes(data))


def padded(path: Path) -> None:
    """A small archive with very many zeros after its end."""
    write_tar(path.with_name("b.tar"), GOOD)
    path.write_bytes(gzip.compress(path.with_name("b.tar").read_bytes() + bytes(65 << 20), 1))
    path.with_name("b.tar").unlink()


def cut_zip(path: Path) -> None:
    write_zip(path, dict(FILES))
    path.write_bytes(path.read_bytes()[:-9])


def damaged_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x.jpg", b"one two three")
    path.write_bytes(path.read_bytes().replace(b"two", b"tow"))


def encrypted(path: Path) -> None:
    write_zip(path, {"x.jpg": b"x"})
    data = path.read_bytes()
    for place in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data = data[:place] + b"\x01" + data[place + 1 :]
    path.write_bytes(data)


def nameless(path: Path) -> None:
    """A zip whose second member has an empty name in the list at its end."""
    write_zip(path, {"x.jpg": b"x", "y": b"y"})
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02")
    length = at + 28
    data = data[:length] + bytes(2) + data[length + 2 : at + 46] + data[at + 47 :]
    # The list is a byte shorter.
    end = data.rindex(b"PK\x05\x06") + 12
    size = int.from_bytes(data[end : end + 4], "little") - 1
    path.write_bytes(data[:end] + size.to_bytes(4, "little") + data[end + 4 :])


def many_holes(path: Path) -> None:
    """A sparse file whose list of holes takes ten megabytes."""
    header = bytearray(special("x.jpg", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT)[:512])
    # Another block with holes follows; the offset and length of each are twelve digits.
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    block = (b"00000000001\0" * 42).ljust(504, b"\0") + b"\1" + bytes(7)
    path.write_bytes(gzip.compress(bytes(header) + block * 20_000, 1))


def zeros(size: int) -> tarfile.TarInfo:
    """A file of this many bytes."""
    header = tarfile.TarInfo("zeros.jpg")
    header.size = size
    return header


WRONG: list[tuple[str, Callable[[Path], None], str]] = [
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, ("../evil.jpg", b"x")),
        "'../evil.jpg' would leave the folder",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, ("a/../../evil.jpg", b"x")),
        "'a/../../evil.jpg' would leave",
    ),
    ("a.tgz", lambda p: write_tar(p, GOOD, ("/evil.jpg", b"x")), "'/evil.jpg' would leave"),
    ("a.tar", lambda p: write_tar(p, GOOD, ("C:evil.jpg", b"x")), "'C:evil.jpg' would leave"),
    ("a.tar", lambda p: write_tar(p, GOOD, ("a\\evil.jpg", b"x")), r"evil.jpg' would leave"),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, (".fetch/a.tar.done", b"x")),
        "'.fetch/a.tar.done' would overwrite records",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, special("out", tarfile.SYMTYPE, "../..")),
        "'out' is a symbolic link",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, special("in", tarfile.SYMTYPE, "good.jpg")),
        "'in' is a symbolic link; no dataset",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, special("out", tarfile.LNKTYPE, "../a.tar")),
        "'../a.tar' would leave",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, special("out", tarfile.LNKTYPE, "later.jpg")),
        "link to 'later.jpg', which is not",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, special("tty", tarfile.CHRTYPE)),
        "'tty' is neither file nor folder",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, special("disk", tarfile.BLKTYPE)),
        "'disk' is neither file nor folder",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, special("pipe", tarfile.FIFOTYPE)),
        "'pipe' is neither file nor folder",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, special("odd", b"Z")),
        "'odd' is neither file nor folder",
    ),
    ("a.tgz", lambda p: write_tar(p, GOOD, zeros(LIMIT)), f"unpacks to more than {LIMIT} bytes"),
    (
        "a.tar",
        lambda p: write_tar(p, ("a", b"x"), ("a/b.jpg", b"x")),
        "'a/b.jpg' lies under 'a', which is a file",
    ),
    ("a.tar", lambda p: write_tar(p, GOOD, (".", b"x")), "lies under '.'"),
    ("a.tar", lambda p: write_tar(p, special("jpg", tarfile.DIRTYPE)), "holds no files"),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, ("x" * 300 + ".jpg", b"x")),
        "truncated or damaged archive .OSError: .*too long",
    ),
    ("a.tar", negative, "has the size -|truncated or damaged"),
    ("a.tar", long_header, r"a header of more than \d{7} bytes"),
    ("a.tgz", many_holes, "a header of more than"),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, ("a/" * 70 + "x.jpg", b"x")),
        "lies in 70 folders, expected fewer than 64",
    ),
    (
        "a.tar",
        lambda p: write_tar(p, GOOD, ("a/" * 100_000 + "x.jpg", b"x")),
        "has a name of 200005 characters, expected at most 4096",
    ),
    ("a.tar", damaged_header, "no end mark after its last member"),
    ("a.tar", lambda p: cut(p, 0.5), "truncated or damaged"),
    ("a.tgz", lambda p: cut(p, 0.5), "truncated or damaged"),
    ("a.tgz", lambda p: cut(p, 0.999), "truncated or damaged"),
    ("a.tgz", wrong_crc, "truncated or damaged archive .BadGzipFile: CRC check failed"),
    ("a.tgz", padded, f"more than {64 << 20} bytes after its end mark"),
    ("a.tgz", lambda p: p.write_bytes(gzip.compress(b"no tar" * 999)), "truncated or damaged"),
    ("a.tar", lambda p: p.write_bytes(b""), "truncated or damaged|holds no files"),
    (
        "a.tar",
        lambda p: p.write_bytes(b"<!DOCTYPE html><html>"),
        "begins with b'<!DOCTYPE html>.', neither tar, gzip nor zip",
    ),
    (
        "a.zip",
        lambda p: write_zip(p, {"good.jpg": b"", "../evil.jpg": b"x"}),
        "'../evil.jpg' would leave",
    ),
    (
        "a.zip",
        lambda p: write_zip(p, {"good.jpg": b"", "/evil.jpg": b"x"}),
        "'/evil.jpg' would leave",
    ),
    (
        "a.zip",
        lambda p: write_zip(p, {"good.jpg": b"", linked("out"): b"../.."}),
        "'out' is a symbolic link",
    ),
    (
        "a.zip",
        lambda p: write_zip(p, {"good.jpg": b"", "zeros.jpg": bytes(LIMIT + 1)}),
        f"more than {LIMIT} bytes",
    ),
    ("a.zip", nameless, "has a member without a name"),
    ("a.zip", encrypted, "'x.jpg' is encrypted"),
    ("a.zip", cut_zip, "truncated or damaged"),
    ("a.zip", damaged_zip, r"truncated or damaged archive \(BadZipFile: Bad CRC-32"),
]


@pytest.mark.parametrize(
    ("name", "write", "said"), WRONG, ids=[f"{name}-{said[:40]}" for name, _, said in WRONG]
)
def test_nothing_of_a_wrong_archive_is_unpacked(
    name: str, write: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    root = tmp_path / "outer" / "root"
    root.mkdir(parents=True)
    (root / "kept.jpg").write_bytes(b"kept")
    write(tmp_path / name)
    with pytest.raises(UnpackError, match=said) as refused:
        unpack(tmp_path / name, root, limit=LIMIT)
    assert str(refused.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(refused.value)
    assert tree(tmp_path / "outer") == {"root/kept.jpg": b"kept"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "outer"])


@pytest.mark.parametrize(
    ("there", "said"),
    [("a/b.jpg/c", "is a file, but .* is a folder"), ("a", "needs the folder .*, which")],
)
def test_an_obstacle_at_the_destination_is_not_replaced(
    there: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "root" / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "root" / there).write_bytes(b"kept")
    write_tar(tmp_path / "x.tar", GOOD, ("a/b.jpg", b"x"))
    with pytest.raises(UnpackError, match=said):
        unpack(tmp_path / "x.tar", tmp_path / "root", limit=LIMIT)
    assert tree(tmp_path / "root") == {there: b"kept"}


def test_more_members_than_any_dataset_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 10)
    write_tar(tmp_path / "a.tar", *((f"{number}.jpg", b"") for number in range(11)))
    with pytest.raises(UnpackError, match="more than 10 members"):
        unpack(tmp_path / "a.tar", tmp_path / "root", limit=LIMIT)


def test_a_disk_that_fills_while_unpacking_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfileobj

    def fills(source: io.BufferedIOBase, target: io.BufferedIOBase, length: int) -> None:
        if target.name.endswith("3"):
            target.write(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target, length)

    write_tar(tmp_path / "a.tar", *((f"{number}.jpg", b"whole") for number in range(5)))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", fills)
        with pytest.raises(OSError, match="No space left"):
            unpack(tmp_path / "a.tar", tmp_path / "root", limit=LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    unpack(tmp_path / "a.tar", tmp_path / "root", limit=LIMIT)
    assert len(tree(tmp_path / "root")) == 5


def test_leftovers_of_an_interrupted_run_are_removed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "00000001").write_bytes(b"half")
    write_tar(tmp_path / "a.tar", GOOD)
    unpack(tmp_path / "a.tar", tmp_path / "root", limit=LIMIT, work=work)
    assert tree(tmp_path / "root") == {"good.jpg": b"good"} and not work.exists()
