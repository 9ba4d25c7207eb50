"""Every table of every record through its check: a row each, none left out."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from avss_utils.project import content_sha256
from avss_utils.runs import Run, UsageError, read_run, run_key
from avss_utils.verification.parts import MissingError, Part, holds, merged, same
from avss_utils.verification.subject import Bench, Subject

Check = Callable[[Subject], Iterable[Part]]
OK, IN_PART, NEEDS, DIFFERS = "ok", "ok in part", "needs data", "DIFFERS"
RECORD = "run.json"


@dataclass(frozen=True)
class Row:
    """One table's verdict: ``worst`` of its parts, how many numbers were compared, seconds."""

    notebook: str
    table: str
    parts: tuple[Part, ...]
    seconds: float

    @property
    def verdict(self) -> str:
        """DIFFERS for any difference, or for nothing compared; else whether data was missing."""
        if not self.parts or not all(part.agrees for part in self.parts):
            return DIFFERS
        missing = [part.missing for part in self.parts]
        return NEEDS if all(missing) else IN_PART if any(missing) else OK

    @property
    def worst(self) -> Part:
        """The part with the largest difference in units of its tolerance."""
        return max(self.parts, key=lambda p: (not p.agrees, p.excess), default=Part(""))

    @property
    def n(self) -> int:
        return sum(part.n for part in self.parts)


def verify_records(
    folder: Path, checks: Mapping[str, Mapping[str, Check]], notebooks: Iterable[str] | None = None
) -> Iterator[Row]:
    """Rows of every record in ``folder`` (``<records>/<model>``), notebook by notebook.

    Raises UsageError where there is none, or no record of a notebook that is named.
    """
    there = sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))
    names = list(notebooks or there)
    for name in names or ["of any notebook"]:
        if name not in there:
            raise UsageError(f"{folder} holds no record {name}: name a folder that does")
    bench = Bench()
    for name in names:
        yield from verify_run(folder / name, checks.get(name, {}), bench)


def verify_run(folder: Path, checks: Mapping[str, Check], bench: Bench) -> Iterator[Row]:
    """The record itself, then every table that it notes; a table without a check differs."""
    try:
        run = read_run(folder)
    except UsageError as error:
        yield Row(folder.name, RECORD, (Part(str(error), 0, float("inf")),), 0.0)
        return
    subject = Subject(run, bench)
    yield _row(subject, RECORD, check_record)
    for table in run.record["tables"]:
        yield _row(subject, table, checks.get(table, no_check))


def no_check(subject: Subject) -> Iterator[Part]:
    """What stands for the check of a table that has none."""
    yield Part("no check: add one to avss_utils.verification", 0, float("inf"))


def check_record(subject: Subject) -> Iterator[Part]:
    """The key from what it is made of, and the tables' rows and sha256."""
    run: Run = subject.run
    record = run.record
    parts = (record[name] for name in ("parameters", "model", "data", "collect_version"))
    yield same("key", [record["key"]], [run_key(*parts)])
    tables = record["tables"]
    rows = [len(subject.read(name)) for name in tables]
    yield same("rows of tables", [note["rows"] for note in tables.values()], rows)
    files = [next(run.folder.glob(f"{name}.csv*")) for name in tables]
    yield same("sha256", [n["sha256"] for n in tables.values()], list(map(content_sha256, files)))
    there = {path.name.partition(".")[0] for path in run.folder.glob("*.csv*")}
    yield holds("no other tables", [there == set(tables)])


def _row(subject: Subject, table: str, check: Check) -> Row:
    parts, start = [], time.perf_counter()
    try:
        for part in check(subject):
            parts.append(part)
    except MissingError as error:
        parts.append(Part(str(error), missing=True))
    except Exception as error:  # a table that cannot be read as what it is has been changed
        what = f"{type(error).__name__}: {error}".split("\n")[0]
        parts.append(Part(f"could not be checked ({what})", 0, float("inf")))
    seconds = time.perf_counter() - start
    return Row(subject.run.record["notebook"], table, tuple(merged(parts)), seconds)


def as_line(row: Row) -> str:
    """A row for a terminal: the figures, and everything that was compared."""
    worst = row.worst
    figures = f"{row.n:>6} {worst.largest:>9.2g} {worst.allowed:>9.2g} {row.seconds:>6.1f}"
    what = "; ".join(map(_shown, row.parts))
    return f"{row.notebook:<25} {row.table:<20} {row.verdict:<10} {figures}  {what}"


def _shown(part: Part) -> str:
    size = f" ({part.n})" if part.n else ""
    excess = "" if part.agrees else f" [{part.largest:.2g} > {part.allowed:.2g}]"
    return f"{part.what}{size}{excess}"


HEAD = (
    f"{'notebook':<25} {'table':<20} {'verdict':<10} {'n':>6} {'largest':>9} {'allowed':>9} "
    f"{'sec.':>6}  recomputed or compared"
)
