"""A chapter's first line: what it refuses, reuses and reads, and that a record needs no model."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from avss_utils.chapters import open_chapter
from avss_utils.chapters.opening import Chapter
from avss_utils.errors import UsageError
from avss_utils.store.agreement import checked
from avss_utils.store.tables import read_csv

NAME = "01_tiny"
PARAMETERS = """
model = "tiny"
profile = "quick"
results = "results"
records = ""
device = "auto"
n_rows = 3
sets = ["sciq"]
checkpoint = ""
batch_tokens = 64
verify = 0
"""


class Experiment:
    """Made without a model, which only ``load`` would give."""

    def __init__(self, load, p: SimpleNamespace) -> None:
        self.p, self.device = p, "cpu, float32"
        self.identity = {"short": "tiny", "name": "tiny", "weights_sha256": "aa"}
        self.data = [{"name": "sciq", "sha256": "11", "source": "embedded"}] * 2

    @checked(by="row arm", sizes=dict(n_rows=1), key="arm")
    def answers(self, arm: str, factor: float) -> pd.DataFrame:
        rows = range(self.p.n_rows)
        return pd.DataFrame({"arm": arm, "row": rows, "x": [factor * (r + 1) for r in rows]})

    @checked(by="name")
    def facts(self) -> pd.DataFrame:
        return pd.DataFrame({"name": ["a"], "x": [1.5]})


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A project with one notebook, which is the working directory."""
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    cell = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "notebooks" / f"{NAME}.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(**changed) -> dict:
    """A notebook's globals after papermill has set ``changed``."""
    namespace = {"In": ["", PARAMETERS]}
    exec(PARAMETERS, {}, namespace)
    if changed:
        lines = "\n".join(f"{name} = {value!r}" for name, value in changed.items())
        namespace["In"].append("# Parameters\n" + lines)
    return namespace | changed


def opened(prepare=Experiment, **changed) -> Chapter:
    return open_chapter(NAME, version=2, parameters=given(**changed), prepare=prepare)


def fill(chapter: Chapter) -> tuple[pd.DataFrame, pd.DataFrame]:
    answers = chapter.rows("answers", ["full", "avss"], Experiment.answers, 2.0)
    facts = chapter.table("facts", Experiment.facts)
    chapter.finish()
    return answers, facts


def never(*_):
    raise AssertionError("nothing is prepared where a record is shown")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"n_row": 5}, "01_tiny has no parameter 'n_row': it has model, profile"),
        ({"n_rows": -5}, "parameter 'n_rows' of 01_tiny must be 1 or more, not -5"),
        ({"n_rows": True}, "parameter 'n_rows' of 01_tiny must be a int, not True"),
        ({"n_rows": float("nan")}, "must be a int, not nan"),
        ({"sets": ["sciq", 3]}, "must be a list of str"),
        ({"device": "spread"}, "one device for all of the notebook"),
    ],
)
def test_unknown_and_wrong_parameters_are_refused_before_anything_is_loaded(changed, says):
    with pytest.raises(UsageError, match=says):
        opened(never, **changed)


def test_a_missing_parameter_is_named():
    namespace = given()
    del namespace["n_rows"]
    with pytest.raises(UsageError, match="01_tiny needs n_rows: run its cells in order"):
        open_chapter(NAME, version=2, parameters=namespace, prepare=never)


def test_tables_are_made_once_and_an_equal_run_is_reused(capsys):
    first = fill(opened())
    assert capsys.readouterr().out == ""
    again = opened(batch_tokens=128)
    assert "is reused: made on" in capsys.readouterr().out
    for one, two in zip(first, fill(again), strict=True):
        pd.testing.assert_frame_equal(one, two)
    assert not opened(n_rows=4).run.finished


def test_a_record_is_shown_without_preparing_anything():
    first = fill(opened())
    chapter = opened(never, records="results/quick")
    assert chapter.model["short"] == "tiny"
    for one, two in zip(first, fill(chapter), strict=True):
        pd.testing.assert_frame_equal(one, two)
    with pytest.raises(UsageError, match="is of other parameters: make it again"):
        opened(never, records="results/quick", n_rows=9)


def older(oldest: int | None, **changed) -> Chapter:
    """The record shown by a notebook of two versions later, which has one parameter more."""
    path = Path("notebooks") / f"{NAME}.ipynb"
    source = PARAMETERS + "n_more = 3\n"
    cell = new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), path)
    namespace = given(records="results/quick", **changed) | {"n_more": 3}
    return open_chapter(NAME, version=4, parameters=namespace, prepare=never, oldest=oldest)


def test_a_record_of_before_a_table_was_added_is_shown_and_says_what_it_lacks(capsys):
    first, _ = fill(opened())
    chapter = older(2)
    keys = ["full", "avss"]
    pd.testing.assert_frame_equal(chapter.rows("answers", keys, Experiment.answers, 2.0), first)
    assert capsys.readouterr().out == ""
    assert chapter.rows("draws", keys, Experiment.answers, 2.0).empty
    assert chapter.table("more", Experiment.facts).empty
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert said[0].startswith("this record has no table 'draws' yet: make it again with `python -m")
    chapter.finish()
    for oldest in (None, 3):
        with pytest.raises(UsageError, match="is of other parameters: make it again"):
            older(oldest)


def test_a_record_of_before_is_shown_with_its_own_parameters_and_says_which_differ(capsys):
    fill(opened())
    path = Path("notebooks") / f"{NAME}.ipynb"
    namespace = given(records="results/quick", n_rows=9)
    assert path.exists()
    options = dict(version=4, parameters=namespace, prepare=never, oldest=2)
    chapter = open_chapter(NAME, **options)
    assert namespace["n_rows"] == chapter.parameters["n_rows"] == 3
    assert capsys.readouterr().out == "this record is older, and shown with its own n_rows\n"


def test_a_table_that_a_record_of_this_version_lacks_is_an_error():
    fill(opened())
    chapter = opened(never, records="results/quick")
    with pytest.raises(UsageError, match="has no table 'draws'"):
        chapter.table("draws", Experiment.facts)


def test_a_file_of_the_users_is_known_by_its_name():
    chapter = opened(sets=["/some/where/my own.csv"])
    assert chapter.parameters["sets"] == ["my own.csv"]
    assert set(chapter.parameters) == {"n_rows", "sets"}


@pytest.mark.parametrize("honest", [True, False])
def test_a_record_is_verified_as_the_notebook_asks_for_its_tables(honest, monkeypatch):
    fill(opened())
    if not honest:
        monkeypatch.setattr(Experiment, "p", None, raising=False)
        make = Experiment.answers

        @checked(by="row arm", sizes=dict(n_rows=1), key="arm")
        def other(self, arm: str, factor: float) -> pd.DataFrame:
            return make(self, arm, factor + 0.1)

        monkeypatch.setattr(Experiment, "answers", other)
    fill(opened(records="results/quick", results="_build/verify", verify=2))
    report = read_csv(Path("_build/verify/tiny/01_tiny.csv")).set_index("table")
    assert report.verdict.to_dict() == {
        "answers": "ok" if honest else "DIFFERS",
        "facts": "ok",
    }
    assert report.what["answers"].endswith("every arm; 2 of 2 keys")


@pytest.mark.parametrize("at_once", [None, lambda own: 2])
def test_tables_that_are_made_together_are_verified_by_one_computation(at_once):
    asked = []

    @checked(table="losses", by="arm", numbers="EXACT", key="arm")
    @checked(table="costs", by="arm", numbers="EXACT", key="arm", form=lambda t: t.value > 0)
    def trained(own: Experiment, arm: str) -> dict[str, pd.DataFrame]:
        asked.append(arm)
        tables = {"losses": 2.0, "costs": len(asked)}
        return {n: pd.DataFrame({"arm": [arm], "value": [x]}) for n, x in tables.items()}

    @checked(table="losses", by="arm", numbers="EXACT", key="arm")
    @checked(table="costs", by="arm", numbers="EXACT", key="arm", form=lambda t: t.value > 0)
    def several(own: Experiment, arms: list[str]) -> Iterator[dict[str, pd.DataFrame]]:
        return (trained(own, arm) for arm in arms)

    def made(**changed) -> list[pd.DataFrame]:
        chapter = opened(**changed)
        keys, compute = ["full", "avss"], several if at_once else trained
        tables = chapter.rows_together(["losses", "costs"], keys, compute, at_once=at_once)
        chapter.finish()
        return tables

    losses, costs = made()
    assert losses.value.tolist() == [2.0, 2.0]
    assert costs.value.tolist() == [1, 2]
    made(records="results/quick", results="_build/verify", verify=2)
    assert asked == ["full", "avss"] * 2  # a key once, for both tables
    report = read_csv(Path("_build/verify/tiny/01_tiny.csv")).set_index("table")
    assert report.verdict.to_dict() == {"losses": "ok", "costs": "DIFFERS"}  # 3 and 4, not 1 and 2
