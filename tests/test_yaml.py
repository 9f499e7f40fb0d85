"""The reader of YAML: what would fill the memory, or counts in silence, is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib import cli
from i2vae_lib.data.logs.pair_file import read_pair_file
from i2vae_lib.data.rows import DataError
from i2vae_lib.params import ParameterError, load, read_yaml
from i2vae_lib.yaml_files import parse

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10}]\n" for i in range(1, 10))
PRESET = "data: synthetic\nprotocol: strict\nseed: 0\nepochs: 1\nout: null\noverrides: {}\n"
WRONG = {
    "bomb": (BOMB, r"more than 100,000 values[\s\S]*line 5"),
    "itself": ("a: &a [*a]", r"\*a holds itself[\s\S]*line 1, column 8"),
    "deep": ("name: " + "[" * 6000, r"nested too deeply[\s\S]*line 1"),
    "deeper": ("x: " + "[" * 100_000, "nested too deeply"),
    "deep mappings": ("\n".join(" " * i + "a:" for i in range(400)), r"nested too deeply[\s\S]*line 3"),
    "twice": ("name: a\nx: 1\nname: b\n", r"'name' stands here[\s\S]*line 1[\s\S]*and again[\s\S]*line 3"),
    "twice inside": ("x: {path: a, path: b}", r"'path' stands here"),
    "a month 13": ("name: 2020-13-45", "a value that cannot be read: month"),
    **{
        f"number {one}": (f"name: pair\nmin_user: {one}\n", rf"{one} would be read as {value}[\s\S]*line 2")
        for one, value in (
            ("010", 8),
            ("1:30", 90),
            ("1_0", 10),
            ("0x1F", 31),
            ("0b11", 3),
            ("1_0.5", 10.5),
            ("1:30.5", 90.5),
        )
    },
    "long": ("# " + "a" * 10_000_000, "10,000,002 characters, where 1,000,000 are the most"),
    "digits": ("name: " + "1" * 5000, "a value that cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_when_they_would_do_harm(tmp_path: Path, case: str) -> None:
    text, message = WRONG[case]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"mine\.yaml[\s\S]*{message}"):
        read_pair_file(path)
    with pytest.raises(ParameterError, match=rf"mine\.yaml[\s\S]*{message}"):
        read_yaml(path)


@pytest.mark.parametrize("text", ["8", "-3", "+3", "0", "0.5", "1.", ".5", "1.0e-3", "1.5E+3", ".inf", "-.inf"])
def test_numbers_in_plain_digits_are_read(text: str) -> None:
    assert parse(text) == float(text.replace(".inf", "inf")) and parse(f"'{text}'") == text


def test_set_when_a_key_is_given_twice(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--set", "model.d=8", "--set", "model.d=16"], "--set model.d is given twice"),
        (["--set", "system=svae", "--system", "i2vae"], "--set and --system both give 'system'"),
        (["--set", "model.d=010"], "010 would be read as 8"),
    ):
        assert cli.main(["run", *words]) == 2
        assert told in capsys.readouterr().err


def test_set_when_a_value_would_do_harm(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--set", "model.d=" + "[" * 5000]) == 2
    assert "--set model.d=" in (said := capsys.readouterr().err) and "nested too deeply" in said and len(said) < 1_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(categories=["L", "N"])),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
        max_leaves=20,
    )
)
@settings(deadline=None, max_examples=50)
def test_parse_when_nothing_is_wrong_is_as_any_other(content: object) -> None:
    text = yaml.safe_dump(content)
    assert parse(text) == yaml.safe_load(text) == content


def test_parse_when_an_alias_is_short() -> None:
    assert parse("a: &a {b: 1}\nc: *a\nd: {<<: *a, b: 2}") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 2}}


@pytest.mark.parametrize("name", ['"../../x"', "a/b", '"a\\\\b"', '""', "[1]", "a b", '"a\\0b"', "x" * 200])
def test_preset_when_its_name_would_leave_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"preset: {name}\n{PRESET}", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"mine\.yaml.*'preset'.*letters, digits"):
        load(str(path))


@pytest.mark.parametrize("key", ["\x1b[31mred", "model\u202e.d", "a\x9b2J", "a\rb", "a\u200fb"])
@pytest.mark.parametrize("where", ["preset", "overrides", "option"])
def test_messages_when_a_key_would_steer_the_terminal(
    where: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, quoted = tmp_path / "mine.yaml", '"' + "".join(f"\\u{ord(one):04x}" for one in key) + '"'
    whole = PRESET + "preset: mine\n"
    of_preset = whole + f"{quoted}: 3\n" if where == "preset" else whole.replace("{}", f"{{{quoted}: 3}}")
    path.write_text(of_preset if where != "option" else whole)
    words = ["--set", f"{key}=3"] if where == "option" else []
    assert cli.main(["run", "--preset", str(path), "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    odd = next(one for one in key if not one.isascii() or not one.isprintable())
    assert odd not in told and ascii(odd)[1:-1] in told
