"""One run folder: its tables, computed once and read again as they were written.

A run folder holds ``run.json`` and tidy tables. It is filled under a temporary name and
renamed when complete, so a folder under its final name is always finished.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from avss_utils.errors import UsageError
from avss_utils.store import sharing
from avss_utils.store.files import file_sha256, plain_write_errors, put_whole, write_json
from avss_utils.store.outputs import replace_folder
from avss_utils.store.progress import progress
from avss_utils.store.records import NAME, own_files, read_record, renew_command
from avss_utils.store.tables import SUFFIXES, find_table, read_table, write_table


@dataclass
class Run:
    """One run folder, open for collecting or finished for reading.

    ``table`` and ``rows`` compute what is missing and read what is there, always through the file,
    so that a first run and a reread give the same numbers.
    """

    folder: Path
    record: dict
    finished: bool
    _working: Path = field(default=Path(), repr=False)
    _lock: FileLock | None = field(default=None, repr=False)

    def table(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table ``name``, computed once. Needs no model when the run is finished."""
        if self._helping:
            return self._made_by_owner(name)
        return self._once(name, partial(self._timed, name, compute))

    def read(self, name: str) -> pd.DataFrame:
        """A table that is there; UsageError names the command that makes it otherwise."""
        file = find_table(self.place(name))
        if file is None:
            folder = self.place(name).parent
            raise UsageError(f"{folder} has no table {name!r}: {renew_command(self.record)}")
        return read_table(file)

    def rows(self, name: str, keys: Iterable, compute: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        """A table built key by key; interrupted work resumes after the last finished key.

        Several processes can build it together (``sharing``).
        """
        return self.rows_together([name], keys, lambda key: {name: compute(key)})[name]

    def rows_together(
        self,
        names: Sequence[str],
        keys: Iterable,
        compute: Callable[..., Any],
        *,
        at_once: int | None = None,
    ) -> dict[str, pd.DataFrame]:
        """Several tables that are made together, such as those of one training: ``compute(key)``
        gives the rows of each by its name.

        With ``at_once``, ``compute(keys)`` takes up to as many keys that are not finished, and
        gives what each has in their order, one after another: for what is quicker together.
        """
        if not self.finished:
            self._make_parts(names, list(keys), compute, at_once)
        if self._helping:
            return {name: self._made_by_owner(name) for name in names}
        tables = {name: self._once(name, partial(self._joined, name)) for name in names}
        if not self.finished:
            for name in names:
                shutil.rmtree(self._working / f"{name}.parts", ignore_errors=True)
        return tables

    def _make_parts(
        self,
        names: Sequence[str],
        keys: list,
        compute: Callable[..., Any],
        at_once: int | None,
    ) -> None:
        def done() -> bool:
            return all(find_table(self.place(name)) for name in names)

        if done() or (self._helping and at_once):  # what goes together is one process's
            return
        if self._helping and not self._working.exists():
            raise sharing.Helped
        folders = [self._working / f"{name}.parts" for name in names]
        for folder in folders:
            with plain_write_errors(folder):
                folder.mkdir(exist_ok=True)
        files = [f"{number:05d}.parquet" for number in range(len(keys))]
        last = folders[-1]  # its parts tell which keys are finished
        bar = iter(progress(range(len(keys)), names[-1]))

        def make(number: int, computed: Callable[[], Mapping[str, pd.DataFrame]]) -> None:
            next(bar, None)
            parts = self._timed(names[0], computed)
            for name, folder in zip(names, folders, strict=True):
                put_whole(folder / files[number], partial(parts[name].to_parquet, index=False))

        if at_once:
            missing = [n for n, file in enumerate(files) if not (last / file).exists()]
            for first in range(0, len(missing), at_once):
                numbers = missing[first : first + at_once]
                found = iter(compute([keys[n] for n in numbers]))
                for number in numbers:
                    make(number, partial(next, found))
        else:
            places = [last / file for file in files]
            own = [partial(compute, key) for key in keys]
            sharing.make_parts(places, lambda number: make(number, own[number]), done=done)
        list(bar)

    def _joined(self, name: str) -> pd.DataFrame:
        parts = sorted((self._working / f"{name}.parts").glob("*.parquet"))
        return pd.concat(map(pd.read_parquet, parts), ignore_index=True)

    def _made_by_owner(self, name: str) -> pd.DataFrame:
        there = partial(find_table, self.place(name))
        sharing.wait_for(there, ended=lambda: not self._working.exists())
        return self.read(name)

    @property
    def _helping(self) -> bool:
        return not self.finished and sharing.is_helper()

    def changed(self) -> list[Path]:
        """Files of the tables that are gone or are not what the run wrote."""
        changed = []
        for name, note in self.record["tables"].items():
            file = find_table(self.place(name))
            if file is None or file_sha256(file) != note["sha256"]:
                changed.append(file or self.place(name))
        return changed

    def finish(self) -> "Run":
        """Write run.json and give the folder its final name; a no-op on a finished run."""
        if self.finished:
            return self
        if self._helping or self._lock is None:
            raise sharing.Helped
        files = sorted(file for end in SUFFIXES for file in self._working.glob(f"*{end}"))
        tables = {
            file.stem: {"rows": len(read_table(file)), "sha256": file_sha256(file)}
            for file in files
        }
        self.record = {**self.record, "seconds": self._seconds(), "tables": tables}
        write_json(self._working / NAME, self.record)
        for stray in (*self._working.glob("*.writing"), *self._working.glob("*.parts")):
            # of an earlier process that was killed in the middle
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
        Path(self._lock.lock_file).unlink(missing_ok=True)  # the lock itself holds on
        replace_folder(self._working, self.folder, own_files)
        self.finished = True
        self._lock.release(force=True)
        return self

    def _once(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        if not self.finished and find_table(self.place(name)) is None:
            write_table(make(), self.place(name))  # last: what is there needs nothing more
        return self.read(name)

    def _timed(self, name: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives; its seconds join those of the table's other parts, whichever
        process made them.
        """
        start = time.perf_counter()
        made = compute()
        spent = time.perf_counter() - start
        with FileLock(self._working / "seconds.writing"):
            noted = self._seconds()
            noted[name] = round(noted.get(name, 0.0) + spent, 2)
            write_json(self._working / NAME, {**self.record, "seconds": noted})
        return made

    def place(self, name: str) -> Path:
        """Where a table is or will be, without the suffix of its kind."""
        return (self.folder if self.finished else self._working) / name

    def _seconds(self) -> dict:
        """Seconds by table so far; run.json under the working name holds them until the end."""
        return (read_record(self._working) or {}).get("seconds", {})
