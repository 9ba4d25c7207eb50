"""Every table of a record through its checks of ``params/verify.yml``: a row each."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from avss_utils.commands.verification import derived, forms
from avss_utils.commands.verification.comparing import Comparison, Finding
from avss_utils.commands.verification.replay import away, replay
from avss_utils.models.plan import as_text
from avss_utils.store.files import project_root
from avss_utils.store.run_folder import Run
from avss_utils.store.runs import run_key

HEAD = f"{'record':<25} {'table':<19} {'n':>6} {'largest':>8} {'allowed':>8} {'':<14} sampled"
OK, DIFFERS, KNOWN, TIMED, NEEDS = "ok", "DIFFERS", "differs, known", "time", "not checked"
TIME = "not recomputed: it is a measurement of time"


@dataclass
class Row:
    """What was compared of one table, what was found, and what could not be compared.

    ``known``: column -> how far it is known to differ, and why.
    """

    notebook: str
    table: str
    known: dict[str, tuple[float, str]] = field(default_factory=dict)
    what: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)

    def add(self, what: str, compute: Callable[[], list[Finding]]) -> None:
        """Findings of one check; a table that it cannot read as what it is has been changed."""
        try:
            found = compute()
        except Exception as error:
            found = [failed(error)]
        self.what += [what] if found else []
        self.findings += found

    def differs(self, finding: Finding) -> bool:
        """Whether a finding is neither within its tolerance nor a known difference."""
        limit, _ = self.known.get(finding.what, (-1, ""))
        return not (finding.agrees or finding.largest <= limit)

    @property
    def worst(self) -> Finding:
        """The finding with the largest difference beside what is allowed."""
        worst_first = sorted(self.findings, key=lambda f: (not self.differs(f), -f.excess))
        return next(iter(worst_first), Finding("", 0))

    @property
    def verdict(self) -> str:
        """Whether the table is what the code computes."""
        if not self.findings:
            return TIMED if TIME in self.what else NEEDS
        return OK if self.worst.agrees else DIFFERS if self.differs(self.worst) else KNOWN

    def __str__(self) -> str:
        worst, n = self.worst, sum(finding.n for finding in self.findings)
        what = "; ".join([*self.what, *(f"NOT: {text}" for text in sorted(self.needs))])
        numbers = f"{n:>6} {worst.largest:>8.2g} {worst.allowed:>8.2g}"
        return f"{self.notebook:<25} {self.table:<19} {numbers} {self.verdict:<14} {what}"

    def line(self) -> str:
        """What differs, in a line."""
        worst = self.worst
        why = "".join(f": {own[1]}" for own in [self.known.get(worst.what)] if own)
        gap = f"{worst.what} by {worst.largest:.3g}, where {worst.allowed:.3g} is allowed"
        return f"{self.notebook}/{self.table} {self.verdict}: {gap}{why}"


def failed(error: Exception) -> Finding:
    """What stands for a comparison that could not be made."""
    return Finding(f"{type(error).__name__}: {error}".split("\n")[0], 1, np.inf)


def read_checks() -> dict:
    """Notebook -> passes, tables, time and known, of ``params/verify.yml``."""
    return yaml.safe_load((project_root() / "params" / "verify.yml").read_text("utf-8"))


def each_record(folders: Sequence[Path]) -> Iterator[list[Row]]:
    """Rows of each record, in order; two processes of one thread each share several records."""
    checks = read_checks()
    own = {folder: checks.get(folder.name, {"tables": {}, "passes": {}}) for folder in folders}
    if len(own) == 1:
        yield from map(_rows, *zip(*own.items(), strict=True))
        return
    # a process that is forked hangs where its parent has used torch's threads
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, torch.set_num_threads, (1,)) as pool:
        largest_first = sorted(own, key=lambda folder: -len(own[folder]["tables"]))
        found = {folder: pool.submit(_rows, folder, own[folder]) for folder in largest_first}
        yield from (found[folder].result() for folder in own)


def _rows(folder: Path, checks: dict) -> list[Row]:
    return list(verify_record(folder, checks))


def verify_record(folder: Path, checks: dict) -> Iterator[Row]:
    """A row of run.json, and one of every table that it notes or that there are checks of."""
    run, tables, time = derived.unchecked(folder), checks["tables"], checks.get("time", ())
    notebook, noted, known = run.record["notebook"], run.record["tables"], checks.get("known", {})
    names = dict.fromkeys([*sorted(noted), *tables, *time])
    rows = {name: Row(notebook, name, known.get(name, {})) for name in names}
    parts = (run.record[name] for name in ("parameters", "model", "data", "collect_version"))
    key = Finding("key", 1, float(run_key(*parts) != run.record["key"]))
    yield Row(notebook, "run.json", what=["its key"], findings=[key])
    for path in run.changed():
        state = "is not what the run wrote" if path.exists() else "is missing"
        rows[path.name.partition(".")[0]].findings.append(Finding(f"file that {state}", 1, np.inf))
    for name in rows:
        if name not in noted or name not in (*tables, *time):
            what = "table that the record lacks" if name in tables else "table without a check"
            rows[name].findings.append(Finding(what, 1, np.inf))
    for name in checks["passes"]:
        _sampled(run, name, checks, rows)
    for name, own in tables.items():
        for check in own if name in noted else ():
            if "in" not in check:
                _followed(run, check, rows[name])
    for name in time:
        rows[name].what.append(TIME)
    yield from rows.values()


def _followed(run: Run, check: dict, row: Row) -> None:
    """A check of one table by others, or of its form."""

    def form() -> list[Finding]:
        own = run.read(row.table)
        flags = function(own) if function else own.eval(check["form"])
        return [Finding(check["form"], len(flags), float((~flags.astype(bool)).sum()))]

    def others() -> list[Finding]:
        own = run.read(row.table)
        if (again := function(own, run)) is None:
            row.needs.add(f"{function.__doc__}: there is no such record")
            return []
        return _comparison(check).findings(own, again)

    if "form" in check:
        function = getattr(forms, check["form"], None)
        row.add(f"form alone: {function.__doc__ if function else check['form']}", form)
    else:
        function = getattr(derived, check["from"])
        row.add(function.__doc__, others)


def _sampled(run: Run, name: str, checks: dict, rows: dict[str, Row]) -> None:
    """All checks of one pass."""
    gone, wanted = away(run.record), {}
    for table in filter(run.record["tables"].__contains__, checks["tables"]):
        own = [check for check in checks["tables"][table] if check.get("in") == name]
        own = [check for check in own if check.get("needs") not in gone]
        wanted |= {table: own} if own else {}
    if not wanted:
        return
    sampling = {t: [partial(_computed, c) for c in own] for t, own in wanted.items()}
    try:
        found = replay(run, sampling, checks["passes"][name])
    except Exception as error:
        for table in wanted:
            if gone:
                rows[table].needs.add(f"{name}, which needs {', '.join(sorted(gone))}")
            else:
                rows[table].findings.append(failed(error))
        return
    for table, own in wanted.items():
        for check, again in zip(own, found[table], strict=True):
            what = f"{name} ({check['keys']})" if "keys" in check else name
            what = f"every {' and '.join(check['key'])}" if "key" in check else what
            compare = partial(_comparison(check, bool(gone)).findings, again=again)
            rows[table].add(what, lambda c=compare, t=table: c(run.read(t)))


def _computed(check: dict, keys: list, compute: Callable) -> pd.DataFrame:
    """What a check makes of the keys of a table and of what computes it."""
    if "key" in check:
        cells = [[_cell(key, part) for part in check["key"].values()] for key in keys]
        return pd.DataFrame(cells, columns=list(check["key"]))
    if "some" in check:
        return getattr(forms, check["some"])(compute)
    some = forms.KEYS[check.get("keys", "all")](keys)
    return pd.concat(map(compute, some), ignore_index=True) if keys else compute()


def _cell(key: object, part: int | str) -> object:
    """A part of a key, by place or attribute, as tables write it."""
    value = getattr(key, part) if isinstance(part, str) else key[part]
    if value is None:  # of the untrained model, an arm or a seed
        return forms.UNTRAINED if part == 0 else -1
    return as_text(value) if isinstance(value, tuple) else getattr(value, "name", value)


def _comparison(check: dict, in_part: bool = False) -> Comparison:
    """The comparison that a check describes; ``in_part``: some data is away."""
    key = list(check.get("key", ()))

    def prepare(table: pd.DataFrame) -> pd.DataFrame:
        for column, values in check.get("only", {}).items():
            table = table[table[column].isin(values)]
        for column, cut in check.get("cells", {}).items():
            table = forms.cells(table, column, cut)
        table = getattr(forms, check.get("as", ""), pd.DataFrame.copy)(table)
        return table[key].drop_duplicates() if key else table

    options = {"by": " ".join(key), "whole": bool(key), "prepare": prepare}
    options |= {name: check[name] for name in ("by", "numbers", "but", "whole") if name in check}
    return Comparison(**options | ({"whole": False} if in_part else {}))
