"""A folder of records -> the finished runs of every model in it."""

from collections.abc import Collection
from pathlib import Path

from avss_utils.errors import UsageError
from avss_utils.store.files import project_root
from avss_utils.store.run_folder import Run, renew_command
from avss_utils.store.runs import open_record, record_folders


def recorded_models(records: str | Path, notebooks: Collection[str]) -> list[str]:
    """Names of the models with a finished record of at least one of ``notebooks``, sorted.

    ``records``: a folder with a folder a model, in it one a notebook. A run in progress lies under
    a hidden name until it is finished (``runs``), and is no record.
    """
    found = record_folders(project_root() / records)
    return sorted({folder.parent.name for folder in found if folder.name in notebooks})


def read_records(
    records: str | Path, notebooks: Collection[str], *, primary: str
) -> dict[str, dict[str, Run]]:
    """The finished runs under ``records``, by model, ``primary`` first, and by notebook.

    What has no record is left out. Raises UsageError if the primary model has none at all, and if
    a table of any record was edited.
    """
    models = recorded_models(records, notebooks)
    root = project_root() / records
    if primary not in models:
        wanted = {"notebook": min(notebooks), "profile": root.name, "model": {"short": primary}}
        raise UsageError(
            f"no chapter of {primary!r} has a record in {root}: {renew_command(wanted)}"
        )
    models.sort(key=lambda model: model != primary)
    return {
        model: {
            name: open_record(name, records=records, model=model)
            for name in sorted(notebooks)
            if (root / model / name / "run.json").exists()
        }
        for model in models
    }
