"""Rows per question and per window -> retention, at hand-computed values."""

import numpy as np
import pandas as pd
import pytest

from avss_utils.stats.retention import (
    NOT_MEASURED,
    over_pruned,
    pick,
    picked,
    question_estimates,
    same_windows,
    text_estimates,
)

N = 20


def answers(arm: str, right: int, *, name="sciq", wording="plain", n_choices=4) -> pd.DataFrame:
    """N questions whose first ``right`` are answered correctly."""
    correct = np.arange(N) < right
    label = np.arange(N) % n_choices
    return pd.DataFrame(
        {
            "set": name,
            "wording": wording,
            "row_id": np.arange(N),
            "n_choices": n_choices,
            "label": label,
            "correct": correct,
            "p_true": np.where(correct, 0.9, 0.2),
            "beaten": np.where(correct, 1.0, 1 / 3),
            "arm": arm,
        }
    )


def windows(arm: str, nll, *, text_set="wikipedia") -> pd.DataFrame:
    nll = np.asarray(nll, dtype=float)
    columns = {"row_id": np.arange(len(nll)), "window": 0, "n_tokens": 10, "n_bytes": 40}
    return pd.DataFrame(columns).assign(nll=nll, text_set=text_set, arm=arm)


def estimate(table: pd.DataFrame, arm: str, measure: str):
    return pick(table, arm=arm, measure=measure)


TABLE = question_estimates(pd.concat([answers("full", 15), answers("half", 10)]), seed=0)


@pytest.mark.parametrize(("name", "above"), [("sst2", 0.7 - 0.7), ("piqa", 0.7 - 0.5)])
def test_one_answer_to_all_is_not_above_chance_where_choices_are_the_same_words(name, above):
    own = answers("full", 20, n_choices=2)
    label = (np.arange(20) < 14).astype(int)
    own = own.assign(set=name, label=label, correct=label == 1)
    found = estimate(question_estimates(own, seed=0), "full", "above chance")
    assert found.value == pytest.approx(above)


@pytest.mark.parametrize(
    ("arm", "measure", "value"),
    [
        ("full", "accuracy", 15 / 20),
        ("half", "accuracy", 10 / 20),
        ("full", "above chance", 0.75 - 0.25),
        ("half", "above chance", 0.50 - 0.25),
        ("half", "raw retention", 10 / 15),
        ("half", "corrected retention", (0.50 - 0.25) / (0.75 - 0.25)),
        ("half", "AUROC", (10 * 1 + 10 / 3) / 20),
    ],
)
def test_question_measures_have_their_hand_computed_values(arm, measure, value):
    e = estimate(TABLE, arm, measure)
    assert e.value == pytest.approx(value)
    assert e.n == N
    assert e.low < e.value < e.high


def test_the_full_model_retains_exactly_everything():
    for measure in ("raw retention", "corrected retention"):
        e = estimate(TABLE, "full", measure)
        assert (e.low, e.value, e.high) == (1.0, 1.0, 1.0)


def test_retention_at_its_lower_bound():
    table = question_estimates(pd.concat([answers("full", 15), answers("none", 0)]), seed=0)
    e = estimate(table, "none", "raw retention")
    assert (e.low, e.value, e.high) == (0.0, 0.0, 0.0)
    assert estimate(table, "none", "corrected retention").value == pytest.approx(-0.25 / 0.5)


def test_estimates_are_decided_by_the_seed():
    rows = pd.concat([answers("full", 15), answers("half", 10)])
    pd.testing.assert_frame_equal(question_estimates(rows, seed=0), TABLE)
    assert not question_estimates(rows, seed=1).equals(TABLE)


def test_an_arm_is_compared_with_the_full_model_of_its_own_task_and_wording():
    rows = [
        answers("full", 20, wording="plain"),
        answers("half", 10, wording="plain"),
        answers("full", 10, wording="second"),
        answers("half", 10, wording="second"),
        answers("full", 16, name="piqa", n_choices=2),
        answers("half", 8, name="piqa", n_choices=2),
    ]
    table = question_estimates(pd.concat(rows), seed=0)
    kept = table[(table.arm == "half") & (table.measure == "raw retention")]
    assert kept.set_index(["set", "wording"]).value.to_dict() == {
        ("sciq", "plain"): 0.5,
        ("sciq", "second"): 1.0,
        ("piqa", "plain"): 0.5,
    }


def test_pairing_is_by_row_identity_not_by_position():
    half = answers("half", 10).iloc[::-1]
    table = question_estimates(pd.concat([answers("full", 10), half]), seed=0)
    e = estimate(table, "half", "raw retention")
    assert (e.low, e.value, e.high) == (1.0, 1.0, 1.0)  # the same questions are right


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ([answers("full", 15), answers("half", 10).head(5)], ValueError, "same questions"),
        ([answers("full", 15).head(5), answers("half", 10)], ValueError, "same questions"),
        (
            [answers("full", 15), answers("half", 10).assign(row_id=lambda t: t.row_id + 100)],
            *(ValueError, "same questions"),
        ),
        ([answers("full", 15), *[answers("half", 10)] * 2], ValueError, "same questions"),
        ([answers("half", 10)], KeyError, "full"),
    ],
)
def test_arms_on_different_questions_are_refused(rows, error, match):
    with pytest.raises(error, match=match):
        question_estimates(pd.concat(rows), seed=0)


def test_a_window_that_stands_twice_is_refused():
    twice = pd.concat([windows("full", [20, 30]), windows("avss", [40, 60]).iloc[[0, 0, 1]]])
    with pytest.raises(pd.errors.MergeError):
        same_windows(twice, "avss", on=["row_id"])


# sentiment: AUROC over rows


def area(label, p_true):
    columns = {"arm": "full", "set": "sst2", "wording": "plain", "n_choices": 2, "beaten": 0.0}
    rows = pd.DataFrame({"row_id": range(len(label)), "label": label, "p_true": p_true, **columns})
    rows["correct"] = rows.p_true > 0.5
    return estimate(question_estimates(rows, seed=0), "full", "AUROC")


def test_sentiment_auroc_at_a_hand_computed_value():
    # P(choice 1): rows of label 0 have 0.1 and 0.6, rows of label 1 have 0.4 and 0.9
    e = area([0, 0, 1, 1], [0.9, 0.4, 0.4, 0.9])
    assert (e.value, e.n) == (3 / 4, 4)


def test_sentiment_auroc_at_its_bounds():
    label = np.tile([0, 1], 20)
    assert area(label, np.full(40, 0.8)).value == 1.0
    assert area(label, np.full(40, 0.2)).value == 0.0
    always_one = np.where(label == 1, 0.7, 0.3)  # collapsed to the label's prior
    assert area(label, always_one).value == 0.5


def test_sentiment_auroc_of_one_class_has_no_finite_limits():
    e = area([1, 1, 1], [0.2, 0.5, 0.9])
    assert np.isnan(e.value)
    assert (e.low, e.high) == (-np.inf, np.inf)


# language modelling

TEXTS = text_estimates(pd.concat([windows("full", [20, 30]), windows("avss", [40, 60])]), seed=0)


@pytest.mark.parametrize(
    ("arm", "measure", "value"),
    [
        ("full", "bits per byte", 50 / np.log(2) / 80),
        ("avss", "bits per byte", 100 / np.log(2) / 80),
        ("full", "perplexity", np.exp(50 / 20)),
        ("avss", "perplexity", np.exp(100 / 20)),
        ("avss", "perplexity ratio", np.exp(50 / 20)),
        ("avss", "bits retention", 0.5),
        ("full", "perplexity ratio", 1.0),
        ("full", "bits retention", 1.0),
    ],
)
def test_text_measures_have_their_hand_computed_values(arm, measure, value):
    e = estimate(TEXTS, arm, measure)
    assert e.value == pytest.approx(value)
    assert e.n == 2


def test_text_ratios_are_paired_over_windows():
    # every window's loss doubles: the ratio is certain although the windows differ much
    kept, bits = (estimate(TEXTS, "avss", m) for m in ("bits retention", "bits per byte"))
    assert (kept.low, kept.high) == pytest.approx((0.5, 0.5))
    assert bits.low < bits.value < bits.high


def test_bits_retention_is_of_sums_not_a_mean_over_windows():
    rows = [windows("full", [10, 90]), windows("avss", [10, 190])]
    kept = estimate(text_estimates(pd.concat(rows), seed=0), "avss", "bits retention")
    assert kept.value == 100 / 200


def test_texts_of_other_windows_are_refused():
    other = windows("avss", [40, 60]).assign(n_bytes=41)
    with pytest.raises(ValueError, match="same rows"):
        text_estimates(pd.concat([windows("full", [20, 30]), other]), seed=0)


def test_pick_wants_exactly_one_row():
    with pytest.raises(ValueError, match="0 rows match"):
        pick(TEXTS, arm="nobody", measure="perplexity")
    with pytest.raises(ValueError, match="4 rows match"):
        pick(TEXTS, arm="avss")


# the papers' failure signature


def signature(kept: float, *, half: int = 18, loss: float = 50.0) -> pd.DataFrame:
    questions = question_estimates(pd.concat([answers("full", 20), answers("arm", half)]), seed=0)
    texts = text_estimates(pd.concat([windows("full", [45]), windows("arm", [loss])]), seed=0)
    return over_pruned(questions, texts, kept=kept)


def test_over_pruned_shows_each_performance():
    table = signature(0.9)
    assert table.columns.tolist() == ["arm", "sciq", "wikipedia", "over_pruned"]
    assert table.iloc[0].tolist() == ["arm", 0.9, 0.9, "no"]  # exactly 10 % is not more than 10 %


@pytest.mark.parametrize(("half", "loss"), [(17, 45.0), (20, 51.0), (2, 400.0)])
def test_one_performance_under_the_limit_is_enough_to_be_over_pruned(half, loss):
    assert signature(0.9, half=half, loss=loss).over_pruned.tolist() == ["yes"]
    assert signature(0.05, half=half, loss=loss).over_pruned.tolist() == ["no"]


def test_several_arms_are_picked_by_a_name_and_a_missing_one_says_so():
    arms = {"short": "half", "other": "absent"}
    found = picked(TABLE, arms, measure="raw retention")
    assert found["short"] == pick(TABLE, arm="half", measure="raw retention")
    assert found["other"] == NOT_MEASURED
