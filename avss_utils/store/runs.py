"""Runs: opened to be filled or gone on with, found again, read as records.

A run's key is made of parameters, weights, data and a version raised by hand when a computation
changes meaning. What is inside a run folder is ``run_folder``'s.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from avss_utils.errors import UsageError
from avss_utils.store import sharing
from avss_utils.store.files import at_home, plain_write_errors, project_root, provenance
from avss_utils.store.outputs import acquired, check_folder
from avss_utils.store.records import FORMAT, read_record, renew_command, run_key
from avss_utils.store.run_folder import Run


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
    folder = check_folder(project_root() / at_home(results) / profile / model["short"] / notebook)
    working = folder.with_name(f".{notebook}-{key[:12]}.partial")
    if sharing.is_helper():
        sharing.wait_for(working.exists, ended=lambda: _finished(folder, key))
        lock = None
    else:
        if run := _finished(folder, key):
            return run
        with plain_write_errors(working):
            working.mkdir(parents=True, exist_ok=True)
        lock = hold(working)
        if run := _finished(folder, key):  # another process has written it while this one waited
            shutil.rmtree(working, ignore_errors=True)
            lock.release(force=True)
            return run
    record = {
        "notebook": notebook,
        "profile": profile,
        "key": key,
        "parameters": parameters,
        "model": model,
        "data": data,
        "collect_version": collect_version,
        "format": FORMAT,
        **provenance(_devices(working, device)),
    }
    return Run(folder, record, finished=False, _working=working, _lock=lock)


def hold(folder: Path, *, wait: float = 10.0) -> FileLock:
    """Lock ``folder``: one writer. The lock ends with its process, which may open it twice.

    ``wait`` seconds let the kernel of a killed run notice that its parent is gone. Raises
    UsageError when another process keeps the folder longer.
    """
    return acquired(folder / ".lock", folder, wait=wait)


def _devices(working: Path, device: str) -> str:
    """This device after those on which an interrupted run has begun."""
    before = (read_record(working) or {}).get("device", "")
    if not before or before.split(", then ")[-1] == device:
        return before or device
    return f"{before}, then {device}"


def _finished(folder: Path, key: str) -> Run | None:
    """The finished run in ``folder`` if it has this key; an edited table is computed again."""
    found = read_record(folder)
    if found is None or found["key"] != key or found.get("format") != FORMAT:
        return None
    run = Run(folder, found, finished=True)
    return None if run.changed() else run


def open_record(
    notebook: str,
    *,
    records: str | Path,
    model: str,
    parameters: dict | None = None,
    collect_version: int = 0,
    oldest: int | None = None,
) -> Run:
    """A finished run under ``<records>/<model>/<notebook>``, read without a model or data.

    ``oldest``: records of versions from this one on can be shown too, by parameters of their own,
    whatever is asked for. Raises UsageError naming the renewing command when the record is missing,
    a table was edited by hand, or, where ``parameters`` are given, the record is of others or of
    another version of the computation.
    """
    folder = project_root() / at_home(records) / model / notebook
    record = read_record(folder)
    wanted = {"notebook": notebook, "profile": Path(records).name, "model": {"short": model}}
    if record is None:
        raise UsageError(f"there is no record in {folder}: {renew_command(wanted)}")
    run = _readable(folder, record)
    if parameters is None:
        return run
    version = record["collect_version"]
    if oldest is not None and oldest <= version < collect_version:
        collect_version, parameters = version, record["parameters"]
    key = run_key(parameters, record["model"], record["data"], collect_version)
    if key != record["key"]:
        raise UsageError(f"the record in {folder} is of other parameters: {renew_command(record)}")
    return run


def record_folders(root: Path) -> list[Path]:
    """Folders of finished runs, ``root``/MODEL/NOTEBOOK, sorted; one in progress is hidden."""
    return sorted(path.parent for path in root.glob("[!.]*/[!.]*/run.json"))


def read_run(folder: Path) -> Run:
    """The finished run in a folder, wherever it lies; UsageError where there is none."""
    record = read_record(folder) if folder.is_dir() else None
    if record is None or not record.get("tables"):
        raise UsageError(f"{folder} is not the folder of a finished run: it has no whole run.json")
    return _readable(folder, record)


def check_format(folder: Path, record: dict) -> None:
    """Raise UsageError where a record's tables are not of this version's format."""
    if record.get("format") != FORMAT:
        made = (record.get("versions") or {}).get("avss_utils", "another version")
        raise UsageError(
            f"the record in {folder} was written by avss_utils {made}, whose tables this version "
            f"does not read: {renew_command(record)}"
        )


def _readable(folder: Path, record: dict) -> Run:
    """The finished run, or UsageError where its tables are of another format or were changed."""
    check_format(folder, record)
    run = Run(folder, record, finished=True)
    for path in run.changed():
        raise UsageError(f"{path} is not what the run wrote: {renew_command(record)}")
    return run
