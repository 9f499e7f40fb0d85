"""The ids of two staged logs: their numbers, who is in both, and what looks wrong with them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import duckdb

from i2vae_lib.data.logs.database import first_row
from i2vae_lib.data.logs.files import NUMBER
from i2vae_lib.data.rows import DOMAINS
from i2vae_lib.places import quoted

_AMAZON_LOOKS = {"user": "A[0-9A-Z]{9,20}", "item": "B0[0-9A-Z]{8}"}


def number_ids(db: duckdb.DuckDBPyConnection) -> None:
    """Tables ``users`` (id, n, x, y: whether the domain has them) and ``items_d`` (id, n); n counts from 0.

    Also ``common``, the one line that :func:`common_events` reads, since several checks ask for it.
    """
    db.execute(
        "CREATE OR REPLACE TABLE users AS SELECT id, CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) AS n, x, y "
        "FROM (SELECT id, bool_or(x) AS x, bool_or(NOT x) AS y FROM (SELECT DISTINCT u AS id, true AS x FROM raw_x "
        "UNION ALL SELECT DISTINCT u, false FROM raw_y) GROUP BY id)"
    )
    for d in DOMAINS:
        db.execute(
            f"CREATE OR REPLACE TABLE items_{d} AS SELECT id, CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) "
            f"AS n FROM (SELECT DISTINCT i AS id FROM raw_{d})"
        )
    db.execute("CREATE OR REPLACE TABLE common AS SELECT ? AS x, ? AS y, ? AS n, ? AS same", _in_common(db))


def _in_common(db: duckdb.DuckDBPyConnection) -> tuple[int, int, int, int]:
    if not shared_items(db):
        return 0, 0, 0, 0
    first = {d: f"(SELECT u, i, min(t) AS t FROM raw_{d} GROUP BY u, i)" for d in DOMAINS}
    [x, y] = (first_row(db, f"SELECT count(*) FROM {first[d]}")[0] for d in DOMAINS)
    both = f"SELECT count(*), count(*) FILTER (x.t = y.t) FROM {first['x']} AS x JOIN {first['y']} AS y USING (u, i)"
    return (x, y, *first_row(db, both))


def tables_of(d: str) -> dict[str, str]:
    """SQL of a domain's ids by what they stand for."""
    return {"user": f"users WHERE {d}", "item": f"items_{d}"}


_FLOAT = NUMBER + "([eE][+-]?[0-9]{1,3})?"


def float_ids(db: duckdb.DuckDBPyConnection, d: str) -> list[str]:
    """Which ids of a domain ("user", "item") are floats: all of them are numbers, and some have a point or exponent."""
    sql = f"SELECT bool_and(regexp_full_match(id, '{_FLOAT}')), bool_or(regexp_matches(id, '[.eE]')) FROM "
    return [role for role, table in tables_of(d).items() if all(first_row(db, sql + table))]


def swapped(db: duckdb.DuckDBPyConnection, d: str) -> str | None:
    """What in a domain's ids speaks for swapped columns of users and items (Amazon's ids have a look of their own)."""
    for kind, column in (("item", "user"), ("user", "item")):
        match = f"regexp_full_match(id, '{_AMAZON_LOOKS[kind]}')"
        sql = f"SELECT coalesce(avg(CAST({match} AS INTEGER)), 0), min(id) FILTER ({match}) FROM "
        found = {role: first_row(db, sql + table) for role, table in tables_of(d).items()}
        (share, example), (right, _) = found[column], found[kind]
        if share > 0.5 > right:
            return f"{share:.0%} of the ids in its {column} column look like Amazon {kind} ids (e.g. {example})"
    return None


def looks_swapped(db: duckdb.DuckDBPyConnection) -> str | None:
    """What in the ids of either domain speaks for swapped columns of users and items."""
    return next((found for d in DOMAINS if (found := swapped(db, d))), None)


_BLANK = r"[\s\x{00A0}\x{1680}\x{2000}-\x{200F}\x{2028}-\x{202F}\x{205F}\x{2060}\x{3000}\x{FEFF}]+"
_SPELLINGS = {  # what may set two spellings of one id apart: SQL of the id without it; whether it is told on its own
    "a blank or an invisible character at an end": (f"regexp_replace(id, '^{_BLANK}|{_BLANK}$', '', 'g')", True),
    "a control character": (
        r"regexp_replace(id, '\x1B\[[0-9;]*[A-Za-z]|[\x01-\x08\x0E-\x1F\x7F\x{80}-\x{9F}]', '', 'g')",  # colours too
        True,
    ),
    "a decimal point, as numbers get it where one is missing": ("regexp_replace(id, '^([0-9]+)\\.0+$', '\\1')", True),
    "quotes or a spreadsheet's signs": (
        "regexp_replace(id, '^(?:=?\"(.+)\"|b?''(.+)''|''([0-9]+))$', '\\1\\2\\3')",
        True,
    ),
    "leading zeros": ("regexp_replace(id, '^0+([0-9]+)$', '\\1')", False),
    "capital letters": ("lower(id)", False),
    "another Unicode form": ("nfc_normalize(id)", False),
    "full-width digits": ("translate(id, '０１２３４５６７８９', '0123456789')", False),
    "a sign as a %-code": ("coalesce(TRY(url_decode(id)), id)", False),
}
_ALNUM = r"[\p{L}\p{N}]"
_AFFIXES = {  # how whole files spell their ids apart: SQL of what is not the id itself, and of the id
    "signs": ("''", f"regexp_replace(lower(id), '[^{_ALNUM[1:]}', '', 'g')"),
    "what stands around a number": (
        "regexp_replace(id, '[0-9]+', '#')",
        "ltrim(regexp_extract(id, '^[^0-9]*([0-9]+)[^0-9]*$', 1), '0')",
    ),
    "what stands before": (f"regexp_replace(id, '{_ALNUM}+$', '')", f"lower(regexp_extract(id, '{_ALNUM}+$'))"),
    "what stands behind": (f"regexp_replace(id, '^{_ALNUM}+', '')", f"lower(regexp_extract(id, '^{_ALNUM}+'))"),
}
_PLACEHOLDERS = (  # "": signs alone
    *("", "anonymous", "anon", "unknown", "undefined", "nil", "null", "none", "nan", "na", "missing", "notset"),
    *("guest", "default", "nobody", "deleted", "test"),
)


def id_suspicions(db: duckdb.DuckDBPyConnection, names: Mapping[str, str], same_items: bool) -> list[str]:
    """What looks wrong with ids that are read as they are, in sentences with counts and examples."""
    items = {d: f"(SELECT id, {d == 'x'} AS x, {d == 'y'} AS y FROM items_{d})" for d in DOMAINS}
    both = "(SELECT id, bool_or(x) AS x, bool_or(y) AS y FROM ({x} UNION ALL {y}) GROUP BY id)".format(**items)
    found = spellings(db, "user", "users", names) + spelled_apart(db, names)
    if same_items:
        found += spellings(db, "item", both, names)
    else:
        found += [one for d in DOMAINS for one in spellings(db, "item", items[d], {d: names[d]})]
    found += [one for d, name in names.items() for one in _crowded(db, d, name)]
    found += [one for d, name in names.items() for one in _lists(db, d, name)]
    found += [one for role in ("user", "item") for one in rounded(db, role, names)]
    return found + _numberings(db, names) + _common_events(db) + _few_shared(db)


def spellings(db: duckdb.DuckDBPyConnection, role: str, ids: str, names: Mapping[str, str]) -> list[str]:
    """Ids of a domain that would be another id of either domain without a blank, a point, zeros or capitals."""
    found = []
    unlike = ", ".join(f"bool_or(id <> {plain})" for plain, _ in _SPELLINGS.values())
    there = first_row(db, f"SELECT {unlike} FROM {ids}")  # most logs have none of most
    for what, (plain, alone) in itertools.compress(_SPELLINGS.items(), there):
        for d, name in names.items():
            odd, twins, example, twin, first = first_row(
                db,
                f"WITH a AS (SELECT id, x, y, {plain} AS plain FROM {ids}), odd AS (SELECT id, plain FROM a WHERE {d} "
                f"AND id <> plain), known AS (SELECT plain, min(id) AS low, max(id) AS high FROM a GROUP BY plain "
                f"HAVING count(*) > 1) SELECT count(*), count(low), min(id) FILTER (low IS NOT NULL), "
                f"min_by(CASE WHEN low = id THEN high ELSE low END, id) FILTER (low IS NOT NULL), min(id) "
                f"FROM odd LEFT JOIN known USING (plain)",
            )
            if twins:
                found.append(
                    f"{name}: {odd:,} {role} ids have {what}, and {twins:,} of them, such as {quoted(example)}, differ "
                    f"by nothing else from another {role} id ({quoted(twin)}): they are read as different {role}s"
                )
            elif odd and alone:
                found.append(f"{name}: {odd:,} {role} ids, such as {quoted(first)}, have {what}")
    return found


def spelled_apart(db: duckdb.DuckDBPyConnection, names: Mapping[str, str]) -> list[str]:
    """Users of one file alone who would be users of the other file alone, but for how the whole file spells ids."""
    known = "id"  # without what :func:`spellings` tells of
    for plain, _ in _SPELLINGS.values():
        known = known.join(re.split(r"\bid\b", plain))
    found: list[tuple[int, str]] = []
    for what, (around, plain) in _AFFIXES.items():
        count, left, right = first_row(
            db,
            f"WITH k AS (SELECT id AS whole, x, y, {known} AS id FROM users), "
            f"a AS (SELECT whole, x, id, {around} AS around, {plain} AS plain FROM k "
            f"WHERE x <> y), often AS (SELECT around, x FROM a GROUP BY around, x QUALIFY row_number() OVER "
            f"(PARTITION BY x ORDER BY count(*) DESC, around) <= 3), twins AS (SELECT min(whole) FILTER (x) AS l, "
            f"min(whole) FILTER (NOT x) AS r FROM a SEMI JOIN often USING (around, x) WHERE plain <> '' GROUP BY plain "
            f"HAVING count(DISTINCT x) = 2 AND count(DISTINCT id) > 1) "
            f"SELECT count(*), min(l), min_by(r, l) FROM twins",
        )
        found.append((count, f"{what} alone, such as {quoted(left)} and {quoted(right)}"))
    count, told = max(found, key=lambda one: one[0])
    fewest = min(first_row(db, f"SELECT count(*) FROM users WHERE {d}")[0] for d in DOMAINS)
    if count < max(3, 0.01 * fewest):
        return []
    return [
        f"{count:,} user ids of {names['x']} and of {names['y']} differ by {told}: they are read as different users; "
        f"if they are the same, write them alike"
    ]


def _crowded(db: duckdb.DuckDBPyConnection, d: str, name: str) -> list[str]:
    """Ids with so many events that they hardly stand for one user or one item."""
    words = ", ".join(f"'{word}'" for word in _PLACEHOLDERS)
    is_word = f"regexp_replace(lower(id), '[^{_ALNUM[1:]}', '', 'g') IN ({words}) OR id = '-1'"
    large = {
        "user": "n > 0.1 * total AND n > 5 * mean OR n > 0.05 * total AND n > 5 * next",
        "item": "n > 0.5 * total OR n > 0.2 * total AND n > 3 * next",
    }
    found = []
    for role, condition in large.items():
        rows = db.execute(
            f"WITH c AS (SELECT {role[0]} AS id, count(*) AS n FROM raw_{d} GROUP BY 1), s AS (SELECT sum(n) AS total, "
            f"avg(n) AS mean, coalesce(max(n, 2)[2], sum(n)) AS next, count(*) AS ids FROM c) SELECT id, n, total, ids "
            f"FROM c, s WHERE ids >= 10 AND ({condition} OR n > 3 * mean AND ({is_word})) ORDER BY n DESC, id LIMIT 3"
        ).fetchall()
        found += [
            f"{name}: {n:,} of {total:,} events ({n / total:.0%}) have the {role} id {quoted(id)}, one of {ids:,}: "
            f"does it stand for an unknown {role}?"
            for id, n, total, ids in rows
        ]
    return found


def _lists(db: duckdb.DuckDBPyConnection, d: str, name: str) -> list[str]:
    """Ids that are several numbers, as sequences are written in one cell."""
    found = []
    for role, table in tables_of(d).items():
        match = "regexp_full_match(id, '[\\[(]?[0-9]+([ ,;|]+[0-9]+)+[\\])]?')"
        count, example, ids = first_row(
            db, f"SELECT count(*) FILTER ({match}), min(id) FILTER ({match}), count(*) FROM {table}"
        )
        if count > 0.1 * ids:
            found.append(
                f"{name}: {count:,} of {ids:,} {role} ids are several numbers, such as {quoted(example)}: lists?"
            )
    return found


def rounded(db: duckdb.DuckDBPyConnection, role: str, names: Mapping[str, str]) -> list[str]:
    """Long numbers as ids of which nearly all have zeros behind 15 digits, or are multiples of a double's step."""
    found = []
    for d, name in names.items():
        # what a step divides only by a greater one as well, as counters in the upper bits, was not rounded to it
        total, *kinds = first_row(
            db,
            f"WITH a AS (SELECT id, CAST(id AS HUGEINT) AS v, greatest(floor(log2(v)) - 52, 0) AS bits, "
            f"CAST(2 ** bits AS HUGEINT) AS step FROM {tables_of(d)[role]} "
            f"{'AND' if role == 'user' else 'WHERE'} regexp_full_match(id, '[1-9][0-9]{{15,36}}')), "
            f"b AS (SELECT *, regexp_full_match(id, '.{{15}}0+') AS ten, bits > 0 AND v % step = 0 AS two FROM a) "
            f"SELECT count(*), count(*) FILTER (ten), sum(length(id) - 15) FILTER (ten), true, min(id) FILTER (ten), "
            f"count(*) FILTER (two), sum(bits * log10(2)) FILTER (two), "
            f"avg(CAST(v % (2 * step) <> 0 AS INTEGER)) FILTER (two) > 0.1, min(id) FILTER (two) FROM b",
        )
        whats = ("have zeros behind 15 digits", "are multiples of the step that doubles have at their size")
        for what, (count, digits, odd, example) in zip(whats, (kinds[:4], kinds[4:]), strict=True):
            if count > 0.95 * total and digits > 6 and odd:  # by chance: one in a million
                found.append(
                    f"{name}: {count:,} of {total:,} {role} ids of 16 digits or more, such as {example}, {what}: "
                    f"rounded, as numbers in a spreadsheet or as floats? Then several {role}s are one, or match none "
                    f"of the other file; write the ids as text, from their source"
                )
                break
    return found


def common_events(db: duckdb.DuckDBPyConnection) -> tuple[int, int, int, int]:
    """Events (the first of each user and item) of x and of y, those in both, and those in both at one time.

    All 0 if the files share no item.
    """
    x, y, both, same = first_row(db, "SELECT x, y, n, same FROM common")
    return x, y, both, same


def _common_events(db: duckdb.DuckDBPyConnection) -> list[str]:
    x, y, both, same = common_events(db)
    if both < 10 or (both <= 0.5 * min(x, y) and same <= 0.1 * min(x, y)):
        return []
    return [
        f"{both:,} events of a user and an item stand in both files ({same:,} at one time), of {x:,} and {y:,}: is a "
        f"part of one domain's log in the other's? What is to be predicted may then stand in the other domain's history"
    ]


def _numberings(db: duckdb.DuckDBPyConnection, names: Mapping[str, str]) -> list[str]:
    """Users that each file seems to number by itself, and users and items that seem to have changed places."""
    ranges: dict[tuple[str, str], tuple[bool, bool, int, int]] = {}
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    for d in DOMAINS:
        for role, table in tables_of(d).items():
            number = "TRY_CAST(id AS BIGINT)"
            digits = "coalesce(bool_and(regexp_full_match(id, '[0-9]{1,18}')), false)"
            sql = f"SELECT {digits}, count(*), coalesce(min({number}), -1), coalesce(max({number}), -1) FROM {table}"
            integers, count, least, most = first_row(db, sql)
            (users if role == "user" else items)[d] = count
            # of a handful of ids nothing can be said
            dense = integers and count >= 20 and least in (0, 1) and count >= 0.98 * (most - least + 1)
            ranges[role, d] = (integers, dense, least, most)
    shared, both = shared_users(db), shared_items(db)
    integers = [one[0] for one in ranges.values()]
    found = []
    dense = {role: all(ranges[role, d][1] for d in DOMAINS) for role in ("user", "item")}
    if dense["user"] and shared:
        told = " and ".join("{2:,} to {3:,} in {name}".format(*ranges["user", d], name=names[d]) for d in DOMAINS)
        found.append(
            f"the user ids are {told}, with hardly a gap: each file may number its users by itself, and then the "
            f"{shared:,} users in both are strangers"
        )
    fewest = min(items.values())
    crowded = 0.5 * fewest < both < fewest and all(users[d] < items[d] for d in DOMAINS)
    if all(integers) and both and not dense["item"] and (dense["user"] or crowded):
        found.append(
            f"users and items may be swapped: {shared:,} users stand in both files, of {users['x']:,} and "
            f"{users['y']:,}, but {both:,} items do, of {items['x']:,} and {items['y']:,}, and all ids are integers"
        )
    return found


def _few_shared(db: duckdb.DuckDBPyConnection) -> list[str]:
    """So few users in both files that most of what one file tells is of no use in the other."""
    shared, fewest = shared_users(db), min(first_row(db, "SELECT count(*) FILTER (x), count(*) FILTER (y) FROM users"))
    if not 0 < shared < max(0.01 * fewest, min(100, 0.5 * fewest)):
        return []
    return [f"only {shared:,} users are in both files, of {fewest:,} in the smaller one"]


def shared_users(db: duckdb.DuckDBPyConnection) -> int:
    """How many users are in both domains."""
    return int(first_row(db, "SELECT count(*) FROM users WHERE x AND y")[0])


def shared_items(db: duckdb.DuckDBPyConnection) -> int:
    """How many ids stand in the item columns of both domains."""
    return count_shared(db, "items_x", "items_y")


def count_shared(db: duckdb.DuckDBPyConnection, a: str, b: str) -> int:
    return int(first_row(db, f"SELECT count(*) FROM (SELECT id FROM {a}) SEMI JOIN (SELECT id FROM {b}) USING (id)")[0])
