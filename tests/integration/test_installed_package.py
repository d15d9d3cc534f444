"""Installed from its wheel, without a checkout in sight, the package finds its weights and matches
photos."""

from __future__ import annotations

import re
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel, and a user who has nothing but two photos."""

    commands: Path
    home: Path
    photos: Path

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment, called from the folder of the photos."""
        return subprocess.run(
            [str(self.commands / command), *arguments],
            cwd=self.photos,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Packages that delfjax needs are those of this environment, and nothing is downloaded."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("delfjax-*.whl")
    venv.create(folder / "venv", symlinks=True)
    commands = folder / "venv" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(commands / "python")]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    # Only now: pip would take the delfjax of this environment for the one to install. Files that
    # lead from there to the checkout are read in site folders alone, and this is none.
    [packages] = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    photos = folder / "photos"
    photos.mkdir()
    (folder / "home").mkdir()
    with Image.fromarray(data.chelsea()) as cat:
        cat.save(photos / "one.jpg")
        cat.rotate(10).crop((40, 30, 400, 280)).save(photos / "other.jpg")
    return Installed(commands, folder / "home", photos)


def test_the_wheel_is_used_and_not_the_checkout(installed: Installed) -> None:
    found = installed.run("python", "-c", "import delfjax; print(delfjax.__file__)").stdout.strip()
    assert Path(found).is_relative_to(installed.commands.parent)


def test_two_photos_match_and_nothing_is_left_beside_them(installed: Installed) -> None:
    done = installed.run("delfjax", "match", "one.jpg", "other.jpg", "--preset", "ci")
    found = re.fullmatch(
        r"match: (\d+) inliers of \d+ putative matches, evidence [\d.]+ of 6\.0\n", done.stdout
    )
    assert found and int(found[1]) >= 30, done
    assert sorted(file.name for file in installed.photos.iterdir()) == ["one.jpg", "other.jpg"]
    # Compiled programs are kept for the next time.
    assert any(installed.home.rglob("xla/*"))


def test_the_attention_that_ships_has_its_card(installed: Installed) -> None:
    done = installed.run("delfjax", "weights", "card", "landmark_world")
    assert done.stdout.startswith("landmark_world.safetensors: attention, "), done


def test_a_notebook_that_is_not_there_is_one_line(installed: Installed) -> None:
    done = installed.run("delfjax", "run", "30")
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch("delfjax: the notebooks are missing, .*\n", done.stderr), done.stderr
