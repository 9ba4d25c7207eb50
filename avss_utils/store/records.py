"""What run.json says of a run, whether it has the form of one, and which files it names."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from avss_utils.errors import UsageError
from avss_utils.store.files import file_sha256, read_json
from avss_utils.store.tables import SUFFIXES

NAME = "run.json"
FORMAT = 2  # of run folders: raised when an older one can no longer be read


def run_key(parameters: dict, model: dict, data: Iterable[dict], collect_version: int) -> str:
    """Hex sha256 over what decides the numbers; commit, device and versions are not part of it."""
    content = {
        "parameters": parameters,
        "weights": [model["weights_sha256"], model.get("bos"), model.get("chat_template")],
        "data": sorted([d["name"], d["sha256"]] for d in data),
        "collect_version": collect_version,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def renew_command(record: dict) -> str:
    """The command that makes a record again, as a clause for an error message."""
    return (
        f"make it again with `python -m avss_utils run --notebook {record['notebook']} "
        f"--profile {record['profile']} --model {record['model']['short']}`"
    )


def read_record(folder: Path) -> dict | None:
    """What run.json says; None where it is not there or not whole.

    Raises UsageError where it does not have the form of what a run writes.
    """
    record = read_json(folder / NAME)
    if record is not None and (lacking := _lacking(record)):
        raise UsageError(
            f"{folder / NAME} is not what a run writes (see its {lacking!r}): restore it, or move "
            "the folder away and run again"
        )
    return record


def own_files(folder: Path) -> dict[str, str]:
    """The files of a run's folder that are as the run wrote them, or were: name -> sha256."""
    try:
        record = read_record(folder)
    except UsageError:
        record = None
    if record is None:
        return {}
    notes = record.get("tables", {}).items()
    found = {f"{name}{end}": note["sha256"] for name, note in notes for end in SUFFIXES}
    if key_of(record) == record["key"]:
        found[NAME] = file_sha256(folder / NAME)
    return found


def key_of(record: Mapping) -> str:
    """The key that follows from what a record says."""
    names = ("parameters", "model", "data", "collect_version")
    return run_key(*(record[name] for name in names))


def _lacking(record: Any) -> str:
    """A field of a record that is not there or not of its kind; an empty text where all are."""
    if not isinstance(record, dict):
        return "content"
    wrong = (name for name, kind in FIELDS.items() if not isinstance(record.get(name), kind))
    optional = (name for name, kind in OPTIONAL.items() if not isinstance(record.get(name), kind))
    parts = (name for name, fits in PARTS.items() if not fits(record.get(name) or {}))
    return next(wrong, "") or next(optional, "") or next(parts, "")


def _has_texts(entry: Any, *names: str) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in names)


def _is_table(name: str, note: Any) -> bool:
    """Whether a file in the folder itself is named, with its sha256."""
    return name == Path(name).name != "" and "\\" not in name and _has_texts(note, "sha256")


FIELDS: dict[str, type] = dict(notebook=str, profile=str, key=str, parameters=dict, model=dict)
FIELDS |= dict(data=list, collect_version=int)
OPTIONAL: dict[str, tuple] = dict.fromkeys(("tables", "seconds", "versions"), (dict, NoneType))
OPTIONAL |= dict.fromkeys(("device", "date", "commit"), (str, NoneType))
PARTS: dict[str, Callable[[Any], bool]] = {
    "model": lambda model: _has_texts(model, "short", "weights_sha256"),
    "data": lambda sets: all(_has_texts(entry, "name", "sha256") for entry in sets),
    "tables": lambda tables: all(map(_is_table, tables, tables.values())),
}
