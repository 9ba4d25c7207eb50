"""Mergeable statistics and the criteria on hand-made statistics, without a model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from handmade import EPS, angles, moments_of, random_states, stats_of, stats_with

from avss_utils.errors import UsageError
from avss_utils.measure.block_stats import BlockStats, Moments, stats_table
from avss_utils.scores.criteria import CRITERIA, score_blocks
from avss_utils.scores.importance import avss_at, empty_blocks, floored_sparsity, normalised

RATIO = 0.05
SITES = ("residual", "update", "mlp", "attention")


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


def flat(states: np.ndarray) -> np.ndarray:
    """All entries of each block's residual, (n_blocks, entries)."""
    return np.moveaxis(states[:, 1:], 1, 0).reshape(states.shape[1] - 1, -1)


def updates(states: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.diff(states, axis=1), 1, 0).reshape(states.shape[1] - 1, -1)


def assert_same(a: BlockStats, b: BlockStats, *, rtol: float = 1e-12) -> None:
    """Counts exactly, moments and sums to ``rtol``."""
    assert a.n_tokens.sum() == b.n_tokens.sum()
    assert a.n_sequences.sum() == b.n_sequences.sum()
    for site in SITES:
        np.testing.assert_array_equal(a.n_entries(site), b.n_entries(site))
        np.testing.assert_array_equal(a.zeros(site, eps=EPS), b.zeros(site, eps=EPS))
        np.testing.assert_array_equal(a.histograms[site], b.histograms[site])
        np.testing.assert_allclose(a.mean(site), b.mean(site), rtol=rtol)
        np.testing.assert_allclose(a.variance(site), b.variance(site), rtol=rtol)
        np.testing.assert_allclose(a.pooled_variance(site), b.pooled_variance(site), rtol=rtol)
    np.testing.assert_allclose(a.influence, b.influence, rtol=rtol)
    np.testing.assert_allclose(a.angular_distance(), b.angular_distance(), rtol=rtol)


# moments


def test_moments_have_their_hand_computed_values():
    x = np.array([1.0, 2.0, 3.0, 4.0]) - 2.0  # shifted by 2
    column = np.array([[1.0]])
    m = Moments.from_sums(4 * column, x.sum() * column, (x**2).sum() * column, np.array([2.0]))
    assert m.mean.tolist() == [[2.5]]
    assert m.m2.tolist() == [[5.0]]  # 4 x the population variance 1.25


def test_moments_do_not_depend_on_the_shift():
    x = np.random.default_rng(0).normal(5, 2, size=200)

    def about(shift):
        c = x - shift
        sums = (np.array([[v]]) for v in (200, c.sum(), (c**2).sum()))
        return Moments.from_sums(*sums, np.array([shift]))

    for shift in (0.0, 5.0, -20.0):
        np.testing.assert_allclose(about(shift).mean, x.mean(), rtol=1e-12)
        np.testing.assert_allclose(about(shift).m2, x.var() * 200, rtol=1e-10)


def test_moments_of_nothing_are_zero_and_change_nothing():
    zero = np.zeros((1, 1))
    empty = Moments.from_sums(zero, zero, zero, np.array([7.0]))
    assert (empty.mean.item(), empty.m2.item()) == (0.0, 0.0)
    other = moments_of(np.arange(6.0).reshape(1, 1, 2, 3))
    merged = other.stacked(empty).merged()
    assert (merged.n.item(), merged.mean.item()) == (6, 2.5)
    assert merged.m2.item() == pytest.approx(17.5)


# statistics against plain numpy


def test_statistics_equal_plain_numpy_over_all_entries():
    states = random_states(1)
    stats, residual = stats_of(states), flat(states)
    np.testing.assert_allclose(stats.mean("residual"), residual.mean(1), rtol=1e-12)
    np.testing.assert_allclose(stats.variance("residual"), residual.var(1), rtol=1e-12)
    np.testing.assert_allclose(stats.variance("update"), updates(states).var(1), rtol=1e-12)
    below = (np.abs(residual) < EPS).mean(1)
    np.testing.assert_array_equal(stats.sparsity("residual", eps=EPS), below)
    assert below.min() > 0
    assert stats.n_entries("residual").tolist() == [6 * 4 * 8] * 5
    assert (stats.n_blocks, stats.sites) == (5, SITES)


def test_pooled_variance_is_over_units_of_the_mean_token():
    states = np.zeros((2, 2, 2, 2))  # two texts, one block, two tokens, two units
    states[0, 1] = [[1.0, 3.0], [3.0, 9.0]]  # mean token (2, 6): unbiased variance 8
    states[1, 1] = [[5.0, 5.0], [-5.0, -1.0]]  # mean token (0, 2): unbiased variance 2
    states[:, 0] = 1.0
    assert stats_of(states).pooled_variance("residual").tolist() == [5.0]


@pytest.mark.parametrize(
    ("after", "influence", "angle"),
    [((2, 0), 0.0, 0.0), ((0, 3), 1.0, 0.5), ((-4, 0), 2.0, 1.0), ((1, 1), 1 - 2**-0.5, 0.25)],
)
def test_influence_and_angle_have_their_hand_computed_values(after, influence, angle):
    states = np.array([(1.0, 0.0), after], dtype=float)[None, :, None, :]
    stats = stats_of(states)
    assert stats.influence == pytest.approx([influence])
    assert stats.angular_distance() == pytest.approx([angle])


def test_angle_across_a_span_compares_its_ends():
    states = random_states(2, n_blocks=5)
    stats = stats_of(states, spans=(1, 3))
    expected = np.arccos(angles(states[:, :3], states[:, 3:])) / np.pi
    np.testing.assert_allclose(stats.angular_distance(3), expected.mean((0, 2)), rtol=1e-12)
    assert stats.angular_distance(3).shape == (5 - 3 + 1,)


def sparse_row(values, eps: float) -> float:
    states = np.stack([np.ones(len(values)), np.array(values, dtype=float)])[None, :, None, :]
    return stats_of(states, eps=(eps,)).sparsity("residual", eps=eps).item()


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ((0, 0, 0, 0), 1.0),
        ((1, -1, 2, 3), 0.0),
        ((0.25, -0.25, 0.249, 1), 0.25),  # 0.25 itself is not below 0.25
    ],
)
def test_sparsity_is_strict_and_reaches_its_bounds(values, share):
    assert sparse_row(values, 0.25) == share


# merging


def test_rows_and_merged_give_the_same_statistics():
    rows = stats_of(random_states(3))
    assert_same(rows.merged(), rows)
    assert rows.merged().n_tokens.shape == (1,)
    assert rows.merged().sums[("influence",)].shape == (1, 5)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_two_merged_parts_make_the_whole(offset):
    states = random_states(4) + offset
    whole = stats_of(states).merged()
    a, b = stats_of(states[:2]).merged(), stats_of(states[2:]).merged()
    rtol = 1e-12 if offset == 0 else 1e-9
    assert_same(a + b, whole, rtol=rtol)
    assert_same(b + a, whole, rtol=rtol)
    assert (a + b).is_merged
    np.testing.assert_allclose((a + b).variance("residual"), flat(states).var(1), rtol=1e-9)


def test_merging_is_associative():
    parts = [stats_of(random_states(s)).merged() for s in (5, 6, 7)]
    assert_same((parts[0] + parts[1]) + parts[2], parts[0] + (parts[1] + parts[2]))


def test_rows_stay_side_by_side():
    states = random_states(8)
    whole, a, b = stats_of(states), stats_of(states[:1]), stats_of(states[1:])
    both = a + b
    assert not both.is_merged
    assert both.n_tokens.shape == (6,)
    assert_same(both, whole)
    for key, values in whole.sums.items():
        np.testing.assert_allclose(both.sums[key], values, rtol=1e-12)
    # per row the moments are the text's own
    np.testing.assert_allclose(
        both.moments["residual"].mean, states[:, 1:].mean((-1, -2)), rtol=1e-12
    )


def test_many_small_parts_with_a_large_offset_keep_the_variance():
    states = random_states(9, n_texts=40, n_blocks=2) + 1e6
    total = stats_of(states[:1]).merged()
    for i in range(1, 40):
        total = total + stats_of(states[i : i + 1]).merged()
    np.testing.assert_allclose(total.variance("residual"), flat(states).var(1), rtol=1e-9)


def test_the_statistics_of_some_texts_are_those_of_these_texts_alone():
    states = random_states(10)
    some = stats_of(states).rows(np.array([4, 1]))
    alone = stats_of(states[[4, 1]])
    np.testing.assert_allclose(some.variance("update"), alone.variance("update"), rtol=1e-12)
    np.testing.assert_array_equal(some.zeros("residual", eps=EPS), alone.zeros("residual", eps=EPS))
    np.testing.assert_allclose(some.influence, alone.influence, rtol=1e-12)
    np.testing.assert_allclose(
        some.pooled_variance("residual"), alone.pooled_variance("residual"), rtol=1e-12
    )


def test_magnitudes_do_not_split_by_text_and_say_so():
    some = stats_of(random_states(11)).rows(np.array([0]))
    with pytest.raises(ValueError, match="no magnitude histogram"):
        some.relative_sparsity("residual", ratio=RATIO)


@pytest.mark.parametrize("other", [{"n_blocks": 4}, {"eps": (1e-3,)}, {"spans": (1, 2)}])
def test_statistics_of_other_blocks_or_thresholds_do_not_merge(other):
    states = random_states(12, n_blocks=other.pop("n_blocks", 5))
    with pytest.raises(ValueError, match="same blocks, sites and eps"):
        stats_of(random_states(12)) + stats_of(states, **other)


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.variance("router"),
        lambda s: s.n_entries("router"),
        lambda s: s.sparsity("residual", eps=0.5),
        lambda s: s.angular_distance(2),
    ],
)
def test_what_was_not_collected_is_refused_with_what_there_is(ask):
    with pytest.raises(ValueError, match="not collected; there are"):
        ask(stats_of(random_states(13)))


# relative sparsity


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 1.0, 3.0])
def test_relative_sparsity_from_the_histogram_is_near_the_exact_count(ratio):
    states = random_states(14, n_texts=40, n_tokens=16, width=32)
    x = flat(states)
    exact = (np.abs(x) < ratio * x.std(1, keepdims=True)).mean(1)
    found = stats_of(states).relative_sparsity("residual", ratio=ratio)
    np.testing.assert_allclose(found, exact, rtol=0.01, atol=2e-4)


def test_relative_sparsity_is_exact_between_the_bins():
    values = [-4.0, 0.5, -0.5, 4.0]
    states = np.stack([np.ones(4), np.array(values)])[None, :, None, :]
    stats = stats_of(states)
    std = np.std(values)
    assert stats.relative_sparsity("residual", ratio=1.0 / std).tolist() == [0.5]
    assert stats.relative_sparsity("residual", ratio=0.25 / std).tolist() == [0.0]
    assert stats.relative_sparsity("residual", ratio=5.0 / std).tolist() == [1.0]


def test_relative_sparsity_does_not_depend_on_the_scale():
    states = random_states(15)
    plain = stats_of(states).relative_sparsity("residual", ratio=0.3)
    scaled = stats_of(1024 * states).relative_sparsity("residual", ratio=0.3)
    np.testing.assert_allclose(scaled, plain, rtol=1e-9)


def test_relative_sparsity_of_merged_parts_is_that_of_the_whole():
    states = random_states(16)
    both = stats_of(states[:3]).merged() + stats_of(states[3:]).merged()
    np.testing.assert_allclose(
        both.relative_sparsity("update", ratio=0.2),
        stats_of(states).relative_sparsity("update", ratio=0.2),
        rtol=1e-9,
    )


def test_a_block_without_variance_has_no_relative_sparsity():
    constant = np.full((1, 2, 3, 4), 2.0)
    assert stats_of(constant).relative_sparsity("residual", ratio=1.0).tolist() == [0.0]


def test_table_has_a_row_a_site_and_block_with_each_statistic():
    stats = stats_of(random_states(17))
    table = stats_table(stats, eps=EPS, ratio=RATIO)
    assert len(table) == 4 * 5
    own = table[table.site == "update"]
    assert own.block.tolist() == [0, 1, 2, 3, 4]
    for column, expected in {
        "n_entries": stats.n_entries("update"),
        "mean": stats.mean("update"),
        "variance": stats.variance("update"),
        "zeros": stats.zeros("update", eps=EPS),
        "sparsity": stats.sparsity("update", eps=EPS),
        "relative_sparsity": stats.relative_sparsity("update", ratio=RATIO),
        "pooled_variance": stats.pooled_variance("update"),
        "influence": stats.influence,
        "angle": stats.angular_distance(),
    }.items():
        np.testing.assert_array_equal(own[column], expected, err_msg=column)


# criteria


def test_avss_is_variance_over_sparsity_by_hand():
    stats = stats_with([4.0, 9.0], [0.5, 0.25])
    assert score_blocks("avss", stats, eps=EPS).tolist() == [8.0, 36.0]
    assert normalised(score_blocks("avss", stats, eps=EPS)) == pytest.approx([8 / 44, 36 / 44])


def test_normalising_sums_to_one_and_keeps_the_order():
    scores = np.random.default_rng(0).random(30)
    shares = normalised(scores)
    assert shares.sum() == pytest.approx(1)
    assert np.argsort(shares).tolist() == np.argsort(scores).tolist()


def test_dividing_both_halves_by_their_sums_first_changes_nothing():
    variance, sparsity = np.array([1.0, 2.0, 5.0]), np.array([0.4, 0.2, 0.1])
    first = (variance / variance.sum()) / (sparsity / sparsity.sum())
    printed = score_blocks("avss", stats_with(variance, sparsity), eps=EPS)
    np.testing.assert_allclose(normalised(printed), normalised(first), rtol=1e-12)


def test_a_block_without_zeros_gets_half_a_count_and_is_reported():
    stats = stats_with([2.0, 2.0, 2.0], [0.5, 0.0, 0.001], n=1000)
    assert floored_sparsity(stats, "residual", eps=EPS).tolist() == [0.5, 0.0005, 0.001]
    assert empty_blocks(stats, "residual", eps=EPS).tolist() == [1]
    assert score_blocks("avss", stats, eps=EPS).tolist() == [4.0, 4000.0, 2000.0]


def test_one_zero_entry_is_above_the_floor():
    stats = stats_with([1.0], [1 / 1000], n=1000)
    assert floored_sparsity(stats, "residual", eps=EPS).tolist() == [1 / 1000]
    assert empty_blocks(stats, "residual", eps=EPS).size == 0


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


def test_scores_are_one_finite_number_a_block():
    stats = stats_of(random_states(22))
    for name in CRITERIA:
        scores = score_blocks(name, stats, **options())
        assert scores.shape == (5,), name
        assert np.isfinite(scores).all(), name


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


def test_the_product_variant_of_equal_blocks_is_zero_not_undefined():
    assert score_blocks("avss-product", stats_with([2, 2], [0.1, 0.1]), eps=EPS).tolist() == [0, 0]


def test_random_is_a_permutation_decided_by_its_generator():
    stats = stats_with(np.ones(30), np.full(30, 0.1))
    first, again, other = (score_blocks("random", stats, **options(s)) for s in (0, 0, 1))
    assert sorted(first) == list(range(30))
    assert first.tolist() == again.tolist() != other.tolist()


def test_an_unknown_criterion_is_refused_with_the_known_ones():
    with pytest.raises(
        UsageError, match=r"unknown criterion 'avs': choose from .*avss, .*variance"
    ):
        score_blocks("avs", stats_with([1.0], [0.1]), **options())


def test_a_score_that_is_not_finite_names_its_block():
    stats = stats_with([1.0, np.inf, 2.0, np.nan], [0.1] * 4)
    with pytest.raises(UsageError, match="'variance' gave no finite score for block 1"):
        score_blocks("variance", stats)
