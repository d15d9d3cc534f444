"""kill -9 at every step of fetching and rendering a dataset: the next run completes it, and leaves
nothing else."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.kills import kill_at_every_step
from tests.unit.datasets.fetch.file_server import serving

_IMAGES = {f"{number}.jpg": bytes([number]) * 3000 for number in range(3)}
_LIST = b"id\n" * 4000

_SETUP = """
import dataclasses
from pathlib import Path
from delfjax.datasets.catalogue import CATALOGUE
from delfjax.datasets.fetch.archives import FileSet, RemoteFile
from delfjax.datasets.fetch.downloading import Patience
from delfjax.datasets.fetch.fetching import fetch, plan_fetch

files = (RemoteFile("a.tgz", None, 9000, "jpg"), RemoteFile("lists/b.csv", None, 9000, "metadata"))
CATALOGUE["test"] = dataclasses.replace(
    CATALOGUE["holidays"], folders=("test",), published=(FileSet("test", files, "by hand"),)
)
"""
_ACTION = """
report = fetch(plan_fetch("test", Path("root"), source={source!r}), keep_archives={kept})
assert not report.failed, report.failed
"""


def _archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in _IMAGES.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    ("origin", "kept"),
    [
        ("a folder", False),
        pytest.param("a folder", True, marks=pytest.mark.slow),
        pytest.param("a server", False, marks=pytest.mark.slow),
        pytest.param("a server", True, marks=pytest.mark.slow),
    ],
)
def test_a_killed_fetch_is_completed_by_the_next(tmp_path: Path, origin: str, kept: bool) -> None:
    files = {"a.tgz": _archive(), "lists/b.csv": _LIST}
    whole = {**{f"jpg/{name}": data for name, data in _IMAGES.items()}, "metadata/b.csv": _LIST}
    place, copy = tmp_path / "place", tmp_path / "copy"
    place.mkdir()
    for name, data in files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)

    def check() -> None:
        for file in (place / "root").rglob("*"):
            name = file.relative_to(place / "root").as_posix()
            if file.is_file() and not name.startswith(".fetch/"):
                assert file.read_bytes() == whole[name], name

    with serving(dict(files)) as server:
        source = str(copy) if origin == "a folder" else server.url
        action = _ACTION.format(source=source, kept=kept)
        # Renaming each image is a step, as is every record.
        assert kill_at_every_step(place, setup=_SETUP, action=action, check=check) > 15
    assert all((place / "root" / name).read_bytes() == data for name, data in whole.items())


_RENDER = """
import numpy as np
from pathlib import Path
# Otherwise each forked process would import them anew.
import multiprocessing.synchronize, pandas, pyarrow.dataset, pyarrow.pandas_compat, PIL.Image
PIL.Image.preinit()
from delfjax.world import writing
from delfjax.world.knobs import world_config
from delfjax.world.rendering import Photograph

config = world_config(
    "ci", landmarks=1, train_landmarks=0, train_views=0, database_views=2, query_views=0,
    distractors=0, no_match=0, family_size=1, image_side=128,
)
# What a photograph shows is of no importance here, and rendering takes long.
grey = np.full((96, 128, 3), 90, np.uint8)
own = np.ones((96, 128), np.uint8)
seen = Photograph(grey, own, np.ones((2, 96, 128), bool))
census = writing.Census(config)
shot = census.shot(census.frame(0))[1]
writing.Census = lambda config: census
writing._PART = 1
writing.jax.local_devices = lambda: [None]
writing.take = lambda census, frame, device: (shot, seen, 0)
"""


@pytest.mark.slow
def test_a_killed_rendering_is_completed_by_the_next(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    kills = kill_at_every_step(
        place,
        setup=_RENDER,
        action="writing.build_world(Path('world'), config, workers=1, progress=False)",
        check=lambda: None,
    )
    assert kills > 20
