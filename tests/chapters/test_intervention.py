"""Flagged blocks that move the hallucination rate are found, harm to all text is not mistaken."""

import numpy as np
import pandas as pd
import pytest
from tiny import FAMILIES, tiny_tokenizer

from avss_utils.chapters.hallucination.intervention import (
    answer_losses,
    answer_shifts,
    causal_contrast,
    causal_contrasts,
)
from avss_utils.errors import UsageError
from avss_utils.measure.choices import score_choices
from avss_utils.models.blocks import remove_blocks

N_BLOCKS, N_QUESTIONS, FLAGGED = 20, 500, (3, 8, 12, 17)
SHUFFLED = np.random.default_rng(0).permutation(N_BLOCKS)  # no order of the blocks in their rises
RISES = 0.02 * 1.25**SHUFFLED


def made_table(seed: int, shifts: np.ndarray) -> pd.DataFrame:
    """Answers of one token whose margins a block's absence moves by its shift, in nats, and noise.

    The noise grows with the block's rise, so that its shift of the rate scatters more.
    """
    rng = np.random.default_rng(seed)
    base = rng.normal(0.5, 2.0, N_QUESTIONS)
    noise = RISES[:, None] * rng.normal(0, 0.5, (N_BLOCKS, N_QUESTIONS))
    margins = np.vstack([base, base + shifts[:, None] + noise])
    return pd.DataFrame(
        {
            "block": np.repeat(np.arange(N_BLOCKS + 1) - 1, N_QUESTIONS),
            "question": np.tile(np.arange(N_QUESTIONS), N_BLOCKS + 1),
            "true": margins.ravel() - 3.0,
            "false": -3.0,
            "n_true": 1,
            "n_false": 1,
        }
    )


def contrast(table: pd.DataFrame, flagged=FLAGGED, **options) -> pd.DataFrame:
    own = {"n_random": 1000, "n_resamples": 500, "seed": 0} | options
    return causal_contrast(table, RISES, flagged, **own).set_index("measure")


def by_rise(seed: int) -> np.ndarray:
    """Shifts that the rise alone brings, and a scatter of a fifth of it."""
    return -RISES * (1 + 0.2 * np.random.default_rng(seed).normal(size=N_BLOCKS))


def test_flagged_blocks_that_move_the_rate_at_equal_rises_are_found():
    planted = by_rise(1)
    planted[list(FLAGGED)] -= 0.8
    found = contrast(made_table(1, planted))
    for measure in ("rate", "rate-signed", "margin"):
        assert found.p[measure] < 0.01
        assert found.low[measure] > 0
        assert found.low[measure] < found.value[measure] < found.high[measure]
        assert 0 < found.mde[measure] < found.value[measure]
    assert found.value["margin"] == pytest.approx(0.8, abs=0.1)
    assert found.value["margin-signed"] == pytest.approx(-0.8, abs=0.1)
    assert found.p_shift["margin"] == pytest.approx(1 / N_BLOCKS)
    assert (found.n == N_QUESTIONS).all()
    assert (found.n_flagged == len(FLAGGED)).all()


def test_the_value_is_on_average_what_was_planted():
    rates = []
    for seed in range(16):
        shifts = -RISES
        shifts[list(FLAGGED)] -= 0.8
        found = contrast(made_table(seed, shifts), n_random=9, n_resamples=200)
        rates.append(found.loc["rate", ["value", "low", "high"]].to_numpy(float))
    value, low, high = np.array(rates).T
    # the normal distribution of mean 0.5 and deviation 2 has this share between 0 and 0.8
    assert value.mean() == pytest.approx(0.158, abs=0.015)
    assert ((low < 0.158) & (high > 0.158)).mean() > 0.8


def test_a_shift_that_comes_from_the_rise_alone_is_not_found():
    harmful = np.flatnonzero(np.isin(SHUFFLED, (11, 14, 16, 18)))
    table = made_table(2, by_rise(2))
    rates = answer_shifts(table)["rate"].mean(1)
    assert rates[harmful].mean() > 2 * np.delete(rates, harmful).mean()
    found = contrast(table, harmful)
    assert (found.p > 0.1).all()
    assert abs(found.value["rate"]) < 0.02


def test_flags_that_mean_nothing_are_found_as_often_as_the_level_says():
    """Where all flagged blocks harm text much, and their shifts scatter more than others'."""
    p_values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        flagged = rng.choice(np.flatnonzero(SHUFFLED >= N_BLOCKS // 2), 4, replace=False)
        found = contrast(made_table(seed, by_rise(seed)), flagged, n_random=99, n_resamples=2)
        p_values.append(found.p["margin"])
    assert np.mean(np.array(p_values) <= 0.05) <= 0.1
    assert 0.3 < np.mean(p_values) < 0.7


def test_a_shift_of_noise_alone_has_no_size():
    """Flagged blocks whose margins are noisy, without a shift, beside blocks that do nothing."""
    values = []
    for seed in range(20):
        table, rng = made_table(seed, np.zeros(N_BLOCKS)), np.random.default_rng(seed)
        own = table.block.isin(FLAGGED)
        table.loc[own, "true"] += rng.normal(0, 4, own.sum())
        values.append(contrast(table, n_random=9, n_resamples=2).value["margin"])
    # the mean absolute value of such shifts is 4 / sqrt(500) * 0.8 = 0.14
    assert abs(np.mean(values)) < 0.05


def test_every_answer_to_which_blocks_are_flagged_has_a_result():
    table = made_table(3, by_rise(3))
    highest, others = int(RISES.argmax()), [b for b in range(N_BLOCKS) if b != 5]
    for flagged in ((), range(N_BLOCKS), (highest,), others):
        found = contrast(table, flagged, n_random=20, n_resamples=20)
        assert len(found) == 4
        assert (found.n_flagged == 0).all()
        assert found[["value", "p", "p_shift", "mde", "spread"]].isna().all(None)
        assert np.isneginf(found.low).all()
        assert np.isposinf(found.high).all()
    half = contrast(table, (highest, 5), n_random=20, n_resamples=20)
    assert (half.n_flagged == 1).all()
    assert half.value.notna().all()


def test_blocks_of_one_rise_are_compared_with_their_like():
    shifts = np.zeros(N_BLOCKS)
    shifts[list(FLAGGED)] = -1.0
    shifts[:2], shifts[-2:] = 0.4, -0.2  # the first and the last of those that tie: 0.1 on average
    found = causal_contrast(
        made_table(4, shifts), np.zeros(N_BLOCKS), FLAGGED, n_random=99, seed=0, n_resamples=20
    ).set_index("measure")
    assert found.value["margin-signed"] == pytest.approx(-1.1, abs=0.03)
    assert (found.n_flagged == len(FLAGGED)).all()


def test_every_set_has_its_own_flags():
    losses = pd.concat([made_table(5, by_rise(5)).assign(set=name) for name in "ab"])
    flags = pd.DataFrame({"set": [*"aabb"], "block": [3, 8, 12, 17]})
    found = causal_contrasts(losses, pd.DataFrame({"rise": RISES}), flags, seed=1)
    alone = causal_contrast(made_table(5, by_rise(5)), RISES, (12, 17), seed=1)
    pd.testing.assert_frame_equal(found[4:][alone.columns].reset_index(drop=True), alone)
    assert (found.detectable >= found.mde).all()


def test_shifts_by_hand():
    rows = [
        # block, question, true, false, n_true, n_false
        (-1, 0, -2.0, -3.0, 1, 1),  # a margin of 1 nat
        (-1, 1, -4.0, -3.0, 2, 1),  # -1 summed, 1 a token
        (-1, 2, -5.0, -5.0, 1, 1),  # a tie
        (0, 0, -4.0, -3.0, 1, 1),
        (0, 1, -8.0, -3.0, 2, 1),
        (0, 2, -5.0, -6.0, 1, 1),
    ]
    names = ["block", "question", "true", "false", "n_true", "n_false"]
    table = pd.DataFrame(rows, columns=names).sample(frac=1, random_state=0)
    found = answer_shifts(table)
    np.testing.assert_allclose(found["rate"], [[1, 1, -0.5]])
    np.testing.assert_allclose(found["margin"], [[-2, -2, 1]])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_losses_are_those_of_models_without_the_block(family):
    tokenizer = tiny_tokenizer()
    model = FAMILIES[family](4, vocab_size=len(tokenizer))
    asked = [
        ("Question: which is brown?\nAnswer:", (" the fox", " over the lazy dog")),
        ("Is it lazy?", (" no", " the answer")),
        ("Of these, the quick one is", (" fox", " dog")),
    ]
    table = answer_losses(model, tokenizer, asked, batch_tokens=64)
    assert len(table) == 5 * 3
    for block in range(-1, 4):
        smaller = model if block < 0 else remove_blocks(model, [block], share_weights=True)
        prompts, answers = zip(*asked, strict=True)
        expected = np.array(score_choices(smaller, tokenizer, prompts, answers))
        own = table[table.block == block].sort_values("question")
        np.testing.assert_allclose(own[["true", "false"]], expected, atol=5e-4)
    for question, (prompt, answers) in enumerate(asked):
        own = table[table.question == question]
        whole = [len(tokenizer(prompt + a)["input_ids"]) for a in answers]
        n = np.array(whole) - len(tokenizer(prompt)["input_ids"])
        assert (own[["n_true", "n_false"]] == n).all(None)


def test_what_does_not_fit_is_refused():
    table = made_table(0, np.zeros(N_BLOCKS))
    refused = {
        "20 blocks": lambda: causal_contrast(table, RISES[1:], FLAGGED, seed=0),
        "finite row of every question": lambda: answer_shifts(table.drop(index=700)),
        "finite row of every": lambda: answer_shifts(table[table.block != 4]),
        "two questions": lambda: contrast(table[table.question == 0]),
    }
    for why, attempt in refused.items():
        with pytest.raises(UsageError, match=why):
            attempt()
