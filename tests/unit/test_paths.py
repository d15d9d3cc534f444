"""Where data lives: set by one variable, else in the checkout, else in the current folder and the
user's cache folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from delfjax import paths


def test_the_data_root_moves_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / "elsewhere"))
    assert paths.data_root() == tmp_path / "elsewhere"
    for folder in (paths.runs_root(), paths.cache_root(), paths.compilation_cache()):
        assert folder.is_relative_to(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DELFJAX_DATA", "~/photos-data")
    assert paths.data_root() == tmp_path / "photos-data"
    monkeypatch.setenv("DELFJAX_DATA", "~nobody-of-that-name/data")
    assert paths.data_root().parts[-2:] == ("~nobody-of-that-name", "data")


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_data_lies_in_the_checkout(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("DELFJAX_DATA", raising=False)
    else:
        monkeypatch.setenv("DELFJAX_DATA", value)
    root = paths.repository_root()
    assert root is not None and (root / "delfjax" / "paths.py").samefile(paths.__file__)
    assert paths.data_root() == root / "data"


def test_an_installed_package_keeps_data_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DELFJAX_DATA", raising=False)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "delfjax" / "paths.py"))
    monkeypatch.chdir(tmp_path)
    assert paths.repository_root() is None
    assert paths.data_root() == tmp_path / "delfjax-data"
    assert paths.runs_root().is_relative_to(paths.data_root())


def test_an_installed_package_keeps_its_cache_with_its_user_and_not_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.delenv("DELFJAX_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "delfjax" / "paths.py"))
    monkeypatch.chdir(tmp_path / "photos")
    assert paths.cache_root().is_relative_to(tmp_path / "home")
    assert paths.cache_root().name == "delfjax"
    assert paths.compilation_cache().is_relative_to(paths.cache_root())
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / "elsewhere"))
    assert paths.cache_root() == tmp_path / "elsewhere" / "cache"


def test_the_weights_that_ship_lie_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the data root was moved to, and whatever the current folder is."""
    monkeypatch.setenv("DELFJAX_DATA", "elsewhere")
    package = Path(paths.__file__).parent
    assert paths.shipped_weights().is_relative_to(package)
    names = {file.name for file in paths.shipped_weights().iterdir()}
    assert names == {"landmark_world.json", "landmark_world.safetensors"}
