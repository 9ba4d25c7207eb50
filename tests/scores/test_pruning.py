"""Scores -> plans, and the names of arms."""

from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from handmade import EPS, random_states, stats_of, stats_with

from avss_utils.chapters.mitigation.arms import check_arms
from avss_utils.errors import UsageError
from avss_utils.measure.block_stats import BlockStats
from avss_utils.models.plan import PruningPlan, as_drop, as_text, n_to_drop
from avss_utils.scores.arms import RULES, distinct, parse_arm, plan_arm, plans_table, scores_table
from avss_utils.scores.criteria import CRITERIA, SCORED_ONCE, score_blocks, wanted_options
from avss_utils.scores.importance import avss_at
from avss_utils.scores.plans import (
    plan_as_released,
    plan_contiguous,
    plan_iterative,
    plan_lowest,
    plan_random,
    plan_tail,
)

ROOT = Path(__file__).parents[2]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# plans


def test_a_plan_is_sorted_and_knows_what_stays():
    plan = PruningPlan((4, 0, np.int64(2)), 6, "lowest")
    assert plan.drop == (0, 2, 4)
    assert plan.keep == (1, 3, 5)
    assert all(type(i) is int for i in plan.drop)
    assert PruningPlan((), 3, "lowest").keep == (0, 1, 2)


@pytest.mark.parametrize("drop", [(1, 1), (-1,), (4,), (0, 99)])
def test_a_plan_with_impossible_blocks_is_refused(drop):
    with pytest.raises(UsageError, match="different numbers from 0 to 3"):
        PruningPlan(drop, 4, "lowest")


@pytest.mark.parametrize(
    ("n_blocks", "ratio", "n"),
    [(30, 0.25, 7), (32, 0.25, 8), (4, 0.25, 1), (7, 0.25, 1), (10, 0.99, 9), (100, 0.29, 29)],
)
def test_a_quarter_is_rounded_down(n_blocks, ratio, n):
    assert n_to_drop(n_blocks, ratio=ratio) == n


def test_a_ratio_that_is_a_whole_number_of_blocks_gives_that_number():
    for n_blocks in range(2, 121):
        for n in range(1, n_blocks):
            assert n_to_drop(n_blocks, ratio=n / n_blocks) == n


@pytest.mark.parametrize("ratio", [0, 1, -0.25, 1.5, 25, True, "0.25", None, np.nan])
def test_a_ratio_outside_zero_to_one_is_refused(ratio):
    with pytest.raises(UsageError, match="above 0 and below 1"):
        n_to_drop(30, ratio=ratio)


@pytest.mark.parametrize("n_blocks", [2, 3, 18, 24, 28, 30, 49])
def test_a_ratio_too_small_to_remove_a_block_names_one_that_does(n_blocks):
    with pytest.raises(UsageError, match="removes none") as refused:
        n_to_drop(n_blocks, ratio=0.99 / n_blocks)
    named = float(str(refused.value).split("take ")[1].split()[0])
    assert n_to_drop(n_blocks, ratio=named) == 1


def test_the_lowest_scores_go():
    plan = plan_lowest(np.array([3.0, 1.0, 2.0, 0.5]), n_drop=2)
    assert (plan.drop, plan.n_blocks, plan.rule) == ((1, 3), 4, "lowest")
    assert plan_lowest(np.array([3.0, 1.0]), n_drop=0).drop == ()
    assert plan_lowest(np.zeros(40), n_drop=20).drop == tuple(range(20))  # the earlier of equals


@pytest.mark.parametrize("n_drop", [-1, 4, 9])
def test_all_or_a_negative_number_of_blocks_cannot_go(n_drop):
    plans = [
        lambda: plan_lowest(np.zeros(4), n_drop=n_drop),
        lambda: plan_tail(4, n_drop=n_drop),
        lambda: plan_random(4, n_drop=n_drop, rng=rng()),
        lambda: plan_random(4, n_drop=n_drop, rng=rng(), protect_ends=True),
        lambda: plan_iterative(lambda drop: np.zeros(4), 4, n_drop=n_drop),
    ]
    for plan in plans:
        with pytest.raises(UsageError, match="cannot go"):
            plan()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = np.array([1.0, bad, 2.0])
    for plan in (
        lambda: plan_lowest(scores, n_drop=1),
        lambda: plan_contiguous(scores, n_drop=1),
        lambda: plan_as_released(scores, ratio=0.25),
    ):
        with pytest.raises(UsageError, match="finite"):
            plan()


def test_the_tail_is_the_last_blocks():
    plan = plan_tail(6, n_drop=2)
    assert (plan.drop, plan.rule) == ((4, 5), "tail")


def test_the_contiguous_run_starts_at_the_lowest_span():
    plan = plan_contiguous(np.array([0.4, 0.2, 0.1, 0.3]), n_drop=3)
    assert (plan.drop, plan.n_blocks, plan.rule) == ((2, 3, 4), 6, "contiguous")
    last = plan_contiguous(np.array([0.4, 0.2, 0.1]), n_drop=2)
    assert (last.drop, last.n_blocks) == ((2, 3), 4)


@pytest.mark.parametrize(("protect", "first"), [(False, 0), (True, 1)])
def test_random_plans_are_uniform_over_the_blocks_they_may_take(protect, first):
    draw, n = rng(), 10 - 2 * first
    plans = [plan_random(10, n_drop=3, rng=draw, protect_ends=protect) for _ in range(2000)]
    share = np.bincount(list(chain(*(p.drop for p in plans))), minlength=10) / 2000
    np.testing.assert_allclose(share[first : 10 - first], 3 / n, atol=0.05)
    assert share.sum() == pytest.approx(3)
    assert share[:first].sum() + share[10 - first :].sum() == 0
    assert plans[0].rule == ("random-protected" if protect else "random")


def test_protected_plans_can_take_all_but_the_ends_and_no_more():
    assert plan_random(5, n_drop=3, rng=rng(), protect_ends=True).drop == (1, 2, 3)
    with pytest.raises(UsageError, match="from 0 to 3"):
        plan_random(5, n_drop=4, rng=rng(), protect_ends=True)


def test_the_iterative_plan_scores_again_after_each_removal():
    asked = []

    def score(drop):
        asked.append(drop)
        # once block 1 is gone, block 3 is worthless; the lowest two at first are 1 and 0
        scores = np.array([2.0, 1.0, 5.0, 4.0])
        if 1 in drop:
            scores[[1, 3]] = np.nan, 0.5
        return scores

    plan = plan_iterative(score, 4, n_drop=2)
    assert plan.drop == (1, 3)
    assert asked == [(), (1,)]
    assert plan_lowest(score(()), n_drop=2).drop == (0, 1)


def test_the_released_rule_cuts_the_running_sum_in_layer_order():
    scores = np.array([1.0, 1.0, 1.0, 5.0])  # running share 1/8, 2/8, 3/8, 1
    assert plan_as_released(scores, ratio=0.25).drop == (0, 1)  # equal to the ratio is in
    assert plan_as_released(scores, ratio=0.24).drop == (0,)
    assert plan_as_released(scores[::-1], ratio=0.25).drop == ()  # the first block holds 5/8
    assert plan_as_released(1000 * scores, ratio=0.25).drop == (0, 1)


def test_the_released_rule_keeps_a_block_and_refuses_negative_scores():
    assert plan_as_released(np.ones(4), ratio=1.0).drop == (0, 1, 2)
    with pytest.raises(UsageError, match="non-negative"):
        plan_as_released(np.array([1.0, -1.0]), ratio=0.25)


# Figure 1 of the AVSS paper, read off the page: variance and sparsity of 32 layers

FIGURE_VARIANCE = np.concatenate(
    [
        np.zeros(8),
        [0.02, 0.05, 0.07, 0.1, 0.8, 0.9, 1.0, 1.0, 3.5],
        np.linspace(4.0, 4.7, 9),
        [5.2, 6.2, 8.2, 13.3, 16.0, 10.0],
    ]
)
FIGURE_SPARSITY = 1e-6 * np.concatenate(
    [
        [210, 154, 109, 81, 66, 55, 51, 42, 40, 34, 33, 31, 26, 24, 23, 20],
        [17, 17, 16, 12, 13, 12, 11, 10, 8, 7, 6, 4, 4, 3, 3, 2],
    ]
)


def figure_scores(criterion: str) -> np.ndarray:
    return score_blocks(criterion, stats_with(FIGURE_VARIANCE, FIGURE_SPARSITY), eps=EPS)


def test_the_released_rule_selects_27_of_the_figures_32_layers():
    plan = plan_as_released(figure_scores("avss"), ratio=0.25)
    assert len(plan.drop) == 27
    assert plan.drop == tuple(range(27))  # a cut in depth


def test_the_eight_lowest_by_the_printed_ratio_are_the_first_eight():
    assert plan_lowest(figure_scores("avss"), n_drop=8).drop == tuple(range(8))


def test_the_figure_plots_the_product_not_the_ratio():
    product, ratio = figure_scores("avss-product"), figure_scores("avss")
    assert product[0] == product[31] == 0  # as plotted: 0 at both ends, the peak in the middle
    assert 15 <= np.argmax(product) <= 18
    assert np.argmax(ratio) >= 30


# block numbers as text


@pytest.mark.parametrize("drop", [(), (0,), (3, 4, 17)])
def test_block_numbers_go_to_text_and_back(drop):
    assert as_drop(as_text(drop)) == drop


def test_text_forms_of_block_numbers():
    assert as_text((3, 4, 17)) == "3 4 17"
    assert as_text(()) == "-"
    assert as_drop(" 3, 4,17 ") == (3, 4, 17)
    assert as_drop(5) == (5,)  # a column of single numbers comes back from CSV as integers


@pytest.mark.parametrize("text", ["3-4", "-1", "a", "1.5", "3 - 4"])
def test_other_text_is_refused(text):
    with pytest.raises(UsageError, match='written like "3 4 17"'):
        as_drop(text)


# arms


@pytest.mark.parametrize(
    ("arm", "parsed"),
    [
        ("avss", ("avss", "lowest", False)),
        ("avss:lowest", ("avss", "lowest", False)),
        ("avss/skip-first", ("avss", "lowest", True)),
        ("avss-pooled:as-released", ("avss-pooled", "as-released", False)),
        ("avss:iterative/skip-first", ("avss", "iterative", True)),
        ("angular-distance:contiguous", ("angular-distance", "contiguous", False)),
        ("tail", ("tail", "tail", False)),
    ],
)
def test_an_arm_is_criterion_rule_and_tokens(arm, parsed):
    assert parse_arm(arm) == parsed


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("avs", "unknown criterion 'avs': choose from .*avss.*tail"),
        ("", "unknown criterion ''"),
        ("full", "unknown criterion 'full'"),
        ("avss:best", "unknown rule 'best': choose from lowest, highest, iterative"),
        ("avss:tail", "unknown rule 'tail'"),
        ("avss:contiguous", "only 'angular-distance' scores a run"),
    ],
)
def test_another_arm_is_refused(arm, message):
    with pytest.raises(UsageError, match=message):
        parse_arm(arm)


def test_the_opposite_plan_drops_the_highest_and_says_so():
    states = random_states(5, n_blocks=6)
    plans = {
        rule: plan_arm(
            f"update-variance:{rule}",
            lambda **_: stats_of(states),
            n_blocks=6,
            drop_ratio=0.34,
            options={},
        )
        for rule in ("lowest", "highest")
    }
    order = np.argsort(np.diff(states, axis=1).var(axis=(0, 2, 3)))
    assert plans["lowest"].drop == tuple(sorted(order[:2]))
    assert plans["highest"].drop == tuple(sorted(order[-2:]))
    assert plans["highest"].rule == "highest"


def test_every_criterion_and_rule_makes_an_arm():
    for name in CRITERIA:
        for rule in RULES:
            fixed = rule == "iterative" and SCORED_ONCE & wanted_options(name)
            if rule != "contiguous" and not fixed:
                assert parse_arm(f"{name}:{rule}") == (name, rule, False)


def test_the_arms_of_every_profile_parse():
    profiles = [yaml.safe_load(p.read_text()) for p in sorted((ROOT / "params").glob("*.yml"))]
    named = [(name, (own or {}).get("arms", [])) for p in profiles for name, own in p.items()]
    trained = [arms for name, arms in named if name == "03_contrastive_mitigation" and arms]
    removed = [arm for name, arms in named if name != "03_contrastive_mitigation" for arm in arms]
    assert len(trained) > 0
    assert len(removed) > 0
    for arms in trained:
        check_arms(arms, contrast="infonce")
    for arm in removed:
        parse_arm(arm)


class Collected:
    """Stands in for a calibration: hand-made statistics, and a record of what was asked."""

    def __init__(self, n_blocks: int = 8) -> None:
        self.all, self.rest = (stats_of(random_states(s, n_blocks=n_blocks)) for s in (0, 1))
        self.span = stats_of(random_states(0, n_blocks=n_blocks), spans=(1, 2))
        self.asked: list[dict] = []

    def __call__(self, *, skip_first_token=False, drop=(), span=1) -> BlockStats:
        self.asked.append({"skip": skip_first_token, "drop": drop, "span": span})
        if span > 1:
            return self.span
        return self.rest if skip_first_token else self.all


def avss_of(collect: Collected) -> np.ndarray:
    return avss_at(collect.all, site="residual", eps=EPS)


def plan_of(arm: str, collect: Collected) -> PruningPlan:
    options = {"eps": EPS, "ratio": 0.1, "rng": rng()}
    return plan_arm(arm, collect, n_blocks=8, drop_ratio=0.25, options=options)


@pytest.mark.parametrize(
    ("arm", "skip", "span", "expected"),
    [
        ("avss", False, 1, lambda c: plan_lowest(avss_of(c), n_drop=2)),
        ("avss:as-released", False, 1, lambda c: plan_as_released(avss_of(c), ratio=0.25)),
        (
            *("variance/skip-first", True, 1),
            lambda c: plan_lowest(c.rest.variance("residual"), n_drop=2),
        ),
        (
            *("angular-distance:contiguous", False, 2),
            lambda c: plan_contiguous(c.span.angular_distance(2), n_drop=2),
        ),
    ],
)
def test_an_arm_is_its_rule_on_the_statistics_it_asks_for(arm, skip, span, expected):
    collect = Collected()
    assert plan_of(arm, collect) == expected(collect)
    assert collect.asked == [{"skip": skip, "drop": (), "span": span}]


def test_an_iterative_arm_collects_with_the_dropped_blocks_bypassed_and_the_tail_nothing():
    collect = Collected()
    plan = plan_of("variance:iterative", collect)
    assert plan.rule == "iterative"
    assert [a["drop"] for a in collect.asked] == [(), plan_of("variance", Collected()).drop[:1]]
    untouched = Collected()
    assert plan_of("tail", untouched).drop == (6, 7)
    assert untouched.asked == []


def test_scores_table_has_a_row_a_criterion_and_block():
    stats = stats_with([4.0, 9.0], [0.5, 0.25])
    table = scores_table(stats, ["variance", "avss"], eps=EPS, ratio=0.1, rng=rng())
    assert table.values.tolist() == [
        ["variance", 0, 4.0],
        ["variance", 1, 9.0],
        ["avss", 0, 8.0],
        ["avss", 1, 36.0],
    ]


def test_an_arm_with_the_same_blocks_as_an_earlier_one_is_judged_as_it():
    collect = Collected()
    table = plans_table(
        ["avss", "avss:lowest", "tail"],
        collect,
        n_blocks=8,
        drop_ratio=0.25,
        options={"eps": EPS, "ratio": 0.1, "rng": rng()},
    )
    assert table.judged_as.tolist() == ["avss", "avss", "tail"]
    assert table.n_dropped.tolist() == [2, 2, 2]
    assert table["drop"].tolist()[2] == "6 7"
    assert distinct(table) == [
        ("full", ()),
        ("avss", plan_of("avss", collect).drop),
        ("tail", (6, 7)),
    ]


def test_distinct_reads_drops_of_no_and_of_one_block():
    plans = pd.DataFrame(
        {"arm": ["a", "b", "c"], "judged_as": ["a", "b", "a"], "drop": ["-", "3", "-"]}
    )
    assert distinct(plans) == [("full", ()), ("a", ()), ("b", (3,))]
