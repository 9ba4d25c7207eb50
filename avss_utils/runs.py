"""Parameters, provenance, run folders, resume, and strict papermill execution.

A run folder holds ``run.json`` and tidy CSV files. It is filled under a temporary name and renamed
when complete, so a folder under its final name is always finished. Its key is made of parameters,
weights, data and a version raised by hand when a computation changes meaning.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pandas as pd

from avss_utils import __version__

PACKAGES = ("torch", "transformers", "datasets", "numpy", "pandas", "scipy")


class UsageError(ValueError):
    """A mistake the user can mend; its message is one sentence saying how."""


def cache_dir() -> Path:
    """Folder for converted models: ``$AVSS_CACHE``, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avss_utils"
    return Path(os.environ.get("AVSS_CACHE", default))


def project_root() -> Path:
    """The nearest folder at or above the working directory that holds notebooks/ and params/."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def run_key(parameters: dict, model: dict, data: Iterable[dict], collect_version: int) -> str:
    """Hex sha256 over what decides the numbers; commit, device and versions are not part of it."""
    content = {
        "parameters": parameters,
        "weights": [model["weights_sha256"], model.get("bos"), model.get("chat_template")],
        "data": sorted([d["name"], d["sha256"]] for d in data),
        "collect_version": collect_version,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def provenance(device: str) -> dict:
    """Versions, commit and machine kind; no environment variable, user or path is read."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": {"python": platform.python_version(), "avss_utils": __version__, **versions},
        "commit": _commit(),
        "device": device,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _commit() -> str | None:
    """HEAD, with "+changes" when tracked files differ from it.

    ``$AVSS_COMMIT`` stands in where the project was copied without its history; else None.
    """

    def git(*words: str) -> str:
        done = subprocess.run(("git", *words), cwd=project_root(), capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except OSError:
        head = changed = ""
    if not head:
        return os.environ.get("AVSS_COMMIT")
    return head + "+changes" * bool(changed)


@dataclass
class Run:
    """One run folder, open for collecting or finished for reading.

    ``table`` and ``rows`` compute what is missing and read what is there, always through the CSV
    file, so that a first run and a reread give the same numbers.
    """

    folder: Path
    record: dict
    finished: bool
    _working: Path = field(default=None, repr=False)

    def table(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table ``name``, computed once. Needs no model when the run is finished."""
        path = self._path(name)
        if not path.exists() and not self.finished:
            start = time.perf_counter()
            _write_csv(compute(), path)
            self._note_seconds(name, time.perf_counter() - start)
        return self.read(name)

    def read(self, name: str) -> pd.DataFrame:
        """A table that is there; UsageError names the command that makes it otherwise."""
        path = self._path(name)
        if not path.exists():
            raise UsageError(f"{path.parent} has no table {name!r}: {renew_command(self.record)}")
        return _read_csv(path)

    def rows(self, name: str, keys: Iterable, compute: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        """A table built key by key; interrupted work resumes after the last finished key."""

        def gather() -> pd.DataFrame:
            parts = self._working / f"{name}.parts"
            parts.mkdir(exist_ok=True)
            for number, key in enumerate(keys):
                if not (part := parts / f"{number:05d}.csv").exists():
                    _write_csv(compute(key), part)
            return pd.concat(map(_read_csv, sorted(parts.glob("*.csv"))), ignore_index=True)

        table = self.table(name, gather)
        if not self.finished:
            shutil.rmtree(self._working / f"{name}.parts", ignore_errors=True)
        return table

    def check(self) -> None:
        """Raise UsageError unless every table is what the run wrote."""
        for path in self.changed():
            raise UsageError(f"{path} is not what the run wrote: {renew_command(self.record)}")

    def changed(self) -> list[Path]:
        """Files of the tables that are gone or are not what the run wrote."""
        noted = {self._path(name): note["sha256"] for name, note in self.record["tables"].items()}
        return [
            path for path, sha in noted.items() if not path.exists() or file_sha256(path) != sha
        ]

    def finish(self) -> "Run":
        """Write run.json and give the folder its final name; a no-op on a finished run."""
        if self.finished:
            return self
        tables = {
            p.stem: {"rows": _n_rows(p), "sha256": file_sha256(p)}
            for p in sorted(self._working.glob("*.csv"))
        }
        self.record = {**self.record, "seconds": self._seconds(), "tables": tables}
        (self._working / "progress.json").unlink(missing_ok=True)
        write_json(self._working / "run.json", self.record)
        _replace_folder(self._working, self.folder)
        self.finished = True
        return self

    def _path(self, name: str) -> Path:
        return (self.folder if self.finished else self._working) / f"{name}.csv"

    def _seconds(self) -> dict:
        path = self._working / "progress.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _note_seconds(self, name: str, seconds: float) -> None:
        noted = {**self._seconds(), name: round(seconds, 2)}
        write_json(self._working / "progress.json", noted)


def open_run(
    notebook: str,
    *,
    parameters: dict,
    profile: str,
    results: str | Path,
    model: dict,
    data: Iterable[dict],
    collect_version: int,
    device: str,
) -> Run:
    """The finished run with this key if there is one, else a run to fill (or to go on with).

    Folder: ``<results>/<profile>/<model short name>/<notebook>``.
    """
    data = list(data)
    key = run_key(parameters, model, data, collect_version)
    folder = project_root() / results / profile / model["short"] / notebook
    if (found := _read_record(folder)) and found["key"] == key:
        run = Run(folder, found, finished=True)
        if not run.changed():  # an edited table is computed again
            return run
    working = folder.with_name(f".{notebook}-{key[:12]}.partial")
    working.mkdir(parents=True, exist_ok=True)
    record = {
        "notebook": notebook,
        "profile": profile,
        "key": key,
        "parameters": parameters,
        "model": model,
        "data": data,
        "collect_version": collect_version,
        **provenance(device),
    }
    return Run(folder, record, finished=False, _working=working)


def open_record(
    notebook: str,
    *,
    records: str | Path,
    model: str,
    parameters: dict | None = None,
    collect_version: int = 0,
) -> Run:
    """A finished run under ``<records>/<model>/<notebook>``, read without a model or data.

    Raises UsageError naming the renewing command when the record is missing, a table was edited by
    hand, or, where ``parameters`` are given, the record is of others or of another version of the
    computation.
    """
    folder = project_root() / records / model / notebook
    record = _read_record(folder)
    wanted = {"notebook": notebook, "profile": Path(records).name, "model": {"short": model}}
    if record is None:
        raise UsageError(f"there is no record in {folder}: {renew_command(wanted)}")
    run = Run(folder, record, finished=True)
    run.check()
    if parameters is None:
        return run
    key = run_key(parameters, record["model"], record["data"], collect_version)
    if key != record["key"]:
        raise UsageError(f"the record in {folder} is of other parameters: {renew_command(record)}")
    return run


def renew_command(record: dict) -> str:
    """The command that makes a record again, as a clause for an error message."""
    return (
        f"make it again with `python -m avss_utils run --notebook {record['notebook']} "
        f"--profile {record['profile']} --model {record['model']['short']}`"
    )


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that a reader sees the old or the new file, never a part."""
    _write_whole(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    _write_whole(path, table.to_csv(index=False, float_format="%.9g", na_rep="nan"))


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=["nan"])


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(text, newline="")
    os.replace(temporary, path)


def _read_record(folder: Path) -> dict | None:
    path = folder / "run.json"
    return json.loads(path.read_text()) if path.exists() else None


def _n_rows(path: Path) -> int:
    return len(pd.read_csv(path))


def _replace_folder(source: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)
