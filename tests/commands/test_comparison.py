"""Two runs side by side, and that the same run twice gives the same tables."""

from pathlib import Path

import pandas as pd
import pytest
from tiny import tiny_run

from avss_utils.commands import cli
from avss_utils.commands.compare import record_differences, side_by_side, table_differences
from avss_utils.store.runs import read_run

TABLE = pd.DataFrame({"block": [0, 1, 2], "score": [0.5, 1.5, float("nan")], "arm": list("abc")})


pytestmark = pytest.mark.usefixtures("project")


def made(results: str, table: pd.DataFrame = TABLE, *, device="cpu", **parameters):
    data = [{"name": "c4", "sha256": "11", "n": 3}]
    parameters = {"seed": 0, "tasks": ["sciq"], **parameters}
    run = tiny_run(results, parameters=parameters, data=data, device=device)
    run.table("scores", lambda: table)
    return run.finish()


def test_equal_runs_differ_in_nothing():
    first, second = made("one"), made("two")
    assert record_differences(first, second).empty
    row = table_differences(first, second).iloc[0]
    assert (row.table, row.rows_first, row.differing, row.largest) == ("scores", 3, 0, "-")


def test_differences_are_named_and_measured():
    other = TABLE.assign(score=[0.5, 1.25, 2.0], arm=list("abd"))
    first, second = made("one"), made("two", other, device="cuda", eps=1e-5)
    fields = record_differences(first, second).set_index("field")
    assert fields.loc["device"].to_list() == ["cpu", "cuda"]
    assert fields.loc["parameters.eps"].to_list() == ["-", "1e-05"]
    assert "model.name" not in fields.index
    row = table_differences(first, second).iloc[0]
    assert (row.differing, row.largest, row.column) == (3, "inf", "score")
    second = made("three", TABLE.assign(score=[0.5, 1.25, float("nan")]))
    assert table_differences(first, second).largest[0] == "0.25"


def test_tables_of_other_length_or_missing_are_said_to_be_so():
    first, second = made("one"), made("two", TABLE[:2])
    assert table_differences(first, second).iloc[0].to_list() == ["scores", 3, 2, "-", "-", "-"]


def test_the_command_prints_both_and_refuses_what_is_no_run(capsys, project):
    folders = [str(made(name, seed=n).folder) for n, name in enumerate(("one", "two"))]
    assert cli.main(["compare", *folders]) == 0
    shown = capsys.readouterr().out
    assert "parameters.seed" in shown
    assert shown.strip() == side_by_side(*map(read_run, map(Path, folders)))
    assert cli.main(["compare", folders[0], str(project)]) == 2
    error = capsys.readouterr().err
    assert "is not the folder of a finished run" in error
    (Path(folders[1]) / "scores.csv").write_text("block\n1\n")
    assert cli.main(["compare", *folders]) == 2
    assert "is not what the run wrote" in capsys.readouterr().err


def test_tables_of_another_shape_are_refused_naming_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = dict(notebook="01_avss_pruning", model={"short": "tiny", "weights_sha256": "aa"})
    run = tiny_run("results", **given)
    for name in ("answers", "texts", "null", "plans", "scores", "costs"):
        run.table(name, lambda: pd.DataFrame({"other": [1]}))
    folder = str(run.finish().folder)
    assert cli.main(["compare", folder, folder]) == 2
    error = capsys.readouterr().err
    assert f"the tables in {folder} are not those of its notebook" in error
    assert error.count("\n") == 1
