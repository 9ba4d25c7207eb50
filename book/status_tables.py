"""Which records there are, of which models, made on what and with what: tables for a page."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from avss_utils.store.run_folder import Run
from avss_utils.store.runs import read_run, record_folders

LIBRARIES = ("torch", "transformers", "datasets")
UNKNOWN = "–"
TYPE_COLUMNS = ["type", "grade", "doors", "reason", "transformers"]
GRADES = {
    "exact": "every number is the same; a prompt runs once for all of its answers",
    "slower, exact": "every number is the same; a prompt runs again with each of its answers",
    "refused": "one sentence says why, before anything is written",
    "not built": "not known: no tiny model can be made of the type's configuration alone",
    "WRONG": "a known fault: some numbers are others",
    "TRACEBACK": "a known fault: a command ends in an error that nobody can read",
}


def finished_runs(root: Path) -> list[Run]:
    """The runs under ``root``/MODEL/NOTEBOOK, in that order; none where there is no such folder.

    Raises UsageError for one whose tables are not those that it wrote.
    """
    return [read_run(folder) for folder in record_folders(root)]


def model_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a model with different weights: what it is, whence, how quantised, under what licence.

    Columns: model, what, from, quantisation, licence, blocks, parameters, bos (the token before
    every text), sha256 (of the weights, its first twelve digits). What a record does not say is
    UNKNOWN.
    """
    models = {run.record["model"]["weights_sha256"]: run.record["model"] for run in runs}
    names = ["model", "what", "from", "quantisation", "licence", "blocks"]
    names += ["parameters", "bos", "sha256"]
    rows = [
        (
            identity["short"],
            *_origin(identity),
            identity["licence"] or UNKNOWN,
            identity["n_blocks"],
            f"{identity['n_parameters']:,}",
            identity.get("bos") or UNKNOWN,
            sha256[:12],
        )
        for sha256, identity in models.items()
    ]
    return pd.DataFrame(rows, columns=names)


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run: notebook, model, date, commit, seconds, MB, device, libraries.

    ``seconds``: summed over the run's tables, and over processes that shared them; ``MB``: of the
    record on disk, in millions of bytes; ``commit``: seven digits, and whether files differed.
    """
    rows = [
        (
            run.record["notebook"],
            run.record["model"]["short"],
            run.record["date"],
            _short_commit(run.record["commit"]),
            f"{sum(run.record['seconds'].values()):,.0f}",
            f"{sum(path.stat().st_size for path in run.folder.iterdir()) / 1e6:.2f}",
            run.record["device"],
            ", ".join(f"{name} {run.record['versions'][name] or UNKNOWN}" for name in LIBRARIES),
        )
        for run in runs
    ]
    names = ["notebook", "model", "date", "commit", "seconds", "MB", "device", "libraries"]
    return pd.DataFrame(rows, columns=names)


def model_types(path: Path) -> pd.DataFrame:
    """The table of all model types (TYPE_COLUMNS); without rows where a fork has none yet."""
    if not path.exists():
        return pd.DataFrame(columns=TYPE_COLUMNS)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def grade_table(types: pd.DataFrame) -> pd.DataFrame:
    """A row a grade that a model type has: what it means, and how many of the types have it."""
    counts = types.grade.value_counts()
    head = " ".join(["types of transformers", *types.transformers.unique()])
    rows = [(grade, GRADES[grade], counts[grade]) for grade in GRADES if grade in counts]
    return pd.DataFrame(rows, columns=["grade", "meaning", head])


def _origin(identity: dict) -> tuple[str, str, str]:
    """What the weights are, where they came from, and how they are quantised."""
    if identity["source"] == "embedded":
        what, quantisation, carrier = identity["note"].split(", ", 2)
        return what, carrier, quantisation
    places = {"hub": "Hugging Face Hub", "gguf": "GGUF file", "folder": "local folder"}
    revision = f", revision {identity['revision']}" if identity["revision"] else ""
    return identity["name"], places[identity["source"]] + revision, UNKNOWN


def _short_commit(commit: str | None) -> str:
    name, _, changes = (commit or UNKNOWN).partition("+")
    return f"{name[:7]} with changes" if changes else name[:7]
