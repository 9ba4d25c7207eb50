"""Where data sets come from in tests: small files, and a Hub that answers as it is told."""

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub

from avss_utils.data import sources

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCIQ = {
    "question": "What falls as snow?",
    "correct_answer": "water",
    "distractor1": "iron",
    "distractor2": "salt",
    "distractor3": "sand",
    "support": "Snow is frozen water.",
}


def stand_in_hub(monkeypatch) -> SimpleNamespace:
    """The only source there is: answers every load_dataset with ``rows``, notes it in ``asked``."""
    monkeypatch.delenv("AVSS_DATA_DIR", raising=False)
    monkeypatch.setattr(sources, "package_path", lambda file: None)
    stand_in = SimpleNamespace(rows=[], asked=[])

    def load_dataset(path, config, **options):
        stand_in.asked.append((path, config, options))
        return iter(stand_in.rows)

    info = SimpleNamespace(sha=COMMIT)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, path, revision: info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return stand_in


def write(folder: Path, file: str, text: str, *, encoding: str = "utf-8") -> Path:
    """A file in a folder that is made if need be."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def as_jsonl(*records: dict) -> str:
    """The records as JSON, one a line."""
    return "".join(json.dumps(record) + "\n" for record in records)
