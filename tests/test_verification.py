"""Verification passes on an honest record and fails on a changed one, whatever its sha256 says."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import FAMILIES, tiny_tokenizer

from avss_utils import arms as arm_plans
from avss_utils import cli, evaluation
from avss_utils.corpora import Question
from avss_utils.project import content_sha256, read_csv, write_csv
from avss_utils.suites import Suite
from avss_utils.verification import (
    CHECKS,
    DIFFERS,
    Bench,
    MissingError,
    Part,
    judged,
    parts,
    verify_run,
    verifying,
)

RECORDS = Path(__file__).resolve().parent.parent / "results" / "full" / "smollm2-135m"
PRUNING, ANSWERS = "01_avss_pruning", "02_hallucination_metrics"
TRAINING, THRESHOLDS = "03_contrastive_mitigation", "04_pruning_thresholds"


@pytest.fixture
def no_model(monkeypatch):
    """Neither model nor data: what is left is what follows from tables."""

    def lacking(*_):
        raise MissingError("needs the model")

    monkeypatch.delenv("AVSS_DATA_DIR", raising=False)
    monkeypatch.setattr(Bench, "model", lacking)


@pytest.fixture
def copied(tmp_path):
    """A function that copies a committed record."""
    return lambda name: Path(shutil.copytree(RECORDS / name, tmp_path / name))


def change(folder: Path, table: str, edit) -> None:
    """Edit a table and note its new sha256, as a careful forger would."""
    path = next(folder.glob(f"{table}.csv*"))
    content = read_csv(path)
    edit(content)
    path.unlink()
    write_csv(content, folder / f"{table}.csv")
    record = json.loads((folder / "run.json").read_text())
    record["tables"][table]["sha256"] = content_sha256(folder / f"{table}.csv")
    (folder / "run.json").write_text(json.dumps(record))


def verdict(folder: Path, table: str) -> str:
    check = {table: CHECKS[folder.name][table]} if table in CHECKS[folder.name] else {}
    return next(r for r in verify_run(folder, check, Bench()) if r.table == table).verdict


def put(column: str, value, row: int = 0):
    """An edit: one cell gets this value, or this function of its own."""

    def edit(table: pd.DataFrame) -> None:
        old = table[column].iloc[row]
        new = value(old) if callable(value) else value
        table[column] = [new if i == row else x for i, x in enumerate(table[column])]

    return edit


def test_every_table_of_every_record_has_a_check():
    lacking = [
        f"{path.parent.name}: {table}"
        for path in sorted(RECORDS.glob("*/run.json"))
        for table in json.loads(path.read_text())["tables"]
        if table not in CHECKS.get(path.parent.name, {})
    ]
    assert not lacking, f"no check in avss_utils.verification.CHECKS for {', '.join(lacking)}"


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_an_honest_record_differs_nowhere_even_without_model_and_data(name, no_model):
    rows = list(verify_run(RECORDS / name, CHECKS[name], Bench()))
    assert [row.table for row in rows if row.verdict == DIFFERS] == []
    tables = json.loads((RECORDS / name / "run.json").read_text())["tables"]
    assert [row.table for row in rows] == ["run.json", *tables]


@pytest.mark.parametrize(
    ("name", "table", "edit"),
    [
        (PRUNING, "answers", put("prediction", lambda p: (p + 1) % 4)),
        (PRUNING, "blocks", put("variance", lambda v: v * 1.001)),
        (PRUNING, "costs", put("forward_seconds", -1.0)),
        (PRUNING, "dtypes", put("bits_per_byte", lambda b: b + 0.2, row=1)),
        (PRUNING, "null", put("drop", "0 1 2 3 4 5 7", row=40)),
        (PRUNING, "null", put("bits_per_byte", lambda b: b + 1e-4, row=2)),
        (PRUNING, "plans", put("drop", "0 1 2 3 4 5 7")),
        (PRUNING, "scores", put("score", lambda s: s * 1.001, row=5)),
        (PRUNING, "texts", put("n_bytes", lambda n: n + 1, row=3)),
        (ANSWERS, "answered", put("label", "right")),
        (ANSWERS, "choices", put("confidence", 0.4)),
        (ANSWERS, "contrasts", put("n", lambda n: n - 1)),
        (ANSWERS, "own_contrasts", put("n_false", lambda n: n - 1)),
        (ANSWERS, "own_examples", put("f1", lambda f: f + 0.1)),
        (ANSWERS, "precisions", put("rho", lambda r: r - 0.01)),
        (ANSWERS, "rounded", put("score", lambda s: s + 0.01)),
        (ANSWERS, "scores", put("score", lambda s: s * 1.001, row=7)),
        (ANSWERS, "transfer", put("value", lambda v: v + 1 / 7)),
        (TRAINING, "arms", put("trained", "1 2 3 4 5 6 7")),
        (TRAINING, "rankings", put("score", lambda s: s + 0.01)),
        (TRAINING, "rates", put("development", float("nan"))),
        (TRAINING, "trials", put("cells", lambda c: ("aa" if c[:2] == "zz" else "zz") + c[2:])),
        (TRAINING, "untrained_choices", put("confidence", lambda c: c - 0.01)),
        (THRESHOLDS, "confirm", put("drop", "0 1 2 3 4 5 7")),
        (THRESHOLDS, "development", put("mean", lambda m: m + 1e-3)),
        (THRESHOLDS, "effort", put("passes", lambda p: p + 1, row=2)),
        (THRESHOLDS, "elsewhere", put("drop", "0 1 2 3 4 5 7")),
        (THRESHOLDS, "greedy", put("nll", lambda n: n + 1e-3)),
        (THRESHOLDS, "healed", put("n_bytes", lambda n: n + 1, row=5)),
        (THRESHOLDS, "moving", put("drop", "29")),
        (THRESHOLDS, "plans", put("drop", "29")),
        (THRESHOLDS, "prone", put("score", lambda s: s + 0.01)),
        (THRESHOLDS, "rights", put("right", lambda r: r[:-1])),
        (THRESHOLDS, "scale", put("zeros", lambda z: z + 3)),
        (THRESHOLDS, "scores", put("score", lambda s: s * 1.001, row=5)),
        (THRESHOLDS, "tried", put("drop", "0 1 2 3 4 5 7")),
    ],
)
def test_a_changed_cell_is_found_without_the_model(name, table, edit, copied, no_model):
    folder = copied(name)
    change(folder, table, edit)
    assert verdict(folder, table) == DIFFERS


def test_a_changed_file_or_record_is_found(copied, no_model):
    folder = copied(THRESHOLDS)
    path = folder / "run.json"
    record = json.loads(path.read_text())
    record["parameters"]["seed"] = 1
    path.write_text(json.dumps(record))
    assert next(verify_run(folder, {}, Bench())).verdict == DIFFERS  # the key is of other ones
    (folder / "tried.csv").write_text("arm\navss\n")
    (row,) = verify_run(folder, {}, Bench())
    assert row.verdict == DIFFERS
    assert "tried.csv" in row.parts[0].what


def test_a_table_without_a_check_and_a_check_that_fails_differ(copied, no_model):
    def broken(subject):
        yield Part("fine", 1)
        raise KeyError("score")

    folder = copied(TRAINING)
    rows = {r.table: r for r in verify_run(folder, {"rates": broken}, Bench())}
    assert {row.verdict for name, row in rows.items() if name != "run.json"} == {DIFFERS}
    assert "no check" in rows["arms"].parts[0].what
    assert "KeyError" in rows["rates"].parts[-1].what


class Handmade:
    """What checks ask of a ``Subject``, with a tiny model and questions made here."""

    def __init__(self, parameters: dict, loaded, suite: Suite) -> None:
        self.parameters, self.loaded, self._suite = parameters, loaded, suite
        self.tables: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str):
        return self.parameters[name]

    def read(self, name: str) -> pd.DataFrame:
        return self.tables[name].copy()

    def suite(self, *, tasks, n_questions: int) -> Suite:
        return self._suite.smaller(tasks=tasks, text_sets=[], n_questions=n_questions, n_tokens=0)


@pytest.fixture
def handmade():
    words = ("fox", "dog", "cat", "hen")  # of one length, or the shortest would always win
    asked = tuple(Question(f"q{i}", f"which {i}?", words, i % 4) for i in range(12))
    model = FAMILIES["llama"](vocab_size=300)
    loaded = SimpleNamespace(model=model, tokenizer=tiny_tokenizer())
    suite = Suite({"sciq": asked})
    plans = pd.DataFrame({"arm": ["avss"], "drop": ["1"], "judged_as": ["avss"]})
    subject = Handmade({"tasks": ["sciq"], "wording_arms": ["full"]}, loaded, suite)
    rows = [evaluation.judge_answers(loaded, suite, arm) for arm in arm_plans.distinct(plans)]
    subject.tables = {"plans": plans, "answers": pd.concat(rows, ignore_index=True)}
    return subject


def found(subject) -> bool:
    """Whether the answers of a subject agree with the model's."""
    return all(
        p.agrees for p in parts.merged(list(judged.check_answers(subject, "answers", "plain")))
    )


def test_answers_are_judged_again_by_the_model(handmade):
    assert found(handmade)
    row = handmade.tables["answers"].index[handmade.tables["answers"].p_label < 0.3][0]
    assert row < judged.N_QUESTIONS
    handmade.tables["answers"].loc[row, "p_label"] += 0.15  # still a likely cell of its row
    assert not found(handmade)


def test_answers_of_another_model_differ(handmade):
    handmade.loaded.model = FAMILIES["llama"](vocab_size=300, seed=1)
    assert not found(handmade)


def test_a_missing_set_leaves_the_others_checked():
    def of(name: str):
        if name == "absent":
            raise MissingError("needs absent")
        yield Part("questions", 3)

    own = tuple(parts.merged(list(parts.each(["absent", "there", "too"], of))))
    assert verifying.Row("n", "t", own, 0.0).verdict == verifying.IN_PART
    assert verifying.Row("n", "t", own[:1], 0.0).verdict == verifying.NEEDS
    assert verifying.Row("n", "t", own[1:], 0.0).verdict == verifying.OK
    assert verifying.Row("n", "t", (), 0.0).verdict == DIFFERS
    assert own[1].n == 6


def test_differences_and_shares():
    assert parts.numbers("x", [1.0, np.nan], [1.0, np.nan], 0).agrees
    assert not parts.numbers("x", [1.0, np.nan], [1.0, 2.0], 9).agrees
    assert not parts.numbers("x", [1.0], [1.0, 2.0], 9).agrees
    assert not parts.numbers("x", [], [], 9).agrees
    assert parts.numbers("x", [100.0], [101.0], 0.01, relative=True).agrees
    assert parts.same("x", [1, 0], [1.0, 0.0]).agrees
    assert not parts.same("x", ["1 2"], ["1 3"]).agrees
    one_of_forty = [
        parts.alike("x", [1] * 20, [1] * 19 + [0]),
        parts.alike("x", [1] * 20, [1] * 20),
    ]
    (joined,) = parts.merged(one_of_forty)
    assert (joined.n, joined.largest) == (40, 0.025)
    assert joined.agrees
    assert not parts.alike("x", [1] * 40, [0] * 3 + [1] * 37).agrees
    assert not parts.holds("x", []).agrees
    assert not Part("x", 1, float("nan"), 1.0).agrees


def test_the_command_ends_with_1_where_anything_differs(copied, no_model, monkeypatch, capsys):
    folder = copied(TRAINING)
    records = folder.parent / "records"
    shutil.move(folder, records / "smollm2-135m" / TRAINING)
    command = ["verify", "--records", str(records), "--notebook"]
    assert cli.main([*command, TRAINING]) == 0
    assert capsys.readouterr().out.count(f"\n{TRAINING} ") == 8
    change(records / "smollm2-135m" / TRAINING, "arms", put("rank", 31))
    assert cli.main([*command, TRAINING]) == 1
    assert "from `rankings` (180) [" in capsys.readouterr().out
    assert cli.main([*command, "08_nothing"]) == 2
    assert "holds no record 08_nothing" in capsys.readouterr().err
