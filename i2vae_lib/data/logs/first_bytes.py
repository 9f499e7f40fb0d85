"""The first bytes of a log file: what is no log, and damage that would pass without a word."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import unicodedata
import zlib
from pathlib import Path

from i2vae_lib.data.rows import DataError
from i2vae_lib.places import not_utf8

_NO_TEXT = (
    "neither CSV nor Parquet (line 1 holds control characters{}); logs are CSV or JSON lines in UTF-8 (plain or .gz) "
    "or Parquet: convert it"
)
_DAMAGED_GZIP = "damaged or truncated gzip file; fetch or compress it anew"
_MAGIC = {  # of the first eight bytes
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x89HDF": "an HDF5 file",
    b"ARROW1": "an Arrow (Feather) file",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite f": "an SQLite database",
    **{b"\x80" + bytes([version]): "a Python pickle" for version in range(2, 6)},
    b"PARE": "an encrypted Parquet file",
    b"x\x9c": "compressed with zlib, which is no gzip",
    b"x\xda": "compressed with zlib, which is no gzip",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"\xff\x06\x00\x00sNaP": "compressed with snappy",
    b"\x1f\x9d": "compressed with compress",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\xff\xfe\x00\x00": "text in UTF-32",
    b"\x00\x00\xfe\xff": "text in UTF-32",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
_NO_LOG = {  # how a first line begins, in lower case, that is none of a log
    r"insert into |create table |--( |\r?\n)|pragma |begin transaction|/\*": (
        "SQL and no table: load it into a database, and export the table as CSV"
    ),
    r"\+---": "a table as MySQL and Spark draw it, with lines around: export it as CSV",
    r"version https://git-lfs": "a Git LFS pointer in place of the file: `git lfs pull` fetches it",
    r"<!doctype|<html": "a web page, as failed downloads leave it: fetch the log anew",
    r"<(table|div|style|meta|head|body)\b": "an HTML table: write it as CSV, e.g. with pandas read_html and to_csv",
    r"<([?!]|\w[^<>,;|\t]*>(?![,;|\t]))": "XML: write it as CSV, e.g. with pandas read_xml and to_csv",
    r"@(relation|attribute|data)\b": "an ARFF file, as Weka has it: write the names of its attributes as a CSV header",
    r"x\r?\n|rd[xab][23]\r?\n": "R's own format (.rds, .RData): write it as CSV, with write.csv(…, row.names=FALSE)",
}
_FEATURES = (
    r"[-+]?[0-9.]+(,[0-9]+)*(\s+\|\S*)?(\s+([0-9]+:)?([0-9]+|qid):[-+0-9.eE]+)+(\s+#.*)?|"
    r"[^\s:]+(\s+\|\S*)?(\s+[^\s:]+:[-+0-9.eE]+){2,}"
)
"""A label, then pairs of index or name and value: libsvm's; field:index:value is libffm's, ``|`` Vowpal Wabbit's."""

_BLOCK = 1 << 24
"""Bytes; a line longer than two of these is passed over by DuckDB (2.0) without a word."""


def is_parquet(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def first_line(path: Path) -> tuple[bool, str]:
    """Whether the file is gzipped, and its first line; what is not text stops here."""
    with path.open("rb") as raw:
        start = raw.read(8)
    gzipped = start.startswith(b"\x1f\x8b")
    half_empty = re.match(rb"(?:[^\0]\0){4}|(?:\0[^\0]){4}", start, re.DOTALL)
    for magic, what in (_MAGIC | ({start: "text in UTF-16"} if half_empty else {})).items():
        if start.startswith(magic):
            raise DataError(
                f"{path}: this is {what}; logs are CSV or JSON lines in UTF-8 (plain or .gz) or Parquet: convert it"
            )
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as stream:
            content = stream.readline(1 << 28)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {_DAMAGED_GZIP} ({error})") from None
    if gzipped and content.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: compressed twice with gzip: unpack it once")
    try:
        line = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if re.search(rb"[\0-\x08\x0e-\x1a]", content):
            raise DataError(f"{path}: {_NO_TEXT.format('')}") from None
        raise DataError(f"{path}, line 1: {not_utf8()}") from None
    for beginning, what in _NO_LOG.items():
        if re.match(beginning, line.lstrip().lower()):
            raise DataError(f"{path}: this is {what}")
    if line.lstrip().startswith("{") and content.startswith(codecs.BOM_UTF8):
        raise DataError(f"{path}, line 1: it begins with a byte order mark, which JSON may not have: write it without")
    if re.fullmatch("sep=.", line.strip()):
        raise DataError(f"{path}, line 1: {line.strip()!r} is for Excel alone: delete the line, the header comes first")
    if re.fullmatch(_FEATURES, line.strip()):
        raise DataError(
            f"{path}, line 1: this is in libsvm's format or one like it (a label, then index:value pairs) and no log: "
            f"write a line for each event, with user, item and time"
        )
    if "\r" in line.rstrip("\r\n"):
        raise DataError(f"{path}: its lines end with a carriage return alone (\\r): convert it, e.g. `tr '\\r' '\\n'`")
    if not line.strip():
        raise DataError(f"{path}: the file is empty" if not line else f"{path}, line 1: empty; the header belongs here")
    control = {one for one in line if unicodedata.category(one) == "Cc"} - {"\t", "\r", "\n"}
    if len(control) > 1 or control & {"\0", "\x1b"}:  # one of them may separate values
        some = f", such as U+{ord(min(control)):04X}: if it separates values, write commas instead"
        raise DataError(f"{path}: {_NO_TEXT.format(some)}")
    if re.match(r"\s*\[(?!\w+\][^\s\w\]])", line):  # [user_id],[item_id] is a header as SQL Server writes it
        raise DataError(f"{path}, line 1: this is a JSON list; write one JSON object a line, CSV or Parquet")
    return gzipped, line.rstrip("\r\n")


def check_whole(path: Path, gzipped: bool, *, any_length: bool) -> None:
    """Refuse a text file of which DuckDB would leave something out without a word.

    It checks no CRC of a gzip file, and before 2.0 takes a truncated one for a short one: such a file is unpacked to
    its end. And it passes over lines that are longer than its buffer.
    """
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as stream:
            while block := stream.read(1 << 16):
                if gzipped or b"\n" not in block:
                    block += stream.read(_BLOCK - len(block))
                else:  # as nearly always: the rest of the block need not be read
                    stream.seek(_BLOCK - len(block), os.SEEK_CUR)
                if len(block) == _BLOCK and b"\n" not in block and not any_length:
                    raise DataError(f"{path}: a line of more than {_BLOCK >> 20} MB; is this a log?")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {_DAMAGED_GZIP} ({error})") from None
