"""HSAV, HSS, EAVSS and their tests on made-up answers of which the truth is known."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from tiny import tiny_model, tiny_tokenizer

from avss_utils.data.answer_sets import Pairs
from avss_utils.measure.answer_tokens import AnswerTokens, absolute_limits, collect_answers
from avss_utils.models.blocks import decoder_blocks
from avss_utils.scores.contrast_tests import (
    Labelled,
    contrast_intervals,
    contrast_test,
    half_agreement,
    half_excess,
    pooled,
)
from avss_utils.scores.contrasts import (
    READINGS,
    answer_sums,
    chosen_tokens,
    eavss,
    group_stats,
    hsav,
    hss,
    hss_of_counts,
)

WIDTH, EPS = 16, 0.2


def made_tokens(
    seed: int, *, n_pairs: int = 40, n_blocks: int = 5, planted: dict[int, float] | None = None
) -> tuple[AnswerTokens, Pairs, np.ndarray]:
    """Gaussian entries in answers of one to four tokens; false answers' blocks scaled as planted.

    Answer 2 i is true, 2 i + 1 false. Also the entries, (n_tokens, n_blocks, WIDTH).
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 5, 2 * n_pairs)
    answer = np.repeat(np.arange(2 * n_pairs), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    x = rng.normal(0.3, 1.0, (len(answer), n_blocks, WIDTH))
    for block, scale in (planted or {}).items():
        x[answer % 2 == 1, block] *= scale
    mean = x.mean(-1)
    numbers = np.zeros(len(answer))
    tokens = AnswerTokens(
        answer,
        position,
        numbers,
        numbers,
        {"residual": mean},
        {"residual": ((x - mean[..., None]) ** 2).sum(-1)},
        {("residual", "absolute"): (np.abs(x) < EPS).sum(-1)},
        {"residual": np.full(n_blocks, WIDTH)},
    )
    every = np.arange(2 * n_pairs)
    return tokens, Pairs(every[::2], every[1::2], 2 * n_pairs), x


def sums_of(tokens: AnswerTokens, **options):
    return answer_sums(tokens, "residual", limit="absolute", **options)


def test_group_statistics_are_those_of_all_entries_together():
    tokens, pairs, x = made_tokens(0, planted={2: 1.5})
    false, true = (group_stats(sums_of(tokens), w) for w in pairs.weights())
    for group, odd in ((false, 1), (true, 0)):
        own = x[tokens.answer % 2 == odd]
        np.testing.assert_allclose(group.variance[0], own.var(axis=(0, 2)))
        np.testing.assert_allclose(group.sparsity[0], (np.abs(own) < EPS).mean((0, 2)))
    own, other = x[tokens.answer % 2 == 1], x[tokens.answer % 2 == 0]
    expected = own.var(axis=(0, 2)) / other.var(axis=(0, 2)) - 1
    np.testing.assert_allclose(hsav(false, true)[0], expected)
    shares = [(np.abs(part) < EPS).mean((0, 2)) for part in (own, other)]
    np.testing.assert_allclose(hss(false, true)[0], shares[0] / shares[1] - 1)


def test_tokens_can_be_chosen():
    tokens, pairs, _ = made_tokens(1)
    lengths = tokens.lengths
    shorter = np.minimum(lengths[pairs.true], lengths[pairs.false]).repeat(2)
    n = {
        which: sums_of(tokens, chosen=chosen_tokens(tokens, which, longest=shorter)).n[:, 0]
        for which in ("all", "last", "skip-first", "matched")
    }
    np.testing.assert_array_equal(n["all"], lengths * WIDTH)
    np.testing.assert_array_equal(n["last"], WIDTH)
    np.testing.assert_array_equal(n["skip-first"], np.maximum(lengths - 1, 1) * WIDTH)
    np.testing.assert_array_equal(n["matched"], shorter * WIDTH)


def test_readings_by_hand():
    tokens, pairs, _ = made_tokens(2, planted={1: 2.0})
    sums = sums_of(tokens)
    false, true = (group_stats(sums, w) for w in pairs.weights())
    v, s = hsav(false, true)[0], hss(false, true)[0]
    wanted = {
        "contrast": np.abs(v) / (1 + np.abs(s)),
        "contrast-product": np.abs(v) * (1 + np.abs(s)),
        "restricted": false.variance[0] / false.sparsity[0],
    }
    both = group_stats(sums, np.ones((1, pairs.n_answers)))
    wanted["multiplied"] = both.variance[0] / both.sparsity[0] * (v + 1) / (s + 1)
    assert set(wanted) == set(READINGS)
    for reading, scores in wanted.items():
        found = eavss(reading, sums, *pairs.weights())[0]
        np.testing.assert_allclose(found, scores / scores.sum())
        assert int(found.argmax()) == 1


def test_a_planted_block_is_found_and_no_other():
    tokens, pairs, _ = made_tokens(3, n_pairs=200, planted={2: 1.15})
    table = contrast_test(sums_of(tokens), pairs, n_permutations=400, rng=np.random.default_rng(0))
    own = table[table.score == "HSAV"]
    assert own.block[own.p_max <= 0.05].to_list() == [2]
    assert own.value[own.block == 2].item() == pytest.approx(1.15**2 - 1, abs=0.1)
    assert own.p.min() == pytest.approx(1 / 401)


def test_a_planted_model_shows_its_block_alone():
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocab_size=len(tokenizer))
    asked = [(f"Question {i}?\nAnswer:", (f" yes {i}", f" no {i}")) for i in range(24)]
    false_word = tokenizer("no")["input_ids"]
    seen = {}

    def remember(module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        # the whole of an answer is false if its first token is; the prompts hold neither
        seen["false"] = torch.isin(ids[:, :2], torch.tensor(false_word)).any(1)

    def scale(module, args, output):
        return output * torch.where(seen["false"], 1.5, 1.0)[:, None, None]

    model.register_forward_pre_hook(remember, with_kwargs=True)
    decoder_blocks(model)[2].mlp.register_forward_hook(scale)
    limits = {"absolute": absolute_limits(0.05, ("update",), 4)}
    plain = tiny_model("llama", vocab_size=len(tokenizer))
    ratio = {}
    for name, own in (("planted", model), ("plain", plain)):
        tokens = collect_answers(own, tokenizer, asked, sites=("update",), limits=limits)
        every = np.arange(tokens.n_answers)
        pairs = Pairs(every[::2], every[1::2], len(every))
        sums = answer_sums(tokens, "update", limit="absolute")
        ratio[name] = hsav(*(group_stats(sums, w) for w in pairs.weights()))[0] + 1
    change = ratio["planted"] / ratio["plain"]
    assert int(np.abs(np.log(change)).argmax()) == 2
    np.testing.assert_allclose(change[:2], 1.0, atol=1e-5)


@pytest.mark.parametrize("kind", ["pairs", "labelled"])
def test_under_the_null_p_values_are_uniform_and_the_family_error_holds(kind):
    single, family = [], []
    for seed in range(120):
        tokens, pairs, _ = made_tokens(seed, n_pairs=25, n_blocks=3)
        events = pairs
        if kind == "labelled":
            rng = np.random.default_rng(seed)
            events = Labelled(rng.random(50) < 0.4, rng.integers(0, 2, 50))
        table = contrast_test(
            sums_of(tokens), events, n_permutations=99, rng=np.random.default_rng(seed)
        )
        own = table[table.score == "HSAV"]
        single.append(own.p.iloc[0])
        family.append(own.p_max.min())
    assert stats.kstest(single, "uniform").pvalue > 0.01
    assert np.mean(np.array(family) <= 0.05) < 0.12


def test_labels_move_within_their_strata_only():
    rng = np.random.default_rng(4)
    stratum = np.repeat([0, 1, 2], 20)
    labelled = Labelled(rng.random(60) < np.repeat([0.1, 0.5, 0.9], 20), stratum)
    drawn = labelled.shuffled(50, rng)
    for number in range(3):
        own = stratum == number
        assert (drawn[:, own].sum(1) == labelled.is_false[own].sum()).all()
    assert len(np.unique(drawn, axis=0)) > 40


def test_a_placebo_without_difference_stays_silent_where_the_treatment_speaks():
    tokens, pairs, _ = made_tokens(5, n_pairs=150, planted={1: 1.3})
    # false against false: the false answers of two halves of the questions
    placebo = Pairs(pairs.false[:75], pairs.false[75:], pairs.n_answers)
    table = contrast_test(
        sums_of(tokens), placebo, n_permutations=200, rng=np.random.default_rng(0)
    )
    assert table[table.score == "HSAV"].p_max.min() > 0.05


def test_intervals_cover_the_planted_ratio_and_carry_an_effect_size():
    tokens, pairs, _ = made_tokens(6, n_pairs=150, planted={0: 1.2})
    table = contrast_intervals(
        sums_of(tokens), pairs, n_resamples=300, rng=np.random.default_rng(0)
    )
    own = table[table.score == "HSAV"].set_index("block")
    assert own.low[0] < 1.2**2 - 1 < own.high[0]
    assert own.low[0] > 0.15
    assert own.effect[0] > 0.5 > abs(own.effect[1])
    assert (own.low <= own.value).all()
    assert (own.value <= own.high).all()


def test_halves_agree_beyond_shuffled_labels_only_where_there_is_something():
    options = dict(reading="contrast", n_seeds=10, top=1, rng=np.random.default_rng(0))
    tokens, pairs, _ = made_tokens(7, n_pairs=300, planted={3: 1.3})
    table = half_agreement(sums_of(tokens), pairs, **options).groupby("labels").mean()
    assert table.overlap["true"] == 1.0
    assert table.overlap["shuffled"] < 0.7
    assert table.transfer["true"] > 2 > table.transfer["shuffled"]
    nothing, pairs, _ = made_tokens(8, n_pairs=300)
    null = half_agreement(sums_of(nothing), pairs, **options).groupby("labels").mean()
    assert abs(null.overlap["true"] - null.overlap["shuffled"]) < 0.5


def excess_of(tokens: AnswerTokens, pairs: Pairs, reading: str = "contrast", seed: int = 0):
    options = dict(n_splits=10, top=1, n_resamples=50, rng=np.random.default_rng(seed))
    return half_excess(sums_of(tokens), pairs, **options)[reading]


def test_halves_share_a_planted_block_beyond_shuffled_labels():
    tokens, pairs, _ = made_tokens(3, n_pairs=60, planted={3: 2.0})
    found = excess_of(tokens, pairs)
    # the planted block varies more between answers, so that shuffled labels flag it too at times
    assert found.value > 0.3
    assert found.low > 0
    assert found.n == 60


def test_halves_share_nothing_beyond_shuffled_labels_where_labels_tell_nothing():
    values = [excess_of(*made_tokens(seed, n_pairs=60)[:2], seed=seed).value for seed in range(12)]
    assert abs(np.mean(values)) < 0.15
    found = excess_of(*made_tokens(4, n_pairs=60)[:2])
    assert found.low <= 0 <= found.high


def test_a_reading_that_ranks_by_scale_alone_has_no_excess():
    # block 2 is large whatever the labels: both halves flag it, and so do shuffled ones
    tokens, pairs, _ = made_tokens(5, n_pairs=60)
    tokens.m2["residual"][:, 2] *= 100
    tokens.mean["residual"][:, 2] *= 10
    found = excess_of(tokens, pairs, "restricted")
    assert found.value == pytest.approx(0)


def test_the_interval_of_counts_is_that_of_two_poisson_rates():
    rng, covered = np.random.default_rng(0), []
    for _ in range(400):
        zeros = rng.poisson([12.0, 20.0])  # rates 12 / 4000 and 20 / 5000: HSS -0.25
        found = hss_of_counts(tuple(zeros), (4000, 5000))
        covered.append(found.low <= -0.25 <= found.high)
    assert 0.94 < np.mean(covered) <= 1  # exact: never below its level
    found = hss_of_counts((10, 20), (1000, 1000))
    assert found.value == -0.5
    # by the F distribution: the limits of a ratio of Poisson rates
    assert found.low == pytest.approx(10 / 21 * stats.f.ppf(0.025, 20, 42) - 1)
    assert found.high == pytest.approx(11 / 20 * stats.f.ppf(0.975, 22, 40) - 1)


def test_counts_of_nothing_say_nothing():
    assert hss_of_counts((0, 0), (10, 10)).low == -1
    assert hss_of_counts((0, 0), (10, 10)).high == np.inf
    assert hss_of_counts((3, 0), (10, 10)).value == np.inf


def test_pooling_finds_the_block_that_every_set_leans_to():
    tables = []
    for seed in range(4):
        tokens, pairs, _ = made_tokens(seed, n_pairs=60, planted={3: 1.25})
        rng = np.random.default_rng(seed)
        tables.append(contrast_test(sums_of(tokens), pairs, n_permutations=400, rng=rng))
    found = pooled(pd.concat(tables)).query("score == 'HSAV'").set_index("block")
    assert found.p_max[3] < 1e-4
    assert (found.p_max.drop(3) > 0.05).all()
    assert (found.n == 4).all()
    assert found.value[3] == pytest.approx(np.mean([t.value[3] for t in tables]))
    assert found.p_max.to_numpy() == pytest.approx(np.minimum(5 * found.p, 1))
