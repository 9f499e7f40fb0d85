"""Explorers without a browser: every control is moved as a person would, and what is shown is read."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from traitlets import TraitError

from i2vae_lib import cli, stages
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.explorers import views, widgets
from i2vae_lib.explorers.contents import write_page
from i2vae_lib.explorers.live import RadioButtons
from i2vae_lib.explorers.widgets import DataExplorer, Page, SweepExplorer, TrainingExplorer, UserExplorer
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.runs import LayoutError, Run
from tests.helpers.planted_runs import recorded
from tests.helpers.tables import checkpoint, sweep_table


@pytest.fixture(scope="module")
def run(tiny: Parameters, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run of the tiny world. Do not change it."""
    found = stages.open_run(tiny, tmp_path_factory.mktemp("explored") / "run")
    stages.train(found)
    return found


@pytest.fixture
def user(trained: I2VAERecommender, dataset: CrossDomainDataset) -> UserExplorer:
    return UserExplorer(trained, dataset.splits["test"], dataset.tail["test"])


def said(explorer: Any) -> str:
    return html.unescape(re.sub("<style>.*</style>|<[^>]*>", "", explorer.said.value, flags=re.DOTALL))


def firsts(explorer: UserExplorer) -> list[pd.DataFrame]:
    return [table for caption, table in explorer.tables.items() if "first ten" in caption]


# --- a user -----------------------------------------------------------------------------------------------------------


def test_user_when_a_latent_is_switched(user: UserExplorer, trained: I2VAERecommender) -> None:
    before = firsts(user)
    user.switches["transferable"].value = "off"
    expected = views.scores(trained, user.one, views.Switches(transferable="off", evidence=False))
    for d, table in zip("xy", firsts(user)):
        pd.testing.assert_frame_equal(table, views.first_items(user.one, expected, user.everything_on, d))
    user.switches["transferable"].value = "on"
    for one, other in zip(before, firsts(user)):
        pd.testing.assert_frame_equal(one, other)


def test_user_when_latents_are_swapped(user: UserExplorer) -> None:
    user.kind.value = "overlapping"
    before = firsts(user)
    for role in user.switches:
        user.switches[role].value = "swapped"
    after = firsts(user)
    assert any(not one["item"].equals(other["item"]) for one, other in zip(before, after))
    user.partner.value = user.one.user  # for one's own: as before
    assert [one["item"].tolist() for one in firsts(user)] == [one["item"].tolist() for one in before]


def test_user_when_another_is_chosen(user: UserExplorer) -> None:
    first, bars = user.user.value, user.figure.data[0].y
    assert user.partner.value == user.users[1]
    user.after.click()
    assert user.partner.value == user.users[2]  # a swap with oneself would change nothing
    assert user.user.value == user.users[1] != first and f"User {user.users[1]} " in said(user)
    assert not np.array_equal(user.figure.data[0].y, bars)
    user.before.click()
    assert user.partner.value != user.user.value
    user.before.click()
    assert user.user.value == user.users[-1]
    assert next(iter(user.tables)).endswith("taken (most recent first) and recalled")


def test_user_when_a_kind_is_chosen(user: UserExplorer, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    for kind in ("cold", "no_history", "tailed"):
        user.kind.value = kind
        assert user.line.value in np.flatnonzero(rows.kinds(dataset.tail["test"])[kind])
        assert user.user.value == rows.user[user.line.value]
    user.kind.value = "no_history"
    assert "popularity ranks, and switches change nothing" in said(user)


def test_user_when_nobody_has_that_name(user: UserExplorer) -> None:
    before = firsts(user)
    user.user.value = "nobody at all"
    assert said(user) == "no row of user 'nobody at all'"
    assert firsts(user)[0].equals(before[0])
    user.after.click()  # goes on from who is shown
    assert user.user.value == user.users[1]
    user.partner.value = "neither"
    user.switches["specific"].value = "swapped"
    assert said(user) == "no row of user 'neither'"


def test_user_when_the_kind_has_no_such_user(user: UserExplorer, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    user.kind.value = "no_history"
    warm = next(str(one) for one in rows.user[rows.kinds()["overlapping"]] if str(one) not in user.users)
    user.user.value = warm
    assert said(user) == f"user '{warm}' has no row of kind no_history"


def test_user_when_there_is_no_copy_path(user: UserExplorer) -> None:
    assert user.evidence.disabled and not user.evidence.value


def test_controls_when_a_screen_reader_asks(user: UserExplorer, run: Run) -> None:
    # every control has a name, and what is said is announced
    data = widgets.of_data(run.folder)
    training = TrainingExplorer([run.folder])
    sweep = SweepExplorer({"a": sweep_table()})
    for explorer in (user, data, training, sweep):
        controls = [one for one in vars(explorer).values() if hasattr(one, "description") and hasattr(one, "disabled")]
        assert len(controls) >= 3 and all(one.description for one in controls)
        assert 'aria-live="polite"' in explorer.said.value


# --- without a front end ----------------------------------------------------------------------------------------------


def test_static_view_when_nothing_answers(user: UserExplorer) -> None:
    found = user._repr_mimebundle_()
    assert found["text/plain"] == "UserExplorer"
    assert "application/vnd.jupyter.widget-view+json" in found
    assert found["text/html"].count("<table") == 4 and "first ten" in found["text/html"]


def test_as_html_when_a_title_holds_markup() -> None:
    table = pd.DataFrame({"item": ["<script>alert(1)</script>"], "score": [1.23456]})
    found = widgets.as_html(table, "<b>first</b>")
    assert "<script>" not in found and "<b>" not in found
    assert "<caption>&lt;b&gt;first&lt;/b&gt;</caption>" in found and "1.23456" in found


# --- a pair, runs, a sweep --------------------------------------------------------------------------------------------


def test_data_when_controls_move(run: Run, dataset: CrossDomainDataset) -> None:
    found = widgets.of_data(run.folder)
    assert isinstance(found, DataExplorer) and found.split.value == "test"
    count = len(views.chosen_rows(dataset, "test", "x"))
    assert said(found).startswith(f"{count:,} test rows ask for North (all)")
    found.kind.value = "cold"
    cold = views.chosen_rows(dataset, "test", "x", "cold")
    assert said(found).startswith(f"{len(cold):,} test rows ask for North (cold)")
    assert sum(found.figure.data[0].y) == len(cold)
    found.split.value, found.audit.value = "train", "leaks"
    assert set(found.tables["audit"]["severity"]) == {"leak"} and set(found.tables["audit"]["split"]) == {
        "train",
        "catalogue",
    }
    found.audit.value = "found"
    assert (found.tables["audit"]["count"] > 0).all()


def test_training_when_controls_move(run: Run) -> None:
    found = TrainingExplorer([run.folder])
    assert found.column.value == "ndcg@10" and found.figure.data[0].x.tolist() == [1, 2]
    found.column.value = "kl/t_y"
    history = stages.load_history(run.folder)
    np.testing.assert_allclose(found.figure.data[0].y, history["kl/t_y"], rtol=1e-3)
    found.again.click()
    assert found.column.value == "kl/t_y"
    found.chosen.value = ()
    assert len(found.figure.data) == 0 and said(found) == "No run is chosen."
    found.chosen.value = ("run",)
    assert found.column.value == "ndcg@10" and len(found.figure.data) == 1
    found.column.value = "kl/t_y"
    assert "where they stand" in found.static() and "KL of z_tʸ by epoch" in found.static()


def test_training_when_its_run_vanishes(tiny: Parameters, tmp_path: Path) -> None:
    folder = stages.open_run(tiny, tmp_path / "brief").folder
    checkpoint(folder, "last.ckpt", 2, 0.1)
    found = TrainingExplorer([folder])
    drawn = found.figure.data
    shutil.rmtree(folder)
    found.again.click()
    assert "is not a run directory" in said(found) and found.figure.data == drawn


def test_figures_when_an_explorer_opens_are_not_blank(user: UserExplorer, run: Run) -> None:
    explorers_made = (user, widgets.of_data(run.folder), TrainingExplorer([run.folder]))
    for one in (*explorers_made, SweepExplorer({"mine": sweep_table()})):
        sent = json.loads(one.figure.get_state()["figure"])  # what a browser begins with
        assert len(sent["data"]) == len(one.figure.data) >= 1
        assert one.figure.description.startswith(sent["layout"]["title"]["text"])


def test_radio_buttons_when_a_word_is_none_of_theirs() -> None:
    found = RadioButtons("specific", views.STATES)
    assert found.value == "on"
    with pytest.raises(TraitError, match="specific: 'louder' is none of on, off, swapped"):
        found.value = "louder"


def test_training_when_nothing_is_there_yet(tiny: Parameters, tmp_path: Path) -> None:
    folder = stages.open_run(tiny, tmp_path / "new").folder
    found = TrainingExplorer([folder])
    assert said(found) == "No run has finished an epoch yet." and found.column.value is None
    found.follow.value = True  # there is no kernel here
    assert "without a kernel" in said(found)


def test_training_when_followed(tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingExplorer, "SECONDS", 0.01)
    folder = stages.open_run(tiny, tmp_path / "growing").folder
    checkpoint(folder, "last.ckpt", 1, 0.1)
    found = TrainingExplorer([folder])
    seen = []

    async def watch() -> None:
        found.follow.value = True
        for epochs in (1, 2, 3):
            checkpoint(folder, "last.ckpt", epochs, 0.1)
            await asyncio.sleep(0.1)
            seen.append(list(found.figure.data[0].x))
        (folder / "run.json").unlink()
        await asyncio.sleep(0.1)
        assert "is not a run directory" in said(found) and not found.following.done()
        found.follow.value = False
        await found.following

    asyncio.run(watch())
    assert seen == [[1], [1, 2], [1, 2, 3]]


def test_training_when_chosen_runs_have_other_curves(run: Run, tiny: Parameters, tmp_path: Path) -> None:
    folder = stages.open_run(tiny, tmp_path / "plain").folder
    checkpoint(folder, "last.ckpt", 2, 0.1)
    found = TrainingExplorer([run.folder, folder])
    found.column.value = "kl/t_y"
    assert len(found.figure.data) == 1
    found.chosen.value = ("plain",)
    assert found.column.value == "ndcg@10" and said(found) == "NDCG@10 by epoch, 1 of 2 runs."
    assert [trace.name for trace in found.figure.data] == ["plain"]


def test_sweep_when_controls_move() -> None:
    found = SweepExplorer({"mine": sweep_table()})
    assert (found.x.value, found.y.value) == ("model.T", SweepExplorer.NONE)
    assert found.figure.data[0].type == "scatter"
    assert said(found) == "HR@10, North, all rows, i2VAE: 2 of 3 places have a value."
    found.y.value = "model.d"
    assert found.figure.data[0].type == "heatmap"
    assert list(found.figure.data[0].text[0]) == ["4.25", "5.25", ""]
    found.x.value = "model.d"  # the same twice is one axis
    assert found.figure.data[0].type == "scatter"


def test_sweep_when_a_grid_is_chosen() -> None:
    table = sweep_table()
    flat = table[(table["model.T"] == 10) & (table["model.d"] == 32)].assign(grid="flat")
    found = SweepExplorer({"mine": pd.concat([table, flat], ignore_index=True)})
    assert list(found.grid.options) == ["g", "flat", SweepExplorer.ALL]
    found.grid.value = "flat"
    assert said(found) == "mine, flat: nothing varies, or no cell is done yet"
    found.grid.value = SweepExplorer.ALL
    assert said(found) == "HR@10, North, all rows, i2VAE: 2 of 3 places have a value."
    np.testing.assert_allclose(found.figure.data[0].y, [5.85, 6.85])


def test_sweep_when_nothing_varies() -> None:
    table = sweep_table()
    with pytest.raises(LayoutError, match="mine, g: nothing varies"):
        SweepExplorer({"mine": table[(table["model.T"] == 10) & (table["model.d"] == 32)]})


# --- the page ---------------------------------------------------------------------------------------------------------


def test_page_when_tabs_are_opened(run: Run, tmp_path: Path) -> None:
    sweep_table().to_csv(tmp_path / "mine.csv", index=False)
    found = Page([run.folder, tmp_path])
    assert list(found.titles) == ["user", "data", "training", f"sweep {tmp_path.stem}"]
    assert list(found.made) == [0]
    found.selected_index = 3
    assert sorted(found.made) == [0, 3]
    assert [type(one).__name__ for one in found.children] == ["UserExplorer", "HTML", "HTML", "SweepExplorer"]


def test_page_when_folders_are_beside_each_other(run: Run, tiny: Parameters, tmp_path: Path) -> None:
    other = stages.open_run(tiny, tmp_path / "other")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        sweep_table().to_csv(tmp_path / name / "results.csv", index=False)
    tables = [tmp_path / name / "results.csv" for name in ("one", "two")]
    titles = Page([run.folder, other.folder, *tables]).titles
    assert titles == ("user of run", "data of run", "training", "sweep one/results", "sweep two/results")


def test_page_when_a_sweep_varies_nothing(tmp_path: Path) -> None:
    table = sweep_table()
    table[(table["model.T"] == 10) & (table["model.d"] == 32)].to_csv(tmp_path / "mine.csv", index=False)
    found = Page([tmp_path / "mine.csv"])
    assert found.children[0].value == "mine, g: nothing varies, or no cell is done yet"


def test_page_when_a_folder_is_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bad in (tmp_path, tmp_path / "nowhere"):
        said = []
        for command in ("explore", "report"):
            assert cli.main([command, str(bad)]) == 2
            said.append(capsys.readouterr().err.removeprefix(f"i2vae {command}: "))
        assert said[0] == said[1] and f"{bad} is not a run directory (no run.json)" in said[0]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LayoutError, match=r"other\.csv holds no table of a sweep"):
        write_page([tmp_path / "other.csv"], tmp_path)


def test_of_user_when_it_is_not_trained(tiny: Parameters, tmp_path: Path) -> None:
    run = stages.open_run(tiny, tmp_path / "new")
    stages.prepare(run)
    with pytest.raises(LayoutError, match="holds no saved model"):
        widgets.of_user(run.folder)
    assert list(Page([run.folder]).titles) == ["data", "training"]


def test_of_user_when_it_is_another_system(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(run.folder, folder)
    header = json.loads((folder / "model" / "model.json").read_text())
    (folder / "model" / "model.json").write_text(json.dumps(header | {"system": "savae"}))
    with pytest.raises(LayoutError, match="holds a model of savae, not of i2vae"):
        widgets.of_user(recorded(folder))


def test_write_page_when_served(run: Run, tmp_path: Path) -> None:
    path = write_page([run.folder], tmp_path)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    about, cell = notebook.cells
    assert about.source.startswith(f"# Explorers: {run.folder.name}\n") and run.folder.name in notebook.metadata.title
    assert cell.source == f"from i2vae_lib.explorers import widgets\n\nwidgets.Page({[str(run.folder.resolve())]!r})"
    template = tmp_path / "voila" / "templates" / "kit"
    assert json.loads((template / "conf.json").read_text()) == {"base_template": "lab"}


def test_write_page_when_called_imports_nothing_heavy(run: Run, tmp_path: Path) -> None:
    """Else the command is silent for seconds before the server starts, which imports as much again."""
    sweep_table().to_csv(tmp_path / "mine.csv", index=False)
    code = (
        "import sys; from pathlib import Path; from i2vae_lib.explorers.contents import write_page; "
        f"write_page([{str(run.folder)!r}, {str(tmp_path / 'mine.csv')!r}], Path({str(tmp_path)!r})); "
        "print(sorted({'torch', 'pandas', 'scipy', 'duckdb', 'plotly', 'ipywidgets', 'voila'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and (tmp_path / "explore.ipynb").is_file()


def test_explore_when_called(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It starts isolated: a folder, a configuration of its own, nothing of the working directory, a token."""
    called: dict[str, Any] = {}
    popen = subprocess.Popen

    def serve(command: list[str], **words: Any) -> Any:
        called.update(words, command=command, there=Path(command[4]).is_file())
        return popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)

    for name in ("voila.py", "voila.json", "argparse.py"):
        (tmp_path / name).write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}relative")
    monkeypatch.setattr(subprocess, "Popen", serve)
    assert cli.main(["explore", str(run.folder), "--port", "9999", "--no-browser"]) == 0
    assert "http" not in capsys.readouterr().out  # the server says it, once it listens
    assert called["command"][:4] == [sys.executable, "-P", "-m", "i2vae_lib.explorers.page"] and called["there"]
    assert called["command"][5:] == ["9999", "--no-browser"] and called["stdin"] == subprocess.PIPE
    own = str(Path(called["command"][4]).parent)
    assert called["cwd"] == own != str(tmp_path) and not Path(own).exists()
    assert {called["env"][name] for name in ("JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")} == {own}
    assert (called["env"]["PYTHONSAFEPATH"], called["env"]["PYTHONPATH"]) == ("1", str(tmp_path / "relative"))
    token = called["env"]["I2VAE_PAGE_TOKEN"]
    assert len(token) >= 32 and token not in " ".join(called["command"])


def test_explore_when_its_port_is_taken(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["explore", str(run.folder), "--port", str(port), "--no-browser"]) == 2
    said = capsys.readouterr()
    assert f"--port {port} cannot be had (address already in use)" in said.err and "http" not in said.out


@pytest.mark.slow
def test_explore_when_it_says_where_it_listens_does(run: Run) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    command = [sys.executable, "-m", "i2vae_lib", "explore", str(run.folder), "--port", str(port), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as explorer:
        try:
            assert explorer.stdout is not None
            line = next(one for one in explorer.stdout if "token=" in one)
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                assert line.startswith(f"http://127.0.0.1:{port}/?token=")
        finally:
            explorer.terminate()


@pytest.mark.slow
def test_explore_when_it_is_ended_while_a_kernel_starts_is_silent(run: Run) -> None:
    command = [sys.executable, "-m", "i2vae_lib", "explore", str(run.folder), "--port", "18862", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as explorer:
        kernels: list[psutil.Process] = []
        while explorer.poll() is None and not kernels:
            children = psutil.Process(explorer.pid).children(recursive=True)
            kernels = [one for one in children if "ipykernel_launcher" in " ".join(one.cmdline())]
        time.sleep(1)  # it imports
        explorer.terminate()
        said, _ = explorer.communicate(timeout=30)
        assert kernels and "Traceback" not in said and not psutil.wait_procs(kernels, timeout=5)[1]


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999", "abc", ""])
def test_explore_when_there_is_no_such_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["explore", "R", f"--port={port}"])
    assert ended.value.code == 2 and "a port is a number from 1 to 65535" in capsys.readouterr().err


def test_explore_when_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explore", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
