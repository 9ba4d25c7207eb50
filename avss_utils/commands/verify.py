"""Records of a model verified: their notebooks run with ``verify`` set, two at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.store.files import project_root
from avss_utils.store.notebooks import execute
from avss_utils.store.records import key_of, read_record
from avss_utils.store.run_folder import Run
from avss_utils.store.runs import check_format
from avss_utils.store.tables import read_csv
from avss_utils.store.verification import COLUMNS, DIFFERS, OK

HEAD = f"{'record':<25} {'table':<19} {'n':>6} {'largest':>8} {'allowed':>8} {'verdict':<14} what"
REPORTS = Path("_build/verify")
TIMEOUT = 3600  # seconds a cell
AT_ONCE = 2


def verified(
    folders: Sequence[Path], *, records: Path, model: str, n: int
) -> Iterator[pd.DataFrame]:
    """A table with ``verification.COLUMNS`` for each record, in order.

    ``n``: keys of a table that are computed again. Raises UsageError where a notebook fails.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:  # threads that wait for the notebooks' kernels
        jobs = [pool.submit(_verified, folder, records, model, n) for folder in folders]
        yield from (job.result() for job in jobs)


def _verified(folder: Path, records: Path, model: str, n: int) -> pd.DataFrame:
    record = read_record(folder) or {}
    check_format(folder, record)
    if found := _changed(folder, record):
        rows = [(folder.name, name, 1, np.inf, 0.0, DIFFERS, what) for name, what in found]
        return pd.DataFrame(rows, columns=COLUMNS)
    report = project_root() / REPORTS / folder.parent.name / f"{folder.name}.csv"
    report.unlink(missing_ok=True)
    places = dict(model=model, profile=record["profile"], records=str(records))
    places |= dict(results=str(REPORTS), verify=n)
    output = project_root() / "_build" / "verified" / folder.parent.name / f"{folder.name}.ipynb"
    execute(folder.name, output, record["parameters"] | places, timeout=TIMEOUT)
    own = (folder.name, "run.json", 1, 0.0, 0.0, OK, "its key and files")
    return pd.concat([pd.DataFrame([own], columns=COLUMNS), read_csv(report)])


def _changed(folder: Path, record: dict) -> list[tuple[str, str]]:
    """(table, what) of files that are not those of the record, and of a key that is not its own."""
    if key_of(record) != record["key"]:
        return [("run.json", "its key is not that of what it says")]
    changed = Run(folder, record, finished=True).changed()
    return [
        (path.stem, f"{path.name} is not what the run wrote, or is missing") for path in changed
    ]


def line(row: Any) -> str:
    """A row of the report as it is printed."""
    numbers = f"{row.n:>6} {row.largest:>8.2g} {row.allowed:>8.2g}"
    return f"{row.notebook:<25} {row.table:<19} {numbers} {row.verdict:<14} {row.what}"
