"""A real Chromium against a real JupyterLab and the served page: notebooks run, controls move, lists change.

Part of ``make test-slow``. Without a browser every test is skipped and says so. Screenshots: ``build/screenshots``.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import psutil
import pytest

from i2vae_lib import cli
from i2vae_lib.labels import label
from tests.helpers.worlds import LONG, ROOT

pytestmark = pytest.mark.slow
MILLISECONDS = 1000 * LONG
# a story, a study, the explorers; that every notebook runs, and runs twice, test_notebooks.py shows without a browser
NAMES = ("00_tour", "05_sensitivity", "12_explorers")
SHOTS = ROOT / "build" / "screenshots"
# it starts no service of its maker's: those would be asked for over a network that may not be there
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]
RUN_ALL = """async () => {
  const app = window.jupyterapp;
  await app.commands.execute('notebook:run-all-cells');
  const cells = app.shell.currentWidget.content.model.sharedModel.cells.filter(one => one.cell_type === 'code');
  const outputs = cells.flatMap(one => one.getOutputs());
  return {
    counts: cells.map(one => one.execution_count),
    errors: outputs.filter(one => one.output_type === 'error').map(one => `${one.ename}: ${one.evalue}`),
  };
}"""

# another seed in the first code cell, then that cell and the next, as somebody would by Shift-Enter
CHANGE_SEED = """async () => {
  const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
  const cells = notebook.widgets.filter(one => one.model.type === 'code').slice(0, 2);
  const [declaring, asking] = cells.map(one => one.model.sharedModel);
  declaring.setSource(declaring.getSource().replace('seed: int = 0', 'seed: int = 7'));
  asking.setSource(asking.getSource() + '\\nprint((P if "P" in globals() else study.cells[0].parameters).seed)');
  for (const cell of cells) {
    notebook.deselectAll();
    notebook.activeCellIndex = notebook.widgets.indexOf(cell);
    await app.commands.execute('notebook:run-cell');
  }
  const outputs = cells.flatMap(one => one.model.sharedModel.getOutputs());
  return outputs.map(one => [].concat(one.text ?? `${one.ename}: ${one.evalue}`).join(''));
}"""


# of an element's text to the first background behind it that can be seen (WCAG 2.1)
CONTRAST = """element => {
  const luminance = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(one => one / 255)
      .map(one => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element, ground = 'rgba(0, 0, 0, 0)';
  while (behind && /, 0\\)$/.test(ground = getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const [light, dark] = [luminance(getComputedStyle(element).color), luminance(ground)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
}"""


# how many traces a figure holds, and how many marks of them stand on the page
MARKS = "figure => [figure.data.length, figure.querySelectorAll('.point, .js-line, .heatmaplayer image').length]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed (apt-get install chromium): the BROWSER TESTS ARE SKIPPED")
    from playwright.sync_api import sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield launched
        launched.close()


class Tab:
    """A page of the browser that remembers what went wrong in it."""

    def __init__(self, browser: Any, width: int = 1400, height: int = 1300):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(f"page: {error}"))
        self.page.on("console", lambda one: self.wrong.append(f"console: {one.text}") if one.type == "error" else None)

    def shoot(self, name: str) -> None:
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def slow_down(self, times: int = 4) -> None:
        """Let the page have a fraction of a core, as on a busy machine."""
        self.page.context.new_cdp_session(self.page).send("Emulation.setCPUThrottlingRate", {"rate": times})


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    found = Tab(browser)
    yield found
    found.page.close()
    assert found.wrong == []


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


def serve(command: list[str], folder: Path, name: str, url: str, seconds: float = LONG) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers."""
    shared = folder.parent.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # workers train once for all
    environment = os.environ | {
        "I2VAE_RUNS_DIR": str(shared / "browser-runs"),
        "I2VAE_CACHE_DIR": str(shared / "browser-cache"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "PLOTLY_RENDERER": "plotly_mimetype",
    }
    with (folder / f"{name}.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return server
        except urllib.error.HTTPError:
            return server
        except OSError:
            time.sleep(0.2)
    server.kill()
    pytest.fail(f"{name} does not answer:\n{(folder / f'{name}.log').read_text()[-2000:]}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """With the kernels that it started, which have sessions of their own and may outlive it."""
    if server.poll() is not None:
        return
    running = psutil.Process(server.pid)
    everybody = [running, *running.children(recursive=True)]
    server.terminate()
    _, alive = psutil.wait_procs(everybody, timeout=20)
    for one in alive:
        one.kill()
    psutil.wait_procs(alive)


@pytest.fixture(scope="module")
def lab(browser: Any, folder: Path) -> Iterator[str]:
    """The address of a JupyterLab over a copy of the notebooks, with ``{}`` where a notebook's name stands."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--ServerApp.port_retries=0"]
    server = serve(command, folder, "lab", f"http://127.0.0.1:{port}/api?token={token}")
    yield f"http://127.0.0.1:{port}/lab/workspaces/auto-t/tree/{{}}.ipynb?reset&token={token}"
    stop(server)


def opened(tab: Tab, lab: str, name: str) -> Any:
    page = tab.page
    page.goto(lab.format(name))
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=MILLISECONDS)
    page.wait_for_function(
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=MILLISECONDS,
    )
    return page


@pytest.mark.xdist_group("lab")
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_in_jupyterlab(lab: str, tab: Tab, name: str) -> None:
    page = opened(tab, lab, name)
    page.set_default_timeout(MILLISECONDS)
    found = page.evaluate(RUN_ALL)
    assert found["errors"] == []
    assert found["counts"] == list(range(1, len(found["counts"]) + 1))
    tab.shoot(f"lab_{name}")
    if name == "12_explorers":
        _move_in_lab(tab)
    again = page.evaluate(RUN_ALL)
    assert again["errors"] == [] and len(again["counts"]) == len(found["counts"])
    assert again["counts"] == sorted(again["counts"]) and again["counts"][0] > found["counts"][-1]
    assert page.evaluate(CHANGE_SEED) == ["7\n"]
    page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")


def _move_in_lab(tab: Tab) -> None:
    """In both themes: switch a latent with the keyboard, read the lists, and see that they can be read."""
    page = tab.page
    user = page.locator(".jp-OutputArea .widget-vbox:has(input[placeholder='type to search'])").first
    user.scroll_into_view_if_needed()
    user.locator(".js-plotly-plot .main-svg").first.wait_for()
    live = page.locator(".jp-OutputArea .widget-vbox .js-plotly-plot")
    for place in range(live.count()):
        live.nth(place).scroll_into_view_if_needed()
        _has_traces(live.nth(place))
    assert live.count() == 4  # user, pair, training, sweep
    user.scroll_into_view_if_needed()
    _switch(user)
    tab.shoot("lab_explorer_light")
    assert user.locator("td").first.evaluate(CONTRAST) >= 4.5  # WCAG AA
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_selector("body[data-jp-theme-light='false']", state="attached")
    page.wait_for_timeout(1000)
    tab.shoot("lab_explorer_dark")
    assert user.locator("td").first.evaluate(CONTRAST) >= 4.5


def _has_traces(figure: Any, at_least: int = 1) -> None:
    """A figure shows what it holds."""
    _until(figure, lambda: min(figure.evaluate(MARKS)) >= at_least, f"a blank figure: {figure.evaluate(MARKS)}")


def _switch(user: Any) -> None:
    """Augmented off and on again, by keyboard: the first list becomes another one, then what it was."""
    _until(user, lambda: _everything_is_on(user), "a switch is off")  # what cells did may still be on its way
    before = _first_list(user)
    _press(user, "off")
    _until(user, lambda: _first_list(user) != before, "the list stayed as it was")
    _press(user, "on")
    _until(user, lambda: _first_list(user) == before, "the list did not come back")


def _press(user: Any, name: str) -> None:
    user.get_by_role("group", name="augmented").get_by_role("radio", name=name, exact=True).focus()
    user.page.keyboard.press("Space")


def _first_list(user: Any) -> str:
    return str(user.locator("table:has(caption:text('first ten'))").first.inner_text())


def _everything_is_on(user: Any) -> bool:
    """Every item of the first list stands where it stood with everything on."""
    lines = user.locator("table:has(caption:text('first ten'))").first.locator("tbody tr")
    places = [line.split("\t") for line in lines.all_inner_texts()]
    return bool(places) and all(len(line) > 3 and line[0] == line[3] for line in places)


def _until(where: Any, holds: Callable[[], bool], otherwise: str, seconds: float = LONG) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, otherwise
        where.page.wait_for_timeout(50)


# --- the page without Jupyter -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(browser: Any, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``i2vae explore`` of a run of the smoke preset and of a sweep's table: address and process."""
    words = ["--preset", "smoke", "--epochs", "2", "--out", str(folder / "explored"), "--no-notebooks", "--no-report"]
    assert cli.main(["run", *words]) == 0
    port = free_port()
    table = folder / "weights.csv"
    _sweep_of_weights().to_csv(table, index=False)
    command = [sys.executable, "-m", "i2vae_lib.cli", "explore", str(folder / "explored"), str(table)]
    command += ["--no-browser", f"--port={port}"]
    # its root is the page itself, which takes as long as its explorers: ask for a file instead
    server = serve(command, folder, "explore", f"http://127.0.0.1:{port}/voila/static/favicon.ico")
    [address] = re.findall(r"http://127\.0\.0\.1:\d+/\S*", (folder / "explore.log").read_text())
    yield address, server
    stop(server)


def _sweep_of_weights() -> pd.DataFrame:
    """A sweep's table as ``i2vae sweep`` writes it: two grids, a weight each, the other one held."""
    weights = {"objective.lambda_a": 0.005, "objective.lambda_c": 0.001}
    places = [(key.split(".")[1], weights | {key: value}) for key in weights for value in (0.001, 0.005, 0.01)]
    measured = {"state": "done", "recommender": "i2vae", "domain": "North", "kind": "all", "metric": "HR@10"}
    rest = measured | {"candidates": "sampled", "n": 100, "validation": 0.1}
    lines = [
        {"grid": grid, "row": "", **place, "seed": 0, **rest, "value": 0.1 + 0.01 * i, "run": f"cells/{i}"}
        for i, (grid, place) in enumerate(places)
    ]
    return pd.DataFrame(lines)


@pytest.mark.xdist_group("page")
def test_page_when_used(served: tuple[str, subprocess.Popen[bytes]], tab: Tab) -> None:
    asked: list[str] = []
    page = tab.page
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(MILLISECONDS)
    tab.slow_down()
    page.goto(served[0], wait_until="commit")
    assert "loading Explorers: explored" in page.locator("#loading_text").inner_text()
    user = page.locator(".widget-vbox:has(input[placeholder='type to search'])").first
    user.locator(".js-plotly-plot .main-svg").first.wait_for()
    _has_traces(user.locator(".js-plotly-plot"), 2)
    assert page.get_by_role("heading", level=1).inner_text().startswith("Explorers: explored")
    assert user.get_by_role("group", name="transferable").get_by_role("radio", name="on").is_checked()
    _switch(user)
    tab.shoot("page_user")

    # another user, by name and by button
    status = user.get_by_role("status")
    chosen = status.inner_text().split()[1]
    user.get_by_role("button", name="next user").click()
    _until(user, lambda: status.inner_text().split()[1] != chosen, "the user stayed")
    box = user.locator("input[placeholder='type to search']")
    box.fill(chosen)
    box.press("Enter")
    _until(user, lambda: status.inner_text().split()[1] == chosen, "the user was not found")

    page.get_by_role("tab", name="data").click()
    data = page.locator(".widget-vbox:has(label:text-is('audit'))").first
    data.locator(".js-plotly-plot .main-svg").first.wait_for()
    _has_traces(data.locator(".js-plotly-plot"), 4)
    data.locator("select").nth(2).select_option("cold")
    _until(data, lambda: "(cold)" in data.get_by_role("status").inner_text(), "the rows stayed")
    _until(data, lambda: "North, cold" in str(data.locator(".gtitle").text_content()), "the figure stayed")
    tab.shoot("page_data")

    page.get_by_role("tab", name="training").click()
    training = page.locator(".widget-vbox:has(label:text-is('curve'))").first
    training.locator(".js-plotly-plot .main-svg").first.wait_for()
    _has_traces(training.locator(".js-plotly-plot"))
    column = label("kl/x")
    training.locator("select").last.select_option(column)
    _until(training, lambda: f"{column} by epoch" in training.get_by_role("status").inner_text(), "the curve stayed")
    training.get_by_label("follow").check()
    page.wait_for_timeout(2500)
    training.get_by_label("follow").uncheck()
    tab.shoot("page_training")

    page.get_by_role("tab", name="sweep").click()
    sweep = page.locator(".widget-vbox:has(label:text-is('across'))").first
    sweep.locator(".js-plotly-plot .main-svg").first.wait_for()
    _has_traces(sweep.locator(".js-plotly-plot"))
    sweep.locator("select").nth(1).select_option("(all grids)")  # both weights vary
    up, second = sweep.locator("select").nth(3), label("objective.lambda_c")
    # ipywidgets writes options with spaces that do not break
    _until(
        sweep, lambda: second in [one.replace("\xa0", " ") for one in up.locator("option").all_inner_texts()], "stayed"
    )
    up.select_option(second)
    _until(sweep, lambda: sweep.locator(".heatmaplayer image").count() == 1, "no surface is drawn")
    tab.shoot("page_sweep")

    # it asks nothing of any network
    assert asked and {urlsplit(url).hostname for url in asked if url.startswith("http")} == {"127.0.0.1"}
    extensions = {url.split("/labextensions/")[1].split("/static/")[0] for url in asked if "/labextensions/" in url}
    managers = {"@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8"}
    assert extensions == {"anywidget"} | managers  # others of JupyterLab cost the page its time


@pytest.mark.xdist_group("page")
def test_page_when_two_tabs_are_narrow_and_dark(served: tuple[str, subprocess.Popen[bytes]], browser: Any) -> None:
    pages = [browser.new_page(viewport={"width": 400, "height": 900}, color_scheme="dark") for _ in range(2)]
    try:
        for page in pages:
            page.goto(served[0], wait_until="commit")
        for page in pages:
            figure = page.locator(".js-plotly-plot").first
            figure.locator(".main-svg").first.wait_for(timeout=MILLISECONDS)
            _has_traces(figure, 2)
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
            # both are drawn for the theme: text of the page and of the figure are light
            for one in (page.locator("td").first, figure.locator("text").first):
                colour = one.evaluate("one => getComputedStyle(one)[one.tagName === 'text' ? 'fill' : 'color']")
                assert min(int(part) for part in re.findall(r"\d+", colour)[:3]) > 150, colour
        first, second = (page.get_by_role("status").first for page in pages)
        before = second.inner_text()
        pages[0].get_by_role("button", name="next user").click()
        _until(first, lambda: first.inner_text() != before, "the first tab stayed")
        assert second.inner_text() == before
        pages[0].screenshot(path=SHOTS / "page_narrow_dark.png")
    finally:
        for page in pages:
            page.close()


@pytest.mark.xdist_group("page")
def test_page_when_its_sockets_are_listed(served: tuple[str, subprocess.Popen[bytes]]) -> None:
    process = psutil.Process(served[1].pid)
    listening = [
        one.laddr.ip
        for each in (process, *process.children(recursive=True))
        for one in each.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) == {"127.0.0.1"}
