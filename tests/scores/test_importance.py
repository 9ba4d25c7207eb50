"""The criteria on hand-made statistics, without a model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from handmade import EPS, angles, flat, random_states, stats_of, stats_with, updates

from avss_utils.errors import UsageError
from avss_utils.scores.criteria import CRITERIA, score_blocks
from avss_utils.scores.importance import avss_at, empty_blocks, floored_sparsity, normalised

RATIO = 0.05


def options(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "eps": EPS,
        "bulk_eps": EPS,
        "ratio": RATIO,
        "rng": rng,
        "sensitivity": PROBE,
        "answers": ANSWERS,
    }


ANSWERS = {
    "contrast": np.array([0.1, 0.4, 0.2, 0.2, 0.1]),
    "contrast-product": np.array([0.1, 0.2, 0.3, 0.2, 0.2]),
    "restricted": np.array([0.0, 0.1, 0.2, 0.3, 0.4]),
    "multiplied": np.array([0.4, 0.3, 0.2, 0.1, 0.0]),
}


# What a model of five blocks might answer: losses of none and of each block removed, two rows.
PROBE = SimpleNamespace(
    losses=SimpleNamespace(mean=np.array([2.0, 9.0, 2.5, 2.1, 2.4, 3.0])),
    task_losses=np.array([[1.0, 2.0], [4.0, 6.0], [1.0, 1.5], [1.0, 2.5], [3.0, 2.0], [2.0, 3.0]]),
    greedy=pd.DataFrame(
        {
            "step": [0, 0, 1, 1],
            "block": [2, 3, 3, 1],
            "chosen": [True, False, False, True],
        }
    ),
    n_greedy=2,
    gradients=np.array([[0.5, -0.2, 0.1, 0.0, -3.0], [-0.5, -0.4, 0.1, 0.2, 1.0]]),
    weight_magnitude=np.array([5.0, 4.0, 3.0, 2.0, 1.0]),
)


def test_avss_is_variance_over_sparsity_by_hand():
    stats = stats_with([4.0, 9.0], [0.5, 0.25])
    assert score_blocks("avss", stats, eps=EPS).tolist() == [8.0, 36.0]
    assert normalised(score_blocks("avss", stats, eps=EPS)) == pytest.approx([8 / 44, 36 / 44])


def test_a_block_without_zeros_gets_half_a_count_and_is_reported():
    stats = stats_with([2.0, 2.0, 2.0], [0.5, 0.0, 0.001], n=1000)
    assert floored_sparsity(stats, "residual", eps=EPS).tolist() == [0.5, 0.0005, 0.001]
    assert empty_blocks(stats, "residual", eps=EPS).tolist() == [1]
    assert score_blocks("avss", stats, eps=EPS).tolist() == [4.0, 4000.0, 2000.0]


def test_every_criterion_equals_its_formula():
    states = random_states(18)
    stats = stats_of(states)
    variance, sparsity = flat(states).var(1), (np.abs(flat(states)) < EPS).mean(1)
    update = updates(states)
    update_avss = update.var(1) / np.maximum((np.abs(update) < EPS).mean(1), 0.5 / update.shape[1])
    half_avss = update_avss / 4  # half of the update: a quarter of the variance, the same zeros
    pooled = states[:, 1:].mean(2).var(-1, ddof=1).mean(0)
    cosine = angles(states[:, :-1], states[:, 1:])
    lengths = [np.linalg.norm(x, axis=-1) for x in (np.diff(states, axis=1), states[:, 1:])]
    magnitudes = lengths[0] / lengths[1]
    scaled = [(x - x.min()) / (x.max() - x.min()) for x in (variance, sparsity)]
    expected = {
        "avss": variance / sparsity,
        "avss-update": update_avss,
        "avss-mlp": half_avss,
        "avss-attention": half_avss,
        "avss-pooled": pooled / sparsity,
        "avss-relative": variance / stats.relative_sparsity("residual", ratio=RATIO),
        "avss-product": scaled[0] * scaled[1],
        "variance": variance,
        "sparsity": -sparsity,
        "update-variance": update.var(1),
        "relative-update-variance": update.var(1) / variance,
        "block-influence": (1 - cosine).mean((0, 2)),
        "angular-distance": (np.arccos(cosine) / np.pi).mean((0, 2)),
        "random": np.random.default_rng(0).permutation(5),
        "bulk-relative-update": update.std(1) * sparsity / EPS,
        "relative-magnitude": magnitudes.mean((0, 2)),
        "leave-one-out": [7.0, 0.5, 0.1, 0.4, 1.0],
        "leave-one-out-task": [3.5, -0.25, 0.25, 1.0, 1.0],
        "greedy": [2, 1, 0, 2, 2],
        "taylor": [0.5, 0.3, 0.1, 0.1, 2.0],
        "taylor-protected": [3.5, 3.3, 3.1, 3.1, 5.0],
        "weight-magnitude": [5, 4, 3, 2, 1],
        "eavss": ANSWERS["contrast"],
        "eavss-product": ANSWERS["contrast-product"],
        "eavss-restricted": ANSWERS["restricted"],
        "eavss-multiplied": ANSWERS["multiplied"],
    }
    assert set(expected) == set(CRITERIA)
    for name, scores in expected.items():
        found = score_blocks(name, stats, **options())
        np.testing.assert_allclose(found, scores, rtol=1e-9, atol=1e-15, err_msg=name)
    again = score_blocks("random", stats, **options(1))
    assert sorted(again) == list(range(5))
    assert again.tolist() != expected["random"].tolist()


POWER_OF_SCALE = {
    "avss-relative": 2,
    "variance": 2,
    "update-variance": 2,
    "relative-update-variance": 0,
    "relative-magnitude": 0,
    "block-influence": 0,
    "angular-distance": 0,
}


@pytest.mark.parametrize(("name", "power"), POWER_OF_SCALE.items())
def test_criteria_follow_the_scale_of_the_states_as_they_should(name, power):
    states = random_states(19)
    plain, scaled = (score_blocks(name, stats_of(k * states), **options()) for k in (1.0, 8.0))
    np.testing.assert_allclose(scaled, 8.0**power * plain, rtol=1e-6)


def test_avss_at_a_tiny_eps_grows_as_the_cube_of_the_scale():
    # S is about 2 eps f(0), which falls as 1 / scale, while the variance rises as its square
    x = np.random.default_rng(20).normal(size=(50, 3, 40, 100))
    x[:, 2] *= 4.0
    scores = avss_at(stats_of(x, eps=(0.01,), histogram=False), site="residual", eps=0.01)
    assert scores[1] / scores[0] == pytest.approx(4.0**3, rel=0.15)


EFFECTS = [
    "avss-update",
    "update-variance",
    "relative-update-variance",
    "block-influence",
    "angular-distance",
]


@pytest.mark.parametrize("name", EFFECTS)
def test_a_block_that_does_nothing_is_least_important_and_a_vital_one_most(name):
    states = random_states(21, n_blocks=8)
    states[:, 4:] += states[:, 3:4] - states[:, 4:5]  # block 3 adds nothing
    # block 6 turns the state right round, far outside what the others do
    states[:, 7:] += (-9 * states[:, 6:7]) - states[:, 7:8]
    scores = score_blocks(name, stats_of(states), **options())
    assert np.argmin(scores) == 3
    assert np.argmax(scores) == 6


def test_scores_do_not_depend_on_how_the_statistics_were_merged():
    states = random_states(23)
    parts = stats_of(states[:4]).merged() + stats_of(states[4:]).merged()
    for name in CRITERIA:
        np.testing.assert_allclose(
            score_blocks(name, parts, **options()),
            score_blocks(name, stats_of(states), **options()),
            rtol=1e-9,
            err_msg=name,
        )


def test_the_product_variant_is_zero_at_the_extremes_and_peaks_between():
    stats = stats_with([0.0, 1.0, 2.0, 4.0], [0.8, 0.6, 0.6, 0.2])
    scores = score_blocks("avss-product", stats, eps=EPS)
    assert scores == pytest.approx([0.0, 1 / 4 * 2 / 3, 2 / 4 * 2 / 3, 0.0])
    assert score_blocks("avss-product", stats_with([2, 2], [0.1, 0.1]), eps=EPS).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("avs", r"unknown criterion 'avs': choose from .*avss, .*variance"),
        ("avss", "criterion 'avss' needs eps, which is not given here"),
        ("variance", "'variance' gave no finite score for block 1"),
    ],
)
def test_what_has_no_score_is_refused(name, message):
    stats = stats_with([1.0, np.inf, 2.0, np.nan], [0.1] * 4)
    with pytest.raises(UsageError, match=message):
        score_blocks(name, stats)
