"""Tables as files: Parquet where there is a row per question or much of it, CSV for what one reads.

Either holds what was handed in: Parquet bit by bit, CSV to nine significant digits.
"""

import contextlib
import io
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from avss_utils.errors import UsageError, one_line
from avss_utils.store.files import put_whole

PER_QUESTION = {"row_id", "question"}  # columns that name a question
LARGE = 200_000  # bytes of CSV from which a table is written as Parquet
SUFFIXES = (".csv", ".parquet")


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table whole or not at all, as ``path`` with the suffix of its kind, which is given.

    A disk that refuses raises WriteError.
    """
    text = "" if PER_QUESTION & set(table) else as_csv(table)
    if 0 < len(text) <= LARGE and _keeps_texts(table, text):
        content, suffix = text.encode(), ".csv"
    else:
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False, compression="zstd", compression_level=12)
        content, suffix = buffer.getvalue(), ".parquet"
    target = path.with_name(path.name + suffix)
    put_whole(target, lambda temporary: temporary.write_bytes(content))
    return target


def find_table(path: Path) -> Path | None:
    """The file of the table ``path`` (without suffix), whichever kind it is; None where none is."""
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    return next((file for file in files if file.exists()), None)


def read_table(file: Path) -> pd.DataFrame:
    """Read what ``write_table`` wrote; UsageError for a file that is no table."""
    try:
        return pd.read_parquet(file) if file.suffix == ".parquet" else read_csv(file)
    except (OSError, ValueError) as error:
        what = one_line(error)
        raise UsageError(f"{file} cannot be read as a table ({what}): restore it") from error


def as_csv(table: pd.DataFrame) -> str:
    """A table as text: nine significant digits, missing numbers as "nan"."""
    return table.to_csv(index=False, float_format="%.9g", na_rep="nan")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV whole or not at all."""
    content = as_csv(table).encode()
    put_whole(path, lambda temporary: temporary.write_bytes(content))


def read_csv(path: Path | io.StringIO) -> pd.DataFrame:
    """Read what ``write_csv`` wrote: "nan" is a missing number among numbers, and a text among
    texts. A column of texts that all read as numbers comes back as numbers.
    """
    table = pd.read_csv(path, keep_default_na=False, na_values=[])
    texts = [name for name in table if len(table) and not is_numeric_dtype(table[name])]
    for name in texts:
        given = table[name].astype(str)
        with contextlib.suppress(ValueError):
            table[name] = given.mask(given == "nan").astype(float)
    return table


def _keeps_texts(table: pd.DataFrame, text: str) -> bool:
    """Whether every column of texts comes back as it was."""
    again = read_csv(io.StringIO(text))
    return all(
        is_numeric_dtype(table[name]) or table[name].to_list() == again[name].to_list()
        for name in table
    )
