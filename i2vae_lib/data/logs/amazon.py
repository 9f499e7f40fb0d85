"""The Food and Kitchen pair from the public Amazon 2014 ratings.

The recipe: from two ratings files (no header; user, item, rating, Unix seconds) keep the users with at least three
ratings in each, whatever the stars, and write user, item and time of their ratings to ``Food.csv.gz`` and
``Kitchen.csv.gz`` (rows by user, time, item) with the pair file ``food_kitchen.yaml`` beside them. Ids stay as
published, and there are no titles. The loader deals with duplicates and the k-core (:mod:`i2vae_lib.data.logs.join`).
"""

from __future__ import annotations

import re
from http.client import HTTPException
from pathlib import Path

from i2vae_lib.data.logs.join import CHECKED_STAGES, checked, stage
from i2vae_lib.data.logs.pair_file import PairFile, Side
from i2vae_lib.data.released import fetch
from i2vae_lib.data.rows import DOMAINS, DataError
from i2vae_lib.progress import bar
from i2vae_lib.runs import read_json, sha256_of, write_atomically, write_json

SOURCE = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
FILES = {"x": "ratings_Grocery_and_Gourmet_Food.csv", "y": "ratings_Home_and_Kitchen.csv"}
NAMES = {"x": "Food", "y": "Kitchen"}
RECORD = "amazon2014.sha256.json"
PAIR_FILE = """\
# Amazon 2014, Food and Kitchen: users with {minimum} or more ratings in each, from {x} and {y}
name: food_kitchen
x: {{name: Food, path: Food.csv.gz}}
y: {{name: Kitchen, path: Kitchen.csv.gz}}
columns: {{user: user_id, item: item_id, timestamp: timestamp, unit: s}}
min_user: 3
min_item: 3
same_ids_are_same_items: true
"""


def build_amazon2014(
    x_ratings: Path | str, y_ratings: Path | str, folder: Path | str, minimum: int = 3, *, memory_limit: str = "2GB"
) -> Path:
    """Build two logs of the users that two Amazon 2014 ratings files share, and the pair file that reads them.

    Parameters
    ----------
    x_ratings, y_ratings
        Food and Kitchen: CSV without a header, ``user,item,rating,timestamp`` (plain or gzipped).
    folder
        Where ``Food.csv.gz``, ``Kitchen.csv.gz`` and ``food_kitchen.yaml`` go.
    minimum
        Fewest ratings of a user in each of the two files; every row counts as one.

    Returns
    -------
    Path
        The pair file.

    Raises
    ------
    DataError
        A file is bad (see :func:`i2vae_lib.data.logs.join.load_logs`), or no user has enough ratings in both.
    """
    folder = Path(folder)
    paths = {"x": Path(x_ratings), "y": Path(y_ratings)}
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    x, y = (Side(name=NAMES[d], path=paths[d]) for d in DOMAINS)
    pair = PairFile(name="food_kitchen", x=x, y=y, format="amazon2014", min_user=1, min_item=1)
    with (
        bar(f"building {pair.name}", CHECKED_STAGES + 2, "stage") as progress,
        checked(pair, memory_limit, progress) as db,
    ):
        enough = [f"SELECT u FROM raw_{d} GROUP BY u HAVING count(*) >= {int(minimum)}" for d in DOMAINS]
        db.execute(f"CREATE TABLE kept AS {enough[0]} INTERSECT {enough[1]}")
        if not db.execute("SELECT count(*) FROM kept").fetchall()[0][0]:
            raise DataError(f"{paths['x']} and {paths['y']}: no user has {minimum} or more ratings in each; lower it")

        def copy(d: str, part: Path) -> None:
            target = str(part).replace("'", "''")  # COPY takes no parameter for its target
            db.execute(
                f"COPY (SELECT u AS user_id, i AS item_id, t AS timestamp FROM raw_{d} SEMI JOIN kept USING (u) "
                f"ORDER BY u, t, i) TO '{target}' (FORMAT csv, HEADER true, COMPRESSION gzip)"
            )

        for d in DOMAINS:
            with stage(progress, f"writing {NAMES[d]}"):
                write_atomically(folder / f"{NAMES[d]}.csv.gz", lambda part, d=d: copy(d, part))  # type: ignore[misc]
    target = folder / "food_kitchen.yaml"
    text = PAIR_FILE.format(minimum=minimum, **{d: path.name for d, path in paths.items()})
    write_atomically(target, lambda part: part.write_text(text, encoding="utf-8"))
    return target


def fetch_amazon2014(folder: Path | str, minimum: int = 3) -> Path:
    """Download the two public ratings files, once, and build the pair from them (:func:`build_amazon2014`).

    No checksum of these files is published: the SHA-256 of each download is printed with a warning and recorded beside
    the data (``amazon2014.sha256.json``), and a later call with the same folder accepts nothing else.

    Parameters
    ----------
    folder
        Gets the two ratings files, the record, the two logs and the pair file.

    Returns
    -------
    Path
        The pair file.

    Raises
    ------
    DataError
        A file cannot be fetched, or differs from the record.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RECORD
    known: dict[str, str] = read_json(record) if record.is_file() else {}
    paths = {}
    for d, name in FILES.items():
        paths[d] = folder / name
        if not paths[d].is_file() or (name in known and sha256_of(paths[d]) != known[name]):
            _download(name, folder, known.get(name))
        if name not in known:
            _require_ratings(paths[d])
        sha256 = sha256_of(paths[d])
        if name not in known:
            print(
                f"WARNING: {name}: no checksum is published, so nothing vouches for this file. SHA-256 of what came: "
                f"{sha256} ({paths[d].stat().st_size:,} bytes), recorded in {record}"
            )
            known[name] = sha256
            write_json(record, known)
    return build_amazon2014(paths["x"], paths["y"], folder, minimum)


def _require_ratings(path: Path) -> None:
    """Remove a download that is no table of ratings, since no checksum would reveal it later.

    Raises
    ------
    DataError
    """
    with path.open("rb") as stream:
        lines = stream.read(4096).splitlines()
    line = lines[0].decode("utf-8", "replace") if lines else ""
    if not re.fullmatch(r"[^,<>\s]+,[^,<>\s]+,\d+(\.\d+)?,\d+", line):
        path.unlink()
        raise DataError(
            f"{path}: no ratings came but {line[:60]!r}: expected user,item,rating,seconds. It was removed and nothing "
            f"recorded: try again later, or put the file there by hand"
        )


def _download(name: str, folder: Path, sha256: str | None) -> None:
    try:
        fetch(SOURCE + name, folder / name, sha256)
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(
            f"{name} could not be fetched from {SOURCE}: {type(error).__name__}: {error}. Put the file into {folder} "
            f"by hand (any copy of the Amazon 2014 ratings), or delete {folder / RECORD} if another version is meant"
        ) from None
