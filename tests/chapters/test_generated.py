"""The model's own answers: how they are labelled, and what labels may be exchanged."""

import numpy as np
import pandas as pd
import pytest

from avss_utils.chapters.hallucination.own_contrasts import generated_contrast
from avss_utils.measure.answer_tokens import AnswerTokens
from avss_utils.measure.own_answers import judged
from avss_utils.scores.strata import adjusted_effects, strata


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The Paris", "right"),
        ("city of light", "right"),
        ("Paris, France", "wrong"),
        ("I don't know", "abstained"),
        ("", "abstained"),
    ],
)
def test_answers_are_right_wrong_or_no_answer(text, label):
    assert judged(text, ("Paris", "City of Light")) == label


def test_strata_part_by_length_and_difficulty():
    found = strata(np.array([1, 1, 9, 9]), np.array([0.0, 5.0, 0.0, 5.0]), n_parts=2)
    assert len(set(found)) == 4
    assert strata(np.ones(6), np.zeros(6)).tolist() == [0] * 6


def tokens_of(x: np.ndarray) -> AnswerTokens:
    """One token an answer; entries (n_answers, n_blocks, width)."""
    mean, n = x.mean(-1), np.zeros(len(x))
    return AnswerTokens(
        np.arange(len(x)),
        np.zeros(len(x), int),
        n,
        n,
        {"residual": mean},
        {"residual": ((x - mean[..., None]) ** 2).sum(-1)},
        {("residual", "relative"): (np.abs(x) < 0.1).sum(-1)},
        {"residual": np.full(x.shape[1], x.shape[2])},
    )


def contrast(x: np.ndarray, false: np.ndarray, difficulty: np.ndarray) -> pd.DataFrame:
    labels = np.where(false, "wrong", "right")
    table = pd.DataFrame({"set": "s", "label": labels})
    options = dict(n_permutations=199, n_resamples=200, seed=0)
    return generated_contrast(tokens_of(x), table, difficulty, **options)


def test_difficulty_alone_is_no_hallucination():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=400)
    false = rng.random(400) < 1 / (1 + np.exp(-6 * np.sign(difficulty)))
    x = rng.normal(size=(400, 3, 16))
    x[:, 1] *= np.where(difficulty > 0, 1.3, 1.0)[:, None]  # hard questions differ, not answers
    confounded = contrast(x, false, np.zeros(400)).query("score == 'HSAV'")
    assert confounded.p_max[1] < 0.01
    controlled = contrast(x, false, np.sign(difficulty)).query("score == 'HSAV'")
    assert controlled.p_max.min() > 0.05
    assert confounded.low[1] > 0.2
    assert controlled.low[1] < 0 < controlled.high[1]


def test_labels_that_cannot_be_exchanged_say_nothing():
    x = np.random.default_rng(1).normal(size=(5, 2, 4))
    assert contrast(x, np.ones(5, bool), np.zeros(5)).empty
    stratum = np.array([0, 0, 1, 1])
    found = effects(np.arange(4.0)[:, None], stratum == 1, stratum)
    assert not np.isfinite(found.effect).any()


def effects(values, is_false, stratum, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return adjusted_effects(values, is_false, stratum, n_resamples=300, rng=rng)


def test_adjusted_effects_are_those_of_a_linear_model():
    rng = np.random.default_rng(0)
    stratum, is_false = rng.integers(0, 4, 90), rng.random(90) < 0.6
    values = rng.normal(size=(90, 3)) + stratum[:, None] + 0.7 * is_false[:, None]
    design = np.column_stack([is_false, stratum[:, None] == np.arange(4)]).astype(float)
    slopes, _, _, _ = np.linalg.lstsq(design, values)
    spread = (values - design @ slopes).std(0)
    found = effects(values, is_false, stratum)
    np.testing.assert_allclose(found.effect, slopes[0] / spread)
    assert (found.low < found.effect).all()
    assert (found.effect < found.high).all()


def test_intervals_of_adjusted_effects_cover():
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        stratum = rng.integers(0, 3, 150)
        is_false = rng.random(150) < 0.4 + 0.2 * stratum
        values = rng.normal(size=(150, 4)) + stratum[:, None] + 0.5 * is_false[:, None]
        found = effects(values, is_false, stratum, seed)
        covered += list((found.low < 0.5) & (found.high > 0.5))
    assert 0.9 < np.mean(covered) < 0.99
