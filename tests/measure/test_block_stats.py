"""Mergeable statistics of blocks against plain numpy, on hand-made states without a model."""

import numpy as np
import pytest
from handmade import EPS, angles, flat, moments_of, random_states, stats_of, updates

from avss_utils.errors import UsageError
from avss_utils.measure.block_stats import BlockStats, Moments, stats_table

RATIO = 0.05
SITES = ("residual", "update", "mlp", "attention")


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


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_two_merged_parts_make_the_whole(offset):
    states = random_states(4) + offset
    whole = stats_of(states).merged()
    a, b = stats_of(states[:2]).merged(), stats_of(states[2:]).merged()
    rtol = 1e-12 if offset == 0 else 1e-9
    assert_same(a + b, whole, rtol=rtol)
    assert_same(b + a, whole, rtol=rtol)
    assert (a + b).is_merged
    assert whole.n_tokens.shape == (1,)
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
    with pytest.raises(UsageError, match=r"choose from .*residual"):
        ask(stats_of(random_states(13)))


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
