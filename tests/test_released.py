"""The released files: their counts, what is wrong with a bad one, and the way they come in."""

from __future__ import annotations

import functools

import pytest

from i2vae_lib.data import DOMAINS, DataError, load_dataset, released
from i2vae_lib.data.registry import REGISTRY, ReleasedFile, ReleasedPair
from i2vae_lib.data.released import load_released, read_pair
from i2vae_lib.params import load
from i2vae_lib.runs import sha256_of
from tests.helpers.servers import QuietHandler, serving

NAMES = {"x": "First", "y": "Second"}
HEADER = "user_id,seq_d1,seq_d2,domain_id\n"
TRAIN = HEADER + '1,"[0, 4, 7]","[7, 9]",0\n2,"[4, 5]",[],0\n3,[],"[9, 8]",1\n'
TEST = HEADER + '4,"[5, 0]","[8]",0\n5,[],"[9]",1\n'
COUNTS = {  # rows and users of train and test, items, links: counted from the files themselves
    "cloth_sport": {"rows": (18537, 4635), "users": (17356, 4543), "items": (13826, 10859), "links": (639, 638)},
    "phone_elec": {"rows": (16092, 4024), "users": (15472, 3976), "items": (7052, 29023), "links": (326, 322)},
}
COLD = {"cloth_sport": (616, 308), "phone_elec": (602, 301)}
ZERO = {"cloth_sport": 15, "phone_elec": 2}
PAIRS = pytest.mark.parametrize("name", COUNTS)


@pytest.fixture(scope="module")
def pairs(released_folder):
    return {name: load_released(name, released_folder) for name in COUNTS}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small registered pair on disk."""
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "test.csv").write_text(TEST)
    files = [ReleasedFile(f"{part}.csv", sha256_of(tmp_path / f"{part}.csv")) for part in ("train", "test")]
    monkeypatch.setitem(REGISTRY, "small", ReleasedPair(NAMES, *files))
    return tmp_path


@pytest.fixture
def server(folder, tmp_path_factory, monkeypatch):
    """The same files behind http on this machine, and a cache of the test's own."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    cache = tmp_path_factory.mktemp("downloads")
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(cache))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("I2VAE_DATA_DIR", raising=False)
    with serving(handler) as address:
        monkeypatch.setattr(released, "SOURCE", address)
        yield cache


def read(folder, train: str = TRAIN, test: str = TEST):
    (folder / "train.csv").write_text(train)
    (folder / "test.csv").write_text(test)
    return read_pair("small", NAMES, folder / "train.csv", folder / "test.csv", "")


@PAIRS
def test_pair_when_read_has_the_counts_of_the_files(pairs, name):
    raw, expected = pairs[name], COUNTS[name]
    assert (len(raw.train), len(raw.test)) == expected["rows"]
    assert (len(set(raw.train.user)), len(set(raw.test.user))) == expected["users"]
    assert tuple(raw.catalogue.size(d) for d in DOMAINS) == expected["items"]


@PAIRS
def test_links_when_read_are_the_ids_of_both_domains(pairs, name):
    catalogue = pairs[name].catalogue
    shared = set(catalogue.ids["x"]) & set(catalogue.ids["y"])
    ids = [catalogue.decode(d, catalogue.links[:, i]).tolist() for i, d in enumerate(DOMAINS)]
    assert ids[0] == ids[1] and set(ids[0]) == shared
    # the training file alone shares a few less; the whole pair's table is what closes leaks
    in_training = [held(pairs[name].train, d) for d in DOMAINS]
    assert (len(shared), len(in_training[0] & in_training[1])) == COUNTS[name]["links"]


def held(rows, d: str) -> set[str]:
    """Ids of a domain that stand anywhere in the rows."""
    items = {*rows.history[d].values.tolist(), *rows.target[rows.of(d)].tolist()}
    return set(rows.catalogue.decode(d, sorted(items)))


@PAIRS
def test_raw_id_0_when_read_is_a_product_and_not_padding(pairs, name):
    raw = pairs[name]
    item = int(raw.catalogue.encode("x", ["0"])[0])
    assert item == 1 and "0" not in raw.catalogue.ids["y"]
    rows = [
        (item in part.history["x"][i]) or (part.domain[i] == 0 and part.target[i] == item)
        for part in (raw.train, raw.test)
        for i in range(len(part))
    ]
    assert sum(rows) == ZERO[name]


@PAIRS
def test_rows_when_read_have_the_kinds_of_the_files(pairs, name):
    train, test = pairs[name].train.kinds(), pairs[name].test.kinds()
    assert (train["cold_released"].sum(), test["cold_released"].sum()) == (0, COLD[name][0])
    assert (test["cold"].sum(), test["no_history"].sum()) == (COLD[name][0] - COLD[name][1], COLD[name][1])
    for part in (pairs[name].train, pairs[name].test):
        for values in (part.history["x"].values, part.history["y"].values, part.target):
            assert values.min() >= 1


def test_pair_when_loaded_by_name_follows_the_environment(released_folder, monkeypatch):
    monkeypatch.setenv("I2VAE_DATA_DIR", str(released_folder))
    dataset = load_dataset(load("smoke", data="phone_elec", protocol="released"))
    assert (dataset.name, len(dataset.splits["test"])) == ("phone_elec", 4024)


def test_registry_when_listed_has_the_three_pairs():
    assert list(REGISTRY) == ["cloth_sport", "phone_elec", "game_video"]
    checksums = {file.sha256 for pair in REGISTRY.values() for file in (pair.train, pair.test)}
    assert len(checksums) == 6 and {len(one) for one in checksums} == {64}
    assert REGISTRY["game_video"].train.sha256.startswith("3aa16018702505dc")
    assert REGISTRY["game_video"].test.sha256.startswith("26a8925e7f81be42")


def test_small_pair_when_read_numbers_items_from_1(tmp_path):
    raw = read(tmp_path)
    assert raw.catalogue.ids["x"].tolist() == ["0", "4", "5", "7"]
    assert raw.catalogue.ids["y"].tolist() == ["7", "8", "9"]
    assert raw.catalogue.links.tolist() == [[4, 1]]
    assert (raw.train.target.tolist(), raw.test.target.tolist()) == ([4, 3, 2], [1, 3])
    assert (raw.train.source.tolist(), raw.test.source.tolist()) == ([0, 1, 2], [3, 4])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('6,"[1, 2","[3]",0', "seq_d1 is not a JSON list: .* at column 6"),
        ('6,"[1]","[3,]",0', "seq_d2 is not a JSON list"),
        ('6,"[1]",,0', "seq_d2 is not a JSON list"),
        ('6,"{}","[3]",1', "seq_d1 is not a JSON list but dict"),
        ('6,7,"[3]",1', "seq_d1 is not a JSON list but int"),
        ('6,"[1, -2]","[3]",0', "seq_d1 holds -2; item ids are integers from 0"),
        ('6,"[1.5]","[3]",0', "seq_d1 holds 1.5"),
        ('6,"[true]","[3]",0', "seq_d1 holds True"),
        ('6,"[NaN]","[3]",0', "seq_d1 holds nan"),
        ('6,"[""7""]","[3]",0', "seq_d1 holds '7'"),
        ('6,"[1]","[2147483648]",0', "seq_d2 holds 2147483648"),
        ('-6,"[1]","[3]",0', "user_id is '-6'; user ids are integers"),
        ('6.5,"[1]","[3]",0', "user_id is '6.5'"),
        (',"[1]","[3]",0', "user_id is ''"),
        ('6,"[1]","[3]",2', "domain_id is '2', expected 0 or 1"),
        ('6,"[1]","[3]"', "domain_id is None, expected 0 or 1"),
        ("6,[],[],0", "both sequences are empty"),
        ('6,[],"[3]",0', "domain_id is 0 but its sequence is empty"),
        ('6,"[3]",[],1', "domain_id is 1 but its sequence is empty"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_file_when_a_line_is_bad_names_file_and_line(tmp_path, line, message, part):
    text = {"train": TRAIN, "test": TEST}
    where = text[part].count("\n") + 1
    text[part] += line + "\n"
    with pytest.raises(DataError, match=rf"{part}\.csv, line {where}: {message}"):
        read(tmp_path, **text)


@pytest.mark.parametrize("column", HEADER.strip().split(","))
def test_file_when_a_column_is_missing_names_it(tmp_path, column):
    with pytest.raises(DataError, match=rf"test\.csv: missing column {column}; expected user_id, seq_d1"):
        read(tmp_path, test=TEST.replace(column, "other", 1))


@pytest.mark.parametrize(("text", "message"), [("", "missing column user_id"), (HEADER, "no rows")])
def test_file_when_it_is_empty_is_an_error(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"train\.csv: {message}"):
        read(tmp_path, train=text)


@pytest.mark.parametrize(("d", "title", "line"), [("x", "First", '1,[],"[9]",1\n'), ("y", "Second", '1,"[9]",[],0\n')])
def test_pair_when_a_domain_is_empty_names_it(tmp_path, d, title, line):
    with pytest.raises(DataError, match=rf"train\.csv, test\.csv: domain {d} \({title}\) is empty"):
        read(tmp_path, HEADER + line, HEADER + line)


def test_pair_when_no_user_has_both_domains_says_so(tmp_path):
    with pytest.raises(DataError, match=r"train\.csv, test\.csv: no overlapping user.*First and Second"):
        read(tmp_path, HEADER + '1,"[9]",[],0\n', HEADER + '2,[],"[9]",1\n')


def test_files_when_they_lie_in_the_folder_are_used(folder):
    assert len(load_released("small", folder).train) == 3
    (folder / "released").mkdir()
    for name in ("train.csv", "test.csv"):
        (folder / name).rename(folder / "released" / name)
    assert len(load_released("small", folder).test) == 2


@pytest.mark.parametrize("content", [TRAIN[:-9], TRAIN.replace("5", "6"), ""])
def test_file_when_truncated_or_altered_gives_both_checksums(folder, content):
    published = REGISTRY["small"].train.sha256
    (folder / "train.csv").write_text(content)
    found = sha256_of(folder / "train.csv")
    with pytest.raises(DataError, match=rf"train\.csv: wrong checksum: SHA-256 is {found}.*has {published}"):
        load_released("small", folder)


def test_file_when_missing_is_fetched_once_and_checked(folder, server):
    assert len(load_released("small").train) == 3
    assert sorted(path.name for path in server.iterdir()) == ["test.csv", "train.csv"]
    for name in ("train.csv", "test.csv"):
        (folder / name).unlink()  # nothing to fetch any more: the second time it comes from the cache
    assert len(load_released("small").test) == 2


def test_file_when_fetched_with_another_checksum_is_not_used(folder, server):
    (folder / "train.csv").write_text(TRAIN + '9,"[4]",[],0\n')
    with pytest.raises(DataError, match=r"train\.csv .*could not be fetched from http://127\.0\.0\.1.*hash"):
        load_released("small")
    assert not list(server.glob("*train.csv"))


def test_file_when_the_server_has_none_names_file_and_source(folder, server):
    (folder / "train.csv").unlink()
    with pytest.raises(DataError, match=r"train\.csv .*could not be fetched from .*404.*set I2VAE_DATA_DIR"):
        load_released("small")


def test_file_when_the_cache_was_altered_is_fetched_anew(folder, server):
    load_released("small")
    (server / "train.csv").write_text("altered")
    assert len(load_released("small").train) == 3
