"""One rule for every verdict, on constructed intervals and tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_ledger import opened

from avss_utils import claims
from avss_utils.claims import papers, verdicts
from avss_utils.claims.pruning import retention_findings
from avss_utils.claims.verdicts import (
    CANNOT_BE_TESTED,
    FAILS,
    HOLDS,
    IN_PART,
    NOT_MEASURED,
    NOT_REPRODUCED,
    NOTHING,
    OPEN,
    REPRODUCED,
    UNDECIDED,
    WAITS,
    Finding,
    Needs,
)
from avss_utils.stats.resampling import Estimate, proportion
from avss_utils.store.run_folder import Run

INF, NAN = np.inf, np.nan


def estimate(low: float, high: float, n: int = 100) -> Estimate:
    return Estimate((low + high) / 2, low, high, n)


# one condition

ABOVE_09 = [
    (0.91, 0.95, HOLDS),
    (0.85, 0.89, FAILS),
    (0.85, 0.95, OPEN),
    (0.9, 0.95, OPEN),  # exactly at the threshold is not above it
    (0.85, 0.9, OPEN),
    (0.9, 0.9, OPEN),
    (0.95, 0.95, HOLDS),
    (-INF, INF, OPEN),
    (0.95, INF, OPEN),
    (-INF, 0.5, OPEN),
    (NAN, NAN, OPEN),
    (NAN, 0.5, OPEN),
    (0.95, NAN, OPEN),
]


@pytest.mark.parametrize(("low", "high", "state"), ABOVE_09)
def test_a_state_is_that_of_the_whole_interval_in_any_unit_and_mirrored(low, high, state):
    for unit in (1, 8):
        assert Needs("above", unit * 0.9).state(estimate(unit * low, unit * high)) == state
    assert Needs("below", -0.9).state(estimate(-high, -low)) == state


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (-0.02, 0.02, HOLDS),
        (0.01, 0.02, HOLDS),  # a rise, and too small to count
        (0.01, 0.05, FAILS),
        (0.03, 0.05, FAILS),
        (-0.01, 0.05, OPEN),
        (0.0, 0.05, OPEN),
        (0.0, 0.03, OPEN),
    ],
)
def test_what_may_not_rise_fails_where_it_rises_and_does_not_stay_below(low, high, state):
    assert Needs("below", 0.03, beyond=0.0).state(estimate(low, high)) == state


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (0.125, 0.375, HOLDS),  # as wide as the size
        (0.125, 0.376, OPEN),
        (0.3, 0.5, HOLDS),  # beyond it
        (0.3, 0.6, OPEN),
        (0.05, 0.25, HOLDS),  # just reaches it
        (0.05, 0.24, FAILS),
        (-0.3, -0.1, FAILS),
        (-5.0, 0.24, FAILS),
        (0.0, 0.25, OPEN),
        (-0.1, 0.3, OPEN),
        (0.1, INF, OPEN),
    ],
)
def test_a_claimed_size_is_reached_by_a_sharp_interval_above_zero_that_holds_it(low, high, state):
    for unit in (1, 8):
        assert Needs("reaches", unit * 0.25).state(estimate(unit * low, unit * high)) == state


@pytest.mark.parametrize("needs", [Needs("above", 0.9), Needs("below", 1.5), Needs("reaches", 0.1)])
def test_nothing_is_shown_without_rows_or_where_it_could_not_be(needs):
    sure = estimate(0.95, 0.99)
    assert Finding("C1", "m", sure, needs).state == HOLDS
    assert Finding("C1", "m", sure, needs, testable=False).state == OPEN
    assert Finding("C1", "m", estimate(0.95, 0.99, n=0), needs).state == OPEN
    assert Finding("C1", "m", sure, needs, waits="x").state == WAITS


def test_a_count_decides_where_it_is_given():
    wide = Finding("C8", "m", estimate(-INF, INF), Needs("above", 0.25), decided=FAILS)
    assert wide.state == FAILS


def test_needs_are_told_by_a_sign():
    needs = [Needs("above", 0.9), Needs("below", 0.05), Needs("reaches", 0.12)]
    assert list(map(str, needs)) == ["> 0.9", "< 0.05", "≥ 0.12"]


def test_a_size_could_be_shown_at_one_and_four_tenths_of_a_half_width():
    def could_show(size: float, **more) -> bool:
        return Finding("C1", "m", estimate(-1, 1), Needs("above", 0), size=size, **more).could_show

    at = 2.8 / 1.96
    assert at == pytest.approx(1.43, abs=0.002)
    assert could_show(at)
    assert not could_show(np.nextafter(at, 0))
    assert not could_show(2 * at, testable=False)
    unbounded = Finding("C1", "m", estimate(-INF, INF), Needs("above", 0), size=9.0)
    assert not unbounded.could_show


# conditions -> the verdict

STATES = {  # of one that is to be above 0.9; 0.1 is to be shown
    "holds": estimate(0.92, 0.96),
    "fails": estimate(0.8, 0.85),
    "open": estimate(0.88, 0.92),
    "wide": estimate(0.5, 1.2),
    "waits": NOTHING,
}


def condition(part: str, state: str, *, group: str = "", claim: str = "C1") -> Finding:
    waits = "`command`" if state == "waits" else ""
    needs = Needs("above", 0.9)
    return Finding(claim, part.upper(), STATES[state], needs, part, 0.1, group=group, waits=waits)


def conditions(states: str, **more: str) -> list[Finding]:
    return [condition("abc"[i], state, **more) for i, state in enumerate(states.split())]


RULE = [
    ("holds", REPRODUCED),
    ("holds holds holds", REPRODUCED),
    ("holds fails", IN_PART),
    ("holds open fails", IN_PART),
    ("holds wide fails", IN_PART),
    ("holds waits fails", IN_PART),
    ("fails", NOT_REPRODUCED),
    ("fails holds", NOT_REPRODUCED),
    ("fails wide", NOT_REPRODUCED),
    ("fails waits", NOT_REPRODUCED),
    ("open fails", NOT_REPRODUCED),
    ("wide fails", NOT_REPRODUCED),
    ("waits fails", NOT_REPRODUCED),
    ("open", UNDECIDED),
    ("open holds", UNDECIDED),
    ("holds open", UNDECIDED),
    ("holds waits", UNDECIDED),
    ("open waits", UNDECIDED),
    ("wide", CANNOT_BE_TESTED),
    ("wide holds", CANNOT_BE_TESTED),
    ("holds wide", CANNOT_BE_TESTED),
    ("open wide", CANNOT_BE_TESTED),
    ("holds waits wide", CANNOT_BE_TESTED),
    ("waits", NOT_MEASURED),
    ("waits holds", NOT_MEASURED),
    ("waits wide", NOT_MEASURED),
    ("", NOT_MEASURED),
]


@pytest.mark.parametrize(("states", "expected"), RULE)
def test_the_rule(states, expected):
    own = conditions(states)
    for order in (own, own[::-1]):
        assert verdicts.verdict(order) == expected
        assert verdicts.judged(order) == expected


def test_the_rule_reaches_every_verdict_and_the_figure_can_draw_it():
    from avss_utils.claims.ledger_figure import LOOKS

    assert {end for _, end in RULE} == set(LOOKS)


def test_what_is_exploratory_decides_nothing():
    beside = Finding("C1", "m", STATES["fails"], Needs("above", 0.9))
    assert verdicts.judged([*conditions("holds holds"), beside]) == REPRODUCED
    assert verdicts.judged([beside]) == NOT_MEASURED


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("holds holds", "fails fails", REPRODUCED),
        ("holds holds", "wide holds", REPRODUCED),
        ("holds fails", "fails holds", IN_PART),  # every condition holds somewhere
        ("open fails", "fails holds", NOT_REPRODUCED),
        ("holds fails", "open holds", UNDECIDED),
        ("holds fails", "wide holds", CANNOT_BE_TESTED),
        ("open holds", "wide holds", UNDECIDED),
        ("fails holds", "waits holds", NOT_MEASURED),
    ],
)
def test_one_and_the_same_of_several_sets_has_to_pass(one, other, expected):
    for names in ("st", "ts"):
        sets = [conditions(own, group=name) for own, name in zip((one, other), names, strict=True)]
        assert verdicts.judged([*sets[0], *sets[1]]) == expected
        mixed = [c for pair in zip(*sets, strict=True) for c in pair]
        assert verdicts.judged(mixed) == expected


# the same in words and tables


def test_words_say_what_fails_what_is_open_and_what_waits():
    assert verdicts.in_words(conditions("fails wide waits")) == (
        "fails: (a) A; open: (b) B, too wide to tell; waits: (c) C"
    )
    assert verdicts.in_words(conditions("open open holds")) == "open: (a) A, (b) B"
    assert verdicts.in_words(conditions("holds holds")) == ""


def test_verdicts_and_words_of_many_claims_are_those_of_each():
    first, second = conditions("open fails", group="s"), conditions("holds fails", group="t")
    found = [*first, condition("a", "fails", claim="C2"), *second]
    assert verdicts.verdicts_of(found) == {"C1": IN_PART, "C2": NOT_REPRODUCED}
    # of the set by which the claim has its verdict
    assert verdicts.words_of(found) == {"C1": "fails: (b) B", "C2": "fails: (a) A"}
    assert verdicts.nearest([*first, *second]) == second


def test_the_effect_is_part_a_unless_another_is_asked_for():
    found = conditions("open fails")
    assert verdicts.effect(found, "C1") == STATES["open"]
    assert verdicts.effect(found, "C1", part="b") == STATES["fails"]
    assert verdicts.effect(found, "C2") is NOTHING
    assert verdicts.turned(Estimate(1.0, 0.5, 3.0, 7)) == Estimate(-1.0, -3.0, -0.5, 7)


def test_the_ledger_has_a_row_a_finding_with_every_number():
    first = Finding("C1", "m", estimate(0.92, 0.96), Needs("above", 0.9), "a", note="x")
    open_one, waiting = conditions("holds wide waits", group="s")[1:]
    beside = Finding("C4", "p", estimate(0.1, 0.2, n=7), Needs("below", 0.05))
    untold = Finding("C4", "q", estimate(0.0, 0.2), Needs("below", 0.05), testable=False)
    table = verdicts.ledger([first, open_one, waiting, beside, untold])
    numbers = ["value", "low", "high", "n"]
    names = ["claim", "part", "group", "measure", *numbers, "needed", "state", "note"]
    assert table.columns.tolist() == names
    row = ["C1", "a", "", "m", 0.94, 0.92, 0.96, 100, "> 0.9", HOLDS, "x"]
    assert table.iloc[0].tolist() == row
    assert table.state.tolist() == [HOLDS, "open, could not show", WAITS, FAILS, OPEN]
    assert table.note.tolist() == ["x", "", "waits for: `command`", "", ""]
    assert verdicts.ledger([]).columns.tolist() == names


def test_a_page_shows_estimates_as_text_and_no_empty_column():
    table = verdicts.shown([Finding("C4", "p", estimate(0.1, 0.2), Needs("below", 0.05))])
    assert table.columns.tolist() == ["claim", "measure", "estimate", "n", "needed", "state"]
    assert table.estimate[0] == "0.150 [0.100, 0.200]"


def test_holm_corrects_in_the_order_given():
    assert verdicts.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert verdicts.holm([]) == []


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


def found_by_measure(questions: pd.DataFrame, texts: pd.DataFrame) -> dict[str, Finding]:
    found = retention_findings(questions, texts, primary_text="wikipedia")
    assert len({f.measure for f in found}) == len(found)
    return {f.measure: f for f in found}


def test_retention_findings_put_each_task_under_its_claim():
    questions = question_table(sciq=GOOD, piqa=BAD, sst2=BAD)
    found = found_by_measure(questions, text_table(wikipedia=(0.3, 0.4), c4=(0.95, 0.99)))
    assert {m: (f.claim, f.state) for m, f in found.items()} == {
        "raw retention, sciq": ("C1", HOLDS),
        "corrected retention, sciq": ("C1", FAILS),
        "raw retention, piqa": ("C1", FAILS),
        "corrected retention, piqa": ("C1", FAILS),
        "raw retention, sst2": ("C3", FAILS),
        "corrected retention, sst2": ("C3", FAILS),
        "bits retention, wikipedia": ("C2", FAILS),
        "bits retention, c4": ("C2", HOLDS),
    }
    assert {f.claim: (m, f.part, f.size) for m, f in found.items() if f.part} == {
        "C1": ("raw retention, sciq", "a", 0.1),
        "C2": ("bits retention, wikipedia", "a", 0.1),
        "C3": ("raw retention, sst2", "a", 0.1),
    }


def test_what_the_full_model_does_not_know_tests_nothing_and_a_second_wording_does_not_enter():
    second = question_table(sciq=GOOD).assign(wording="second")
    texts = text_table(bits=11.5, wikipedia=(0.95, 0.99))
    found = found_by_measure(pd.concat([second, question_table(sciq=AT_CHANCE)]), texts)
    assert {f.state for f in found.values()} == {OPEN}
    assert set(verdicts.verdicts_of(found.values()).values()) == {CANNOT_BE_TESTED}


UNIFORM_BITS = "share of uniform random sets at least as good, bits_per_byte"


def null_table(n: int = 200) -> pd.DataFrame:
    """An arm better than all random sets but 3 uniform and half of the end-protected ones."""
    bits = np.array([*np.full(3, 1.5), *np.full(n - 3, 3.0)])
    protected = np.array([*np.full(n // 2, 1.5), *np.full(n - n // 2, 3.0)])
    return pd.DataFrame(
        {
            "null": ["full", "avss", *["random"] * n, *["random-protected"] * n],
            "bits_per_byte": [1.0, 2.0, *bits, *protected],
            "accuracy_sciq": [0.5, 0.4, *np.full(n, 0.3), *np.full(n, 0.4)],
        }
    )


def test_null_findings_count_sets_at_least_as_good_in_the_right_direction():
    found = claims.null_findings(null_table())
    assert {f.measure: (f.part, f.estimate, f.state) for f in found} == {
        UNIFORM_BITS: ("a", proportion(3, 200), HOLDS),
        "share of uniform random sets at least as good, accuracy_sciq": (
            "",
            proportion(0, 200),
            HOLDS,
        ),
        "share of end-protected random sets at least as good, bits_per_byte": (
            "b",
            proportion(100, 200),
            FAILS,
        ),
        "share of end-protected random sets at least as good, accuracy_sciq": (
            "",
            proportion(200, 200),  # a tie is at least as good
            FAILS,
        ),
    }
    assert found[0].note == "p = 0.0199"  # (1 + 3) / (1 + 200)
    assert verdicts.verdicts_of(found) == {"C4": IN_PART}


def best_of(n: int) -> pd.DataFrame:
    return null_table(n).assign(bits_per_byte=lambda t: np.where(t.null == "avss", 0.1, 9.0))


def test_only_many_sets_can_show_better_than_chance_and_few_can_refute_it():
    ends = {n: verdicts.verdicts_of(claims.null_findings(best_of(n)))["C4"] for n in (20, 200)}
    assert ends == {20: CANNOT_BE_TESTED, 200: REPRODUCED}
    worst = null_table(20).assign(bits_per_byte=lambda t: np.where(t.null == "avss", 9.0, 0.1))
    assert verdicts.verdicts_of(claims.null_findings(worst)) == {"C4": NOT_REPRODUCED}


def test_null_findings_judge_the_arm_asked_for():
    better = null_table()
    better.loc[0, "null"] = "block-influence"
    own = claims.null_findings(better, arm="block-influence")
    assert [f.estimate.value for f in own] == [0, 0, 0, 0]


# a run of notebook 01


def answers_of(arm: str, right: int, *, task: str, wording: str = "plain") -> pd.DataFrame:
    rows = [(task, wording, i, 2, i % 2, float(i < right)) for i in range(40)]
    columns = ["set", "wording", "row_id", "n_choices", "label", "correct"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_true=0.2 + 0.6 * table.correct, beaten=table.correct, arm=arm)


def texts_of(arm: str, nll: float) -> pd.DataFrame:
    columns = {"row_id": range(12), "window": 0, "n_tokens": 10, "n_bytes": 40, "nll": nll}
    return pd.DataFrame(columns).assign(text_set="wikipedia", arm=arm)


RIGHT = {  # of 40, by arm and task
    "full": {"sciq": 36, "piqa": 36, "sst2": 36},
    "avss": {"sciq": 18, "piqa": 36, "sst2": 18},
    "other": {"sciq": 40, "piqa": 40, "sst2": 40},
}


def pruning_run(folder: Path, *, right=RIGHT, development: dict | None = None, **plans) -> Run:
    """``development``: by task what the full model has right of 40 development rows."""
    answers = [
        answers_of(arm, n, task=task, wording=wording)
        for arm, own in right.items()
        for task, n in own.items()
        for wording in ("plain", "second")
    ]
    texts = [texts_of(arm, nll) for arm, nll in (("full", 30.0), ("avss", 60.0), ("other", 1.0))]
    judged_as = {"avss": "avss", "other": "other"} | plans
    tables = {
        "answers": pd.concat(answers),
        "texts": pd.concat(texts),
        "null": null_table(),
        "plans": pd.DataFrame({"arm": judged_as.keys(), "judged_as": judged_as.values()}),
    }
    if development is not None:
        rows = [answers_of("full", n, task=task) for task, n in development.items()]
        tables["development"] = pd.concat(rows)[["set", "row_id", "n_choices", "correct"]]
    return opened(folder, "tiny", papers.PRUNING, tables, {"text_sets": ["wikipedia"]}).finish()


def test_pruning_findings_read_the_tables_of_a_run(tmp_path):
    table = verdicts.ledger(claims.pruning_findings(pruning_run(tmp_path / "full")))
    effects = table[table.part == "a"].set_index("claim")
    assert effects.value.to_dict() == pytest.approx({"C1": 0.5, "C2": 0.5, "C3": 0.5, "C4": 0.015})
    assert effects.n.to_dict() == {"C1": 40, "C2": 12, "C3": 40, "C4": 200}
    assert effects.state.to_dict() == {**dict.fromkeys(("C1", "C2", "C3"), FAILS), "C4": HOLDS}
    (waiting,) = table[table.state == WAITS].itertuples()
    assert (waiting.claim, waiting.part, waiting.n) == ("C1", "b", 0)
    command = "run --notebook 01_avss_pruning --profile full --model tiny"
    assert command in waiting.note


def mean_of(run: Run) -> Finding:
    (found,) = [f for f in claims.pruning_findings(run) if (f.claim, f.part) == ("C1", "b")]
    return found


def test_the_mean_is_over_sets_on_which_the_model_is_above_chance_on_development_rows(tmp_path):
    # at chance there on piqa, above it among the judged rows; sentiment is another claim's
    run = pruning_run(tmp_path / "a", development={"sciq": 36, "piqa": 20, "sst2": 36})
    found = mean_of(run)
    assert (found.estimate.value, found.estimate.n) == (0.5, 40)
    assert (found.state, found.note) == (FAILS, "sciq")
    run = pruning_run(tmp_path / "b", development={"sciq": 36, "piqa": 36})
    found = mean_of(run)
    assert found.estimate.value == pytest.approx((0.5 + 1.0) / 2)
    assert (found.estimate.n, found.note) == (80, "sciq, piqa")


def test_a_claim_is_not_reproduced_by_its_set_alone(tmp_path):
    kept = RIGHT | {"avss": {"sciq": 36, "piqa": 18, "sst2": 18}}
    options = dict(right=kept, development={"sciq": 36, "piqa": 36})
    found = claims.pruning_findings(pruning_run(tmp_path / "a", **options))
    assert verdicts.verdicts_of(found)["C1"] == IN_PART
    options |= dict(development={"sciq": 20, "piqa": 20})
    found = claims.pruning_findings(pruning_run(tmp_path / "b", **options))
    assert verdicts.verdicts_of(found)["C1"] == CANNOT_BE_TESTED


def test_avss_of_the_update_stands_beside_the_claims_and_decides_none(tmp_path):
    plain = claims.pruning_findings(pruning_run(tmp_path / "a"))
    run = pruning_run(tmp_path / "b", **{"avss-update": "avss"})
    found = claims.pruning_findings(run)
    assert verdicts.verdicts_of(found) == verdicts.verdicts_of(plain)
    extra = found[len(plain) :]
    assert [(f.claim, f.part) for f in extra] == [("C4", ""), ("C4", ""), ("C1", "")]
    assert all(f.measure.endswith("AVSS of the update") for f in extra)
    assert extra[-1].estimate.value == 0.5


# what else is said of runs


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
    assert {f.measure: (f.state, f.testable) for f in found} == {
        "raw retention, s": (HOLDS, True),
        "corrected retention, s": (FAILS, True),
        "exact match retention, s": (OPEN, False),
    }
    assert not any(f.part for f in found)


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-0.01, 0.01, "unchanged"),
        (-0.1, 0.1, "could have been missed"),
        (0.1, 0.2, "fell"),
        (-0.2, -0.1, "rose"),
    ],
)
def test_the_briefs_sign_of_failure_is_said_of_the_interval(low, high, says):
    fall = Estimate((low + high) / 2, low, high, 100)
    assert says in claims.signature(fall, before=0.3)  # the claimed fall is 0.036


def test_few_random_sets_are_said_to_confirm_nothing():
    assert "could still be 0.18" in claims.few_draws(19)
    assert claims.few_draws(199)
    assert claims.few_draws(200) == ""
