"""Damaged logs and damaged runs by the hundred: each is read right or refused, and nothing else happens."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from i2vae_lib import cli
from i2vae_lib.data.logs.describe import describe_files
from i2vae_lib.data.logs.join import load_logs
from i2vae_lib.data.rows import DataError

pytestmark = pytest.mark.slow
PAIR = {
    "name": "small",
    "x": {"name": "First", "path": "x.csv"},
    "y": {"name": "Second", "path": "y.csv"},
    "columns": {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "unit": "s"},
    "min_user": 1,
    "min_item": 1,
}
ODD = [b"\x00", b'"', b"\r", b"\n\n", b"\xff\xfe", "\u200b".encode(), b",,,,", b"=1+1", b"1e309", b"-1", b"9" * 25]
ODD += [b" ", b"\t", b"::", b"NaN", b"\x1a", b"\xef\xbb\xbf", b"'", b"{", b"[", b"a" * 70_000, b"1970-01-01", b"\\"]


def log(prefix: str) -> bytes:
    lines = [f"u{u},{prefix}{(u * k) % 13},{1_400_000_000 + 86_400 * k + 977 * u}" for u in range(20) for k in range(8)]
    return ("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n").encode()


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bytes flipped, cut, doubled, put in, lines exchanged, the end cut off."""
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(content)))
        end = min(len(content), at + int(rng.integers(1, 40)))
        lines = content.split(b"\n")
        i, j = rng.integers(len(lines), size=2)
        lines[i], lines[j] = lines[j], lines[i]
        content = [
            content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :],
            content[:at] + content[end:],
            content[:end] + content[at:],
            content[:at] + ODD[rng.integers(len(ODD))] + content[at:],
            b"\n".join(lines),
            content[: at + 1],
            content.replace(b",", b";") if rng.random() < 0.1 else content.replace(b",", b", ", int(rng.integers(4))),
        ][rng.integers(7)] or b"\n"
    return content


def records(content: bytes) -> int:
    """How many rows a table has, by Python's own reader."""
    return sum(bool(row) for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))) - 1


@pytest.mark.tries("damaged logs", 200)
@pytest.mark.timeout(600)
def test_logs_when_they_are_damaged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(PAIR))
    (tmp_path / "y.csv").write_bytes(log("d"))
    read = 0
    for _ in range(100):
        content = mutated(log("a"), rng)
        (tmp_path / "x.csv").write_bytes(content)
        try:
            found = load_logs(tmp_path / "pair.yaml")
        except DataError as error:
            assert "x.csv" in str(error) or "First" in str(error), error
        else:
            read += 1
            assert found.filters["events"].iloc[0] == records(content)  # no row was dropped in silence
        try:
            described = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
        except DataError as error:
            assert "x.csv" in str(error)
        else:
            assert described.yaml or described.refusal
    assert 10 < read < 90


def emptied(content: bytes) -> bytes:
    return b""


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


@pytest.fixture(scope="module")
def finished(whole_run: tuple[Path, list[str]]) -> Path:
    """A finished run. Copy it before changing it."""
    return whole_run[0]


@pytest.mark.tries("damaged files of a run", 25)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("damage", [emptied, halved, flipped])
def test_run_when_a_file_is_damaged(
    damage: Callable[[bytes], bytes], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command gives what it gave before, or refuses and names what is wrong."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    commands = (
        ["recommend", str(folder), "--history", "x=", "--domain", "x"],
        ["compare", str(folder), "--resamples", "20"],
    )
    capsys.readouterr()
    whole = [(cli.main(words), capsys.readouterr().out) for words in commands]
    assert [status for status, _ in whole] == [0, 0]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > 1]
    assert len(files) >= 25
    refused = 0
    for path in files:
        before = path.read_bytes()
        path.write_bytes(damage(before))
        for words, (_, said) in zip(commands, whole, strict=True):
            status = cli.main(words)
            out, err = capsys.readouterr()
            assert (status, out) == (0, said) or (status == 2 and str(folder) in err), (path.name, words, status, err)
            refused += status == 2
        path.write_bytes(before)
    assert refused >= 6
