"""JupyterLab with a browser on it: open a notebook, run all of its cells as a person would, look at
what is there.

As a script it leaves a picture of every notebook given, all cells run: ``python -m
tests.integration.lab_session FOLDER NOTEBOOK …``. Notebooks are opened as copies, so that nothing
is saved into the checkout.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Seconds a server may take to answer and to end, and a page to show what was asked for.
_START, _END, _SHOW = 60.0, 20.0, 60.0
_WIDTH, _HEIGHT, _TALLEST = 1400, 1000, 14000
# All cells are laid out, nothing is saved by itself, and nobody is asked about news.
_SETTINGS: dict[str, dict[str, object]] = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}
# No look-ups on the network, and sub-processes alone: no window, no question asked at the end.
_OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port=0",
    "--ServerApp.log_level=WARN",
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
    "--LabApp.expose_app_in_browser=True",
)
_BROWSER_OPTIONS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
)
# The notebook is there, and its kernel has been found, started and reached.
_READY = """() => {
  const open = window.jupyterapp?.shell.currentWidget;
  const kernel = open?.sessionContext?.session?.kernel;
  return document.querySelector('.jp-Dialog') !== null || (
    open?.content?.model?.cells.length > 0 && open.sessionContext.isReady
    && kernel?.connectionStatus === 'connected' && kernel.status === 'idle'
  );
}"""
# The state of the open notebook: prompts of its code cells, whether the kernel works, errors shown.
_STATE = """() => {
  const panel = '.jp-NotebookPanel:not(.lm-mod-hidden)';
  const cells = [...document.querySelectorAll(`${panel} .jp-CodeCell`)];
  const mark = document.querySelector(`${panel} .jp-Notebook-ExecutionIndicator`);
  return {
    prompts: cells.map(cell => cell.querySelector('.jp-InputPrompt').textContent),
    sources: cells.map(cell => cell.querySelector('.cm-content').textContent.trim()),
    status: mark ? mark.dataset.status : '',
    failed: document.querySelector('[data-mime-type="application/vnd.jupyter.error"]') !== null,
  };
}"""
_SHOWN = """() => {
  const mime = kind => `[data-mime-type="application/vnd.jupyter.${kind}"]`;
  const texts = kind => [...document.querySelectorAll(mime(kind))];
  const outputs = [...document.querySelectorAll('.jp-OutputArea-output')];
  return {
    errors: [...texts('error'), ...texts('stderr')].map(node => node.textContent.slice(0, 2000)),
    pictures: outputs
      .flatMap(node => [...node.querySelectorAll('img')])
      .filter(image => image.naturalWidth > 1).length,
  };
}"""
# Scrolls to the first cell; gives where the last one ends.
_EXTENT = """() => {
  document.querySelectorAll('.jp-WindowedPanel-outer').forEach(node => { node.scrollTop = 0; });
  const cells = [...document.querySelectorAll('.jp-Notebook .jp-Cell')];
  return Math.max(...cells.map(cell => cell.getBoundingClientRect().bottom));
}"""


class LabError(Exception):
    """A server that does not start, or a notebook that does not come to an end."""


@dataclass(frozen=True)
class Executed:
    """What is there after all cells were run.

    Attributes:
        prompts: of each code cell, ``"[3]:"`` for one that was run.
        errors: text of every error and of everything on standard error.
        pictures: images shown that have pixels.
    """

    prompts: tuple[str, ...]
    errors: tuple[str, ...]
    pictures: int

    @property
    def finished(self) -> bool:
        """Whether every cell has an execution count."""
        return all(_counted(prompt) for prompt in self.prompts)


def find_chromium() -> str | None:
    """The browser of the system, as Debian and others call it."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextmanager
def lab_server(notebooks: Sequence[Path]) -> Iterator[str]:
    """JupyterLab over copies of ``notebooks``; gives the address that opens ``{name}`` in it, and
    ends it with its kernels.

    Raises:
        LabError: it does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as scratch:
        root, home, token = Path(scratch, "notebooks"), Path(scratch, "home"), secrets.token_hex(16)
        root.mkdir()
        for notebook in notebooks:
            shutil.copy(notebook, root)
        environment = _environment(home)
        command = [sys.executable, "-m", "jupyterlab", *_OPTIONS]
        command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
        with Path(scratch, "log").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            try:
                yield f"{_address(process, home)}lab/tree/{{name}}?token={token}"
            except LabError as error:
                log.seek(0)
                raise LabError(f"{error}\n{log.read()[-2000:]}") from None
            finally:
                # Ends the kernels as well; a server that hangs is killed, and its kernels follow by
                # themselves.
                process.terminate()
                try:
                    process.wait(_END)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def browser_page(executable: str) -> Iterator[Page]:
    """An empty page of a headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=list(_BROWSER_OPTIONS)
        )
        try:
            page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
            page.set_default_timeout(1000 * _SHOW)
            yield page
        finally:
            browser.close()


def run_all_cells(page: Page, address: str, name: str, *, seconds: float) -> Executed:
    """Open a notebook, choose *Run All Cells* in the menu, and wait for its end or for its first
    error.

    Raises:
        LabError: it takes longer than that.
    """
    page.goto(address.format(name=name))
    page.wait_for_function(_READY)
    _require_no_question(page)
    patience = time.monotonic() + seconds
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator(".lm-Menu-item:not(.lm-mod-disabled)").filter(
        has_text=re.compile("^Run All Cells$")
    ).click()
    while True:
        state = page.evaluate(_STATE)
        written = [
            prompt
            for prompt, source in zip(state["prompts"], state["sources"], strict=True)
            if source
        ]
        if state["failed"] or (written and _counted(written[-1]) and state["status"] == "idle"):
            break
        _require_no_question(page)
        if time.monotonic() > patience:
            raise LabError(f"{name}: not through after {seconds:.0f} s, prompts {written}")
        page.wait_for_timeout(250)
    # What the last cell shows takes a moment to be drawn.
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    page.wait_for_timeout(500)
    shown = page.evaluate(_SHOWN)
    return Executed(tuple(written), tuple(shown["errors"]), int(shown["pictures"]))


def photograph(page: Page, file: Path) -> None:
    """The page with the whole notebook in it, as a PNG file."""
    page.set_viewport_size(
        {"width": _WIDTH, "height": min(_TALLEST, int(page.evaluate(_EXTENT)) + 60)}
    )
    page.wait_for_timeout(500)
    page.evaluate(_EXTENT)
    page.screenshot(path=file)
    page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})


def _environment(home: Path) -> dict[str, str]:
    """The environment of a server that sees neither the settings nor the kernels of a user."""
    for name, settings in _SETTINGS.items():
        file = (
            home
            / "config"
            / "lab"
            / "user-settings"
            / "@jupyterlab"
            / f"{name}.jupyterlab-settings"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings), encoding="utf-8")
    own = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "IPYTHONDIR": home / "ipython",
        "JUPYTER_PATH": Path(sys.prefix) / "share" / "jupyter",
    }
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER_", "JPY_", "PYTEST_"))
    }
    return {
        **kept,
        **{name: str(path) for name, path in own.items()},
        "JUPYTER_PREFER_ENV_PATH": "1",
    }


def _address(process: subprocess.Popen[bytes], home: Path) -> str:
    """Where the server listens, as soon as it does."""
    patience = time.monotonic() + _START
    file = home / "runtime" / f"jpserver-{process.pid}.json"
    while time.monotonic() < patience and process.poll() is None:
        try:
            url = str(json.loads(file.read_text(encoding="utf-8"))["url"])
            with urllib.request.urlopen(f"{url}api", timeout=5):
                return url
        except (FileNotFoundError, ValueError, urllib.error.URLError):
            time.sleep(0.1)
    raise LabError(f"JupyterLab does not answer (exit code {process.poll()})")


def _counted(prompt: str) -> bool:
    return prompt.strip("[]: ").isdigit()


def _require_no_question(page: Page) -> None:
    """Nobody has to answer anything, for instance which kernel to take."""
    dialog = page.locator(".jp-Dialog-content")
    if dialog.count():
        raise LabError(f"JupyterLab asks: {dialog.first.inner_text()}")


def main(arguments: list[str]) -> int:
    """Run all cells of some notebooks and leave a picture of each in a folder; 1 if a cell
    fails."""
    executable, failed = find_chromium(), False
    if executable is None or len(arguments) < 2:
        print(
            f"usage: lab_session.py FOLDER NOTEBOOK …, with one of {', '.join(CHROMIUM)} installed",
            file=sys.stderr,
        )
        return 2
    folder, notebooks = Path(arguments[0]), [Path(name) for name in arguments[1:]]
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in notebooks:
        # Each in a JupyterLab of its own: a second one would open beside the first, and the cells
        # of both be counted.
        with lab_server([notebook]) as address, browser_page(executable) as page:
            found = run_all_cells(page, address, notebook.name, seconds=600)
            photograph(page, folder / f"{notebook.stem}.png")
        print(
            f"{notebook.name}: {len(found.prompts)} cells, {found.pictures} pictures,"
            f" {len(found.errors)} errors"
        )
        failed |= bool(found.errors) or not found.finished
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
