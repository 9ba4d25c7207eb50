"""The model's own answers: how they are labelled, and what labels may be exchanged."""

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_model, tiny_tokenizer

from avss_utils.chapters.hallucination.own_contrasts import generated_contrast, generated_tokens
from avss_utils.data.answer_sets import events_of
from avss_utils.data.rows import OpenQuestion
from avss_utils.measure.answer_tokens import AnswerTokens, absolute_limits
from avss_utils.measure.own_answers import generated_answers, judged
from avss_utils.models.load import LoadedModel
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


def test_every_question_is_answered_and_the_answers_are_read_again():
    tokenizer = tiny_tokenizer()
    loaded = LoadedModel(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer, {})
    names = ("dog", "cat", "owl", "cow", "pig", "hen")
    rows = [OpenQuestion(str(i), f"Animal {i}?", (names[i],), ()) for i in range(6)]
    events = events_of(rows, "nq_open", wording="plain", seed=0)
    table, texts = generated_answers(loaded, events, max_new_tokens=6, batch_tokens=128)
    assert table.row_id.to_list() == [row.row_id for row in rows]
    assert len(texts) == 6
    assert (table.label == "right").sum() == 0  # of random weights
    limits = {"absolute": absolute_limits(1e-3, ("residual",), 4)}
    tokens, kept = generated_tokens(
        loaded, events, texts, table, limits=limits, sites=("residual",)
    )
    assert tokens.n_answers == len(kept) == (table.label != "abstained").sum()


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
        {("residual", "absolute"): (np.abs(x) < 0.1).sum(-1)},
        {"residual": np.full(x.shape[1], x.shape[2])},
    )


def contrast(x: np.ndarray, false: np.ndarray, difficulty: np.ndarray) -> pd.DataFrame:
    labels = np.where(false, "wrong", "right")
    table = pd.DataFrame({"set": "s", "label": labels})
    options = dict(site="residual", limit="absolute", n_permutations=199, n_resamples=200, seed=0)
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


def test_answers_of_one_label_have_no_contrast():
    x = np.random.default_rng(1).normal(size=(5, 2, 4))
    assert contrast(x, np.ones(5, bool), np.zeros(5)).empty


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


def test_strata_of_one_label_say_nothing():
    stratum = np.array([0, 0, 1, 1])
    found = effects(np.arange(4.0)[:, None], stratum == 1, stratum)
    assert not np.isfinite(found.effect).any()
