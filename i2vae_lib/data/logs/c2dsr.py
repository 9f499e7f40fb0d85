"""C2DSR's text files: index, user, then ``number|time`` of both domains; a list of each domain's items, id and number.

An event whose number no list has would be dropped, and one whose number stands twice would be read twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from i2vae_lib.data.logs.database import in_file_order, reading
from i2vae_lib.data.logs.files import Source, numbered_lines
from i2vae_lib.data.rows import DataError

_WRONG = {  # SQL of path, line and value; what is wrong with the first
    r"SELECT path, n, c FROM lists WHERE NOT regexp_full_match(c, '[^\t]+\t[0-9]+')": (
        "{!r} is no item of a list: id, tab, number"
    ),
    "SELECT path, n, number FROM lists SEMI JOIN (SELECT number FROM lists GROUP BY 1 HAVING count(*) > 1) "
    "USING (number)": "item number {!r} stands twice in the lists of items: each is one item of one domain",
    "SELECT path, n, id FROM lists SEMI JOIN (SELECT path, id FROM lists GROUP BY ALL HAVING count(*) > 1) "
    "USING (path, id)": "item {!r} stands twice in the list: each has one number",
    r"SELECT path, n, p FROM events WHERE NOT regexp_full_match(p, '[0-9]+\|[0-9]+(\.[0-9]+)?')": (
        "{!r} is no event: the item's number, |, the time in seconds"
    ),
    "SELECT path, n, number FROM events ANTI JOIN lists USING (number)": (
        "item number {!r} stands in neither list of items: give it a line there, or drop its events"
    ),
}


def check_sequences(db: duckdb.DuckDBPyConnection, sources: Mapping[str, Source]) -> None:
    """Refuse events without a time, and lists of items that lack a number, have one twice or share one."""
    source = sources["x"]
    lists, list_values = numbered_lines([one.items for one in sources.values() if one.items is not None])
    lines, line_values = numbered_lines((source.path, *source.more))
    fields = "split_part(c, chr(9), 1) AS id, split_part(c, chr(9), 2) AS number"
    with in_file_order(db), reading(db, source):
        db.execute(f"CREATE OR REPLACE TEMP TABLE lists AS SELECT path, n, c, {fields} FROM {lists}", list_values)
        db.execute(
            f"CREATE OR REPLACE TEMP TABLE events AS SELECT path, n, p, split_part(p, '|', 1) AS number "
            f"FROM (SELECT path, n, unnest(string_split(c, chr(9))[3:]) AS p FROM {lines})",
            line_values,
        )
        for sql, told in _WRONG.items():
            if found := db.execute(f"{sql} ORDER BY path, n LIMIT 1").fetchone():
                raise DataError(f"{found[0]}, line {found[1]}: {told.format(found[2])}")
        db.execute("DROP TABLE lists; DROP TABLE events")
