"""What a notebook shows: numbers for the prose, tables that are safe to print.

``glue`` writes the same output that ``myst_nb.glue`` writes, so that the book can place the value
in its prose, and needs no book package where a notebook is only run.
"""

import html
import math
import re
from ast import literal_eval
from collections.abc import Sequence
from urllib.parse import quote

import pandas as pd
from IPython.display import HTML, Markdown, display

from avss_utils.stats.resampling import Estimate

_IN_BRACKETS = re.compile(r"(?<=,) (?=[−∞\d.,e]+\])")
_BEFORE_BRACKETS = re.compile(r"(?<=\S) (?=\[)")
_MARKUP = re.compile(r"([!-/:-@\[-`{-~])")
_MINUS = re.compile(r"−(?=[\d∞])")
_MIME = "application/papermill.record/"


def glue(**values: object) -> None:
    """Make values available to the book's prose under their names; nothing is displayed.

    The book shows text as it is, an Estimate as "value [low, high]" whose limits stay on one line,
    an int with a comma after its thousands, a DataFrame or HTML as HTML.
    """
    for name, value in values.items():
        value = as_html(value) if isinstance(value, pd.DataFrame) else value
        content = {"text/plain": _text(value)}
        if isinstance(value, HTML):
            content["text/html"] = value.data
        display(
            {_MIME + mime: text for mime, text in content.items()},
            raw=True,
            metadata={"scrapbook": {"name": name, "mime_prefix": _MIME}},
        )


def _text(value: object) -> str:
    if isinstance(value, Estimate):
        return _IN_BRACKETS.sub("\u00a0", interval(value))
    if type(value) is int:
        return _quoted(f"{value:,}")
    return _quoted(number(value) if isinstance(value, float) else str(value))


def _quoted(text: str) -> str:
    """In quotes where the book, which reads text as a literal, would show 0.310 as 0.31."""
    try:
        return text if str(literal_eval(text)) == text else repr(text)
    except (SyntaxError, ValueError):
        return text


def number(x: float) -> str:
    """Three significant digits, all of an integer part; an exponent from 1e9 up and below 1e-4."""
    if x != x:
        return "n/a"
    if abs(x) == float("inf"):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0.000"
    mantissa, exponent = f"{x:.2e}".split("e")  # of the rounded number: 99.96 is 100, not 100.0
    if -4 <= int(exponent) < 9:
        return f"{x:,.{max(0, 2 - int(exponent))}f}".replace("-", "−")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def interval(e: Estimate) -> str:
    """ "value [low, high]" with three significant digits each; alone without value or limits.

    What is within rounding of 0 beside the others is 0.
    """
    if e.value != e.value or e.low != e.low:
        return number(e.value)
    three = (e.value, e.low, e.high)
    rounding = 1e-12 * max((abs(x) for x in three if math.isfinite(x)), default=0.0)
    value, low, high = (number(0.0 if abs(x) < rounding else x) for x in three)
    return f"{value} [{low}, {high}]"


def with_interval(table: pd.DataFrame) -> pd.DataFrame:
    """A tidy table with value, low and high joined into one column of text, n kept."""
    text = [interval(Estimate(r.value, r.low, r.high, r.n)) for r in table.itertuples()]
    return table.drop(columns=["value", "low", "high"]).assign(estimate=text)


def wide(table: pd.DataFrame, *, rows: str, columns: str) -> pd.DataFrame:
    """Tidy estimates, one row per ``rows``, one column per ``columns``, in order of appearance."""
    text = with_interval(table).pivot(index=rows, columns=columns, values="estimate")
    text = text.loc[table[rows].unique(), table[columns].unique()].fillna("")
    return text.rename_axis(columns=None).reset_index()


def _unbroken(cell: object) -> object:
    """An interval stays on one line of its cell."""
    if not isinstance(cell, str):
        return cell
    return _BEFORE_BRACKETS.sub("\u00a0", _IN_BRACKETS.sub("\u00a0", cell))


def as_html(table: pd.DataFrame, *, caption: str = "") -> HTML:
    """A table as HTML, every cell escaped, floats to three digits, in a box that scrolls.

    Behind its caption, a link that saves it as CSV, floats to six digits.
    """
    body = table.map(lambda x: number(x) if isinstance(x, float) else _unbroken(x))
    text = body.to_html(index=False, escape=True, border=0, classes="dataframe", justify="left")
    head = f"<em>{html.escape(caption)}</em> " if caption else ""
    head = f"<p>{head}{_csv_link(table, caption)}</p>"
    return HTML(f'<div class="table-scroll" tabindex="0">{head}{text}</div>')


def as_markdown(table: pd.DataFrame, *, links: Sequence[str] = ()) -> Markdown:
    """A table as MyST text, for a cell with ``mystnb: {markdown_format: myst}`` in its metadata.

    The columns ``links`` hold roles, which the book's build resolves or refuses; every other cell
    is escaped.
    """
    shown = {
        name: column.map(str) if name in links else column.map(plain)
        for name, column in table.items()
    }
    rows = [list(map(plain, shown)), ["---"] * len(shown), *zip(*shown.values(), strict=True)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return Markdown("\n".join([":::{div} long-table", "", *lines, "", ":::"]))


def plain(cell: object) -> str:
    """A name, a value or a model's words as MyST text: one line, none of it markup."""
    text = number(cell) if isinstance(cell, float) else str(_unbroken(str(cell)))
    return _MARKUP.sub(r"\\\1", " ".join(text.splitlines()))


def _csv_link(table: pd.DataFrame, caption: str) -> str:
    """The whole file in the link: it needs no server, no script and no further file."""
    plain = table.map(lambda x: _MINUS.sub("-", x) if isinstance(x, str) else x)
    text = plain.to_csv(index=False, float_format="%.6g", na_rep="nan")
    name = "-".join(re.findall(r"[a-z0-9]+", caption.lower())[:6]) or "table"
    address = "data:text/csv;charset=utf-8," + quote(text, safe=" ,:;()[]/|=")
    label = "CSV of this table"
    return f'<a href="{address}" download="{name}.csv" aria-label="{label}">CSV</a>'
