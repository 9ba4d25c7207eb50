"""Two runs of a notebook side by side: what decided them, their tables, their verdicts."""

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from avss_utils.claims import FINDINGS
from avss_utils.claims.verdicts import Finding, ledger
from avss_utils.errors import UsageError
from avss_utils.show.tables import with_interval
from avss_utils.store.records import renew_command
from avss_utils.store.run_folder import Run

NOT_COMPARED = ("tables", "seconds")


def record_differences(first: Run, second: Run) -> pd.DataFrame:
    """What the two run.json files say differently: field, first, second."""
    a, b = _flat(first.record), _flat(second.record)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    rows = [(name, _shown(a.get(name)), _shown(b.get(name))) for name in names]
    return pd.DataFrame(rows, columns=["field", "first", "second"])


def table_differences(first: Run, second: Run) -> pd.DataFrame:
    """Every table of the two runs: its rows in each, and how far its columns are apart.

    Columns: table, rows_first, rows_second, differing (cells, of columns in both), largest (the
    largest absolute difference of a number), column (where that is); the last three only where
    both tables have the same number of rows.
    """
    names = sorted({*first.record["tables"], *second.record["tables"]})
    rows = [{"table": name, **_table_difference(name, first, second)} for name in names]
    return pd.DataFrame(rows)


def conditions_beside(first: Run, second: Run) -> pd.DataFrame:
    """Conditions of claims in both runs: claim, measure, estimate and state of each."""
    sides = []
    for run, side in ((first, "first"), (second, "second")):
        found = [finding for finding in _findings(run) if finding.part]
        table = with_interval(ledger(found))[["claim", "measure", "estimate", "state"]]
        sides.append(table.rename(columns={c: f"{c}_{side}" for c in ("estimate", "state")}))
    return sides[0].merge(sides[1], how="outer", on=["claim", "measure"]).fillna("-")


def _findings(run: Run) -> list[Finding]:
    """Conditions of claims in a run; UsageError where its tables are not those of its notebook."""
    judge = FINDINGS.get(run.record["notebook"])
    try:
        return list(judge(run)) if judge else []
    except UsageError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"the tables in {run.folder} are not those of its notebook "
            f"({type(error).__name__}: {error}): {renew_command(run.record)}"
        ) from error


def side_by_side(first: Run, second: Run) -> str:
    """All three comparisons as text for a terminal; says so where nothing differs."""
    parts = {
        "What differs in the records": record_differences(first, second),
        "Tables": table_differences(first, second),
        "Conditions of claims": conditions_beside(first, second),
    }
    shown = [
        f"{title}\n{table.to_string(index=False) if len(table) else '(nothing)'}"
        for title, table in parts.items()
    ]
    return "\n\n".join(shown)


def _flat(record: dict, prefix: str = "") -> dict:
    """Nested entries by dotted name; data sets by their own name."""
    flat: dict[str, object] = {}
    for key, value in record.items():
        if not prefix and key in NOT_COMPARED:
            continue
        if key == "data":
            value = {entry["name"]: entry for entry in value}
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _shown(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 48 else f"{text[:45]}..."


def _table_difference(name: str, first: Run, second: Run) -> dict:
    a, b = (run.read(name) if name in run.record["tables"] else None for run in (first, second))
    n_rows = ["-" if table is None else len(table) for table in (a, b)]
    row = dict(zip(("rows_first", "rows_second"), n_rows, strict=True))
    if a is None or b is None or len(a) != len(b):
        return {**row, "differing": "-", "largest": "-", "column": "-"}
    shared = [column for column in a if column in b]
    apart = {column: _apart(a[column], b[column]) for column in shared}
    n = sum(cells for cells, _ in apart.values())
    largest = max(apart, key=lambda column: apart[column][1], default="-")
    found = n and apart[largest][1] > 0
    size = f"{apart[largest][1]:.3g}" if found else "-"
    return {**row, "differing": n, "largest": size, "column": largest if found else "-"}


def _apart(a: pd.Series, b: pd.Series) -> tuple[int, float]:
    """Number of differing cells, and the largest difference where both are numbers."""
    numbers = all(is_numeric_dtype(x) and not is_bool_dtype(x) for x in (a, b))
    if not numbers:
        return int((a.astype(str) != b.astype(str)).sum()), 0.0
    x, y = a.to_numpy(float), b.to_numpy(float)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    gaps = np.abs(x - y)[~same]
    return int((~same).sum()), float(np.nan_to_num(gaps, nan=np.inf).max(initial=0.0))
