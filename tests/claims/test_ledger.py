"""The ledger: models found, chapters missing, answers to open questions, its tables and figure."""

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import readme
from matplotlib.colors import to_hex
from test_dynamics import ARMS, outcome_rows
from test_thresholds import CURVE, PLANS, answer_rows

from avss_utils import claims
from avss_utils.chapters.architectures import effects
from avss_utils.chapters.architectures.family import read_family
from avss_utils.chapters.architectures.training import at_an_edge
from avss_utils.chapters.thresholds.keep_curves import last_kept, shares_kept
from avss_utils.claims import ledger_figure, papers, questions, sentences
from avss_utils.claims import ledger_tables as ledger
from avss_utils.claims.verdicts import (
    CANNOT_BE_TESTED,
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Finding,
    Needs,
)
from avss_utils.errors import UsageError
from avss_utils.show import tables as report
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import Estimate
from avss_utils.store.notebooks import execute, notebook_names
from avss_utils.store.run_folder import Run
from avss_utils.store.runs import open_run

ROOT = Path(__file__).resolve().parents[2]
PRUNING, LIMITS = "01_avss_pruning", "04_pruning_thresholds"
TUNING, SHAPES = "05_finetuning_dynamics", "06_architecture"
NOTEBOOKS = {*claims.FINDINGS, *questions.ANSWERS}
INF, NAN = np.inf, np.nan
FAMILY = ["4x128", "4x256", "8x128", "8x256", "16x128", "16x256", "24x128"]


@pytest.fixture(autouse=True)
def at_root(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def committed() -> dict[str, ledger.Judged]:
    return ledger.judge_records(ROOT / "results" / "full", primary="smollm2-135m")


@pytest.fixture(scope="module")
def said(committed) -> dict[str, str]:
    return sentences.sentences(committed)


def opened(
    folder: Path,
    model: str,
    notebook: str,
    tables: dict,
    parameters: dict,
    *,
    architecture: str = "llama",
) -> Run:
    """A run folder as a notebook leaves it in the middle: tables written, not yet finished."""
    identity = {"short": model, "name": model, "weights_sha256": "aa", "n_blocks": 8}
    run = open_run(
        notebook,
        parameters={"seed": 0, **parameters},
        profile=folder.name,
        results=folder.parent,
        model=identity | {"architecture": architecture},
        data=[],
        collect_version=1,
        device="cpu",
    )
    for name, table in tables.items():
        run.table(name, lambda table=table: table)
    return run


def frozen_rows(thirds: int = 10, seeds: Sequence[int] = (1, 2, 3), **losses) -> pd.DataFrame:
    """Rows of ARMS with so many random thirds, all alike; ``losses`` by arm, spaces as in names."""
    own = {arm: loss for arm, loss in ARMS.items() if not arm.startswith("random")}
    own |= {name.replace("_", " "): loss for name, loss in losses.items()}
    drawn = own.pop("random", ARMS["random 0"])
    return outcome_rows(own | {f"random {i}": drawn for i in range(thirds)}, seeds=seeds)


def tuned(folder: Path, model: str = "tiny", *others: pd.DataFrame, **options) -> Run:
    """Chapter 5 of a model in which the most moved third was needed more, unless told otherwise;
    ``others``: rows of further tasks.
    """
    rows = pd.concat([frozen_rows(**options), *others])
    parameters = {"moved_by": "update variance"}
    return opened(folder, model, TUNING, {"frozen": rows}, parameters).finish()


def pruned_curve(
    folder: Path, curve: dict[str, str] = CURVE, *, task: str = "sciq", better: str = "a"
) -> Run:
    """Chapter 4 of a model of 8 blocks: what it gets right of one task, without 0 to 4 blocks."""
    tables = {"plans": PLANS, "answers": answer_rows(curve, name=task)}
    return opened(folder, "tiny", LIMITS, tables, {"better": better}).finish()


def shapes(
    folder: Path,
    slope: float,
    names: list[str] = FAMILY,
    *,
    rates: pd.DataFrame | None = None,
    **added: float,
) -> Run:
    """Chapter 6 of a family in which the outcome changes by ``slope`` a doubling of depth, and by
    0.4 with recall, which is drawn; ``added`` to single architectures.
    """
    rng, parts = np.random.default_rng(0), []
    for name, depth, *_ in effects.design(read_family(names)).itertuples(index=False):
        recall = 0.1 * depth + rng.uniform(0, 0.5)
        value = 0.5 + slope * depth + 0.4 * recall + added.get(f"at_{name}", 0.0)
        value += 1e-4 * rng.standard_normal()
        for taught, by in ((0.5, 0.0), (0.0, 1.0)):  # a control must not enter
            parts.append((name, taught, "hallucination", "unknown held out", value - by * depth))
            parts.append((name, taught, "recall", "known", recall))
    columns = ["architecture", "taught", "measure", "group", "value"]
    members = pd.DataFrame(parts, columns=columns).assign(seed=0, at=0, n=20)
    tables = {"members": members} | ({} if rates is None else {"rates": rates})
    return opened(folder, "tiny", SHAPES, tables, {"architectures": names}).finish()


def tried(**best: float) -> pd.DataFrame:
    """Three rates of every architecture of FAMILY, the middle one best unless told otherwise."""
    rates = (0.001, 0.003, 0.01)
    rows = [
        (name, rate, abs(np.log(rate / best.get(f"at_{name}", rates[1]))))
        for name in FAMILY
        for rate in rates
    ]
    return pd.DataFrame(rows, columns=["architecture", "rate", "development"])


# models and their records


def test_models_are_those_with_a_finished_record_in_order(tmp_path):
    root = tmp_path / "full"
    for model in ("b-model", "a-model"):
        tuned(root, model)
    opened(root, "c-model", TUNING, {"frozen": outcome_rows(ARMS)}, {})  # not finished
    (root / "d-model" / TUNING).mkdir(parents=True)  # without run.json
    (root / ".e-model" / TUNING).mkdir(parents=True)
    (root / ".e-model" / TUNING / "run.json").write_text("{}")
    (root / "f-model" / "42_mine").mkdir(parents=True)
    (root / "f-model" / "42_mine" / "run.json").write_text("{}")
    (root / "notes.txt").write_text("not a model")
    found = ledger.read_records(root, NOTEBOOKS, primary="b-model")
    assert [(model, list(runs)) for model, runs in found.items()] == [
        ("b-model", [TUNING]),
        ("a-model", [TUNING]),
    ]


def test_a_primary_model_without_any_record_is_refused_with_the_command(tmp_path):
    tuned(tmp_path / "quick", "other")
    command = (
        f"no chapter of 'tiny' has a record.*--notebook {PRUNING} --profile quick --model tiny"
    )
    for root in (tmp_path / "quick", tmp_path / "nowhere" / "quick"):
        with pytest.raises(UsageError, match=command):
            ledger.judge_records(root, primary="tiny")


def test_a_record_that_was_edited_is_refused(tmp_path):
    path = tuned(tmp_path / "full").folder / "frozen.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="not what the run wrote"):
        ledger.judge_records(tmp_path / "full", primary="tiny")


def test_what_has_no_record_is_not_yet_measured_and_not_linked(tmp_path):
    tuned(tmp_path / "full")
    tuned(tmp_path / "full", "other", most_moved=[1.0, 1.0])
    models = ledger.judge_records(tmp_path / "full", primary="tiny")
    table = ledger.by_model(models)
    assert table.columns.to_list() == ["claim or question", "tiny", "other", "edition 1.0.0"]
    of = table.set_index(table["claim or question"].str.partition(".")[0])
    assert of.index.to_list() == [*claims.CLAIMS, *questions.QUESTIONS]
    asked = questions.QUESTIONS["Q2"]
    assert of.loc["Q2", ["tiny", "other"]].to_list() == [asked.above, asked.below]
    assert set(of.drop(index="Q2")[["tiny", "other"]].to_numpy().ravel()) == {ledger.NOT_MEASURED}
    glued = dict(ledger.glued(models))
    numbers = range(1, 12)
    names = [f"verdict_C{i}" for i in numbers] + [f"status_Q{i}" for i in (1, 2, 3)]
    assert list(glued) == names + [f"tally_C{i}" for i in numbers]
    assert glued["verdict_C1"] == ledger.NOT_MEASURED
    assert glued["status_Q2"] == asked.above
    beside = ledger.beside_papers(models["tiny"])
    assert set(beside.verdict) == {ledger.NOT_MEASURED}
    assert set(beside.here) | set(beside[ledger.LINK]) == {""}
    answers = ledger.answers_table(models["tiny"])
    assert answers.status.to_list() == [ledger.NOT_MEASURED, "measured", ledger.NOT_MEASURED]
    assert answers[ledger.LINK].astype(bool).to_list() == [False, True, False]


# the committed records


def test_the_ledger_of_the_committed_records_measures_every_claim(committed):
    assert next(iter(committed)) == "smollm2-135m"
    for own in committed.values():
        beside = ledger.beside_papers(own)
        assert beside.verdict.to_list() == [own.says(name) for name in claims.CLAIMS]
        unmeasured = [not own.conditions(name) for name in claims.CLAIMS]
        assert (beside.verdict == ledger.NOT_MEASURED).to_list() == unmeasured
        for name, here in zip(claims.CLAIMS, beside.here, strict=True):
            for found in own.conditions(name):
                told = f"({found.part}) {found.measure} {found.needs}: "
                e = f"{report.interval(found.estimate)}, n\u00a0=\u00a0{found.estimate.n}"
                told += "waits for a record" if found.waits else f"{e}, {found.state}"
                assert told in here
        linked = beside[ledger.LINK].str.match(r"\{doc\}`.*\{ref\}`")
        assert (linked | (beside[ledger.LINK] == "")).all()
        assert linked.any()
        if {claim.notebook for claim in claims.CLAIMS.values()} <= own.runs.keys():
            assert linked.all()
            assert not any(unmeasured)
    for model in ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-1.5b"):  # with every notebook
        assert all(committed[model].conditions(name) for name in claims.CLAIMS)
    for claim in ("C5", "C6"):  # over all of them
        assert len({own.says(claim) for own in committed.values()}) == 1


def test_every_condition_has_a_row_in_the_claims_order(committed):
    own = committed["smollm2-135m"]
    table = ledger.conditions_table(own)
    assert list(dict.fromkeys(table.claim)) == list(claims.CLAIMS)
    assert len(table) == sum(bool(f.part) for f in own.findings)
    assert set(table.part) <= set("abc")
    assert (table.groupby("claim", sort=False).part.first() == "a").all()


def test_the_readme_says_what_the_committed_records_say(committed, said, monkeypatch):
    monkeypatch.setattr(readme, "sentences", lambda models: said)  # which take seconds
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.with_results(text, committed) == text


def test_the_readme_is_written_between_its_marks(monkeypatch):
    monkeypatch.setattr(readme, "results", lambda models: "new")
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.with_results(text, {}) == f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"


def test_the_papers_numbers_are_those_that_verdicts_are_measured_against(committed):
    reported = {name: claim.reported for name, claim in claims.CLAIMS.items()}
    numbers = {n: [float(x) / 100 for x in re.findall(r"[\d.]+", t)] for n, t in reported.items()}
    own = committed["smollm2-135m"]
    given = {name: own.conditions(name)[0].needs for name, found in numbers.items() if found}
    assert {name: numbers[name] for name in given} == {n: [x.threshold] for n, x in given.items()}
    sides = dict.fromkeys(("C1", "C2", "C3"), "above") | dict.fromkeys(("C9", "C10"), "reaches")
    assert {name: needs.side for name, needs in given.items()} == sides


def test_every_condition_has_the_size_that_is_declared_for_it(committed):
    sized = {
        (f.claim, f.part): f.size
        for own in committed.values()
        for f in own.findings
        if f.part and f.claim in papers.SIZES and f.part in papers.SIZES[f.claim]
    }
    declared = {(c, part): size for c, own in papers.SIZES.items() for part, size in own.items()}
    assert sized == declared


# what is declared


def test_every_claim_and_question_names_a_figure_of_its_chapter():
    for name, declared in {**claims.CLAIMS, **questions.QUESTIONS}.items():
        assert declared.notebook in notebook_names()
        cells = nbformat.read(ROOT / "notebooks" / f"{declared.notebook}.ipynb", 4).cells
        labels = [c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in cells]
        assert declared.figure in labels, name


def test_what_would_change_our_mind_is_one_sentence_each():
    table = ledger.turns()
    assert len(table) == len(claims.CLAIMS) + len(questions.QUESTIONS)
    for sentence in table["what would change our mind"]:
        assert re.fullmatch(r"[A-Z][^.]+\.", sentence), sentence


# edition 1.0.0 beside it


def test_what_edition_1_0_0_said_stays():
    content = (ROOT / "results" / "first_edition.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "c45fe10610ca3739f0ecd668c19b35828a764107266f5dc077375aaefebff20e"
    )
    table = ledger.first_edition()
    assert len(table) == 40
    columns = ["claim", "model", "measure", "value", "low", "high", "n", "said"]
    assert table.columns.to_list() == columns
    assert set(table.claim) == {*claims.CLAIMS, *questions.QUESTIONS}


def test_changes_are_the_rows_that_differ_from_edition_1_0_0(committed):
    differ = [
        (row.claim, row.model, row.said, committed[row.model].says(row.claim))
        for row in ledger.first_edition().itertuples()
        if committed[row.model].says(row.claim) != row.said
    ]
    assert 0 < len(differ) < 40
    table = ledger.changes(committed)
    assert table.columns.to_list() == ["of", "model", "edition 1.0.0", "now", "why"]
    told = table.assign(said=table["edition 1.0.0"].str.partition(" (")[0])
    assert list(told[["of", "model", "said", "now"]].itertuples(index=False, name=None)) == differ
    assert table.why.astype(bool).all()


def test_a_change_says_why_and_what_stays_is_none():
    was = [("C1", 0.5, 0.6), ("C4", 0.2, 0.4)]  # not reproduced, both
    assert ledger.changes(judged(unknown=was)).empty
    same = judged(m=was)["m"]
    assert not {"C1", "C4"} & set(ledger.changes({"smollm2-135m": same})["of"])
    turned = judged(m=[("C1", 0.91, 0.95), ("C4", 0.02, 0.4)])["m"]
    table = ledger.changes({"smollm2-135m": turned}).set_index("of")
    before = table["edition 1.0.0"]["C1"]
    assert before == "not reproduced (raw retention, sciq: 0.409 [0.344, 0.477])"
    assert table.now[["C1", "C4"]].to_list() == [REPRODUCED, UNDECIDED]
    assert table.why[["C1", "C4"]].to_list() == ["", "open: (a) m"]


def test_by_model_says_what_edition_1_0_0_said_of_these_models():
    own = judged(m=[("C7", 0.1, 0.2)])["m"]
    names = ["smollm2-135m", "gemma3-270m", "unknown"]
    table = ledger.by_model(dict.fromkeys(names, own)).set_index("claim or question")
    assert table.columns.to_list() == [*names, "edition 1.0.0"]
    (row,) = [row for name, row in table.iterrows() if name.startswith("C7.")]
    assert row["edition 1.0.0"] == "undecided: smollm2-135m; reproduced: gemma3-270m"
    assert (ledger.by_model({"unknown": own})["edition 1.0.0"] == "").all()


def test_a_tally_counts_models_and_a_summary_joins_claims():
    good, bad = ("C1", 0.92, 0.98), ("C1", 0.5, 0.6)
    models = judged(a=[bad], b=[good], c=[bad])
    assert ledger.tally(models, "C1") == "not reproduced on 2 of 3, reproduced on 1 of 3"
    assert ledger.tally(models, "C5") == "not yet measured, over 3 models"
    assert ledger.tally(judged(a=[bad]), "C6") == "not yet measured, over 1 model"
    words = ledger.summary(models)
    assert words.startswith("C1 not reproduced on 2 of 3, reproduced on 1 of 3; C2, C3, C4, C7, ")
    assert "C10 and C11 not yet measured on 3 of 3; C5 and C6 not yet measured, over" in words
    assert all(len(re.findall(rf"\b{claim}\b", words)) == 1 for claim in claims.CLAIMS)


# sentences


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.01, 0.08, 0.14, "rose 8 points [1, 14]"),
        (-0.14, -0.08, -0.01, "fell 8 points [1, 14]"),
        (-0.02, 0.03, 0.08, "no change shown (+3 points [−2, +8])"),
        (-0.08, -0.03, 0.02, "no change shown (−3 points [−8, +2])"),
        (0.0, 0.03, 0.06, "no change shown (+3 points [0, +6])"),
        (-0.004, 0.0, 0.004, "no change shown (0 points [0, 0])"),
    ],
)
def test_points_say_what_the_interval_shows(low, value, high, said):
    assert sentences.points(Estimate(value, low, high, 100)) == said


def test_every_sentence_says_something_and_has_no_internal_name(said):
    assert list(said) == list(sentences.SENTENCES) == list(readme.CHAPTERS)
    for text in said.values():
        assert re.fullmatch(r"[A-Z].+\.", text)
        assert "_" not in text
        assert not re.search(r"fell -|fell by -|nan\b|  ", text)
        assert claims.GUIDED not in text
        assert set(re.findall("`([^`]*)`", text)) <= {"relative-update-variance"}


def test_sentences_name_every_model_that_has_a_record(said, committed):
    for name, text in said.items():
        for model, own in committed.items():
            assert (model in text) == (readme.CHAPTERS[name] in own.runs)


def test_percentages_of_random_sets_are_those_of_the_records(said, committed):
    for claim, measure, name in (
        ("C4", "share of uniform random sets at least as good, bits_per_byte", "pruned"),
        ("C11", "share of random sets at least as good", "trained"),
    ):
        for own in committed.values():
            if not own.conditions(claim):
                continue
            (e,) = [f.estimate for f in own.conditions(claim) if f.measure == measure]
            assert f"{100 * e.value:.0f} %" in said[name]


# answers


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.26, 0.4, questions.ABOVE),
        (0.1, 0.24, questions.BELOW),
        (0.2, 0.3, questions.UNDECIDED),
        (0.25, 0.3, questions.UNDECIDED),  # at the reference is not above it
        (0.2, 0.25, questions.UNDECIDED),
        (0.25, 0.25, questions.UNDECIDED),
        (0.3, 0.3, questions.ABOVE),
        (-INF, INF, questions.UNTOLD),
        (0.3, INF, questions.UNTOLD),
        (-INF, 0.1, questions.UNTOLD),
        (NAN, NAN, questions.UNTOLD),
        (0.3, NAN, questions.UNTOLD),
    ],
)
def test_a_direction_is_that_of_the_whole_interval(low, high, expected):
    e = Estimate((low + high) / 2, low, high, 10)
    assert questions.direction(e, reference=0.25) == expected
    mirrored = Estimate(-e.value, -high, -low, 10)
    turned = {questions.ABOVE: questions.BELOW, questions.BELOW: questions.ABOVE}
    assert questions.direction(mirrored, reference=-0.25) == turned.get(expected, expected)


def test_nothing_is_told_without_rows_or_where_it_could_not_be():
    sure = Estimate(0.5, 0.4, 0.6, 10)
    assert questions.direction(sure, reference=0.0) == questions.ABOVE
    assert questions.direction(sure, reference=0.0, testable=False) == questions.UNTOLD
    assert questions.direction(Estimate(0.5, 0.4, 0.6, 0), reference=0.0) == questions.UNTOLD
    said = {questions.answer("Q3", sure, testable=t, note="").says for t in (True, False)}
    assert said == {questions.QUESTIONS["Q3"].above, "the measurement could not have told"}


# Q1: what is kept without a quarter


def test_what_is_kept_is_read_at_a_quarter_of_the_blocks(tmp_path):
    found = questions.threshold_answer(pruned_curve(tmp_path / "full"))
    assert found.estimate.value == pytest.approx(0.75)  # 60 of 80, without 2 of 8
    assert found.estimate.n == 100
    assert found.estimate.low < found.estimate.value < found.estimate.high < 0.9
    assert (found.direction, found.says) == (questions.BELOW, questions.QUESTIONS["Q1"].below)
    assert "by task sciq 0.75; the curve on SciQ stays above 0.9 up to 0.12 [" in found.note


def test_a_level_that_is_never_left_is_kept(tmp_path):
    flat = dict.fromkeys(CURVE, CURVE["full"])
    found = questions.threshold_answer(pruned_curve(tmp_path / "full", flat))
    assert (found.estimate.value, found.direction) == (1.0, questions.ABOVE)
    assert "up to 0.5 [0.5, 0.5] of the blocks" in found.note


def test_a_full_model_at_chance_cannot_tell_how_many_blocks_can_go(tmp_path):
    guessed = dict.fromkeys(CURVE, "x" * 25 + "." * 75)
    assert questions.threshold_answer(pruned_curve(tmp_path / "full", guessed)).direction == (
        questions.UNTOLD
    )


def test_a_run_without_the_score_or_the_task_does_not_answer(tmp_path):
    assert questions.threshold_answer(pruned_curve(tmp_path / "a", better="other")) is None
    assert questions.threshold_answer(pruned_curve(tmp_path / "b", task="piqa")) is None


@pytest.mark.parametrize(
    ("curve", "last"),
    [
        ([1.0, 0.95, 0.85, 0.95, 0.5], 0.375),  # the dip and what follows it are 0.9 on average
        ([1.0, 0.95, 0.84, 0.95, 0.5], 0.125),
        ([1.0, 0.6, 0.95, 0.95, 0.2], 0.0),  # so bad a first plan pulls the others down
        ([1.0, 0.8, 1.0, 1.0, 0.2], 0.375),
        ([1.0, 0.9, 0.89, 0.5, 0.5], 0.125),  # at the level is kept
        ([1.0, 1.1, 1.2, 1.0, 1.0], 0.5),
        ([1.0, 0.5, 0.4, 0.3, 0.95], 0.0),  # a last good plan does not decide either
        ([0.0, 0.5, 0.5, 0.5, 0.5], 0.0),  # nothing to keep
        ([-0.1, 0.5, 0.5, 0.5, 0.5], 0.0),
    ],
)
def test_the_last_share_that_is_kept_is_that_of_the_curve_that_never_rises(curve, last):
    shares = np.array([0, 1, 2, 3, 4]) / 8
    for unit in (1.0, 0.4):
        assert last_kept(unit * np.array(curve), shares, 0.9) == last


def test_shares_kept_by_hand_raw_and_corrected():
    found = shares_kept(PLANS, OutcomeTable(answer_rows(CURVE)), n_blocks=8, kept=0.9, seed=0)
    assert found.measure.to_list() == ["raw", "corrected"]
    assert found["value"].to_list() == [1 / 8, 1 / 8]
    assert (found.low <= 1 / 8).all()
    assert (found.high >= 1 / 8).all()
    assert found.open.to_list() == ["", ""]
    # 74 of 80 are 0.925 raw and, beyond the 25 that a guess gets, 49 of 55
    close = CURVE | {"without 3": "x" * 74 + "." * 26}
    found = shares_kept(PLANS, OutcomeTable(answer_rows(close)), n_blocks=8, kept=0.9, seed=0)
    assert found["value"].to_list() == [1 / 8, 0.0]
    flat = dict.fromkeys(CURVE, CURVE["full"])
    found = shares_kept(PLANS, OutcomeTable(answer_rows(flat)), n_blocks=8, kept=0.9, seed=0)
    assert found["value"].to_list() == [0.5, 0.5]  # the largest measured share
    assert found.open.to_list() == ["yes", "yes"]


# Q2: does movement show need


@pytest.mark.parametrize(("loss", "side"), [(2.0, "above"), (1.5, "undecided"), (1.2, "below")])
def test_need_is_the_loss_of_the_most_moved_third_less_that_of_the_least(tmp_path, loss, side):
    found = questions.movement_answer(tuned(tmp_path / "full", most_moved=[loss, loss]))
    assert found.estimate.value == pytest.approx(loss - 1.5)
    assert found.says == getattr(questions.QUESTIONS["Q2"], side)
    assert found.note == "movement of the update variance"


@pytest.mark.parametrize(
    ("options", "has"),
    [
        (dict(thirds=0), "0 random thirds and 3 judging seeds"),
        (dict(thirds=9), "9 random thirds and 3 judging seeds"),
        (dict(seeds=(1, 2)), "10 random thirds and 2 judging seeds"),
    ],
)
def test_need_is_not_told_by_few_random_thirds_or_seeds(tmp_path, options, has):
    found = questions.movement_answer(tuned(tmp_path / "full", **options))
    assert (found.direction, found.estimate.value) == (questions.UNTOLD, pytest.approx(0.5))
    assert f"{has}, 10 and 3 are needed: `python -m avss_utils run --notebook 05" in found.note


def test_a_task_on_which_freezing_random_blocks_helps_is_left_out_and_named(tmp_path):
    helped = frozen_rows(random=[0.9, 0.9], most_moved=[9.0, 9.0]).assign(set="u")
    found = questions.movement_answer(tuned(tmp_path / "a", "tiny", helped))
    assert (found.estimate.value, found.estimate.n) == (pytest.approx(0.5), 2)
    assert found.note.endswith("; without u, where freezing random blocks helps")
    kept = frozen_rows(random=[1.1, 1.1], most_moved=[9.5, 9.5]).assign(set="u")
    found = questions.movement_answer(tuned(tmp_path / "b", "tiny", kept))
    assert (found.estimate.value, found.estimate.n) == (pytest.approx((0.5 + 8) / 2), 4)
    assert "without" not in found.note


def test_need_is_not_told_where_freezing_random_blocks_helps_everywhere(tmp_path):
    found = questions.movement_answer(tuned(tmp_path / "full", random=[0.9, 0.9]))
    assert (found.direction, found.estimate.n) == (questions.UNTOLD, 0)
    assert "without t, where freezing random blocks helps" in found.note


# Q3: depth


@pytest.mark.parametrize(("slope", "side"), [(0.1, "above"), (0.0, "undecided"), (-0.1, "below")])
def test_a_planted_slope_is_told_with_recall_taken_out(tmp_path, slope, side):
    found = questions.architecture_answer(shapes(tmp_path / "full", slope))
    assert found.estimate.value == pytest.approx(slope, abs=0.005)  # 0.04 more by recall's way
    assert found.estimate.n == len(FAMILY)
    assert found.says == getattr(questions.QUESTIONS["Q3"], side)
    assert "without" not in found.note


def test_an_architecture_at_the_edge_of_its_rates_is_left_out_and_named(tmp_path):
    wild = {"at_24x128": 5.0}
    told = shapes(tmp_path / "a", 0.1, rates=tried(), **wild)
    assert abs(questions.architecture_answer(told).estimate.value - 0.1) > 0.05
    told = shapes(tmp_path / "b", 0.1, rates=tried(at_24x128=0.01), **wild)
    found = questions.architecture_answer(told)
    assert found.estimate.value == pytest.approx(0.1, abs=0.005)
    assert found.estimate.n == len(FAMILY) - 1
    assert "; without 24x128, its rate at the edge of the grid" in found.note


def test_an_edge_is_the_first_or_the_last_rate_of_several():
    best = dict(at_4x128=0.001, at_8x256=0.01)
    assert at_an_edge(tried(**best)) == {"4x128", "8x256"}
    assert at_an_edge(tried(**best).sample(frac=1, random_state=0)) == {"4x128", "8x256"}
    assert at_an_edge(tried(**best).query("rate == 0.001")) == set()  # nothing to choose between
    assert at_an_edge(tried()) == at_an_edge(None) == set()


def test_a_question_asked_of_models_made_for_it_is_not_owed_by_the_others():
    slope = questions.answer("Q3", Estimate(0.1, 0.05, 0.15, 5), note="")
    asked, other = ledger.Judged({}, [], {"Q3": slope}), ledger.Judged({}, [], {})
    table = ledger.by_model({"a": asked, "b": other}).set_index("claim or question")
    (row,) = [own for name, own in table.iterrows() if name.startswith("Q3")]
    says = [questions.QUESTIONS["Q3"].above, "asked of models made for it"]
    assert row[["a", "b"]].to_list() == says
    assert (table.b[:-1] == ledger.NOT_MEASURED).all()
    assert (ledger.by_model({"b": other}).b == ledger.NOT_MEASURED).all()


def test_a_family_that_cannot_tell_depth_from_width_does_not_answer(tmp_path):
    run = shapes(tmp_path / "full", 0.1, ["4x128", "8x256"])
    assert questions.architecture_answer(run) is None
    models = ledger.judge_records(tmp_path / "full", primary="tiny")
    assert dict(ledger.glued(models))["status_Q3"] == ledger.NOT_MEASURED


# tables as markdown, the figure, the notebook


def test_markdown_tables_hold_links_and_no_other_markup():
    cell = "a|b `c` {ref}`x` *d* <script>\nnext"
    table = pd.DataFrame(
        {"one": [cell, "2 [1, 3]"], "go": ["{doc}`x </y>`", ""], "x": [0.12345, 1]}
    )
    lines = report.as_markdown(table, links=["go"]).data.split("\n")
    assert lines[2:4] == ["| one | go | x |", "| --- | --- | --- |"]
    assert lines[4] == (
        r"| a\|b \`c\` \{ref\}\`x\` \*d\* \<script\> next | {doc}`x </y>` | 0\.123 |"
    )
    assert lines[5] == "| 2\u00a0\\[1\\,\u00a03\\] |  | 1\\.00 |"
    assert lines[-1] == ":::"


NEEDS = {"C4": Needs("below", 0.05), "C9": Needs("reaches", 0.12), "C5": Needs("above", 0.0)}


def judged(**models: list[tuple]) -> dict[str, ledger.Judged]:
    """Models with one condition a claim, by NEEDS or above 0.9: claim, low, high."""
    found = {}
    for name, rows in models.items():
        own = [
            Finding(
                claim,
                "m",
                Estimate((low + high) / 2, low, high, 9),
                NEEDS.get(claim, Needs("above", 0.9)),
                part="a",
                size=0.5,
            )
            for claim, low, high in rows
        ]
        found[name] = ledger.Judged({}, own, {})
    return found


def test_distances_are_turned_so_that_a_claim_holds_above_zero():
    table = ledger.distances(
        judged(a=[("C1", 0.92, 0.98), ("C4", 0.01, 0.03)], b=[("C4", 0.2, 0.4)])
    )
    shown = table[table.model != ""].set_index(["claim", "model"])
    limits = shown[["value", "low", "high"]]
    assert limits.loc["C1", "a"].to_list() == pytest.approx([0.05, 0.02, 0.08])
    assert limits.loc["C4", "a"].to_list() == pytest.approx([0.03, 0.02, 0.04])
    assert limits.loc["C4", "b"].to_list() == pytest.approx([-0.25, -0.35, -0.15])
    assert shown.needed.to_list() == ["> 0.9", "< 0.05", "< 0.05"]
    assert shown.verdict.to_list() == [REPRODUCED, REPRODUCED, NOT_REPRODUCED]
    assert list(dict.fromkeys(table.claim)) == list(claims.CLAIMS)
    assert (table[table.model == ""].verdict == ledger.NOT_MEASURED).all()


def test_a_claim_over_models_has_one_distance():
    table = ledger.distances(judged(a=[("C5", 0.1, 0.3)], b=[("C5", 0.1, 0.3)]))
    (row,) = table[table.claim == "C5"].itertuples()
    assert (row.model, row.verdict) == ("all models", REPRODUCED)


def drawn(models: dict[str, ledger.Judged]) -> plt.Axes:
    table = ledger.distances(models)
    _, ax = plt.subplots(figsize=(7, ledger_figure.figure_height(table)), layout="constrained")
    return ledger_figure.forest(ax, table)


def test_the_figure_shows_every_verdict_by_a_marker_of_its_own():
    looks = list(ledger_figure.LOOKS.values())
    assert len({marker for marker, _, _ in looks}) == len(looks) == 6
    measured = list(ledger_figure.LOOKS.items())[:-1]
    assert len({to_hex(colour) for _, (_, colour, _) in measured}) == len(measured)
    rows = [("C1", 0.92, 0.98), ("C4", 0.2, 0.4)]
    ax = drawn(judged(a=rows, b=[("C1", 0.8, 0.95), ("C4", -INF, INF)]))
    points = [x for x in ax.lines if x.get_marker() in {m for m, _, _ in looks}]
    ends = (REPRODUCED, UNDECIDED, NOT_REPRODUCED)  # none where there is no estimate
    assert [x.get_marker() for x in points] == [ledger_figure.LOOKS[end][0] for end in ends]
    heights = [x.get_ydata()[0] for x in points]
    assert heights == sorted(heights)
    assert len(set(heights)) == 3
    texts = [t.get_text() for t in ax.texts]
    assert texts.count("a") == texts.count("b") == 2
    assert texts.count(ledger.NOT_MEASURED) == len(claims.CLAIMS) - 2
    plt.close("all")


def test_no_text_of_the_figure_lies_on_another():
    rows = [("C1", -0.514, -0.0554), ("C4", 0.02345, 0.9234)]
    ax = drawn({name: judged(m=rows)["m"] for name in ("smollm2-135m", "qwen2.5-coder-1.5b")})
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    over = [
        (one.get_text(), two.get_text())
        for (one, a), (two, b) in combinations(zip(ax.texts, boxes, strict=True), 2)
        if a.overlaps(b)
    ]
    assert over == []
    assert max(box.x1 for box in boxes) <= ax.figure.bbox.x1
    plt.close("all")


def test_an_interval_beyond_the_scale_ends_in_an_arrow_and_one_model_needs_no_name():
    models = judged(only=[("C1", -3.0, 0.95)])
    assert models["only"].says("C1") == CANNOT_BE_TESTED
    ax = drawn(models)
    assert [x.get_marker() for x in ax.lines if len(x.get_xdata()) == 1] == ["<"]
    (line,) = [x for x in ax.lines if len(x.get_xdata()) == 2]
    assert list(line.get_xdata()) == pytest.approx([-ledger_figure.REACH, 0.95 - 0.9])
    assert "only" not in [t.get_text() for t in ax.texts]
    plt.close("all")


def test_the_notebook_shows_a_single_chapter_and_links_no_other(tmp_path):
    tuned(tmp_path / "quick")
    path = execute(
        "07_claims",
        tmp_path / "out" / "07_claims.ipynb",
        {"model": "tiny", "results": str(tmp_path)},
        timeout=120,
    )
    text = json.dumps([c.get("outputs") for c in nbformat.read(path, 4).cells])
    assert set(re.findall(r"</notebooks/(\w+)>", text)) == {TUNING}
    assert text.count(ledger.NOT_MEASURED) > 20
    assert "preliminary" in text


@pytest.mark.parametrize("given", [dict(random=[0.9, 0.9]), dict(thirds=0)])
def test_nothing_is_told_where_freezing_helps_on_every_task_or_no_third_is_random(tmp_path, given):
    assert questions.movement_answer(tuned(tmp_path / "full", **given)).direction == (
        questions.UNTOLD
    )
