"""Logs: the counts of the real pair, what is wrong with a bad file, and that neither row order nor engine decides."""

from __future__ import annotations

import functools
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from i2vae_lib.data import DOMAINS, DataError
from i2vae_lib.data.filters import whole_core
from i2vae_lib.data.logs import amazon
from i2vae_lib.data.logs.amazon import build_amazon2014, fetch_amazon2014
from i2vae_lib.data.logs.describe import describe_files
from i2vae_lib.data.logs.join import load_logs
from i2vae_lib.data.logs.pair_file import Columns, PairFile, Side, read_pair_file
from i2vae_lib.runs import sha256_of
from tests.helpers.servers import QuietHandler, serving

ROOT = Path(__file__).parent.parent
HEADER = "user_id,item_id,timestamp\n"
DAY = 86_400
T = 1_388_707_200
# users 01, 02, 03 in both domains; item "c" in both files
X = "".join(f"0{u},{i},{T + DAY * k}\n" for u in (1, 2, 3) for k, i in enumerate("abc"))
Y = "".join(f"0{u},{i},{T + DAY * k + 1}\n" for u in (3, 2, 1) for k, i in enumerate("cde"))
PAIR = {
    "name": "small",
    "x": {"name": "First", "path": "x.csv"},
    "y": {"name": "Second", "path": "y.csv"},
    "columns": {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "unit": "s"},
    "min_user": 2,
    "min_item": 2,
}
AMAZON = {key: value for key, value in PAIR.items() if key != "columns"}
COUNTS = {  # k: events, users, items of Food and Kitchen, users in both; counted apart from this code
    5: ((37_470, 6_558, 2_301), (44_475, 8_147, 3_930), 4_139),
    3: ((59_729, 10_708, 6_682), (66_541, 11_562, 8_618), 7_984),
    2: ((77_635, 13_624, 13_048), (84_499, 14_010, 15_419), 11_709),
}


@pytest.fixture(scope="module")
def food_kitchen(logs_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("I2VAE_DATA_DIR", str(logs_folder))
        return read_pair_file(ROOT / "params" / "pairs" / "food_kitchen.yaml")


@pytest.fixture(autouse=True)
def no_shared_folder(monkeypatch):
    monkeypatch.delenv("I2VAE_DATA_DIR", raising=False)


def put(folder: Path, x: str | bytes = HEADER + X, y: str | bytes = HEADER + Y, /, **changes) -> Path:
    """The small pair on disk, with changes of the pair file's top-level keys."""
    for name, text in (("x.csv", x), ("y.csv", y)):
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    base = AMAZON if "format" in changes else PAIR
    (folder / "pair.yaml").write_text(yaml.safe_dump({**base, **changes}))
    return folder / "pair.yaml"


def put_parquet(folder: Path, **columns) -> Path:
    """As :func:`put`, with x as Parquet; columns replace those of the table."""
    table = pd.read_csv(put(folder).parent / "x.csv", dtype={"user_id": str})
    table.assign(**columns).to_parquet(folder / "x.parquet")
    return put(folder, x={"name": "First", "path": "x.parquet"})


def triples(pair, d: str) -> list[tuple[str, str, int]]:
    """What is left of a domain, in people's ids."""
    events = pair.log.events[d]
    return list(
        zip(pair.log.users[events.user], pair.catalogue.decode(d, events.item), events.time.tolist(), strict=True)
    )


# --- the real pair ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", COUNTS)
def test_real_logs_when_filtered_have_the_counts_of_their_cores(food_kitchen, k):
    pair = whole_core(load_logs(food_kitchen.model_copy(update={"min_item": k})))
    last = pair.filters.groupby("domain").last()
    both = set(pair.log.events["x"].user.tolist()) & set(pair.log.events["y"].user.tolist())
    assert len(both) == COUNTS[k][2]
    for d, name, expected in zip(DOMAINS, ("Food", "Kitchen"), COUNTS[k], strict=False):
        events = pair.log.events[d]
        assert tuple(last.loc[name, ["events", "users", "items"]]) == expected
        assert (len(events), len(np.unique(events.user)), pair.catalogue.size(d)) == expected
        assert np.array_equal(np.unique(events.item), np.arange(1, expected[2] + 1))
        assert min(Counter(events.user.tolist()).values()) >= 3 and min(Counter(events.item.tolist()).values()) >= k
        assert (events.user.dtype, events.item.dtype, events.time.dtype) == (np.int32, np.int32, np.int64)
        assert (events.time % DAY == 0).all() and events.time.max() < T * 1.02


def test_real_logs_when_read_bring_titles(food_kitchen):
    pair = load_logs(food_kitchen)
    assert pair.name == "food_kitchen" and pair.catalogue.names == {"x": "Food", "y": "Kitchen"}
    assert pair.catalogue.label("x", [1]) == ["Japanese Kit Kat Maccha Green Tea Flavor (5 Bag) (4.91oz x 5)"]
    titles, ids = pair.catalogue.titles["y"], pair.catalogue.ids["y"]
    assert titles is not None and 0 < (titles == ids).sum() < len(ids)  # some have none and show their id
    first = pair.filters[pair.filters["step"] == "read"]
    assert first["events"].tolist() == [96_804, 105_598] and first["items"].tolist() == [26_924, 31_964]
    assert first["users"].tolist() == [16_579, 16_579]


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_small_pair_when_loaded_is_numbered_in_the_order_of_ids(tmp_path):
    pair = load_logs(put(tmp_path))
    assert pair.log.users.tolist() == ["01", "02", "03"]  # the zeros stay
    assert [pair.catalogue.ids[d].tolist() for d in DOMAINS] == [["a", "b", "c"], ["c", "d", "e"]]
    assert pair.catalogue.links.tolist() == [[3, 1]] and pair.catalogue.links.dtype == np.int32
    assert pair.catalogue.titles == {"x": None, "y": None}
    assert triples(pair, "x") == [(f"0{u}", i, T + DAY * k) for u in (1, 2, 3) for k, i in enumerate("abc")]


def test_small_pair_when_ids_are_each_domains_own_has_no_links(tmp_path):
    assert load_logs(put(tmp_path, same_ids_are_same_items=False)).catalogue.links.shape == (0, 2)


def test_duplicates_when_read_leave_the_first_in_time(tmp_path):
    again = f"01,a,{T - 5}\n01,a,{T + 9}\n02,b,{T + 10 * DAY}\n"
    pair = load_logs(put(tmp_path, HEADER + again + X + again))
    found = {(u, i): t for u, i, t in triples(pair, "x")}
    assert len(pair.log.events["x"]) == len(found) == 9
    assert found["01", "a"] == T - 5 and found["02", "b"] == T + DAY
    assert pair.filters["removed"].tolist() == [0, 6, 0, 0]
    # the times of the others still count where the cuts of protocol temporal lie
    assert sorted(pair.repeats.tolist()) == [T - 5, T, T + 9, T + 9, T + 10 * DAY, T + 10 * DAY]


def test_filters_when_listed_have_a_line_a_step_and_domain(tmp_path):
    # user 04 has one event; without it item z has one; without z user 05 has one; without 05 item y has one …
    chain = f"04,z,{T}\n05,z,{T}\n05,y,{T}\n06,y,{T}\n06,a,{T}\n06,b,{T}\n"
    table = whole_core(load_logs(put(tmp_path, HEADER + X + chain))).filters
    assert table.columns.tolist() == ["step", "domain", "events", "users", "items", "removed"]
    assert table[table["domain"] == "First"].drop(columns="domain").values.tolist() == [
        ["read", 15, 6, 5, 0],
        ["first of each (user, item)", 15, 6, 5, 0],
        ["k-core round 1 (users)", 14, 5, 5, 1],
        ["k-core round 1 (items)", 13, 5, 4, 1],
        ["k-core round 2 (users)", 12, 4, 4, 1],
        ["k-core round 2 (items)", 11, 4, 3, 1],
    ]
    assert table[table["domain"] == "Second"]["removed"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_when_read_are_whole_seconds(tmp_path, unit):
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    x = "".join(f"0{u},{i},{T * scale + scale - 1}\n" for u in (1, 2) for i in "ab")
    columns = {**PAIR["columns"], "unit": unit}
    pair = load_logs(put(tmp_path, HEADER + x, HEADER + x.replace("a", "d"), columns=columns))
    assert set(pair.log.events["x"].time.tolist()) == {T}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("a,", '"a",'),
        lambda text: gzip.compress(text.encode(), mtime=0),
        lambda text: "".join(
            line.replace("\n", ".75\n") if i else line for i, line in enumerate(text.splitlines(True))
        ),
        lambda text: "".join(
            f'"{i},""x""",{line}' if i else f"n,{line}" for i, line in enumerate(text.splitlines(True))
        ),
    ],
    ids=["bom", "crlf", "tab", "semicolon", "empty lines", "no last end", "quotes", "gzip", "fraction", "more columns"],
)
def test_file_when_written_otherwise_gives_the_same(tmp_path, change):
    expected = load_logs(put(tmp_path))
    pair = load_logs(put(tmp_path, change(HEADER + X)))
    assert all(triples(pair, d) == triples(expected, d) for d in DOMAINS)
    assert pair.source_sha256 != expected.source_sha256


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"item_id": pd.Categorical(list("abc") * 3)},
        {"timestamp": np.tile(T + DAY * np.arange(3), 3) + 0.5},
        {"timestamp": [str(T + DAY * k) for k in range(3)] * 3},
    ],
    ids=["plain", "dictionary", "float64", "text"],
)
def test_parquet_when_read_gives_the_same(tmp_path, columns):
    pair = load_logs(put_parquet(tmp_path, **columns))
    assert triples(pair, "x") == triples(load_logs(put(tmp_path)), "x")


def test_parquet_when_ids_are_integers_makes_them_text(tmp_path):
    path = put_parquet(tmp_path, user_id=np.repeat([1, 2, 3], 3), item_id=np.tile([7, 8, 10], 3))
    (tmp_path / "y.csv").write_text((HEADER + Y).replace("\n0", "\n"))
    pair = load_logs(path)
    assert pair.log.users.tolist() == ["1", "2", "3"] and pair.catalogue.ids["x"].tolist() == ["10", "7", "8"]


@pytest.mark.parametrize("format", ["amazon2014", "amazon2018", "amazon2023"])
def test_amazon_layout_when_read_gives_the_same(tmp_path, format):
    def written(text: str) -> str:
        rows = [line.split(",") for line in text.splitlines()]
        if format == "amazon2023":
            return "user_id,parent_asin,rating,timestamp\n" + "".join(f"{u},{i},5.0,{t}000\n" for u, i, t in rows)
        return "".join(f"{u},{i},5.0,{t}\n" if format == "amazon2014" else f"{i},{u},5.0,{t}\n" for u, i, t in rows)

    expected = load_logs(put(tmp_path))
    pair = load_logs(put(tmp_path, written(X), written(Y), format=format))
    assert all(triples(pair, d) == triples(expected, d) for d in DOMAINS)


@pytest.mark.parametrize("folder", ["a[1]*", "user=7", "it's"])
def test_path_when_it_looks_like_a_pattern_is_taken_as_it_is(tmp_path, folder):
    (tmp_path / folder).mkdir()
    assert len(load_logs(put(tmp_path / folder)).log.users) == 3


def test_titles_when_some_are_missing_show_the_id(tmp_path):
    path = put(tmp_path, x={**PAIR["x"], "titles": "t.csv"}, y={**PAIR["y"], "titles": "t.parquet"})
    (tmp_path / "t.csv").write_text('item_id,title\nc,"Salt, fine"\na,\nzz,Not sold\nb,Zest\nb,Peel\n')
    pd.DataFrame({"asin": ["d"], "title": ["Pan"]}).to_parquet(tmp_path / "t.parquet")
    titles = load_logs(path).catalogue.titles
    assert titles["x"].tolist() == ["a", "Peel", "Salt, fine"] and titles["y"].tolist() == ["c", "Pan", "e"]
    (tmp_path / "t.csv").write_text("item_id,title\nzz,Not sold\n")
    with pytest.raises(DataError, match=r"t\.csv: not one id of column 'item_id' is an item of .*x\.csv"):
        load_logs(path)
    (tmp_path / "t.csv").write_text("item_id,titel\na,Salt\n")
    with pytest.raises(DataError, match=r"t\.csv, line 1: no column 'title'; did you mean 'titel'"):
        load_logs(path)


def test_fingerprint_when_folders_differ_is_the_same(tmp_path):
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found.append(load_logs(put(tmp_path / name)).source_sha256)
    assert found[0] == found[1]
    changes = [{"min_user": 3}, {"same_ids_are_same_items": False}, {"name": "other"}]
    assert len({*found, *(load_logs(put(tmp_path, **one)).source_sha256 for one in changes)}) == 4


def test_logs_when_loaded_show_their_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE")
    load_logs(put(tmp_path))
    printed = capsys.readouterr().err
    assert "loading small: 0/10 stage [" in printed and "loading small: 10/10 stage [" in printed
    (tmp_path / "f.csv").write_text(FOOD)
    (tmp_path / "k.csv").write_text(KITCHEN)
    build_amazon2014(tmp_path / "f.csv", tmp_path / "k.csv", tmp_path / "built")
    assert "building food_kitchen: 7/7 stage [" in capsys.readouterr().err


# --- properties -------------------------------------------------------------------------------------------------------

EVENTS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40)
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def reference_core(events, min_user: int, min_item: int) -> dict[tuple[int, int], int]:
    """The first event of each (user, item), then one user or item after the other, as slow as can be read."""
    kept: dict[tuple[int, int], int] = {}
    for user, item, when in events:
        kept[user, item] = min(when, kept.get((user, item), when))
    while True:
        users, items = Counter(u for u, _ in kept), Counter(i for _, i in kept)
        bad = [key for key in kept if users[key[0]] < min_user or items[key[1]] < min_item]
        if not bad:
            return kept
        for key in bad[:1]:  # the smallest step: whatever leaves first, the core is the same
            del kept[key]


@pytest.mark.slow
@QUICK
@given(x=EVENTS, y=EVENTS, least=st.tuples(st.integers(1, 3), st.integers(1, 3)), seed=st.integers(0, 2**16))
def test_logs_when_shuffled_give_the_reference_core(tmp_path, x, y, least, seed):
    rng = np.random.default_rng(seed)
    expected = {d: reference_core(events, *least) for d, events in zip(DOMAINS, (x, y), strict=True)}
    firsts = [reference_core(one, 1, 1) for one in (x, y)]
    common = sum(firsts[1].get(key) == when for key, when in firsts[0].items())
    assume(firsts[0] != firsts[1])  # one log given twice is refused, elsewhere
    assume(common < max(10, 0.9 * min(map(len, firsts))))  # and so is one that is a part of the other
    both = {u for u, _ in expected["x"]} & {u for u, _ in expected["y"]}
    found = []
    for _ in range(2):
        texts = [HEADER + "".join(f"u{u},i{i},{T + t}\n" for u, i, t in rng.permutation(one)) for one in (x, y)]
        path = put(tmp_path, texts[0], texts[1] + "\n", min_user=least[0], min_item=least[1])  # never the same content
        if both:
            found.append(whole_core(load_logs(path)))
        else:
            with pytest.raises(DataError, match=r"no overlapping user|nothing is left|no user is in both"):
                whole_core(load_logs(path))
    for pair in found:
        for d in DOMAINS:
            assert triples(pair, d) == sorted(
                ((f"u{u}", f"i{i}", T + t) for (u, i), t in expected[d].items()), key=lambda e: (e[0], e[2], e[1])
            )
            assert np.array_equal(pair.log.events[d].user, found[0].log.events[d].user)
            assert pair.catalogue.ids[d].tolist() == sorted({f"i{i}" for _, i in expected[d]})
        assert pair.log.users.tolist() == sorted({f"u{u}" for d in DOMAINS for u, _ in expected[d]})
        assert pair.filters.equals(found[0].filters) and pair.catalogue.digest() == found[0].catalogue.digest()


# --- the pair file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_users": 3}, r"unknown key 'min_users'; did you mean 'min_user'\?"),
        ({"name": "n" * 9_000}, r"'name': .*, found 'n{99}…$"),
        ({"k" * 9_000: 1}, r"unknown key 'k{100}…'; known: name, x, y, "),
        ({"x": {**PAIR["x"], "titel": "t"}}, r"unknown key 'x\.titel'; did you mean 'titles'\?"),
        ({"columns": {**PAIR["columns"], "time": "t"}}, r"unknown key 'columns\.time'; did you mean 'timestamp'\?"),
        (
            {"columns": {**PAIR["columns"], "unit": "sec"}},
            r"'columns\.unit': .*'s', 'ms', 'us', 'ns', .* or 'order'.*found 'sec'",
        ),
        ({"columns": {"user": "u"}}, r"missing key 'columns\.item'; missing key 'columns\.unit'"),
        (
            {"x": {**PAIR["x"], "path": ["a.csv"]}},
            r"'x\.path': Input should be the path of one file, found \['a\.csv'\]",
        ),
        ({"x": {**PAIR["x"], "more": "a.csv"}}, r"'x\.more': Input should be a list, found 'a\.csv'"),
        ({"columns": None}, "give either 'columns' or 'format', found neither: .* or released for published splits"),
        ({"columns": None, "format": "released", "tran": "a.csv"}, r".*unknown key 'tran'; did you mean 'train'\?"),
        ({"columns": PAIR["columns"], "format": "amazon2014"}, "give either 'columns' or 'format', found both"),
        *(
            (
                {"format": one},
                rf"'format': .*'amazon2014', 'amazon2018', 'amazon2023', 'c2dsr' or 'released', found {found}",
            )
            for one, found in (("amazon2015", "'amazon2015'"), (["released"], r"\['released'\]"))
        ),
        (
            {"columns": {**PAIR["columns"], "item": PAIR["columns"]["user"]}},
            r"columns names '.*' twice: user, item, timestamp and domain have a column each",
        ),
        ({"x": {**PAIR["x"], "more": ["a.csv"]}}, r"'more' of 'First' is of format c2dsr"),
        ({"min_user": 0}, r"'min_user': .*greater than or equal to 1, found 0"),
        ({"x": "a.csv"}, r"'x': Input should be a mapping with name, path, .*, found 'a\.csv'"),
        ({"columns": ["user"]}, r"'columns': Input should be a mapping with user, item, .*, found \['user'\]"),
        ({"min_item": "3"}, r"'min_item': .*valid integer, found '3'"),
        ({"min_item": True}, r"'min_item': .*valid integer, found True"),
        ({"same_ids_are_same_items": "no?"}, r"'same_ids_are_same_items': .*found 'no\?'"),
        ({"name": "a/b"}, r"'name': .*letters, digits and _ .*found 'a/b'"),
        ({"y": {**PAIR["y"], "name": "First"}}, "x and y are both named 'First'"),
        ({"y": {"name": "Second"}}, r"missing key 'y\.path'"),
    ],
)
def test_pair_file_when_a_key_is_wrong_says_which(tmp_path, change, message):
    path = put(tmp_path)
    content = {**PAIR, **change}
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(DataError, match=rf"pair\.yaml: {message}"):
        read_pair_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "expected the keys name, x, y, .* found NoneType"), ("- a", "found list"), ("a: [", "not valid YAML")],
)
def test_pair_file_when_it_is_no_mapping_is_an_error(tmp_path, text, message):
    (tmp_path / "pair.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"pair\.yaml: .*{message}"):
        read_pair_file(tmp_path / "pair.yaml")
    with pytest.raises(DataError, match=r"none\.yaml: no such pair file"):
        read_pair_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(("encoding", "named"), [("utf-16", "utf-16"), ("latin1", "latin1")])
def test_pair_file_when_it_is_not_utf8_says_how_to_convert_it(tmp_path, encoding, named):
    (tmp_path / "pair.yaml").write_text("name: größe", encoding=encoding)
    with pytest.raises(DataError, match=rf"pair\.yaml: not UTF-8 text; convert it, .*iconv -f {named} -t utf-8"):
        read_pair_file(tmp_path / "pair.yaml")


def test_pair_file_when_logs_lie_elsewhere_finds_them_in_the_shared_folder(tmp_path, monkeypatch):
    path = put(tmp_path)
    shared = tmp_path / "shared"
    (shared / "logs").mkdir(parents=True)
    (tmp_path / "x.csv").rename(shared / "x.csv")
    (tmp_path / "y.csv").rename(shared / "logs" / "y.csv")
    with pytest.raises(DataError, match=rf"x\.csv is in none of {tmp_path} \(I2VAE_DATA_DIR is not set\)"):
        read_pair_file(path)
    monkeypatch.setenv("I2VAE_DATA_DIR", str(shared))
    pair = read_pair_file(path)
    assert (pair.x.path, pair.y.path) == (shared / "x.csv", shared / "logs" / "y.csv")
    (shared / "logs" / "y.csv").unlink()
    with pytest.raises(DataError, match=rf"y\.csv is in none of {tmp_path}, {shared}, {shared}/logs$"):
        read_pair_file(path)
    with pytest.raises(DataError, match=r"y\.csv: no such file"):
        load_logs(pair)


def test_pair_file_when_made_in_python_is_the_same(tmp_path):
    path = put(tmp_path)
    made = PairFile(
        name="small",
        x=Side(name="First", path=tmp_path / "x.csv"),
        y=Side(name="Second", path=tmp_path / "y.csv"),
        columns=Columns(user="user_id", item="item_id", timestamp="timestamp", unit="s"),
        min_user=2,
        min_item=2,
    )
    assert read_pair_file(path) == made
    assert load_logs(made).source_sha256 == load_logs(path).source_sha256


# --- bad logs ---------------------------------------------------------------------------------------------------------

LINE = X.count("\n") + 2  # of what is appended to x.csv


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f",a,{T}", r"line {n}: column 'user_id' has no id but None; so have 1 of 10 rows"),
        (f"  ,a,{T}", r"line {n}: column 'user_id' has no id but '  '"),
        (f"NaN,a,{T}", r"line {n}: column 'user_id' has no id but 'NaN'"),
        (f"01,,{T}", r"line {n}: column 'item_id' has no id but None"),
        (f"01,None,{T}", r"line {n}: column 'item_id' has no id but 'None'"),
        ("01,a,", r"line {n}: column 'timestamp' is empty; 1 of 10 rows"),
        (
            "01,a,2014-01-01",
            r"line {n}: column 'timestamp' holds '2014-01-01'; columns.unit: s stands for Unix time in sec",
        ),
        ("01,a,1.38e9", r"line {n}: column 'timestamp' holds '1.38e9'; .*in this notation digits were rounded away"),
        ("01,a,NaT", r"line {n}: column 'timestamp' has no time but 'NaT'; .*: drop them"),
        ("01,a,nan", r"line {n}: column 'timestamp' has no time but 'nan'; .*: drop them"),
        ("01,a,9999999999999999999999", r"line {n}: column 'timestamp' holds '9999999999999999999999'; .*Unix time"),
        ("01,a,0", r"line {n}: column 'timestamp' holds '0': 0 and negative times are unknown ones \(1 of 10 rows\)"),
        ("01,a,-5", r"line {n}: column 'timestamp' holds '-5': 0 and negative"),
        (f"01,a,{T}000", rf"line {{n}}: column 'timestamp' mixes units: 9 in seconds and 1 in milliseconds.*'{T}000'"),
        (
            "01,a,9999999999",
            r"line {n}: column 'timestamp' holds '9999999999', which is 2286-11-20 and lies in the fut",
        ),
        ("01,a", r"line {n}: 2 fields where line 1 has 3"),
        (f"01,a,{T},5", r"line {n}: 4 fields where line 1 has 3; quote values that hold ','"),
        (f'01,"a,{T}', r"line {n}: a value in double quotes does not end where it should"),
    ],
)
def test_log_when_a_line_is_bad_names_file_and_line(tmp_path, line, message):
    with pytest.raises(DataError, match=r"x\.csv, " + message.replace("{n}", str(LINE))):
        load_logs(put(tmp_path, HEADER + X + line + "\n"))


def test_log_when_lines_are_empty_or_quoted_counts_them(tmp_path):
    rows = (HEADER + "\n" + X).replace("\n", ",n\n").replace("\n,n\n", "\n\n")
    text = rows + '01,a,1388707200,"0\n1"\n\n01,a,0,n\n'
    with pytest.raises(
        DataError, match=rf"x\.csv, line {text[: text.index('01,a,0')].count(chr(10)) + 1}: .*holds '0'"
    ):
        load_logs(put(tmp_path, text))


def test_log_when_gzipped_and_bad_names_the_line(tmp_path):
    many = "".join(f"u{n},i,{T}\n" for n in range(60_000))
    with pytest.raises(DataError, match=r"x\.csv, line 60002: column 'timestamp' holds 'now'"):
        load_logs(put(tmp_path, gzip.compress((HEADER + many + "u,i,now\n" + many).encode())))
    with pytest.raises(DataError, match=r"x\.csv, line 60002: 2 fields where line 1 has 3"):
        load_logs(put(tmp_path, gzip.compress((HEADER + many + "u,i\n" + many).encode())))


def test_times_when_another_unit_reads_all_of_them_say_which(tmp_path):
    """A unit is advised only where it was tried on the rows at hand."""
    iso = HEADER + "".join(f"0{u},{i},2014-01-0{k}T10:00:00+02:00\n" for u in (1, 2) for k, i in enumerate("ab", 1))
    with pytest.raises(DataError, match=r"x\.csv, line 2: .*set columns\.unit: iso, which reads every row"):
        load_logs(put(tmp_path, iso))
    with pytest.raises(DataError, match=r"line 2: .*4 of 5 rows have something else\): another .* all times as ISO"):
        load_logs(put(tmp_path, iso + f"03,a,{T}\n"))


@pytest.mark.parametrize(
    ("unit", "factor", "right"),
    [("s", 1000, "ms"), ("ms", 1, "s"), ("ns", 1, "s"), ("s", 10**9, "ns"), ("ms", 10**6, "us")],
)
def test_log_when_the_unit_is_wrong_names_the_right_one(tmp_path, unit, factor, right):
    x = "".join(f"0{u},{i},{T * factor}\n" for u in (1, 2) for i in "ab")
    with pytest.raises(DataError, match=rf"x\.csv, line 2: .*all of its 4 times look like .*set columns.unit: {right}"):
        load_logs(put(tmp_path, HEADER + x, columns={**PAIR["columns"], "unit": unit}))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_id,item,timestamp\n", "line 1: no column 'item_id'; did you mean 'item'"),
        ("a,b,c\n", "line 1: no column 'user_id'; known: a, b, c"),
        ("user_id,item_id,user_id,timestamp\n", "line 1: two columns are named 'user_id'"),
        ("01 ,b,1388707200\n", "line 1: .*are values and no column names: the file has no header; .*amazon2014"),
        ("\n", "line 1: empty; the header belongs here"),
    ],
)
def test_log_when_its_header_is_wrong_says_so(tmp_path, header, message):
    with pytest.raises(DataError, match=rf"x\.csv, {message}"):
        load_logs(put(tmp_path, header + X))


@pytest.mark.parametrize(
    ("format", "first", "message"),
    [
        ("amazon2014", "user_id,item_id,rating,timestamp\n", "looks like a header, .*give columns: {user"),
        ("amazon2018", "user_id,parent_asin,rating,timestamp\n", "looks like a header, .*give format: amazon2023"),
        ("amazon2014", "user_id,item_id,timestamp\n", "looks like a header, .*give columns: {user"),
        ("amazon2014", f"01,a,{T}\n", "3 fields where format amazon2014 has 4: user,item,rating,timestamp"),
        ("amazon2023", f"01,a,5.0,{T}000\n", "are values and no column names: the file has no header"),
    ],
)
def test_amazon_log_when_header_and_format_disagree_says_so(tmp_path, format, first, message):
    with pytest.raises(DataError, match=rf"x\.csv, line 1: .*{message}"):
        load_logs(put(tmp_path, first + X, format=format))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (HEADER.encode(), "a header and no rows"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"\x1f\x8b" + bytes(20), "damaged or truncated gzip file"),
        (gzip.compress((HEADER + X * 500).encode(), mtime=0)[:-20], "damaged or truncated gzip file"),
        (gzip.compress((HEADER + X).encode(), mtime=0)[:-8] + bytes(8), r"damaged or truncated gzip file; .*CRC"),
        (HEADER.encode("utf-16"), "text in UTF-16; logs are CSV or JSON lines in UTF-8"),
        (b"PK\x03\x04" + bytes(30), "a zip archive or a spreadsheet"),
        (bytes(range(1, 200)), "not UTF-8 text|neither CSV nor Parquet"),
        (b"\x80\x04\x95" + bytes(30), "this is a Python pickle"),
        ("é,b,c\n".encode("latin1"), "not UTF-8 text; convert it, e.g. `iconv"),
        (b"user\0item\n", "neither CSV nor Parquet"),
        (b'{"user_id": "01"}\n', "line 1: no column 'item_id'"),
        (
            b'{"0": {"user_id": "01"}, "1": {"user_id": "02"}}',
            r"line 1: one JSON object of lists or objects \(2, .*a line",
        ),
        (b'{"user_id": {"0": "01", "1": "02"}, "item_id": {"0": "a"}}', "line 1: one JSON object of lists or objects"),
        (b'{"user_id": ["01", "02"], "item_id": ["a", "a"]}\n', "line 1: one JSON object of lists or objects"),
        (b'<table border="1" class="dataframe">\n', "this is an HTML table: write it as CSV"),
        (b'<?xml version="1.0"?>\n<rows><row>', "this is XML: write it as CSV"),
        (b"  <rows>\n<row>", "this is XML: write it as CSV"),
        (b"@RELATION log\n@attribute user string\n", "this is an ARFF file"),
        (gzip.compress(b"X\n\0\0\0\3\xff", mtime=0), "this is R's own format"),
        (b"RDX3\nX\n\0\0\0\3\xff", "this is R's own format"),
        (b"<user>,<item>,<time>\n", "no column 'user_id'"),
        (b'[{"user_id": "01"}]\n', "line 1: this is a JSON list; write one JSON object a line"),
        (HEADER.replace("\n", "\r").encode() + b"01,a,1388707200\r", "its lines end with a carriage return alone"),
        (HEADER.replace("_", "\u200b").encode(), r"line 1: .*invisible character U\+200B: delete it"),
        ((HEADER + X).replace(",", ", ").encode(), "line 1: a blank follows each ','"),
        ((HEADER + X + "   \n").encode(), f"line {X.count(chr(10)) + 2}: it holds blanks only: delete it"),
        (b"PAR1" + bytes(30), "damaged Parquet file"),
        ((HEADER + "01,caf\xe9,1388707200\n").encode("latin1"), "line 2: not UTF-8 text"),
        (
            (HEADER + X.replace("\n", "\r\n", 1)).encode(),
            r"line 2 ends with .* and line 1 with .*e\.g\. `tr -d",
        ),
    ],
)
def test_file_when_it_is_no_log_says_what_it_is(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"x\.csv(:|, )\s?.*({message})"):
        load_logs(put(tmp_path, content))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": np.repeat([1.0, 2.0, 3.0], 3)}, "column 'user_id' holds double, not ids; integers that became fl"),
        ({"item_id": [b"a", b"b", b"c"] * 3}, "column 'item_id' holds binary; ids are text or integers"),
        (
            {"timestamp": pd.to_datetime([T] * 9, unit="s")},
            r"column 'timestamp' holds timestamp\[.*set columns.unit: iso",
        ),
        (
            {"timestamp": np.full(9, T, dtype=np.float32)},
            "column 'timestamp' holds float, which cannot hold Unix seconds",
        ),
        ({"timestamp": [T] * 4 + [0] + [T] * 4}, ", row 5: column 'timestamp' holds '0'"),
        ({"timestamp": [T] * 4 + [np.nan] + [T] * 4}, ", row 5: column 'timestamp'"),
        ({"item_id": ["a"] * 8 + [None]}, ", row 9: column 'item_id' has no id but None"),
    ],
)
def test_parquet_when_a_column_is_bad_names_it(tmp_path, columns, message):
    with pytest.raises(DataError, match=rf"x\.parquet[:,]? ?.*{message}"):
        load_logs(put_parquet(tmp_path, **columns))


def test_parquet_when_the_format_has_no_header_says_so(tmp_path):
    put_parquet(tmp_path)
    path = put(tmp_path, format="amazon2014")
    path.write_text(path.read_text().replace("x.csv", "x.parquet"))
    with pytest.raises(DataError, match=r"x\.parquet: format amazon2014 is CSV without a header, .*Parquet"):
        load_logs(path)


def test_ids_when_they_are_floats_are_refused(tmp_path):
    x = "".join(f"{u}.0,{i},{T}\n" for u in (1, 2, 3) for i in "ab")
    with pytest.raises(
        DataError, match=r"x\.csv, line 2: column 'user_id' holds the float '1\.0', not ids; integers th"
    ):
        load_logs(put(tmp_path, HEADER + x))
    exponents = "".join(f"{u}e0,{i},{T}\n" for u in (1, 2, 3) for i in "ab")
    with pytest.raises(DataError, match=r"column 'user_id' holds the float '1e0'"):
        load_logs(put(tmp_path, HEADER + exponents))
    assert len(load_logs(put(tmp_path, HEADER + X + f"v1.0,a,{T}\nv1.0,b,{T}\n")).log.users) == 4  # a text with a point


def test_logs_when_they_are_one_file_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"x and y are the same log: .*x\.csv and .*y\.csv have the same content"):
        load_logs(put(tmp_path, HEADER + X, HEADER + X))
    path = put(tmp_path)
    path.write_text(path.read_text().replace("y.csv", "x.csv"))
    with pytest.raises(DataError, match=r"x and y are the same log: .*x\.csv and .*x\.csv"):
        load_logs(path)


def amazon_rows(first: int, item_before_user: bool) -> str:
    pairs = [(f"A{u:012d}X", f"B0{i:08d}") for u in range(6) for i in range(first, first + 4)]
    rows = [(i, u) if item_before_user else (u, i) for u, i in pairs]
    return "".join(f"{a},{b},5.0,{T + DAY * n}\n" for n, (a, b) in enumerate(rows))


@pytest.mark.parametrize(
    ("format", "right", "evidence"),
    [
        ("amazon2014", "amazon2018, which has item before user", r"user column look like Amazon item ids \(e\.g\. B0"),
        ("amazon2018", "amazon2014, which has user before item", r"user column look like Amazon item ids \(e\.g\. B0"),
    ],
)
def test_amazon_logs_when_read_in_the_other_layout_name_the_right_one(tmp_path, format, right, evidence):
    texts = [
        amazon_rows(first, format == "amazon2014") for first in (0, 2)
    ]  # shared items: no empty overlap gives it away
    with pytest.raises(
        DataError, match=rf"x\.csv: users and items are swapped: 100% of .*{evidence}.*set format: {right}"
    ):
        load_logs(put(tmp_path, *texts, format=format))


def test_logs_when_columns_are_swapped_without_a_look_say_so(tmp_path):
    swapped = {**PAIR["columns"], "user": "item_id", "item": "user_id"}
    y = HEADER + Y.replace(",c,", ",f,")
    with pytest.raises(
        DataError, match=r"no user is in both, but 3 ids of the item columns are: either .*\(swap columns\.user and"
    ):
        load_logs(put(tmp_path, HEADER + X, y, columns=swapped))
    crossed = "item_id,user_id,timestamp\n" + Y.replace(",c,", ",f,")
    with pytest.raises(DataError, match=r"3 users of First stand in the item column of Second: .*different order"):
        load_logs(put(tmp_path, HEADER + X, crossed))
    with pytest.raises(DataError, match=r"no user is in both; a pair needs common user ids"):
        load_logs(put(tmp_path, HEADER + X, y.replace("\n0", "\nv")))


def test_filters_when_they_leave_nothing_say_which_and_what_was_there(tmp_path):
    with pytest.raises(
        DataError,
        match=r"x\.csv: nothing is left of First after 'k-core round 1 \(users\)', which keeps users with 4 or more "
        r"events; before it there were 9 events, 3 users, 3 items: lower min_user \(4\) or min_item \(2\)",
    ):
        whole_core(load_logs(put(tmp_path, min_user=4)))
    with pytest.raises(DataError, match=r"after 'k-core round 1 \(items\)', which keeps items with 4 or more"):
        whole_core(load_logs(put(tmp_path, min_item=4)))


def test_filters_when_they_leave_no_common_user_say_so(tmp_path):
    y = HEADER + Y.replace("\n0", "\n1") + f"03,c,{T}\n"  # users 11, 12 stay, 01 … 03 have too few
    y = y.replace("\n03,d", "\n13,d").replace("\n03,e", "\n13,e")
    with pytest.raises(
        DataError, match=r"no overlapping user is left by the filters, only 3 users of First and \d others"
    ):
        whole_core(load_logs(put(tmp_path, HEADER + X, y)))


@pytest.mark.parametrize("limit", ["much", "1KB"])
def test_memory_limit_when_it_is_no_use_is_named(tmp_path, limit):
    with pytest.raises(DataError, match=f"memory_limit '?{limit}'?"):
        load_logs(put(tmp_path), memory_limit=limit)


@pytest.mark.slow
def test_log_when_larger_than_the_memory_limit_is_read_all_the_same(tmp_path):
    rng = np.random.default_rng(0)
    n = 250_000
    for name in ("x", "y"):
        ids = pd.DataFrame({"user_id": rng.integers(0, 30_000, n), "item_id": rng.integers(0, 10_000, n)})
        pd.DataFrame(
            {
                "user_id": "some-long-user-id-" + ids["user_id"].astype(str),
                "item_id": "some-long-item-id-" + ids["item_id"].astype(str),
                "timestamp": T + rng.integers(0, DAY, n),
            }
        ).to_parquet(tmp_path / f"{name}.parquet")
    pair = PairFile.model_validate(
        {**PAIR, **{d: {"name": d, "path": str(tmp_path / f"{d}.parquet")} for d in DOMAINS}, "min_item": 5}
    )
    small, large = (load_logs(pair, memory_limit=limit) for limit in ("40MB", "2GB"))
    assert small.filters.equals(large.filters) and small.catalogue.digest() == large.catalogue.digest()
    assert all(np.array_equal(small.log.events[d].time, large.log.events[d].time) for d in DOMAINS)


# --- description ------------------------------------------------------------------------------------------------------


def described(folder: Path, x: str | bytes = HEADER + X, y: str | bytes = HEADER + Y):
    """Describe two texts, write the proposed pair file beside them, and read it back."""
    put(folder, x, y)
    found = describe_files(folder / "x.csv", folder / "y.csv")
    if not found.yaml:
        assert found.refusal  # none is proposed that would not work
        return found, None
    (folder / "proposed.yaml").write_text(found.yaml, encoding="utf-8")
    return found, read_pair_file(folder / "proposed.yaml")


def test_real_logs_when_described_give_the_committed_pair_file(food_kitchen, logs_folder, tmp_path, monkeypatch):
    found = describe_files(food_kitchen.x.path, food_kitchen.y.path)
    x, y = found.files["x"], found.files["y"]
    assert (x.events, x.users, x.items) == (96_804, 16_579, 26_924)
    assert (y.events, y.users, y.items) == (105_598, 16_579, 31_964)
    assert (found.layout, found.shared_users, found.shared_items, x.duplicates) == ("columns", 16_579, 0, 0)
    assert (
        (x.same_time_of_day, y.same_time_of_day) == (1, 1) and 3_900 < x.days < y.days < 4_100 and x.busiest_day < 0.01
    )
    assert [one for one in found.suspicious if "day resolution" in one] == list(found.suspicious)
    monkeypatch.setenv("I2VAE_DATA_DIR", str(logs_folder))
    (tmp_path / "pair.yaml").write_text(found.yaml)
    assert read_pair_file(tmp_path / "pair.yaml") == food_kitchen
    for part in ("96,804", "2003-10-16", "2014-07-23", "users in both: 16,579", "suspicious: Food.csv.gz", found.yaml):
        assert part.strip() in found.text()


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("user_id,item_id,timestamp", "{u},{i},{t}", ("user_id", "item_id", "timestamp", "s")),
        ("Timestamp;Item;User", "{t}000;{i};{u}", ("User", "Item", "Timestamp", "ms")),
        (
            "reviewerID\tasin\toverall\tunixReviewTime",
            "{u}\t{i}\t5.0\t{t}",
            ("reviewerID", "asin", "unixReviewTime", "s"),
        ),
        ("userId,movieId,rating,when", "{u},{i},5,{t}000000", ("userId", "movieId", "when", "us")),
    ],
)
def test_columns_when_described_are_found_by_name(tmp_path, header, row, columns):
    x, y = (
        "\n".join([header, *(row.format(u=u, i=i, t=t) for u, i, t in (one.split(",") for one in text.split()))]) + "\n"
        for text in (X, Y)
    )
    found, pair = described(tmp_path, x, y)
    assert (found.columns.user, found.columns.item, found.columns.timestamp, found.columns.unit) == columns
    assert found.layout == "columns" and pair.columns == found.columns
    loaded = load_logs(pair.model_copy(update={"min_user": 2, "min_item": 2}))
    assert triples(loaded, "x") == triples(load_logs(put(tmp_path)), "x")


@pytest.mark.parametrize("format", ["amazon2014", "amazon2018"])
def test_amazon_logs_when_described_are_told_apart(tmp_path, format):
    found, pair = described(tmp_path, *(amazon_rows(first, format == "amazon2018") for first in (0, 2)))
    assert (found.layout, pair.format, found.shared_users, found.shared_items) == (format, format, 6, 2)
    assert len(load_logs(pair).log.users) == 6
    x, y = (X, Y.replace(",c,", ",f,"))  # ids without a look: then what the files have in common decides
    texts = [
        "".join(f"{u},{i},5,{t}\n" if format == "amazon2014" else f"{i},{u},5,{t}\n" for u, i, t in rows)
        for rows in ([line.split(",") for line in text.split()] for text in (x, y))
    ]
    assert described(tmp_path, *texts)[1].format == format


def test_amazon_logs_when_of_two_layouts_are_refused(tmp_path):
    mixed = amazon_rows(0, False), amazon_rows(2, True)
    with pytest.raises(
        DataError, match=r"differ in layout: users and items look swapped in one of .*x\.csv and .*y\.csv"
    ):
        described(tmp_path, *mixed)
    for format in ("amazon2014", "amazon2018"):
        with pytest.raises(DataError, match="users and items are swapped: 100%"):
            load_logs(put(tmp_path, *mixed, format=format))


def test_amazon_2023_logs_when_described_are_named(tmp_path):
    texts = [
        "user_id,parent_asin,rating,timestamp\n" + "".join(f"{u},{i},5.0,{t}000\n" for u, i, t in rows)
        for rows in ([line.split(",") for line in text.split()] for text in (X, Y))
    ]
    found, pair = described(tmp_path, *texts)
    assert found.layout == pair.format == "amazon2023" and found.columns.unit == "ms"
    assert triples(load_logs(pair), "x") == triples(load_logs(put(tmp_path)), "x")


def test_parquet_when_described_is_named_with_its_titles(tmp_path):
    put_parquet(tmp_path)
    pd.DataFrame({"item_id": ["a"], "title": ["Salt"]}).to_parquet(tmp_path / "x_titles.parquet")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "y.csv").rename(tmp_path / "elsewhere" / "y.csv")
    found = describe_files(tmp_path / "x.parquet", tmp_path / "elsewhere" / "y.csv")
    (tmp_path / "proposed.yaml").write_text(found.yaml)
    pair = read_pair_file(tmp_path / "proposed.yaml")
    assert found.delimiters == {"x": "Parquet", "y": ","}
    assert (pair.x.titles, pair.y.titles) == (tmp_path / "x_titles.parquet", None)
    assert pair.y.path == tmp_path / "elsewhere" / "y.csv"


def numbered(text: str) -> str:
    """Items as integers."""
    for n, one in enumerate("abcde"):
        text = text.replace(f",{one},", f",{n},")
    return text


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (HEADER + X, HEADER + Y.replace("\n0", "\n1").replace("03,", "13,"), "no user is in both files"),
        (
            "item_id,user_id,timestamp\n" + X,
            "item_id,user_id,timestamp\n" + Y.replace(",c,", ",f,"),
            "no user is in both files, but 3 ids of the item columns are: users and items may be swapped",
        ),
        (HEADER + X + X, HEADER + Y, "x.csv: 50.0% of the events repeat a (user, item)"),
        (HEADER + numbered(X), HEADER + numbered(Y), "1 item ids are in both files and all ids are integers"),
        (HEADER + X + f"05,c,{T}000\n", HEADER + Y, "x.csv mixes units of time: 9 in seconds and 1 in milliseconds"),
        (HEADER + X + ",c,5\n01,,5\n01,c,0\n", HEADER + Y, "x.csv: 2 rows have no user, no item or no time that"),
        (HEADER + X + ",c,5\n01,,5\n01,c,0\n", HEADER + Y, "x.csv: 1 times are 0 or negative"),
        (HEADER + X + "01,c,-5\n", HEADER + Y, "x.csv: 1 times are 0 or negative: Unix time counts from 1970"),
        (HEADER + X.replace(",1388", ",-1388"), HEADER + Y, "x.csv: 9 times are 0 or negative"),
        (HEADER + X + "01,c,9999999999\n", HEADER + Y, "x.csv: 1 times lie in the future"),
        (
            HEADER + X,
            HEADER + "".join(f"0{u},{i},{T + 1}\n" for u in (1, 2) for i in "ab"),
            "y.csv: all 4 times are equal",
        ),
        (HEADER + X, HEADER + Y.replace("02,", "12,").replace("03,", "13,"), "only 1 users are in both files, of 3"),
        (HEADER + '01,a,"1,388,707,200"\n', HEADER + Y, "x.csv has no usable event"),
    ],
)
def test_files_when_suspicious_are_called_so(tmp_path, x, y, sentence):
    found, _ = described(tmp_path, x, y)
    assert [one for one in found.suspicious if sentence in one]
    assert all(f"suspicious: {one}" in found.text() for one in found.suspicious)


def test_files_when_sound_are_not_suspicious(tmp_path):
    texts = (HEADER + X.replace(str(T), str(T + 1)), HEADER + Y.replace(str(T + 1), str(T + 2)))
    found, _ = described(tmp_path, *texts)
    assert found.suspicious == () and "nothing suspicious" in found.text()


def test_swapped_columns_when_described_are_proposed_the_right_way(tmp_path):
    header = "item_id,user_id,rating,timestamp\n"  # a header that lies
    texts = [
        header + "".join(f"{t[0]},{t[1]},{t[2]},{t[3]}\n" for t in (one.split(",") for one in rows.split()))
        for rows in (amazon_rows(0, False), amazon_rows(2, False))
    ]
    found, pair = described(tmp_path, *texts)
    assert (found.columns.user, found.columns.item) == ("item_id", "user_id")
    assert [one for one in found.suspicious if "users and items look swapped: 100%" in one]
    assert len(load_logs(pair).log.users) == 6


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            "who,what,when\n1,2,3\n",
            r"x\.csv: cannot tell which column holds the user and the item among",
        ),
        (f"01,a,{T}\n", r"the two files differ in layout"),
        (X.replace(",", ",5,", 1), r"x\.csv, line 2: 3 fields where line 1 has 4"),
        (
            HEADER.replace("item_id", "item") + X,
            r"the two files differ in layout: .*columns user_id, item, timestamp and",
        ),
        (
            HEADER + X.replace("\n", "000\n"),
            r"differ in the unit of their times: .*x\.csv has milliseconds, .*y\.csv second",
        ),
        ("", r"x\.csv: the file is empty"),
        (HEADER + "01,a\n", r"x\.csv, line 2: 2 fields where line 1 has 3"),
    ],
)
def test_files_when_they_cannot_be_described_say_why(tmp_path, x, message):
    with pytest.raises(DataError, match=message):
        described(tmp_path, x)
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        describe_files(tmp_path / "none.csv", tmp_path / "y.csv")


# --- Amazon 2014 ------------------------------------------------------------------------------------------------------


def ratings(users: dict[str, int], first: int) -> str:
    rows = [f"{u},B0{first + n:08d},4.0,{T + DAY * n}\n" for u, count in users.items() for n in range(count)]
    return "".join(rows[::-1])


FOOD = ratings({"A1": 3, "A2": 3, "A3": 2, "A4": 5}, 0)
KITCHEN = ratings({"A1": 4, "A2": 2, "A3": 3, "A4": 3}, 1)


@pytest.fixture
def public(tmp_path, monkeypatch):
    """The two ratings files behind http on this machine."""
    folder = tmp_path / "public"
    folder.mkdir()
    for d, text in (("x", FOOD), ("y", KITCHEN)):
        (folder / amazon.FILES[d]).write_text(text)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(functools.partial(QuietHandler, directory=str(folder))) as address:
        monkeypatch.setattr(amazon, "SOURCE", address)
        yield folder


def test_amazon_pair_when_built_keeps_users_with_enough_in_both(tmp_path):
    (tmp_path / "f.csv").write_text(FOOD)
    (tmp_path / "k.csv").write_text(KITCHEN)
    path = build_amazon2014(tmp_path / "f.csv", tmp_path / "k.csv", tmp_path / "it's")
    food = gzip.decompress((tmp_path / "it's" / "Food.csv.gz").read_bytes()).decode().splitlines()
    assert food[:2] == ["user_id,item_id,timestamp", f"A1,B000000000,{T}"] and len(food) == 1 + 3 + 5
    pair = read_pair_file(path)
    assert (pair.x.name, pair.y.name, pair.min_user, pair.min_item) == ("Food", "Kitchen", 3, 3)
    loaded = load_logs(pair.model_copy(update={"min_item": 1}))
    assert loaded.log.users.tolist() == ["A1", "A4"]
    assert loaded.filters[loaded.filters["step"] == "read"]["events"].tolist() == [8, 7]
    again = build_amazon2014(tmp_path / "f.csv", tmp_path / "k.csv", tmp_path / "again")
    assert sha256_of(again.parent / "Food.csv.gz") == sha256_of(path.parent / "Food.csv.gz")
    with pytest.raises(DataError, match=r"no user has 6 or more ratings in each"):
        build_amazon2014(tmp_path / "f.csv", tmp_path / "k.csv", tmp_path / "six", minimum=6)
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        build_amazon2014(tmp_path / "none.csv", tmp_path / "k.csv", tmp_path)


def test_amazon_pair_when_fetched_is_recorded_and_warned_of(tmp_path, public, capsys):
    path = fetch_amazon2014(tmp_path / "data")
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "data" / amazon.RECORD).read_text())
    assert record == {name: sha256_of(public / name) for name in amazon.FILES.values()}
    assert all(
        f"WARNING: {name}: no checksum is published" in printed and sha in printed for name, sha in record.items()
    )
    assert load_logs(read_pair_file(path).model_copy(update={"min_item": 1})).log.users.tolist() == ["A1", "A4"]
    for name in record:
        (public / name).unlink()  # nothing to fetch any more: the second time it is there already
    assert fetch_amazon2014(tmp_path / "data") == path and capsys.readouterr().out == ""
    (tmp_path / "data" / amazon.FILES["x"]).write_text(FOOD + FOOD)
    with pytest.raises(DataError, match=r"ratings_Grocery_and_Gourmet_Food\.csv could not be fetched from http://127"):
        fetch_amazon2014(tmp_path / "data")


def test_amazon_file_when_the_server_has_another_than_recorded_is_not_used(tmp_path, public):
    fetch_amazon2014(tmp_path / "data")
    name = amazon.FILES["y"]
    (public / name).write_text(KITCHEN + KITCHEN)
    (tmp_path / "data" / name).unlink()
    with pytest.raises(DataError, match=rf"{name} could not be fetched .*hash.*or delete .*{amazon.RECORD}"):
        fetch_amazon2014(tmp_path / "data")


def test_committed_pair_file_when_read_is_that_of_the_recipe():
    content = yaml.safe_load((ROOT / "params" / "pairs" / "food_kitchen.yaml").read_text(encoding="utf-8"))
    recipe = yaml.safe_load(amazon.PAIR_FILE.format(minimum=3, **amazon.FILES))
    for d in DOMAINS:
        del content[d]["titles"]
    assert content == recipe


def test_one_log_when_given_twice_in_two_wrappings_is_refused(tmp_path: Path) -> None:
    """A CSV and its .gz have other bytes and the same events."""
    text = "user_id,item_id,timestamp\n" + "".join(f"u{i % 5},i{i},{1_400_000_000 + i}\n" for i in range(20))
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    columns = Columns(user="user_id", item="item_id", timestamp="timestamp", unit="s")
    sides = {"x": Side(name="A", path=tmp_path / "a.csv"), "y": Side(name="B", path=tmp_path / "b.csv.gz")}
    with pytest.raises(DataError, match=r"x and y are the same log: .*a\.csv and .*b\.csv\.gz hold the same events"):
        load_logs(PairFile(name="twice", columns=columns, min_user=1, min_item=1, **sides))
