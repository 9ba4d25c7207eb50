"""Verification: a record's notebook runs again, and some of each table is computed anew.

What a table declares (``agreement.checked``) decides how; the notebook goes on with the record.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.errors import UsageError
from avss_utils.store.agreement import Check, Finding, compare, form_of, keys_recorded
from avss_utils.store.files import project_root
from avss_utils.store.run_folder import Run
from avss_utils.store.tables import write_csv

DATA_DIR = "AVSS_DATA_DIR"
SETTINGS = dict(records="", device="cpu", batch_tokens=2048, checkpoint="", verify=0)
SETTINGS |= dict(eval_dtype="float32")
MADE = ("made here", "params")  # sources of data that follows from parameters, reduced ones here
OK, DIFFERS, KNOWN, NEEDS = "ok", "DIFFERS", "differs, known", "not checked"
COLUMNS = ["notebook", "table", "n", "largest", "allowed", "verdict", "what"]


def away(record: Mapping) -> set[str]:
    """Data sets that the record took from a folder which is not there."""
    if os.environ.get(DATA_DIR):
        return set()
    return {entry["name"] for entry in record["data"] if entry["source"] == DATA_DIR}


def reduced(given: Mapping, sizes: Mapping[str, Any], gone: set[str]) -> dict:
    """A record's parameters on the CPU, in smaller sizes, without the sets that are ``gone``.

    ``sizes``: counts, no larger than the record's, and of a list how many from its front.
    """
    own = {**given, **{name: x for name, x in SETTINGS.items() if name in given}}
    for name, value in given.items():
        size = sizes.get(name)
        if isinstance(value, list) and not isinstance(size, list):
            own[name] = [one for one in value if one not in gone][:size]
        elif size is not None:
            is_count = type(value) is int and name not in SETTINGS
            own[name] = min(size, value) if is_count else size
    return own


def failed(error: Exception) -> Finding:
    """What stands for a comparison that could not be made."""
    return Finding(f"{type(error).__name__}: {error}".split("\n")[0], 1, np.inf)


@dataclass
class Row:
    """What was compared of one table, what was found, and what could not be compared."""

    what: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)

    def add(self, what: str, find: Callable[[], Finding | list[Finding]]) -> None:
        """Findings of one comparison; a table that it cannot read as what it is has changed."""
        try:
            found = find()
        except Exception as error:
            found = failed(error)
        self.what.append(what)
        self.findings += found if isinstance(found, list) else [found]

    def cells(self) -> tuple:
        """n, largest, allowed, verdict and what of the comparison that is worst."""
        if not self.findings:
            return 0, np.nan, np.nan, NEEDS, "; ".join(sorted(self.needs))
        worst = max(
            self.findings,
            key=lambda f: (not f.agrees, bool(f.known), f.largest / max(f.allowed, 1e-300)),
        )
        verdict = (KNOWN if worst.known else OK) if worst.agrees else DIFFERS
        named = "" if verdict == OK else f"{worst.what}{worst.known and ': '}{worst.known}"
        words = [named, *self.what, *(f"NOT: {need}" for need in sorted(self.needs))]
        n = sum(finding.n for finding in self.findings)
        return n, worst.largest, worst.allowed, verdict, "; ".join(filter(None, words))


class Verification:
    """Compares tables as a notebook asks for them; ``prepare(sizes, gone)`` makes inputs for it.

    ``n``: how many keys of a table are computed again, unless it says which; ``report``: the file
    that ``finish`` writes, one row per table with COLUMNS.
    """

    def __init__(
        self, run: Run, prepare: Callable[[Mapping, set[str]], object], *, n: int, report: Path
    ) -> None:
        self.run, self.n, self.report, self.gone = run, n, report, away(run.record)
        self._prepare, self._made = prepare, dict[str, Any]()
        self.rows = {name: Row() for name in run.record["tables"]}

    def table(
        self,
        name: str,
        compute: Callable[..., pd.DataFrame],
        checks: Sequence[Check],
        keys: Sequence | None = None,
    ) -> None:
        """Hold one table against its checks; ``compute``: of inputs, and a key if there are any."""
        row = self.rows.setdefault(name, Row())
        if not checks or name not in self.run.record["tables"]:
            what = "table without a check" if not checks else "table that the record lacks"
            row.findings.append(Finding(what, 1, np.inf))
            return
        recorded = self.run.read(name)
        for check in checks:
            if check.form:
                row.add("its form", partial(form_of, check, recorded))
            if check.key and keys is not None and not self.gone:
                row.add(f"every {check.key}", partial(keys_recorded, check, recorded, keys))
            if check.by or not check.values:
                self._again(row, check, recorded, compute, keys)

    def _again(
        self,
        row: Row,
        check: Check,
        recorded: pd.DataFrame,
        compute: Callable,
        keys: Sequence | None,
    ) -> None:
        """Compute some keys again, in the sizes of the check, and compare."""
        made: list[tuple] = [()]
        what = "computed again"
        if keys is not None:
            there = [key for key in keys if not self._away(key)]
            made = [(key,) for key in check.picked(there, self.n)]
            what = f"{len(made)} of {len(keys)} keys"
        try:
            inputs = self._inputs(check.sizes)
            parts = [compute(inputs, *key) for key in made]
        except Exception as error:
            if self.gone:
                row.needs.add(f"needs {', '.join(sorted(self.gone))}")
            else:
                row.findings.append(failed(error))
            return
        if parts:
            again = pd.concat(parts, ignore_index=True)
            row.add(what, partial(compare, check, recorded, again))

    def _away(self, key: object) -> bool:
        parts = key if isinstance(key, tuple) else (key,)
        return any(isinstance(part, str) and part in self.gone for part in parts)

    def _inputs(self, sizes: Mapping) -> Any:
        known = repr(sorted(sizes.items()))
        if known not in self._made:
            self._made[known] = self._same(self._prepare(sizes, self.gone))
        return self._made[known]

    def _same(self, inputs: Any) -> Any:
        """The inputs, if their weights and data are those of the record."""
        model = self.run.record["model"]
        if inputs.identity["weights_sha256"] != model["weights_sha256"]:
            raise UsageError(f"{model['name']} has other weights than those of the record")
        noted = {entry["name"]: entry["sha256"] for entry in self.run.record["data"]}
        for entry in inputs.data:
            if entry.get("source") in MADE:
                continue
            if noted.get(entry["name"], entry["sha256"]) != entry["sha256"]:
                raise UsageError(f"{entry['name']} is not the data that the record was made of")
        return inputs

    def finish(self) -> None:
        """Write the report; a table that the notebook never asked for differs."""
        notebook = self.run.record["notebook"]
        for row in self.rows.values():
            if not row.findings and not row.needs:
                row.findings.append(Finding("table that the notebook does not make", 1, np.inf))
        table = [(notebook, name, *row.cells()) for name, row in self.rows.items()]
        file = project_root() / self.report
        file.parent.mkdir(parents=True, exist_ok=True)
        write_csv(pd.DataFrame(table, columns=COLUMNS), file)
