"""Verification passes on an honest record and finds a changed one, whatever its sha256 says."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

from avss_utils.commands import cli
from avss_utils.commands.verification import replay as replaying
from avss_utils.commands.verification import verifying
from avss_utils.commands.verification.comparing import TOLERANCES, Comparison
from avss_utils.commands.verification.derived import unchecked
from avss_utils.commands.verification.verifying import read_checks, verify_record
from avss_utils.errors import UsageError
from avss_utils.store.files import content_sha256, read_csv, write_csv
from avss_utils.store.runs import open_run

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "results" / "full").glob("*/[!.]*/"))
CHECKS = read_checks()
PRUNING, ANSWERS, TRAINING, THRESHOLDS, TUNING, _ = CHECKS


def covered(name: str) -> set[str]:
    """Tables of a notebook with a check, or of nothing but time."""
    own = CHECKS.get(name, {"tables": {}})
    return {t for t, checks in own["tables"].items() if checks} | set(own.get("time", ()))


def rows_of(folder: Path) -> dict[str, verifying.Row]:
    """Rows by table of what follows from tables alone: no model is asked."""
    return {r.table: r for r in verify_record(folder, CHECKS[folder.name] | {"passes": {}})}


@pytest.mark.parametrize("folder", RECORDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_table_of_a_record_has_a_check_and_is_honest(folder):
    noted = json.loads((folder / "run.json").read_text())["tables"].keys()
    assert noted <= covered(folder.name), "params/verify.yml lacks a check"
    found = rows_of(folder)
    assert [row.line() for row in found.values() if row.verdict == verifying.DIFFERS] == []
    assert found.keys() == {"run.json", *noted}


@pytest.mark.parametrize("name", CHECKS)
def test_every_table_that_a_notebook_makes_has_a_check_of_known_words(name):
    source = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    made = set(re.findall(r'run\.(?:table|rows)\((?:\\n",\s*")?\s*\\"(\w+)\\"', source))
    assert made
    assert made <= covered(name), "params/verify.yml lacks a check"
    for check in [check for own in CHECKS[name]["tables"].values() for check in own]:
        assert check.get("in") in {*CHECKS[name]["passes"], None}
        assert {*check.get("but", {}).values(), check.get("numbers")} <= {*TOLERANCES, None}


def put(column: str, value, row: int = 0):
    """An edit of a table: one cell gets this value, or this function of its own."""

    def edit(table: pd.DataFrame) -> pd.DataFrame:
        cells = table[column].tolist()
        cells[row] = value(cells[row]) if callable(value) else value
        return table.assign(**{column: cells})

    return edit


@pytest.fixture
def copied(tmp_path):
    """A function that copies the committed records and gives the folder of one."""
    shutil.copytree(ROOT / "results" / "full" / "smollm2-135m", tmp_path / "records")
    return lambda name: tmp_path / "records" / name


@pytest.mark.parametrize(
    ("name", "table", "edit"),
    [
        (PRUNING, "blocks", put("avss", lambda v: v * 1.001)),
        (PRUNING, "dtypes", put("bits_per_byte", lambda b: b + 0.2)),
        (PRUNING, "plans", put("drop", "0 1 2 3 4 5 7")),
        (PRUNING, "scores", put("score", lambda s: s * 1.001, row=5)),
        (ANSWERS, "contrasts", put("value", lambda v: v + 1e-3, row=30)),
        (ANSWERS, "cross_fit", put("value", lambda v: v + 1e-3)),
        (ANSWERS, "detectors", put("summed surprise", lambda v: v + 0.1)),
        (ANSWERS, "half_excess", put("low", 2.0)),
        (ANSWERS, "own_contrasts", put("n_false", lambda n: n - 1)),
        (ANSWERS, "own_examples", put("f1", lambda f: f + 0.1)),
        (ANSWERS, "plans", put("drop", "0 1 2 3 4 5 7", row=1)),
        (ANSWERS, "rises", put("rise", lambda r: r + 0.1)),
        (ANSWERS, "transfer", put("value", lambda v: v + 1 / 7)),
        (TRAINING, "rankings", put("score", lambda s: s + 0.01)),
        (TRAINING, "trials", put("cells", lambda c: ("aa" if c[:2] == "zz" else "zz") + c[2:])),
        (THRESHOLDS, "greedy", put("nll", lambda n: n + 1e-3)),
        (THRESHOLDS, "scale", put("std", lambda s: s * 1.001)),
        (THRESHOLDS, "scores", put("score", lambda s: s * 1.01, row=5)),
        (TUNING, "tuned", put("values", "nan", row=-1)),
        (TUNING, "frozen", lambda table: table.drop(index=9)),
    ],
)
def test_a_changed_cell_is_found_though_its_sha256_is_noted(name, table, edit, copied):
    folder = copied(name)
    record, path = json.loads((folder / "run.json").read_text()), folder / f"{table}.csv"
    before = next(folder.glob(f"{table}.csv*"))
    content = edit(read_csv(before))
    before.unlink()
    write_csv(content, path)
    assert "is not what the run wrote" in rows_of(folder)[table].line()
    record["tables"][table]["sha256"] = content_sha256(path)
    (folder / "run.json").write_text(json.dumps(record))
    assert rows_of(folder)[table].verdict == verifying.DIFFERS


def test_a_missing_table_and_one_without_a_check_are_named(copied):
    folder = copied(THRESHOLDS)
    (folder / "tried.csv").unlink()
    assert "tried DIFFERS: file that is missing" in rows_of(folder)["tried"].line()
    record = json.loads((folder / "run.json").read_text())
    record["tables"]["new"] = record["tables"].pop("tried")
    record["parameters"]["seed"] = 1
    (folder / "run.json").write_text(json.dumps(record))
    found = rows_of(folder)
    assert "table that the record lacks" in found["tried"].line()
    assert "table without a check" in {finding.what for finding in found["new"].findings}
    assert found["run.json"].verdict == verifying.DIFFERS  # the key is of other parameters


def agree(recorded: list, again: list, numbers: str = "FLOAT32", **but) -> bool:
    """Whether two columns agree, of 16 tokens a row."""
    made = ({"row": range(len(v)), "value": v, "n_tokens": 16} for v in (recorded, again))
    findings = Comparison("row", numbers, but, whole=True).findings(*map(pd.DataFrame, made))
    return all(finding.agrees for finding in findings)


def test_edges_of_tolerances():
    assert agree([1.0, np.nan], [1.0009, np.nan])
    assert not agree([1.0], [1.0011])
    assert not agree([1.0], [np.nan])
    assert not agree([1.0], [1.0, 2.0])
    assert not agree([1.0, 2.0], [1.0])
    assert not agree([], [])
    assert agree([2.0], [3.0], "BFLOAT16")  # 0.25 x the square root of 16 tokens
    assert not agree([2.0], [3.001], "BFLOAT16")
    assert agree([1.0] * 10, [1.0] * 9 + [0.0], "DECISION")
    assert not agree([1.0] * 10, [1.0] * 8 + [0.0] * 2, "DECISION")
    assert agree(["a"], ["a"])
    assert not agree(["a"], ["b"])
    assert agree(["a"], ["b"], value=None)


def test_a_known_difference_does_not_fail_but_a_larger_one_does():
    row = verifying.Row("n", "t", {"score": (2.0, "near-ties")})
    row.findings = [verifying.Finding("score", 9, 2.0, 1.0), verifying.Finding("rows", 9)]
    assert row.line() == "n/t differs, known: score by 2, where 1 is allowed: near-ties"
    row.findings.append(verifying.Finding("score", 9, 2.1, 1.0))
    assert row.verdict == verifying.DIFFERS


MODEL = {"name": "tiny", "short": "tiny", "weights_sha256": "aa", "n_blocks": 4}
DATA = {"c4": ("11", "embedded"), "sst2": ("22", "AVSS_DATA_DIR")}
CELLS = (
    "n = 1\nsha = '11'",
    "import pandas as pd\nfrom avss_utils.models import load_model\n"
    "from avss_utils.runs import open_run",
    "loaded = load_model(model)\n"
    "run = open_run('01_tiny', parameters={}, data=[{'name': 'c4', 'sha256': sha}])\n"
    "chosen = run.table('chosen', lambda: 1 / 0)\n"
    "run.rows('rows', tasks, lambda t: pd.DataFrame({'task': [t], 'n': [n + chosen.n[0]]}))\n"
    "1 / 0",
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A function that makes a finished run of a notebook of three cells: n in its table ``rows``.

    Its tables are ``chosen`` and ``rows``, the latter a row a task.
    """
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    for name in ("params", "notebooks"):
        (tmp_path / name).mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks/01_tiny.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVSS_DATA_DIR", "somewhere")
    monkeypatch.setattr(replaying, "load_model", lambda *_, **__: SimpleNamespace(identity=MODEL))
    replaying.model_on_cpu.cache_clear()
    data = [{"name": n, "sha256": sha, "source": source} for n, (sha, source) in DATA.items()]
    given = dict(profile="full", results="results", model=MODEL, data=data, collect_version=1)

    def make(n: int):
        tasks = ["sciq", "piqa", "sst2"]
        parameters = {"tasks": tasks, "n": 5, "sha": "11"}
        run = open_run("01_tiny", parameters=parameters, device="cuda", **given)
        run.table("chosen", lambda: pd.DataFrame({"n": [2]}))
        run.rows("rows", tasks, lambda task: pd.DataFrame({"task": [task], "n": [n]}))
        return unchecked(run.finish().folder)

    yield make
    replaying.model_on_cpu.cache_clear()


def test_a_notebook_computes_a_sample_in_other_sizes(tiny, monkeypatch):
    run = tiny(7)

    def last(sizes: dict) -> list:
        wanted = {"rows": [lambda keys, compute: compute(keys[-1])]}
        return replaying.replay(run, wanted, sizes)["rows"][0].iloc[0].tolist()

    assert last({}) == ["sst2", 7]  # 5 of the record's parameters and 2 of its table
    assert last({"tasks": 2, "n": 1, "unknown": 3}) == ["piqa", 3]
    monkeypatch.delenv("AVSS_DATA_DIR")
    assert last({}) == ["piqa", 7]
    with pytest.raises(UsageError, match="c4 is not the data"):
        last({"sha": "33"})
    run.record["model"] = MODEL | {"weights_sha256": "bb"}
    with pytest.raises(UsageError, match="other weights"):
        last({})


@pytest.mark.parametrize(("n", "code"), [(7, 0), (8, 1)])
def test_the_command_ends_with_1_where_a_sample_differs(n, code, tiny, capsys):
    record = tiny(n).folder
    in_progress = record.with_name(".02_tiny-0.partial")
    in_progress.mkdir()
    (in_progress / "run.json").write_text("{}")
    own = "01_tiny: {passes: {all: {}}, time: [chosen], tables: {rows: [{in: all, by: task}]}}"
    Path("params/verify.yml").write_text(own)
    assert cli.main(["verify", "--model", "tiny"]) == code
    out = capsys.readouterr().out
    assert ("01_tiny/rows DIFFERS: n by 1, where 0 is allowed" in out) == bool(code)
    assert "1 time" in out
    assert cli.main(["verify", "--model", "absent"]) == 2
    assert "holds no record" in capsys.readouterr().err
