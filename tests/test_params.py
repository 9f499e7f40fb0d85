"""Parameters: every value has one place, and what the loader does not know it refuses by name."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from i2vae_lib.params import (
    PRESET_NAMES,
    ParameterError,
    declared,
    from_notebook,
    known_keys,
    load,
    of_result,
    read_preset,
)
from i2vae_lib.places import preset_names
from i2vae_lib.runs import flatten

PAPER = {  # the paper's D.1, 3.4.3, 4.1, 4.2 and F.2
    "split.validation_share": 0.1,
    "split.cold_share": 0.2,
    "psg.d": 64,
    "psg.layers": 3,
    "psg.learning_rate": 1e-3,
    "psg.decay": 1e-4,
    "psg.batch_size": 2048,
    "psg.validation_share": 0.2,
    "psg.recalled": 20,
    "model.d": 128,
    "model.T": 20,
    "model.T_pseudo": 40,
    "objective.reconstruction": "bce",
    "objective.lambda_a": 5e-3,
    "objective.lambda_c": 1e-3,
    "objective.a": 0.8,
    "objective.b": 0.8,
    "objective.kl_weight": 1.0,
    "objective.kl_annealing_epochs": 0,
    "objective.free_bits": 0.0,
    "training.batch_size": 512,
    "training.epochs": 100,
    "training.patience": 0,
    "evaluation.negatives": 999,
}
PRESETS = preset_names()


def value(parameters, key):
    return reduce(getattr, key.split("."), parameters)


def written(folder: Path, **changes) -> str:
    """Path of a preset file that differs from smoke's in ``changes`` (None drops a name)."""
    content = read_preset("smoke") | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({name: one for name, one in content.items() if one != "dropped"}))
    return str(path)


def test_paper_preset_when_read_gives_every_key_once():
    given = set(read_preset("paper")["overrides"])
    assert given == set(known_keys()) - {"training.epochs"}  # epochs is a top-level name of its own


@pytest.mark.parametrize(("key", "expected"), PAPER.items())
def test_paper_preset_when_loaded_has_the_value_of_the_paper(key, expected):
    assert value(load("paper"), key) == expected


def test_paper_preset_when_loaded_trains_within_the_learning_rates_of_the_paper():
    assert 3e-4 <= load("paper").training.learning_rate <= 8e-4


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_when_loaded_says_its_own_name_and_epochs(preset):
    parameters = load(preset)
    assert (parameters.preset, parameters.training.epochs) == (preset, read_preset(preset)["epochs"])
    for key, given in read_preset(preset)["overrides"].items():
        found = value(parameters, key)
        assert (list(found) if isinstance(found, tuple) else found) == given


def test_presets_when_listed_include_those_that_the_commands_name():
    assert {"smoke", "demo", "paper"} <= set(PRESETS)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("training.learning_rate", "1e-3", 0.001),
        ("model.d", "64", 64),
        ("model.causal", "false", False),
        ("objective.lambda_a", "0", 0.0),
    ],
)
def test_load_when_a_value_comes_as_a_string_coerces_it(key, given, expected):
    found = value(load("paper", {key: given}), key)
    assert (found, type(found)) == (expected, type(expected))


def test_load_when_names_are_given_prefers_them_to_the_preset():
    parameters = load("smoke", data="cloth_sport", protocol="released", seed="3", epochs="2", out="somewhere")
    found = (parameters.data, parameters.protocol, parameters.seed, parameters.training.epochs, parameters.out)
    assert found == ("cloth_sport", "released", 3, 2, "somewhere")


def test_load_when_an_override_is_given_prefers_it_to_the_preset():
    assert load("smoke", {"model.d": 32}).model.d == 32


@pytest.mark.parametrize(
    ("preset", "overrides", "nearest"),
    [
        ("papr", None, "'paper'"),
        ("smoke", {"model.dd": 8}, "'model.d'"),
        ("smoke", {"lambda_a": 8}, "'objective.lambda_a'"),
        ("smoke", {"objective.lamda_c": 8}, "'objective.lambda_c'"),
        ("smoke", {"trainin.batch_size": 8}, "'training.batch_size'"),
    ],
)
def test_load_when_a_name_is_unknown_suggests_the_nearest(preset, overrides, nearest):
    with pytest.raises(ParameterError, match=f"did you mean {nearest}"):
        load(preset, overrides)


def test_load_when_nothing_is_near_lists_what_is_known():
    with pytest.raises(ParameterError, match=r"unknown preset 'zzzzzz'.*known: .*paper"):
        load("zzzzzz")


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("model.d", "wide"),
        ("model.d", 12.5),
        ("model.d", 0),
        ("model.d", -8),
        ("model.d", None),
        ("model.heads", True),
        ("split.longest", True),
        ("objective.lambda_a", True),
        ("model.T", 0),
        ("model.T_pseudo", 0),
        ("model.dropout", 1.0),
        ("model.dropout", float("nan")),
        ("model.path", "straight"),
        ("model.causal", "maybe"),
        ("psg.kind", "lightgbm"),
        ("psg.folds", 0),
        ("psg.recalled", -1),
        ("split.validation_share", 0.0),
        ("split.cold_share", 1.0),
        ("split.data_seed", -1),
        ("synthetic.overlap", 1.5),
        ("objective.lambda_a", -1e-3),
        ("objective.lambda_c", float("inf")),
        ("training.learning_rate", 0.0),
        ("training.learning_rate", "fast"),
        ("training.epochs", 0),
        ("evaluation.negatives", 0),
    ],
)
def test_load_when_a_value_is_of_the_wrong_type_or_range_names_the_key(key, given):
    with pytest.raises(ParameterError, match=f"'{key}'"):
        load("smoke", {key: given})


@pytest.mark.parametrize(("name", "given"), [("protocol", "stict"), ("seed", -1), ("seed", "one")])
def test_load_when_a_top_level_value_is_wrong_names_it(name, given):
    with pytest.raises(ParameterError, match=f"'{name}'"):
        load("smoke", **{name: given})


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"model.d": 10, "model.heads": 3}, "model.heads"),
        ({"model.d": 18}, "model.cross_heads"),  # 4 heads
        ({"psg.recalled": 40}, "psg.recalled"),  # T' = 40 leaves no room
        ({"synthetic.items": 5}, "synthetic.linked_items"),
        ({"psg.recall_from": "history_and_target"}, "psg.recall_from"),  # under strict evaluation rows' targets leak
    ],
)
def test_load_when_two_values_contradict_each_other_names_one(overrides, named):
    with pytest.raises(ParameterError, match=f"'{named}'"):
        load("smoke", overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "unknown name 'sede'; did you mean 'seed'"),
        ({"epochs": "dropped"}, "missing epochs"),
        ({"overrides": {"model.q": 1}}, "unknown key 'model.q'"),
        ({"overrides": [1]}, "overrides must map dotted keys to values"),
        ({"overrides": {"model.d": [16, 32]}}, r"mine.yaml': 'model.d': Input should be a valid integer \(got \[16"),
        ({"seed": [0]}, "mine.yaml': 'seed': Input should be"),
        ({"epochs": True}, "mine.yaml': 'training.epochs': Input should be a number, not true or false"),
    ],
)
def test_preset_file_when_its_names_are_wrong_is_refused(tmp_path, changes, message):
    with pytest.raises(ParameterError, match=message):
        load(written(tmp_path, **changes))


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- 1\n", "expected the names preset")])
def test_preset_file_when_it_is_no_mapping_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message):
        load(str(path))


def test_preset_file_when_it_lists_differences_keeps_the_rest_of_paper(tmp_path):
    parameters = load(written(tmp_path, overrides={"model.d": 64}, epochs=7))
    assert (parameters.model.d, parameters.training.epochs) == (64, 7)
    assert parameters.objective == load("paper").objective


def test_parameters_when_assigned_to_stay_as_they_were():
    parameters = load("smoke")
    with pytest.raises(ValidationError, match="frozen"):
        parameters.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        parameters.model.d = 1
    assert parameters == load("smoke")


def test_of_result_when_nothing_is_changed_that_a_result_depends_on():
    one = load("smoke", {"training.device": "cpu"}, data="one/pair.yaml", out="there").model_dump(mode="json")
    other = load("smoke", {"training.device": "cuda"}, data="two/pair.yaml").model_dump(mode="json")
    assert of_result(one) == of_result({**other, "preset": "renamed"})
    assert of_result(one, ["dasl"]).keys() == one.keys() - {"preset", "out", "dasl"}
    changed = load("smoke", {"training.learning_rate": 0.5}, data="pair").model_dump(mode="json")
    before, after = flatten(of_result(one)), flatten(of_result(changed))
    assert [key for key in before | after if before.get(key) != after.get(key)] == ["training.learning_rate"]


def test_epochs_when_given_by_both_names_are_refused(tmp_path):
    assert load("smoke", {"training.epochs": 3}).training.epochs == load("smoke", epochs=3).training.epochs == 3
    with pytest.raises(ParameterError, match=r"epochs \(5\) and training.epochs \(10\) are one parameter"):
        load("smoke", {"training.epochs": 10}, epochs=5)
    with pytest.raises(ParameterError, match=r"overrides: training\.epochs is called epochs there"):
        load(written(tmp_path, overrides={"training.epochs": 7}, epochs=7))


# --- what differs from the preset -------------------------------------------------------------------------------------


def test_changed_when_nothing_is_that_a_result_depends_on_is_empty():
    given = load("smoke", {"training.device": "cuda", "model.d": "16"}, seed=0, epochs=8, out="there")
    assert given.changed == {} and given.is_preset("demo", "smoke") and not given.is_preset("demo")


def test_changed_when_values_differ_names_them_by_key(tmp_path):
    mine = load(written(tmp_path, preset="mine", seed=4), {"model.d": 8}, seed=5, protocol="strict", epochs=1)
    assert mine.changed == {"protocol": "strict", "seed": 5, "model.d": 8, "training.epochs": 1}
    assert load(written(tmp_path, preset="mine", seed=4)).is_preset("mine")  # the file's own values, wherever it lies
    assert mine.model_copy(update={"seed": 4}).changed == {
        key: mine.changed[key] for key in mine.changed if key != "seed"
    }
    assert not mine.is_preset("mine") and mine == mine.model_validate(mine.model_dump())


# --- a notebook's parameters ------------------------------------------------------------------------------------------

DECLARED = "preset: str = 'smoke'\ndata: str = 'synthetic'\nprotocol: str = 'strict'\nseed: int = {}\n"
DECLARED += "epochs: int = None\nout: str = None\noverrides: dict = {{}}  # help\n"
ASKED = "from i2vae_lib import from_notebook\nP = from_notebook(globals())"


class Kernel:
    """Runs cells as IPython does: what was executed stands in ``In``, the running cell included."""

    def __init__(self):
        self.names = {"In": [""], "Out": {}}

    def run(self, *cells):
        for source in cells:
            self.names["In"].append(source)
            exec(source, self.names)
        return self.names["P"]


def test_notebook_when_run_again_takes_no_later_variable_for_a_parameter():
    kernel = Kernel()
    later = "rows = 5\nnames = ['a']", "x = 3", "import os\nfolder = str(os.sep)"
    assert kernel.run(DECLARED.format(0), ASKED, *later).seed == 0
    assert kernel.run(DECLARED.format(0), ASKED, *later).seed == 0
    assert kernel.run(DECLARED.format(7), ASKED).seed == 7
    assert kernel.run(*later, ASKED).seed == 7


def test_notebook_when_a_variable_was_there_before_takes_it_for_none():
    assert Kernel().run("x = 3", DECLARED.format(2), ASKED).seed == 2


@pytest.mark.parametrize("wrong", ["# Parameters\nepoch = 3\n", "# Parameters\nepoch = float('nan')\nseed = 1\n"])
def test_notebook_when_papermill_injects_an_unknown_name_is_refused_at_any_time(wrong):
    kernel = Kernel()
    for _ in range(2):
        with pytest.raises(ParameterError, match="unknown parameter 'epoch'; did you mean 'epochs'"):
            kernel.run(DECLARED.format(0), wrong, ASKED)
    assert kernel.run(DECLARED.format(0), "# Parameters\nseed = 5\n", ASKED, "epoch = 3", ASKED).seed == 5
    with pytest.raises(ParameterError, match="unknown parameter 'epoch'"):
        kernel.run(DECLARED.format(0) + "epoch = 3", ASKED)


@pytest.mark.parametrize("long", ["w" * 5_000, "w w " * 1_250], ids=["one word", "with blanks"])
def test_notebook_when_what_it_gives_is_very_long_is_not_told_it_whole(long):
    given = dict.fromkeys(PRESET_NAMES) | {"preset": "smoke"}
    for more in ({long: 1}, {"preset": long}, {"preset": f"{long}.yaml"}, {"protocol": long}, {"seed": long}) + tuple(
        {"overrides": one} for one in (long, {long: 1}, {"model.d": long}, {"psg.kind": [long]})
    ):
        with pytest.raises(ParameterError) as caught:
            from_notebook(given | more)
        assert "w" in str(caught.value) and long.strip() not in str(caught.value) and len(str(caught.value)) <= 1_500


def test_notebook_when_its_cells_are_not_known_counts_every_plain_value():
    given = dict.fromkeys(PRESET_NAMES) | {"preset": "smoke"}
    assert from_notebook(given | {"_private": 1, "module": pytest}).preset == "smoke"
    with pytest.raises(ParameterError, match="unknown parameter 'sede'; did you mean 'seed'"):
        from_notebook(given | {"sede": 1, "In": []})
    with pytest.raises(ParameterError, match="must declare overrides"):
        declared({name: given[name] for name in PRESET_NAMES[:-1]}, PRESET_NAMES)


@pytest.mark.parametrize("preset", ["paper", "smoke", "tuned"])
def test_protocol_released_when_loaded_has_the_published_pseudo_sequences_and_no_others(preset):
    p = load(preset, {"psg.folds": 1}, protocol="released")
    assert (p.psg.folds, p.psg.recall_from) == (1, "history_and_target") and {*p.changed} <= {"protocol"}
    assert load(preset).psg.recall_from == "history"
    with pytest.raises(ParameterError, match=r"'psg\.folds': 3 under protocol released.*\(1\): leave it out"):
        load(preset, {"psg.folds": 3}, protocol="released")
