"""In JupyterLab, in a browser, as a person sees it: notebooks run from the menu, and the live view
answers clicks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page

from delfjax import paths
from tests.integration.lab_session import (
    CHROMIUM,
    browser_page,
    find_chromium,
    lab_server,
    run_all_cells,
)
from tests.unit.suite.tiny_collection import write_collection

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]


@pytest.fixture
def page() -> Iterator[Page]:
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is installed")
    with browser_page(executable) as opened:
        yield opened


@pytest.mark.parametrize(
    ("notebook", "pictures"),
    [
        ("12_check_protocols.ipynb", 1),
        pytest.param("00_start_here.ipynb", 2, marks=pytest.mark.slow),
    ],
)
def test_a_notebook_runs_from_the_menu(page: Page, notebook: str, pictures: int) -> None:
    root = paths.repository_root()
    assert root is not None
    with lab_server([root / "notebooks" / notebook]) as address:
        found = run_all_cells(page, address, notebook, seconds=240)
    assert found.errors == ()
    assert found.finished and len(found.prompts) >= 5, found.prompts
    assert found.pictures >= pictures


@pytest.mark.slow
def test_the_view_of_results_answers_clicks(page: Page, tmp_path: Path) -> None:
    write_collection(tmp_path)
    lines = [
        "from pathlib import Path",
        "from delfjax.suite.explorer import Explorer",
        "from delfjax.features.store import FeatureStore",
        "from delfjax.retrieval.system_index import open_index",
        f"folder = Path({str(tmp_path)!r})",
        "Explorer(open_index(folder / 'index'), FeatureStore.open(folder / 'store'))",
    ]
    cell = nbformat.v4.new_code_cell("\n".join(lines))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "explore.ipynb"
    )
    with lab_server([tmp_path / "explore.ipynb"]) as address:
        found = run_all_cells(page, address, "explore.ipynb", seconds=200)
        assert found.errors == ()
        # The live view, not the picture for static readers: a query, five results, their matches,
        # the keypoints.
        assert found.pictures == 8
        matches, keypoints = (
            page.locator(".widget-image").nth(6),
            page.locator(".widget-image").nth(7),
        )
        before = matches.get_attribute("src"), keypoints.get_attribute("src")
        page.get_by_role("button", name="2 ·").click()
        page.wait_for_function(
            "([image, source]) => image.src !== source", arg=[matches.element_handle(), before[0]]
        )
        assert keypoints.get_attribute("src") == before[1]
        page.locator(".widget-dropdown select").select_option("tower/view 0.png")
        page.wait_for_selector("button[title='tower/view 1.png']")
        page.wait_for_function(
            "([image, source]) => image.src !== source", arg=[keypoints.element_handle(), before[1]]
        )
        page.get_by_role("button", name="1 ·").and_(page.locator(".mod-primary")).wait_for()
        # Fewer keypoints, by the keyboard.
        source = keypoints.get_attribute("src")
        page.locator(".noUi-handle").first.press("ArrowLeft")
        page.wait_for_function(
            "([image, source]) => image.src !== source", arg=[keypoints.element_handle(), source]
        )
