"""Downloads from servers that break off, redirect, refuse or lie, and onto a disk that fills."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from delfjax.datasets.fetch.downloading import (
    DiskFullError,
    FetchError,
    GivenUpError,
    Patience,
    StatusError,
    download,
    parse_checksum,
    read_small_text,
    readable,
    remote_size,
    require_checksum,
    require_room,
)
from tests.unit.datasets.fetch.file_server import Fault, Served, serving

DATA = bytes(range(251)) * 400
HALF = len(DATA) // 2
QUICK = Patience(timeout_s=5.0, attempts=3, backoff_s=0.001, block_bytes=4096)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_leaves_the_complete_file_and_nothing_else(tmp_path: Path) -> None:
    with serving({"a.tgz": DATA, "empty": b""}) as server:
        download(f"{server.url}/a.tgz", tmp_path / "deep" / "a.tgz", patience=QUICK)
        download(f"{server.url}/empty", tmp_path / "deep" / "empty", patience=QUICK)
    assert (tmp_path / "deep" / "a.tgz").read_bytes() == DATA and left(tmp_path / "deep") == [
        "a.tgz",
        "empty",
    ]


@pytest.mark.parametrize(
    "version", [{"etag": '"x"'}, {"etag": "", "modified": 1e9}, {"etag": 'W/"x"', "modified": 1e9}]
)
def test_a_broken_download_resumes_where_it_stopped(
    version: dict[str, Any], tmp_path: Path
) -> None:
    cuts = [Fault(cut=HALF), Fault(cut=1000)]
    with serving({"a": Served(DATA, **version, faults=cuts)}) as server:
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert server.ranges("a") == ["", f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert (tmp_path / "a").read_bytes() == DATA and left(tmp_path) == ["a"]


def test_a_file_without_a_version_resumes_only_if_a_checksum_follows(
    tmp_path: Path,
) -> None:
    for trusted, second in ((False, ""), (True, f"bytes={HALF}-")):
        with serving({"a": Served(DATA, etag="", faults=[Fault(cut=HALF)])}) as server:
            download(f"{server.url}/a", tmp_path / "a", trusted=trusted, patience=QUICK)
            assert server.ranges("a") == ["", second]
        assert (tmp_path / "a").read_bytes() == DATA


def test_a_server_without_ranges_is_asked_for_everything_again(tmp_path: Path) -> None:
    with serving({"a": Served(DATA, ranges=False, faults=[Fault(cut=HALF)])}) as server:
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert len(server.ranges("a")) == 2
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(
    tmp_path: Path,
) -> None:
    with (
        serving({"a": Served(DATA, ranges=False, faults=[Fault(cut=HALF, times=99)])}) as server,
        pytest.raises(
            GivenUpError,
            match=(
                f"/a: ended after {HALF} of {len(DATA)} bytes; given up after 3 attempts without"
            ),
        ),
    ):
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert left(tmp_path) == ["a.part", "a.part.json"]


def test_a_download_that_makes_progress_survives_any_number_of_drops(tmp_path: Path) -> None:
    drops = 20
    cut = len(DATA) // drops
    with serving({"a": Served(DATA, faults=[Fault(cut=cut, times=drops)])}) as server:
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert len(server.ranges("a")) >= drops
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize(
    "asked_again", ["changed version", "changed length", "changed and conditions ignored"]
)
def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
    asked_again: str, tmp_path: Path
) -> None:
    new = DATA[::-1] + (b"more" if asked_again == "changed length" else b"")
    with serving({"a": Served(DATA, faults=[Fault(cut=HALF), Fault(status=404)])}) as server:
        with pytest.raises(StatusError):
            download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert (tmp_path / "a.part").stat().st_size == HALF
        server.files["a"] = Served(new, etag='"two"')
        if asked_again == "changed and conditions ignored":
            # What a server does that knows ranges and not If-Range: the old tag is as good as the
            # new.
            note = tmp_path / "a.part.json"
            note.write_text(
                json.dumps({**json.loads(note.read_text()), "etag": None, "last_modified": None})
            )
        download(f"{server.url}/a", tmp_path / "a", trusted=True, patience=QUICK)
    assert (tmp_path / "a").read_bytes() == new and left(tmp_path) == ["a"]


def test_a_part_of_another_address_is_not_resumed(tmp_path: Path) -> None:
    with serving(
        {"a": Served(DATA, faults=[Fault(cut=HALF), Fault(status=404)]), "b": DATA[::-1]}
    ) as server:
        with pytest.raises(StatusError):
            download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        download(f"{server.url}/b", tmp_path / "a", patience=QUICK)
        assert server.ranges("b") == [""]
    assert (tmp_path / "a").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("extra", [0, 7])
def test_a_part_that_is_complete_or_too_long_becomes_the_file(extra: int, tmp_path: Path) -> None:
    with serving({"a": DATA}) as server:
        (tmp_path / "a.part").write_bytes(DATA + bytes(extra))
        note = {
            "url": f"{server.url}/a",
            "etag": '"one"',
            "last_modified": None,
            "total": len(DATA),
        }
        (tmp_path / "a.part.json").write_text(json.dumps(note))
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA and left(tmp_path) == ["a"]


@pytest.mark.parametrize("note", ["", "[]", "{", '{"url": 1}'])
def test_a_part_with_a_damaged_note_is_discarded(note: str, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"something else")
    (tmp_path / "a.part.json").write_text(note)
    with serving({"a": DATA}) as server:
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_their_ranges(status: int, tmp_path: Path) -> None:
    away = Fault(status=status, headers={"Location": "/there/a"}, times=9)
    with serving(
        {"a": Served(b"", faults=[away]), "there/a": Served(DATA, faults=[Fault(cut=HALF)])}
    ) as server:
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert server.ranges("there/a") == ["", f"bytes={HALF}-"]
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/a", "HTTP 302: redirects in a circle"),
        ("ftp://127.0.0.1/a", "HTTP 302 redirects to 'ftp://127.0.0.1/a'; only http and https"),
        (
            "file:///etc/hostname",
            "HTTP 302: redirects in a circle, or to an unsupported address",
        ),
    ],
)
def test_redirects_in_a_circle_or_to_other_schemes_are_refused(
    location: str, said: str, tmp_path: Path
) -> None:
    with serving(
        {"a": Served(b"", faults=[Fault(status=302, headers={"Location": location}, times=99)])}
    ) as server:
        with pytest.raises(StatusError, match=said) as refused:
            download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert len(server.ranges("a")) < 15
    assert "\n" not in str(refused.value) and not left(tmp_path)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416])
def test_a_permanent_error_is_not_retried(status: int, tmp_path: Path) -> None:
    with serving({"a": Served(DATA, faults=[Fault(status=status, times=9)])}) as server:
        with pytest.raises(StatusError, match=f"/a: HTTP {status} .*; it has moved or is gone"):
            download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert len(server.ranges("a")) == 1
    assert not left(tmp_path)


def test_a_response_without_a_file_is_refused(tmp_path: Path) -> None:
    with (
        serving({"a": Served(DATA, faults=[Fault(status=202)])}) as server,
        pytest.raises(StatusError, match="/a: HTTP 202 Accepted, expected the file"),
    ):
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert not left(tmp_path)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_retried(status: int, tmp_path: Path) -> None:
    with serving({"a": Served(DATA, faults=[Fault(status=status, times=2)])}) as server:
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_server_that_stays_busy_is_given_up_after_the_waits_it_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    busy = [Fault(503, {"Retry-After": "7"}), Fault(503, {"Retry-After": "x"}), Fault(503)]
    with (
        serving({"a": Served(DATA, faults=busy)}) as server,
        pytest.raises(
            GivenUpError, match="HTTP 503 Service Unavailable; given up after 3 attempts"
        ),
    ):
        download(f"{server.url}/a", tmp_path / "a", patience=Patience(attempts=3, backoff_s=2.0))
    assert [wait for wait in waits if wait] == [7, 4]


def test_silence_is_a_broken_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/a"
        with pytest.raises(GivenUpError, match="no answer in time"):
            download(
                url, tmp_path / "a", patience=Patience(timeout_s=0.05, attempts=2, backoff_s=0.001)
            )
    with pytest.raises(GivenUpError, match="Connection refused"):
        download(url, tmp_path / "a", patience=QUICK)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:port/a",
        "http://127.0.0.1/a b",
        "http://[127.0.0.1/a",
        f"http://{'a' * 70}.example/a",
        "http://127.0.0.1/ä",
    ],
)
def test_an_invalid_address_is_refused_at_once(url: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="not a valid address"):
        download(url, tmp_path / "a")


@pytest.mark.parametrize(
    "target", ["http://[::1", "http://[v1.x]:y/", "http:// /", f"http://{'x' * 64}.org/", "//[/"]
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda url, path: download(url, path, patience=QUICK),
        lambda url, _: read_small_text(url, patience=QUICK),
    ],
)
def test_a_malformed_redirect_is_refused_in_one_line(
    tmp_path: Path, target: str, ask: Callable[[str, Path], object]
) -> None:
    moved = Served(b"", faults=[Fault(302, {"Location": target}, times=9)])
    with serving({"a": moved}) as server, pytest.raises(FetchError) as refused:
        ask(f"{server.url}/a", tmp_path / "a")
    assert str(refused.value).startswith(f"{server.url}/a: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "of unknown length"])
def test_a_file_longer_than_it_may_be_is_given_up_and_leaves_nothing(
    tmp_path: Path, announced: bool
) -> None:
    served = Served(bytes(3_000_000), announced=announced)
    with (
        serving({"a": served}) as server,
        pytest.raises(FetchError, match=r"a: has .* or more, expected at most 1 MB; it is another"),
    ):
        download(f"{server.url}/a", tmp_path / "a", limit=1_000_000, patience=QUICK)
    assert not left(tmp_path)


def test_a_file_of_unknown_length_is_downloaded(tmp_path: Path) -> None:
    with serving({"a": Served(DATA, announced=False)}) as server:
        download(f"{server.url}/a", tmp_path / "a", limit=len(DATA), patience=QUICK)
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize(
    "note", ["[1]", "{", '{"etag": "a\\nb"}', '{"total": "x"}', '{"etag": 3}', '{"total": 1e400}']
)
def test_a_damaged_note_of_a_part_begins_the_download_again(tmp_path: Path, note: str) -> None:
    with serving({"a": DATA}) as server:
        (tmp_path / "a.part").write_bytes(DATA[:HALF])
        url = f'{{"url": "{server.url}/a", ' if note.startswith('{"') else ""
        (tmp_path / "a.part.json").write_text(url + note.removeprefix("{") if url else note)
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert server.ranges("a") == [""]
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("name", ["Content-Length", "Content-Range"])
def test_a_length_of_thousands_of_digits_is_no_length(tmp_path: Path, name: str) -> None:
    odd = Served(DATA, lies={name: f"bytes 0-{'9' * 5000}/9" if "Range" in name else "9" * 5000})
    with serving({"a": odd}) as server, suppress(FetchError):
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert set(left(tmp_path)) <= {"a", "a.part", "a.part.json"}


def test_a_web_page_is_not_taken_for_the_file(tmp_path: Path) -> None:
    with (
        serving({"a.tgz": Served(b"<!DOCTYPE html>", mime="text/html; charset=utf-8")}) as server,
        pytest.raises(FetchError, match="a web page came in place of the file"),
    ):
        download(f"{server.url}/a.tgz", tmp_path / "a.tgz", patience=QUICK)
    assert not left(tmp_path)


def test_a_full_disk_keeps_the_part_and_the_next_run_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, write = [HALF], os.write

    def fills(file: int, data: Any) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(file, memoryview(data)[: room[0]])
        room[0] -= taken
        return taken

    with serving({"a": DATA}) as server:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fills)
            said = (
                r"a.part: the disk is full after 50.2 kB of 100 kB; make room, the same command"
                r" resumes"
            )
            with pytest.raises(DiskFullError, match=said):
                download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert (tmp_path / "a.part").read_bytes() == DATA[:HALF]
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert server.ranges("a") == ["", f"bytes={HALF}-"]
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_file_larger_than_the_room_on_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(DATA) - 1))
    with (
        serving({"a": DATA}) as server,
        pytest.raises(DiskFullError, match="100 kB needed, 100 kB free on this disk"),
    ):
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a.part").read_bytes() == b""
    require_room(tmp_path / "not" / "there", len(DATA) - 1)
    with pytest.raises(DiskFullError):
        require_room(tmp_path / "not" / "there", len(DATA))


def test_a_killed_download_resumes(tmp_path: Path) -> None:
    data = DATA * 20
    script = (
        "import sys; from pathlib import Path; from delfjax.datasets.fetch.downloading import"
        " download\n"
    )
    script += "download(sys.argv[1], Path(sys.argv[2]))"
    with serving({"a": Served(data, pause_s=0.02)}) as server:
        killed = subprocess.Popen(
            [sys.executable, "-c", script, f"{server.url}/a", str(tmp_path / "a")]
        )
        part = tmp_path / "a.part"
        while not part.is_file() or part.stat().st_size < len(data) // 10:
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
        assert killed.wait() == -9 and not (tmp_path / "a").exists()
        had = part.stat().st_size
        server.files["a"].pause_s = 0
        download(f"{server.url}/a", tmp_path / "a", patience=QUICK)
        assert server.ranges("a") == ["", f"bytes={had}-"] and had < len(data)
    assert (tmp_path / "a").read_bytes() == data and left(tmp_path) == ["a"]


def test_both_kinds_of_checksum_are_compared(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(DATA)
    require_checksum(file, f"md5:{hashlib.md5(DATA).hexdigest().upper()}", "here")
    require_checksum(file, f"sha256:{hashlib.sha256(DATA).hexdigest()}", "here")
    with pytest.raises(
        FetchError, match=f"^here: md5 is {hashlib.md5(DATA).hexdigest()}, expected 0+: damaged"
    ):
        require_checksum(file, f"md5:{'0' * 32}", "here")


@pytest.mark.parametrize(
    "text",
    ["", "\n", "<html>", "d41d8cd98f00b204e9800998ecf8427", "d41d8cd98f00b204e9800998ecf8427g  a"],
)
def test_a_text_without_a_checksum_is_refused(text: str) -> None:
    with pytest.raises(
        FetchError, match="there: begins with .*, expected md5 in hexadecimal digits"
    ):
        parse_checksum(text, "md5", "there")
    assert parse_checksum(f"{'A' * 32}  images_000.tar\n", "md5", "") == f"md5:{'a' * 32}"


def test_a_small_text_is_refused_if_it_is_large_or_binary() -> None:
    busy = Served(b"x", faults=[Fault(503)])
    with serving(
        {"a": b"abc\n", "large": bytes(1 << 17), "raw": b"\xff\xfe", "busy": busy}
    ) as server:
        assert read_small_text(f"{server.url}/a", patience=QUICK) == "abc\n"
        assert read_small_text(f"{server.url}/busy", patience=QUICK) == "x"
        for name, said in (
            ("large", "more than 65536 bytes"),
            ("raw", "not text"),
            ("none", "HTTP 404"),
        ):
            with pytest.raises(FetchError, match=said):
                read_small_text(f"{server.url}/{name}", patience=QUICK)


def test_the_length_of_a_file_is_requested_without_the_file() -> None:
    with serving({"a": DATA}) as server:
        assert remote_size(f"{server.url}/a", patience=QUICK) == len(DATA)
        assert remote_size(f"{server.url}/none", patience=QUICK) is None
        assert [method for method, _, _ in server.asked] == ["HEAD", "HEAD"]
    with pytest.raises(GivenUpError, match="Connection refused"):
        remote_size(f"{server.url}/a", patience=QUICK)


def test_numbers_of_bytes_are_readable() -> None:
    assert [readable(size) for size in (0, 999, 1000, 1_938_238_004, 95 * 10**9, 2 * 10**12)] == [
        "0 bytes", "999 bytes", "1 kB", "1.94 GB", "95 GB", "2 TB",
    ]  # fmt: skip
