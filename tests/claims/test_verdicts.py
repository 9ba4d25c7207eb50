"""One rule for every verdict, on constructed intervals and tables."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from avss_utils import claims
from avss_utils.chapters.mitigation.training_effects import ABSTAINED, MATCH, outcomes_of
from avss_utils.claims import mechanisms, mitigation
from avss_utils.claims.pruning import retention_findings
from avss_utils.claims.verdicts import (
    CANNOT_BE_TESTED,
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Finding,
    ledger,
    verdict,
    verdict_below,
)
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import Estimate, proportion

INF, NAN = np.inf, np.nan


def estimate(low: float, high: float, n: int = 100) -> Estimate:
    return Estimate((low + high) / 2, low, high, n)


ABOVE_09 = [
    (0.91, 0.95, REPRODUCED),
    (0.85, 0.89, NOT_REPRODUCED),
    (0.85, 0.95, UNDECIDED),
    (0.9, 0.95, UNDECIDED),  # exactly at the threshold is not above it
    (0.85, 0.9, UNDECIDED),
    (0.9, 0.9, UNDECIDED),
    (0.95, 0.95, REPRODUCED),
    (-INF, INF, CANNOT_BE_TESTED),
    (0.95, INF, CANNOT_BE_TESTED),
    (-INF, 0.5, CANNOT_BE_TESTED),
    (NAN, NAN, CANNOT_BE_TESTED),
    (NAN, 0.5, CANNOT_BE_TESTED),
    (0.95, NAN, CANNOT_BE_TESTED),
]


@pytest.mark.parametrize(("low", "high", "expected"), ABOVE_09)
def test_verdict_is_that_of_the_whole_interval_in_any_unit_and_mirrored(low, high, expected):
    for unit in (1, 8):
        assert verdict(estimate(unit * low, unit * high), threshold=unit * 0.9) == expected
    assert verdict_below(estimate(-high, -low), threshold=-0.9) == expected


@pytest.mark.parametrize("judge", [verdict, verdict_below])
def test_nothing_is_tested_without_rows_or_when_said_so(judge):
    sure = estimate(0.95, 0.99)
    assert judge(sure, threshold=0.9) != CANNOT_BE_TESTED
    assert judge(sure, threshold=0.9, testable=False) == CANNOT_BE_TESTED
    assert judge(estimate(0.95, 0.99, n=0), threshold=0.9) == CANNOT_BE_TESTED


def test_ledger_has_a_row_a_finding_with_every_number():
    first = Finding("C1", "a", estimate(0.92, 0.96), threshold=0.9, primary=True, note="x")
    second = Finding("C4", "p", estimate(0.1, 0.2, n=7), threshold=0.9, primary=False, below=True)
    table = ledger([first, second])
    numbers = ["value", "low", "high", "n", "threshold"]
    assert table.columns.tolist() == ["claim", "measure", *numbers, "verdict", "primary", "note"]
    assert table.iloc[0].tolist() == ["C1", "a", 0.94, 0.92, 0.96, 100, 0.9, REPRODUCED, True, "x"]
    assert table.iloc[1].tolist()[5:] == [7, 0.9, REPRODUCED, False, ""]
    assert ledger([]).columns.tolist() == table.columns.tolist()


# claims on constructed tables


def tidy(**measures: tuple[float, float]) -> list[tuple]:
    return [(name.replace("_", " "), *limits) for name, limits in measures.items()]


def question_table(**tasks: list[tuple]) -> pd.DataFrame:
    """Estimates of arm "avss"; "above chance" belongs to the full model."""
    rows = []
    for task, measures in tasks.items():
        for measure, low, high in measures:
            arm = "full" if measure == "above chance" else "avss"
            rows.append((task, "plain", arm, measure, (low + high) / 2, low, high, 200))
    columns = ["set", "wording", "arm", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def text_table(*, bits: float = 1.2, **sets: tuple[float, float]) -> pd.DataFrame:
    """Estimates of arm "avss" by text set; ``bits`` per byte are the full model's."""
    rows = [(s, "avss", "bits retention", (a + b) / 2, a, b, 30) for s, (a, b) in sets.items()]
    rows += [(s, "full", "bits per byte", bits, bits - 0.1, bits + 0.1, 30) for s in sets]
    return pd.DataFrame(rows, columns=["text_set", "arm", "measure", "value", "low", "high", "n"])


GOOD = tidy(raw_retention=(0.92, 0.97), corrected_retention=(0.5, 0.8), above_chance=(0.2, 0.3))
BAD = tidy(raw_retention=(0.4, 0.6), corrected_retention=(-0.2, 0.1), above_chance=(0.2, 0.3))
AT_CHANCE = tidy(
    raw_retention=(0.92, 0.97), corrected_retention=(-INF, INF), above_chance=(-0.01, 0.05)
)


def found_by_measure(questions: pd.DataFrame, texts: pd.DataFrame) -> dict:
    found = retention_findings(questions, texts, primary_text="wikipedia")
    assert len({f.measure for f in found}) == len(found)
    return {f.measure: f for f in found}


def test_retention_findings_put_each_task_under_its_claim():
    questions = question_table(sciq=GOOD, piqa=BAD, sst2=BAD)
    found = found_by_measure(questions, text_table(wikipedia=(0.3, 0.4), c4=(0.95, 0.99)))
    assert {m: (f.claim, f.verdict) for m, f in found.items()} == {
        "raw retention, sciq": ("C1", REPRODUCED),
        "corrected retention, sciq": ("C1", NOT_REPRODUCED),
        "raw retention, piqa": ("C1", NOT_REPRODUCED),
        "corrected retention, piqa": ("C1", NOT_REPRODUCED),
        "raw retention, sst2": ("C3", NOT_REPRODUCED),
        "corrected retention, sst2": ("C3", NOT_REPRODUCED),
        "bits retention, wikipedia": ("C2", NOT_REPRODUCED),
        "bits retention, c4": ("C2", REPRODUCED),
    }
    assert {f.claim: m for m, f in found.items() if f.primary} == {
        "C1": "raw retention, sciq",
        "C2": "bits retention, wikipedia",
        "C3": "raw retention, sst2",
    }


def test_what_the_full_model_does_not_know_tests_nothing_and_a_second_wording_does_not_enter():
    second = question_table(sciq=GOOD).assign(wording="second")
    texts = text_table(bits=11.5, wikipedia=(0.95, 0.99))
    found = found_by_measure(pd.concat([second, question_table(sciq=AT_CHANCE)]), texts)
    assert {f.verdict for f in found.values()} == {CANNOT_BE_TESTED}


@pytest.mark.parametrize(("n_blocks", "judged"), [(4, False), (7, False), (8, True), (30, True)])
def test_a_correlation_over_few_blocks_tests_nothing(n_blocks, judged, monkeypatch):
    rows = [(c, n_blocks, 0.5, 0.4, 0.6, n_blocks, 0.5, 0.5) for c in ("variance", "sparsity")]
    names = ["criterion", "blocks", "value", "low", "high", "n", "p_shift", "partial"]
    table = pd.DataFrame(rows, columns=names)
    monkeypatch.setattr(mechanisms, "correlations", lambda *_, **__: table)
    monkeypatch.setattr(mechanisms, "text_gap", lambda *_, **__: Estimate(0.0, -1.0, 1.0, 9))
    arms = ["variance", "variance:highest", "sparsity", "sparsity:highest"]
    tables = {
        "scores": pd.DataFrame({"criterion": ["variance"]}),
        "leave_one_out": None,
        "opposites": pd.DataFrame({"arm": arms, "drop": ["0"] * 4}),
        "texts": None,
    }
    run = SimpleNamespace(record={"parameters": {"seed": 0}}, read=tables.get)
    found = [f for f in mechanisms.mechanism_findings(run) if f.primary]
    assert [f.verdict for f in found] == [REPRODUCED if judged else CANNOT_BE_TESTED] * 2


UNIFORM_BITS = "share of uniform random sets at least as good, bits_per_byte"


def null_table(n: int = 200) -> pd.DataFrame:
    """An arm better than all random sets but 4 uniform and half of the end-protected ones."""
    bits = np.array([*np.full(4, 1.5), *np.full(n - 4, 3.0)])
    protected = np.array([*np.full(n // 2, 1.5), *np.full(n - n // 2, 3.0)])
    return pd.DataFrame(
        {
            "null": ["full", "avss", *["random"] * n, *["random-protected"] * n],
            "bits_per_byte": [1.0, 2.0, *bits, *protected],
            "accuracy_sciq": [0.5, 0.4, *np.full(n, 0.3), *np.full(n, 0.4)],
        }
    )


def test_null_findings_count_sets_at_least_as_good_in_the_right_direction():
    found = {f.measure: f for f in claims.null_findings(null_table())}
    assert {m: (f.estimate, f.verdict) for m, f in found.items()} == {
        # the exact upper limit of 4 in 200 is 0.0504
        UNIFORM_BITS: (proportion(4, 200), UNDECIDED),
        "share of uniform random sets at least as good, accuracy_sciq": (
            proportion(0, 200),
            REPRODUCED,
        ),
        "share of end-protected random sets at least as good, bits_per_byte": (
            proportion(100, 200),
            NOT_REPRODUCED,
        ),
        "share of end-protected random sets at least as good, accuracy_sciq": (
            proportion(200, 200),  # a tie is at least as good
            NOT_REPRODUCED,
        ),
    }
    assert {f.claim for f in found.values()} == {"C4"}
    assert [m for m, f in found.items() if f.primary] == [UNIFORM_BITS]
    assert found[UNIFORM_BITS].note == "p = 0.0249"  # (1 + 4) / (1 + 200)


def test_twenty_sets_can_never_show_better_than_chance():
    best = null_table(20).assign(bits_per_byte=lambda t: np.where(t.null == "avss", 0.1, 9.0))
    verdicts = {f.measure: f.verdict for f in claims.null_findings(best)}
    assert verdicts[UNIFORM_BITS] == UNDECIDED


def test_null_findings_judge_the_arm_asked_for():
    better = null_table()
    better.loc[0, "null"] = "block-influence"
    own = claims.null_findings(better, arm="block-influence")
    assert [f.estimate.value for f in own] == [0, 0, 0, 0]


def answers_of(arm: str, right: int, *, task: str, wording: str = "plain") -> pd.DataFrame:
    rows = [(task, wording, i, 2, i % 2, float(i < right)) for i in range(40)]
    columns = ["set", "wording", "row_id", "n_choices", "label", "correct"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_true=0.2 + 0.6 * table.correct, beaten=table.correct, arm=arm)


def texts_of(arm: str, nll: float) -> pd.DataFrame:
    columns = {"row_id": range(12), "window": 0, "n_tokens": 10, "n_bytes": 40, "nll": nll}
    return pd.DataFrame(columns).assign(text_set="wikipedia", arm=arm)


def pruning_run() -> SimpleNamespace:
    answers = [
        answers_of(arm, right, task=task, wording=wording)
        for arm, right in (("full", 36), ("avss", 18), ("other", 40))
        for task in ("sciq", "sst2")
        for wording in ("plain", "second")
    ]
    texts = [texts_of(arm, nll) for arm, nll in (("full", 30.0), ("avss", 60.0), ("other", 1.0))]
    tables = {"answers": pd.concat(answers), "texts": pd.concat(texts), "null": null_table()}
    record = {"parameters": {"seed": 0, "text_sets": ["wikipedia"]}}
    return SimpleNamespace(record=record, read=tables.__getitem__)


def test_pruning_findings_read_the_tables_of_a_run():
    table = ledger(claims.pruning_findings(pruning_run()))
    primary = table[table.primary].set_index("claim")
    assert primary.value.to_dict() == pytest.approx({"C1": 0.5, "C2": 0.5, "C3": 0.5, "C4": 0.02})
    assert primary.n.to_dict() == {"C1": 40, "C2": 12, "C3": 40, "C4": 200}
    assert primary.verdict.to_dict() == {
        **dict.fromkeys(("C1", "C2", "C3"), NOT_REPRODUCED),
        "C4": UNDECIDED,
    }


def cross_fit_table(low: float, high: float) -> pd.DataFrame:
    rows = [("false against true", low, high), ("false against false", -0.1, 0.1)]
    rows += [("irrelevant", 0.3, 0.5)]
    table = pd.DataFrame(rows, columns=["kind", "low", "high"])
    return table.assign(set="s", block=4, value=(table.low + table.high) / 2, n=200)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.25, 0.45, REPRODUCED),
        (0.0, 0.15, NOT_REPRODUCED),
        (0.1, 0.3, UNDECIDED),
        (-0.4, 0.15, CANNOT_BE_TESTED),
    ],
)
def test_a_pattern_has_to_be_more_than_a_small_effect(low, high, verdict):
    (found,) = claims.pattern_findings(cross_fit_table(low, high), primary_set="s")
    assert (found.claim, found.verdict, found.primary) == ("C7", verdict, True)
    assert "block 4" in found.note
    assert "irrelevant 0.40" in found.note


def test_flags_are_judged_beyond_shuffled_labels_and_by_how_many_draws_do_as_well():
    halves = pd.DataFrame(
        {
            "set": ["s", "t", "s"],
            "reading": ["contrast", "contrast", "restricted"],
            "value": [0.3, 0.0, 0.0],
            "low": [0.1, -0.2, -0.1],
            "high": [0.5, 0.2, 0.1],
            "n": 100,
        }
    )
    transfer = pd.DataFrame(
        {
            "reading": ["contrast"],
            "target": ["t"],
            "value": [0.6],
            "shuffled": [0.3],
            "as_good": [0.01],
            "low": [0.0],
            "high": [0.03],
            "n": [200],
        }
    )
    found = claims.flag_findings(halves, transfer, primary_set="s")
    assert [f.verdict for f in found] == [REPRODUCED, UNDECIDED, REPRODUCED]
    assert [f.primary for f in found] == [True, False, False]
    assert all(f.claim == "C8" for f in found)


def test_answers_of_a_set_that_the_full_model_does_not_know_test_nothing():
    rows = [
        ("full", "choice accuracy", 0.6, 0.55, 0.65),
        ("full", "exact match", 0.0, 0.0, 0.0),
        ("without 1", "raw retention", 0.95, 0.92, 0.98),
        ("without 1", "corrected retention", 0.5, 0.3, 0.7),
        ("without 1", "exact match retention", 0.9, 0.8, 1.0),
    ]
    table = pd.DataFrame(rows, columns=["arm", "measure", "value", "low", "high"])
    found = claims.answer_findings(table.assign(set="s", n=100), arm="without 1")
    verdicts = {f.measure: f.verdict for f in found}
    assert verdicts == {
        "raw retention, s": REPRODUCED,
        "corrected retention, s": NOT_REPRODUCED,
        "exact match retention, s": CANNOT_BE_TESTED,
    }
    assert not any(f.primary for f in found)


def mitigation_outcomes(rate: float, sure: float, *, n: int = 600) -> OutcomeTable:
    """The untrained model errs on half of the questions and is sure by 0.9; the guided arm on
    ``rate`` of them, sure by ``sure``; 25 random arms and uniform training change nothing.
    """
    rng, before = np.random.default_rng(0), (np.arange(n) % 2).astype(float)
    after = np.where((before == 0) & (rng.random(n) < 1 - 2 * rate), 1.0, before)
    names = ["none", "uniform", *(f"random {i}" for i in range(99))]
    arms = dict.fromkeys(names, (before, 0.9)) | {"eavss top": (after, sure)}
    asked = dict(seed=0, set="s", wording="plain", row_id=np.arange(n).astype(str))
    rows = [
        pd.DataFrame(dict(arm=arm, **asked, correct=right, confidence=confidence))
        for arm, (right, confidence) in arms.items()
    ]
    return outcomes_of(pd.concat(rows))


@pytest.mark.parametrize(
    ("rate", "sure", "verdicts"),
    [
        (0.3, 0.7, [REPRODUCED, REPRODUCED, REPRODUCED]),
        (0.5, 0.9, [NOT_REPRODUCED, NOT_REPRODUCED, NOT_REPRODUCED]),
    ],
)
def test_what_training_changed_is_judged_by_rate_error_and_choice(rate, sure, verdicts):
    outcomes = mitigation_outcomes(rate, sure)
    options = dict(primary_set="s", seed=0)
    judges = (mitigation.rate_findings, mitigation.error_findings, mitigation.choice_findings)
    found = [f for judge in judges for f in judge(outcomes, ["s"], **options) if f.primary]
    assert [f.claim for f in found] == ["C9", "C10", "C11"]
    assert [f.verdict for f in found] == verdicts


def test_a_fall_that_could_not_have_been_found_is_not_judged():
    outcomes = mitigation_outcomes(0.45, 0.9, n=40)
    (found,) = mitigation.rate_findings(outcomes, ["s"], primary_set="s", seed=0)
    assert found.verdict == CANNOT_BE_TESTED


def test_own_answers_of_a_model_that_knows_too_little_test_nothing(monkeypatch):
    outcomes = mitigation_outcomes(0.3, 0.7)
    monkeypatch.setattr(OutcomeTable, "sets", lambda *_: ["s"])  # which own answers are of
    for arm, n_right in (("none", 30), ("eavss top", 200)):  # of 600: a twentieth before
        match = (np.arange(600) < n_right).astype(float)
        outcomes.add(arm, {("s", MATCH): match, ("s", ABSTAINED): np.zeros(600)})
    options = dict(primary_set="s", seed=0)
    own = mitigation.rate_findings(outcomes, ["s"], **options)[1]
    assert own.measure == "fall of wrong own answers, s"
    assert (own.verdict, own.primary) == (REPRODUCED, False)
    outcomes.add("none", {("s", MATCH): (np.arange(600) < 29).astype(float)})
    assert mitigation.rate_findings(outcomes, ["s"], **options)[1].verdict == CANNOT_BE_TESTED


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-0.01, 0.01, "unchanged"),
        (-0.1, 0.1, "could have been missed"),
        (0.1, 0.2, "fell"),
        (-0.2, -0.1, "rose"),
    ],
)
def test_the_papers_sign_of_failure_is_said_of_the_interval(low, high, says):
    fall = Estimate((low + high) / 2, low, high, 100)
    assert says in claims.signature(fall, before=0.3)  # the claimed fall is 0.036


def test_few_random_sets_are_said_to_confirm_nothing():
    assert "reach 0.18, above 0.05" in claims.few_draws(19)
    assert claims.few_draws(71)  # the exact interval of 0 of n is below 0.05 from 72 on
    assert claims.few_draws(72) == ""


def test_the_findings_of_a_run_are_those_on_its_sets(monkeypatch):
    outcomes = mitigation_outcomes(0.3, 0.7)
    monkeypatch.setattr(mitigation, "outcomes_of", lambda rows: outcomes)
    monkeypatch.setattr(mitigation, "set_name", lambda name: name)
    parameters = {"sets": ["s"], "held_out": [], "seed": 0}
    run = SimpleNamespace(record={"parameters": parameters}, read=lambda name: None)
    found = claims.mitigation_findings(run)
    assert [f.claim for f in found if f.primary] == ["C9", "C10", "C11"]
