"""C7 and C8 of a model's own answers, where the truth is planted."""

import numpy as np
import pandas as pd
import pytest

from avss_utils.scores.own_patterns import (
    SPARSITY,
    VARIANCE,
    OwnSet,
    chance,
    half,
    halves_share,
    own_effect,
    own_flags,
    own_sets,
    shared_with,
)
from avss_utils.scores.strata import label_slopes, shuffled_within

N, N_BLOCKS = 240, 12
PLANTED = [3, 7, 10]  # blocks whose variance is larger for wrong answers
SHUFFLES = dict(n_shuffles=199, seed=0)


def answers(seed: int, shift: float, *, name: str = "a", by_stratum: float = 0.0) -> OwnSet:
    """Noise; wrong answers have ``shift`` more log variance in the planted blocks.

    Later strata have more wrong answers, and ``by_stratum`` more log variance everywhere.
    """
    rng = np.random.default_rng(seed)
    stratum = rng.integers(0, 3, N)
    is_false = rng.random(N) < np.array([0.4, 0.7, 0.95])[stratum]
    variance, sparsity = rng.normal(size=(2, N, N_BLOCKS))
    variance[np.ix_(is_false, PLANTED)] += shift
    variance += by_stratum * stratum[:, None]
    return OwnSet(name, {VARIANCE: variance, SPARSITY: sparsity}, is_false, stratum)


def test_a_planted_pattern_is_found_in_its_size():
    found = own_effect([answers(0, 1.0), answers(1, 1.0)], VARIANCE, n_resamples=500, seed=0)
    assert found.value == pytest.approx(1.0, abs=0.3)
    assert found.low > 0.2
    assert found.n == 2 * N


@pytest.mark.parametrize("score", [VARIANCE, SPARSITY])
def test_without_a_pattern_nothing_is_found(score):
    """The block is chosen on other answers: the largest of many is not taken for an effect."""
    sets = [answers(seed, 0.0) for seed in range(4)]
    found = own_effect(sets, score, n_resamples=500, seed=0)
    assert found.low < 0 < found.high


def test_difficulty_is_not_mistaken_for_hallucination():
    sets = [answers(seed, 0.0, by_stratum=2.0) for seed in range(4)]
    plain = [OwnSet(s.name, s.values, s.is_false, np.zeros(N, int)) for s in sets]
    assert own_effect(plain, VARIANCE, n_resamples=500, seed=0).low > 0.5
    within = own_effect(sets, VARIANCE, n_resamples=500, seed=0)
    assert within.low < 0 < within.high


def test_halves_share_the_planted_flags_more_than_by_chance():
    planted = halves_share([answers(0, 2.0)], top=3, n_splits=5, **SHUFFLES)
    assert planted[0] == 1
    assert chance(planted).high < 0.05
    assert planted[1:].mean() == pytest.approx(3 / N_BLOCKS, abs=0.1)
    nothing = halves_share([answers(0, 0.0)], top=3, n_splits=5, **SHUFFLES)
    assert chance(nothing).high > 0.05


def test_own_flags_are_held_against_those_of_before():
    sets = [answers(0, 2.0), answers(1, 2.0, name="b")]
    same = shared_with(sets, {"a": PLANTED, "b": PLANTED}, **SHUFFLES)
    assert same[0] == 1
    assert chance(same).high < 0.05
    assert shared_with(sets, {"a": [0, 1, 2], "b": [0, 1, 2]}, **SHUFFLES)[0] == 0


def test_flags_are_as_many_as_asked_and_follow_the_contrast():
    own = answers(0, 3.0)
    rows = np.arange(N)
    flags = own_flags(own, rows, own.is_false[None], top=3)
    assert np.flatnonzero(flags[0]).tolist() == PLANTED
    hidden = {VARIANCE: own.values[VARIANCE], SPARSITY: own.values[SPARSITY].copy()}
    hidden[SPARSITY][np.ix_(own.is_false, [3])] += 8  # a large HSS divides EAVSS
    flags = own_flags(
        OwnSet("a", hidden, own.is_false, own.stratum), rows, own.is_false[None], top=2
    )
    assert np.flatnonzero(flags[0]).tolist() == [7, 10]


def test_half_of_either_label_is_in_a_half():
    is_false = np.arange(50) < 10
    found = half(is_false, np.random.default_rng(0))
    assert found[is_false].sum() == 5
    assert found.sum() == 25


def test_labels_move_within_their_stratum_alone():
    own = answers(0, 0.0)
    found = shuffled_within(own.is_false, own.stratum, np.random.default_rng(0), 20)
    for part in range(3):
        inside = own.stratum == part
        assert (found[:, inside].sum(1) == own.is_false[inside].sum()).all()
    assert (found != own.is_false).any(1).all()


def test_slopes_are_those_of_least_squares():
    own = answers(0, 1.0)
    columns = np.column_stack([own.is_false, *(own.stratum == part for part in range(3))])
    wanted = np.linalg.lstsq(columns.astype(float), own.values[VARIANCE], rcond=None)[0][0]
    found = label_slopes(own.values[VARIANCE], own.is_false[None], own.stratum)
    np.testing.assert_allclose(found[0], wanted)
    same = np.ones((1, N), bool)
    assert (label_slopes(own.values[VARIANCE], same, own.stratum) == 0).all()


def test_sets_that_tell_nothing_are_left_out_and_answers_keep_their_rows():
    judged = pd.DataFrame(
        {"set": ["a"] * 30 + ["b"] * 30, "row_id": [f"q{i}" for i in range(30)] * 2}
    ).assign(is_false=[i % 2 == 0 for i in range(30)] + [True] * 30)
    scores = judged[["set", "row_id"]].assign(length=np.arange(60) % 5)
    scores["disagreeing samples"] = np.arange(60) % 7 / 7
    parts = [
        judged[["set", "row_id"]].assign(score=score, b0=np.arange(60.0) + plus, b1=0.0)
        for score, plus in ((VARIANCE, 0), (SPARSITY, 100))
    ]
    shuffled = pd.concat(parts).sample(frac=1, random_state=0)
    (own,) = own_sets(judged, scores, shuffled)
    assert own.name == "a"
    assert own.values[VARIANCE][:, 0].tolist() == list(range(30))
    assert own.values[SPARSITY][:, 0].tolist() == list(range(100, 130))
    assert own.is_false.tolist() == judged.is_false[:30].tolist()
