"""Files appear whole or not at all, a lock ends with its process, and invalid JSON is refused by
name."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pytest

from delfjax.files import (
    TEMPORARY,
    Lock,
    LockHeldError,
    append_json_line,
    flatten,
    json_bytes,
    move_file,
    new_folder,
    read_json,
    read_json_object,
    remove_folder,
    remove_leftovers,
    replace_file,
    replacing,
    write_json,
    write_json_lines,
)

ROOT = Path(__file__).resolve().parents[2]


class OwnError(Exception):
    """The error of a module that reads JSON."""


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path, exists: bool) -> None:
    disk, work = tmp_path / "disk", tmp_path / "work"
    disk.mkdir()
    work.mkdir()
    if exists:
        (disk / "target").write_bytes(b"earlier")
    (disk / "inner").symlink_to("target")
    (work / "link").symlink_to(disk / "inner")
    with pytest.raises(OwnError), replacing(work / "link") as stream:
        stream.write(b"half")
        # The temporary lies beside the target, which may be on another disk.
        assert names(work) == ["link"]
        raise OwnError
    assert (disk / "target").exists() == exists
    replace_file(work / "link", b"content")
    assert (disk / "target").read_bytes() == b"content"
    assert os.readlink(work / "link") == str(disk / "inner")
    assert names(work) == ["link"] and names(disk) == ["inner", "target"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_a_link_to_another_disk_is_followed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        (tmp_path / "link").symlink_to(Path(other, "target"))
        replace_file(tmp_path / "link", b"content")
        assert Path(other, "target").read_bytes() == b"content"
    assert (tmp_path / "link").is_symlink()


def test_a_link_that_cannot_be_followed_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "file")
    with pytest.raises(OSError, match="circle") as circle:
        replace_file(tmp_path / "circle", b"content")
    assert circle.value.errno == errno.ELOOP
    with pytest.raises(FileNotFoundError) as missing:
        replace_file(tmp_path / "nowhere", b"content")
    assert missing.value.filename == str(tmp_path / "missing" / "file")
    assert names(tmp_path) == ["circle", "nowhere"]


def test_a_file_is_replaced_whole_or_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kept"
    replace_file(file, b"first")
    replace_file(file, memoryview(b"second"))
    assert file.read_bytes() == b"second"
    # A disk can say as late as this that it is full.
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"third")
    assert names(tmp_path) == ["kept"] and file.read_bytes() == b"second"


@pytest.mark.parametrize("reason", [ValueError, KeyboardInterrupt])
def test_a_block_that_ends_early_leaves_the_older_file(
    tmp_path: Path, reason: type[BaseException]
) -> None:
    file = tmp_path / "kept"
    replace_file(file, b"first")
    with pytest.raises(reason), replacing(file) as stream:
        stream.write(b"half of the sec")
        assert len(names(tmp_path)) == 2
        raise reason
    assert names(tmp_path) == ["kept"] and file.read_bytes() == b"first"


def test_content_is_on_disk_before_the_file_has_its_name_and_the_name_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        done.append(f"replace {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    replace_file(tmp_path / "file", b"content")
    assert done == [f"sync .file{TEMPORARY}", "replace file", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_disk_that_cannot_sync_folders_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    sync = os.fsync

    def files_only(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir():
            raise OSError(refusal, os.strerror(refusal))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    replace_file(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    file, contents = tmp_path / "file", [bytes([number]) * 50_000 for number in range(8)]

    def write(content: bytes) -> None:
        for _ in range(5):
            replace_file(file, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_bytes() in contents and names(tmp_path) == ["file"]


def test_what_a_killed_writer_leaves_is_recognised_and_nothing_else_is_removed(
    tmp_path: Path,
) -> None:
    script = f"""
import os
from pathlib import Path
from delfjax.files import new_folder, replacing
with replacing(Path({str(tmp_path / "deep" / "file")!r})) as stream:
    with new_folder(Path({str(tmp_path / "folder")!r})) as folder:
        (folder / "one").write_bytes(b"1")
        stream.write(b"half")
        stream.flush()
        os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    (tmp_path / "deep").mkdir()
    kept = ["deep", "deep/.hidden", "deep/file", "deep/visible.tmp"]
    for name in kept[1:]:
        (tmp_path / name).write_bytes(b"older")
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == len(kept) + 3
    remove_leftovers(tmp_path)
    assert names(tmp_path) == kept and (tmp_path / "deep" / "file").read_bytes() == b"older"


@dataclass(frozen=True)
class Victim:
    """Runs scripts that kill themselves, on a system with or without locks."""

    locks: bool

    def __call__(self, place: Path, action: str) -> None:
        script = f"""
import errno, os, shutil, sys
from pathlib import Path
import filelock
from delfjax.files import new_folder, remove_folder, replacing
def without_locks(*_, **__):
    raise OSError(errno.ENOSYS, "no locks")
def kill(*_):
    os.kill(os.getpid(), {int(signal.SIGKILL)})
if not {self.locks}:
    filelock.lock_descriptor = without_locks
here = Path(sys.argv[1])
"""
        command = [sys.executable, "-c", script + action, str(place)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL


@pytest.fixture(params=["locks", "no locks"])
def killed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Victim:
    if request.param == "no locks":
        monkeypatch.setattr(filelock, "lock_descriptor", without_locks)
    return Victim(locks=request.param == "locks")


def test_what_a_killed_writer_of_a_file_left_is_used_up_by_the_next(
    tmp_path: Path, killed: Victim
) -> None:
    killed(
        tmp_path,
        "with replacing(here / 'a file') as out: out.write(b'half, and long'); out.flush(); kill()",
    )
    assert len(names(tmp_path)) == 1
    replace_file(tmp_path / "a file", b"whole")
    assert (tmp_path / "a file").read_bytes() == b"whole"
    if killed.locks:
        assert names(tmp_path) == ["a file"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a file"]


def test_what_a_killed_writer_of_a_folder_left_is_used_up_by_the_next(
    tmp_path: Path, killed: Victim
) -> None:
    killed(
        tmp_path, "with new_folder(here / 'f') as made: (made / 'half').write_bytes(b'h'); kill()"
    )
    with new_folder(tmp_path / "f") as made:
        (made / "whole").write_bytes(b"w")
    assert names(tmp_path / "f") == ["whole"]
    if killed.locks:
        assert names(tmp_path) == ["f", "f/whole"]


def test_a_folder_is_removed_whole_and_so_is_what_a_killed_removal_left(
    tmp_path: Path, killed: Victim
) -> None:
    folder = tmp_path / "f"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(b"content")
    killed(tmp_path, "shutil.rmtree = kill; remove_folder(here / 'f')")
    assert not folder.exists()
    folder.mkdir()
    (folder / "file").write_bytes(b"again")
    remove_folder(folder)
    if killed.locks:
        assert names(tmp_path) == []


def test_a_writer_waits_for_one_that_is_alive(tmp_path: Path) -> None:
    file = tmp_path / "file"
    second = threading.Thread(target=replace_file, args=(file, b"second"))
    with replacing(file) as stream:
        second.start()
        time.sleep(0.05)
        assert names(tmp_path) == [f".file{TEMPORARY}"]
        stream.write(b"first")
    second.join()
    assert file.read_bytes() == b"second" and names(tmp_path) == ["file"]


def test_a_link_in_the_place_of_a_temporary_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "dear").write_bytes(b"kept")
    (tmp_path / f".file{TEMPORARY}").symlink_to(tmp_path / "dear")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        replace_file(tmp_path / "file", b"content")
    assert (tmp_path / "dear").read_bytes() == b"kept"


@pytest.mark.parametrize("fails", ["write", "sync", "move"])
def test_an_error_of_the_disk_names_the_file_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A full disk gives an error without a name, or with that of a temporary."""
    file = tmp_path / "scores.json"
    if fails != "write":
        monkeypatch.setattr(os, {"sync": "fsync", "move": "replace"}[fails], no_room)
    with pytest.raises(OSError) as caught, replacing(file):
        if fails == "write":
            no_room()
    assert (caught.value.filename, caught.value.errno) == (str(file), errno.ENOSPC)
    with pytest.raises(FileNotFoundError) as missing:
        write_json(tmp_path / "nowhere" / "scores.json", {})
    assert missing.value.filename == str(tmp_path / "nowhere" / "scores.json")


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "copy") as stream:
        stream.write((tmp_path / "source").read_bytes())
    assert caught.value.filename == str(tmp_path / "source")


def test_a_file_that_is_complete_is_moved_over_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    move_file(tmp_path / "source", tmp_path / "target")
    assert names(tmp_path) == ["target"] and (tmp_path / "target").read_bytes() == b"new"


def test_a_folder_appears_with_all_that_is_in_it(tmp_path: Path) -> None:
    with new_folder(tmp_path / "above" / "folder") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"content")
        assert not (tmp_path / "above" / "folder").exists()
    assert names(tmp_path / "above") == ["folder", "folder/deep", "folder/deep/file"]


def test_a_folder_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="why"), new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_bytes(b"content")
        raise ValueError("why")
    assert names(tmp_path) == []


def test_a_folder_does_not_take_the_place_of_one_that_came_first(tmp_path: Path) -> None:
    with pytest.raises(OSError), new_folder(tmp_path / "folder"):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "first").write_bytes(b"")
    assert names(tmp_path) == ["folder", "folder/first"]


HOLD = """
import sys, time
from pathlib import Path
from delfjax.files import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def holder(file: Path, *, seconds: float = 60.0) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds a lock."""
    command = [sys.executable, "-c", HOLD, str(file), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def without_locks(_descriptor: int, *, blocking: bool) -> bool:
    assert not blocking
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.fixture(params=["system", "marker"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Locks of the operating system, and their replacement on a system without locks."""
    if request.param == "marker":
        monkeypatch.setattr(filelock, "lock_descriptor", without_locks)
    return str(request.param)


@pytest.mark.usefixtures("kind")
def test_a_lock_is_held_once_and_says_by_whom(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with Lock(file):
        with pytest.raises(LockHeldError) as caught:
            Lock(file).acquire()
        assert re.fullmatch(rf"process {os.getpid()} on \S+", caught.value.holder)
        assert str(caught.value) == f"{file}: held by {caught.value.holder}"
    assert names(tmp_path) == ["lock"] and file.read_bytes() == b""
    with Lock(file):
        pass


@pytest.mark.usefixtures("kind")
def test_a_lock_is_waited_for_as_long_as_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    held = Lock(file)
    held.acquire()
    started = time.monotonic()
    with pytest.raises(LockHeldError):
        Lock(file, wait_s=0.3).acquire()
    assert time.monotonic() - started >= 0.3
    release = threading.Timer(0.3, held.release)
    release.start()
    holders: list[str] = []
    with Lock(file, wait_s=math.inf, on_wait=holders.append):
        assert time.monotonic() - started >= 0.6
    release.join()
    assert len(holders) == 1 and holders[0].startswith(f"process {os.getpid()} on ")
    with Lock(file, wait_s=math.inf, on_wait=holders.append):
        assert len(holders) == 1


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with holder(file) as process:
        with pytest.raises(LockHeldError, match=f"held by process {process.pid} on "):
            Lock(file).acquire()
        process.kill()
        with Lock(file, wait_s=10.0):
            assert file.read_bytes().startswith(f" process {os.getpid()} on ".encode())
    assert file.read_bytes() == b""


@pytest.mark.parametrize("left", [b"", b"process 1 on elsewhere", b"\xff"])
@pytest.mark.usefixtures("kind")
def test_a_file_that_a_dead_holder_left_is_no_lock(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "lock").write_bytes(left)
    with Lock(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").read_bytes() == b""


def test_the_marker_of_a_dead_process_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filelock, "lock_descriptor", without_locks)
    marker = tmp_path / "lock.held"
    script = (
        "import filelock, os;"
        f" held = filelock.SoftFileLock({str(marker)!r}); held.acquire(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert names(tmp_path) == ["lock.held"]
    with Lock(tmp_path / "lock", wait_s=10.0):
        assert names(tmp_path) == ["lock", "lock.held"]
    assert names(tmp_path) == ["lock"]


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    script = f"""
import os, sys, time, warnings
from pathlib import Path
from delfjax.files import Lock
file = Path({str(tmp_path / "lock")!r})
with Lock(file):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
with Lock(file):
    print("taken")
os.kill(child, 9)
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "taken\n"


def test_a_full_disk_hides_the_holder_and_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", no_room)
    with Lock(tmp_path / "lock"), pytest.raises(LockHeldError, match="held by another process"):
        Lock(tmp_path / "lock").acquire()


def test_an_error_that_is_not_about_locks_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.EIO, f"blocking: {blocking}")

    monkeypatch.setattr(filelock, "lock_descriptor", broken)
    with pytest.raises(OSError, match="blocking: False"):
        Lock(tmp_path / "lock").acquire()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged or not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b'{"a": ', "damaged or not JSON (Expecting value: line 1 column 7 (char 6))"),
        (b"\xff\x00", "damaged or not JSON ("),
        (b"[" * 100_000, "damaged or not JSON ("),
        (b"[1]", "damaged: holds a list, expected a JSON object"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_json_that_cannot_be_used_is_an_error_of_the_reader_that_names_the_file(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "file.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(OwnError, match=re.escape(f"{file}: {said}")):
        read_json_object(file, error=OwnError)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None]}, [1, 2], "text", "ü", 3])
def test_any_json_value_is_read(tmp_path: Path, value: Any) -> None:
    (tmp_path / "file.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert read_json(tmp_path / "file.json", error=OwnError) == value


def test_json_is_written_as_asked_and_read_back(tmp_path: Path) -> None:
    file, values = tmp_path / "file.json", {"b": "ü", "a": {"c": [1, 0.5]}}
    write_json(file, values)
    assert file.read_bytes() == rb'{"b": "\u00fc", "a": {"c": [1, 0.5]}}'
    assert read_json_object(file, error=OwnError) == values
    write_json(file, values, indent=1, sort_keys=True, ensure_ascii=False, end="\n")
    assert file.read_text(encoding="utf-8") == (
        '{\n "a": {\n  "c": [\n   1,\n   0.5\n  ]\n },\n "b": "ü"\n}\n'
    )
    assert json_bytes(values, ensure_ascii=False) == '{"b": "ü", "a": {"c": [1, 0.5]}}'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_lacks_is_refused_and_the_older_file_stays(
    tmp_path: Path, value: float
) -> None:
    write_json(tmp_path / "file.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"a": value})
    assert names(tmp_path) == ["file.json"]
    assert read_json(tmp_path / "file.json", error=OwnError) == {"a": 1}


def test_lines_of_json_are_written_added_to_and_read(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    append_json_line(file, {"b": 1, "a": 2})
    append_json_line(file, {"b": 3, "a": 4})
    assert file.read_text() == '{"b": 1, "a": 2}\n{"b": 3, "a": 4}\n'
    write_json_lines(file, [{"b": 3, "a": 4}])
    assert file.read_text() == '{"b": 3, "a": 4}\n'
    append_json_line(file, {"c": 5})
    assert file.read_text() == '{"b": 3, "a": 4}\n{"c": 5}\n'


def test_nested_values_get_dotted_names() -> None:
    values = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": None, "g": {}, "h": []}
    assert flatten(values) == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f": None, "h": []}
    assert flatten(values, lists=True) == {
        "a.b": 1,
        "a.c.d.0": 1,
        "a.c.d.1.e": 2,
        "f": None,
    }
    assert list(flatten({"z": 1, "y": {"x": 2}})) == ["z", "y.x"]


def test_it_imports_neither_jax_nor_numpy() -> None:
    """A process that only locks or reads a file should not wait for these imports."""
    script = "import sys, delfjax.files; print({'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_the_file_of_another_holder_may_not_be_readable_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which locks that byte."""

    class Locked:
        """A file that is read from its second byte on."""

        place = 0

        def seek(self, place: int) -> None:
            self.place = place

        def read(self, _size: int) -> bytes:
            if self.place == 0:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return b" process 123 on laptop"[self.place :]

        def __enter__(self) -> Locked:
            return self

        def __exit__(self, *_: object) -> None: ...

    with Lock(tmp_path / "lock"):
        monkeypatch.setattr(Path, "open", lambda *_, **__: Locked())
        with pytest.raises(LockHeldError, match="held by process 123 on laptop"):
            Lock(tmp_path / "lock").acquire()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested deeper than 100 levels"),
        ("[" * 100_000 + "]" * 100_000, "damaged or not JSON"),
        ('{"a": ["b\\ud83d"]}', "surrogates not allowed"),
        ('{"a\\udc00": 1}', "surrogates not allowed"),
        ('{"a": NaN}', "a number that is not finite"),
        ('{"a": [-Infinity]}', "a number that is not finite"),
        ('{"a": [[1e999]]}', "a number that is not finite"),
        ('{"a": ' + "9" * 5000 + "}", "damaged or not JSON"),
        ('{"a": [-9223372036854775809]}', "an integer of more than 64 bits"),
    ],
)
def test_json_that_could_not_be_walked_or_written_again_is_refused(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(OwnError, match=reason) as refused:
        read_json(tmp_path / "file.json", error=OwnError)
    assert str(refused.value).startswith(str(tmp_path / "file.json"))
    assert len(str(refused.value)) < 600 and str(refused.value).isprintable()


def test_json_of_a_hundred_levels_and_of_every_character_is_read(tmp_path: Path) -> None:
    value: list[Any] = ["\U0001f600 Zürich"]
    for _ in range(99):
        value = [value]
    (tmp_path / "file.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "file.json", error=OwnError) == value


def test_a_name_that_is_not_utf_8_survives_in_valid_json(tmp_path: Path) -> None:
    values = {"photos": os.fsdecode(b"caf\xe9/\xff")}
    write_json(tmp_path / "file", values, ensure_ascii=False)
    (tmp_path / "file").read_text(encoding="utf-8")
    assert read_json(tmp_path / "file", error=OwnError) == values
