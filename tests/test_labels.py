"""What a reader sees has words; what files and options have keeps its name."""

from __future__ import annotations

import pandas as pd
import pytest

from i2vae_lib import sample_run
from i2vae_lib.data.kinds import KINDS
from i2vae_lib.labels import AFTER, label, labelled, latent
from i2vae_lib.params import read_preset
from i2vae_lib.places import preset_folder
from i2vae_lib.recommenders.registry import REGISTRY
from i2vae_lib.stages import load_history
from i2vae_lib.yaml_files import parse


@pytest.mark.parametrize("name", REGISTRY)
def test_label_when_it_is_a_system(name: str) -> None:
    title = REGISTRY[name].title
    assert label(name) == title and label(name + AFTER) == f"{title} after the last"
    assert label(f"{name} (model.d=64, …)") == f"{title} (model.d=64, …)" and label(f"{name} #2") == f"{title} #2"
    assert label(title) == title


def test_labels_when_they_are_of_kinds_and_of_a_training() -> None:
    for name in (*KINDS, *load_history(sample_run())):
        assert "_" not in label(name).replace("z_", "z") and "/" not in label(name), name


def test_labels_when_they_are_of_what_the_recipe_and_sweeps_set() -> None:
    asked = set(read_preset("tuned")["overrides"]) - {"system"}
    for path in (preset_folder() / "sweeps").glob("*.yaml"):
        for grid in parse(path.read_text(encoding="utf-8")).get("grids", {}).values():
            asked |= {key for axes in (grid.get("product"), grid.get("zip")) for key in axes or () if "." in key}
    assert "model.T" in asked
    for key in asked:
        assert label(key).endswith(f" ({key})"), key


def test_latent_when_x_may_be_a_domain() -> None:
    assert (latent("x"), latent("t_y"), latent("kl/a_x")) == ("zˣ", "z_tʸ", "z_aˣ")
    assert label("x") == "x" and label("kl/x") == "KL of zˣ" and label("soon_after") == "soon_after"


def test_table_when_it_is_labelled() -> None:
    table = pd.DataFrame({"best": ["itemknn"], "system": [1.25], "kind": ["no_history"], "latent": ["t_x"], "x": ["x"]})
    found = labelled(table)
    assert found.iloc[0].tolist() == ["ItemKNN", 1.25, "no history", "z_tˣ", "x"]
    assert found["system"].dtype == float and labelled(table.iloc[:0]).empty
