"""Retention curves, where they cross a level, and the rankings' stability, on made-up answers."""

import numpy as np
import pandas as pd
import pytest
import torch
from handmade import EPS, random_states, stats_of
from tiny import FAMILIES, tiny_tokenizer

from avss_utils.chapters.thresholds import calibration_dependence as dependence
from avss_utils.chapters.thresholds import keep_curves
from avss_utils.data.calibrations import RANDOM_TOKENS, calibration_rows, row_batches
from avss_utils.measure.activations import collect_block_stats
from avss_utils.models.plan import as_drop
from avss_utils.scores.arms import plans_to_judge
from avss_utils.stats import retention
from avss_utils.stats.block_profiles import kendall_w
from avss_utils.stats.outcomes import OutcomeTable


def answer_rows(right: dict[str, str], *, name: str = "t", n_choices: int = 4) -> pd.DataFrame:
    """A row per arm and question, right where its arm has an x."""
    rows = [
        (arm, name, i, n_choices, x == "x") for arm, own in right.items() for i, x in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["arm", "set", "row_id", "n_choices", "correct"])


def outcomes_of(right: dict[str, str]) -> OutcomeTable:
    return OutcomeTable(answer_rows(right))


PLANS = pd.DataFrame({"arm": "a", "n_dropped": [1, 2, 4], "drop": ["3", "3 4", "3 4 5 6"]})
CURVE = {
    "full": "x" * 80 + "." * 20,
    "without 3": "x" * 80 + "." * 20,
    "without 3 4": "x" * 60 + "." * 40,
    "without 3 4 5 6": "x" * 40 + "." * 60,
}


def test_retention_by_hand_raw_and_corrected():
    table = retention.retention_rows(PLANS, outcomes_of(CURVE), seed=0)
    raw = table[table.measure == "raw retention"].value.to_list()
    assert raw == pytest.approx([1.0, 0.75, 0.5])
    corrected = table[table.measure == "corrected retention"].value.to_list()
    assert corrected == pytest.approx([1.0, 0.35 / 0.55, 0.15 / 0.55])
    rounding = 1e-12  # the same sum, added in another order
    assert (table.low <= table.value + rounding).all()
    assert (table.value <= table.high + rounding).all()


def test_the_last_share_kept_is_that_of_the_isotonic_curve():
    found = keep_curves.shares_kept(PLANS, outcomes_of(CURVE), n_blocks=8, kept=0.9, seed=0)
    assert found.value.to_list() == [1 / 8, 1 / 8]  # raw and corrected: 1, then .75 and .64
    assert (found.low <= found.value).all()
    assert (found.high >= found.value).all()
    assert found.open.to_list() == ["", ""]
    flat = dict.fromkeys(CURVE, CURVE["full"])
    found = keep_curves.shares_kept(PLANS, outcomes_of(flat), n_blocks=8, kept=0.9, seed=0)
    assert found.value.to_list() == [0.5, 0.5]  # the largest measured share
    assert found.open.to_list() == ["yes", "yes"]


def test_the_keep_curve_has_every_measure_by_number_of_removed_blocks():
    kept = retention.retention_rows(PLANS, outcomes_of(CURVE), seed=0)
    nll = dict(zip(CURVE, (1.0, 1.25, 2.0, 4.0), strict=True))
    rows = [(arm, s, n, nll[arm] * np.log(2)) for arm in nll for s in ("a", "b") for n in (0, 1)]
    texts = pd.DataFrame(rows, columns=["arm", "text_set", "row_id", "nll"])
    texts = texts.assign(window=0, n_tokens=2, n_bytes=1)
    turned = PLANS.iloc[::-1]
    found = keep_curves.keep_curve(turned, kept, texts, text_set="b", seed=0)
    wide = found.pivot(index="n_dropped", columns="measure", values="value")
    assert found.n_dropped.unique().tolist() == [1, 2, 4]
    assert wide["t"].to_list() == pytest.approx([1.0, 0.75, 0.5])
    assert wide["bits retention"].to_list() == pytest.approx([0.8, 0.5, 0.25])
    assert wide["perplexity"].to_list() == pytest.approx([2**0.625, 2.0, 4.0])


def test_the_pooled_difference_is_of_the_same_questions():
    plans = pd.DataFrame({"arm": ["greedy", "a"], "n_dropped": 1, "drop": ["1", "2"]})
    marks = {"full": "xx..", "without 1": "x...", "without 2": "x..."}
    same = outcomes_of({arm: right * 25 for arm, right in marks.items()})
    table = retention.pooled_retention(plans, same, references=["greedy"], seed=0)
    gap = table[table.measure == "less that of greedy"].iloc[0]
    assert (gap.arm, gap.value, gap.low, gap.high) == ("a", 0.0, 0.0, 0.0)
    assert table[table.measure == "mean raw retention"].value.to_list() == [0.5, 0.5]


def test_only_sets_above_chance_can_be_tested():
    assert retention.sets_above_chance(outcomes_of(CURVE), seed=0) == ["t"]
    guessing = outcomes_of({"full": "x..." * 25})
    assert retention.sets_above_chance(guessing, seed=0) == []
    plans = pd.DataFrame({"arm": ["greedy", "a"], "n_dropped": 1, "drop": ["3", "3 4"]})
    table = retention.pooled_retention(
        plans, outcomes_of(CURVE), sets=[], references=["greedy"], seed=0
    )
    assert table.value.isna().all()
    assert (table.n == 0).all()
    assert np.isinf(table.low).all()


def test_a_plan_of_one_block_is_no_number_and_is_judged_once():
    first = pd.DataFrame({"drop": [5, 7]})  # as pandas reads "5" and "7"
    second = pd.DataFrame({"drop": ["5", "5 7"]})
    assert plans_to_judge(first, second) == [
        ("full", ()),
        ("without 5", (5,)),
        ("without 7", (7,)),
        ("without 5 7", (5, 7)),
    ]


def test_the_break_gap_is_of_bits_per_byte_over_the_same_windows():
    texts = pd.DataFrame(
        {
            "arm": ["a", "a", "b", "b"],
            "text_set": "s",
            "row_id": 0,
            "window": [0, 1, 0, 1],
            "n_tokens": 3,
            "nll": np.log(2) * np.array([6.0, 8.0, 4.0, 4.0]),
            "n_bytes": [2, 4, 2, 4],
        }
    )
    gap = retention.text_gap(texts, "a", "b", seed=0)
    assert gap.value == pytest.approx(1.0)
    assert gap.n == 2
    assert [gap.low, gap.high] == pytest.approx([1.0, 1.0])


def test_the_guide_charges_each_arm_its_own_cost_and_names_what_was_not_timed():
    arms = ["variance", "greedy", "tail", "eavss", "eavss:highest", "eavss-restricted"]
    plans = pd.DataFrame({"arm": arms, "n_dropped": 1, "drop": [*"123456"]})
    kept = pd.DataFrame({"arm": arms, "set": "t", "measure": "raw retention", "value": 0.5})
    bits = {"arm": [f"without {i}" for i in range(1, 7)], "value": [3.0, 1.0, 2.0, 4, 5, 6]}
    within = pd.DataFrame({"criterion": ["variance"], "overlap_excess": [0.25]})
    costs = [("greedy", 9.0, 7.0), ("eavss", 5.0, 2.0), ("statistics", 2.0, 1.0)]
    effort = pd.DataFrame(costs, columns=["criterion", "seconds", "passes"])
    rows = (plans, kept, pd.DataFrame(bits))
    guide = keep_curves.guide(*rows, effort, within)
    assert guide.arm.to_list() == ["greedy", "tail", "variance", *arms[3:]]
    assert guide.seconds.to_list() == [9.0, 0.0, 2.0, 5.0, 5.0, 5.0]
    assert guide.passes.to_list() == [7.0, 0.0, 1.0, 2.0, 2.0, 2.0]
    untimed = keep_curves.guide(*rows, effort[:2], within)
    assert untimed.arm[untimed.seconds.isna()].to_list() == ["variance"]
    assert untimed.passes.equals(guide.passes)


def test_kendalls_w_is_one_in_agreement_and_by_hand_otherwise():
    assert kendall_w(np.array([[0, 1, 2], [0, 1, 2]])) == pytest.approx(1.0)
    assert kendall_w(np.array([[0, 1, 2], [2, 1, 0]])) == pytest.approx(0.0)
    # rank sums 1, 3, 5 less their mean 3: S = 8, W = 12 * 8 / (9 * 24)
    assert kendall_w(np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2]])) == pytest.approx(12 * 8 / 216)


WHOLE = pd.DataFrame({"calibration": ["a", "a", "b"], "size": [12, 12, 7]})


def test_draws_of_a_size_share_no_text_and_one_alone_is_no_draw():
    draws = dependence.separate_draws(WHOLE, sizes=[3, 4, 7, 100], n_draws=3)
    assert draws == [("a", n, i) for n in (3, 4) for i in range(3)] + [("b", 3, 0), ("b", 3, 1)]
    sizes = dict(sizes=[3, 4], seed=0)
    texts = [dependence.drawn_texts(12, 4, i, **sizes) for i in range(3)]
    assert sorted(np.concatenate(texts)) == list(range(12))
    rng = np.random.default_rng(0)
    assert dependence.drawn_texts(12, 3, 1, **sizes).tolist() == rng.permutation(12)[3:6].tolist()
    assert texts[0].tolist() == rng.permutation(12)[:4].tolist()  # a size later, another shuffle


def test_orders_are_those_of_the_texts_own_scores():
    states = random_states(3, n_texts=12, n_blocks=6)
    texts = np.array([3, 1, 8])
    part = stats_of(states, histogram=False).rows(texts).merged()
    row = dependence.orders(part, ["update-variance"], options={"eps": EPS}).iloc[0]
    variance = np.diff(states, axis=1)[texts].var(axis=(0, 2, 3))
    assert (row.criterion, as_drop(row.order)) == ("update-variance", tuple(np.argsort(variance)))


def test_texts_alone_give_the_orders_of_the_same_texts_of_a_whole_set():
    model, texts = FAMILIES["llama"](4), torch.randint(3, 90, (6, 5))
    whole, alone = (
        collect_block_stats(model, [{"input_ids": ids}], per_sequence=True)
        for ids in (texts, texts[[4, 0]])
    )
    tables = [
        dependence.orders(stats.merged(), ["block-influence", "variance"], options={})
        for stats in (whole.rows(np.array([4, 0])), alone)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_agreement_is_in_excess_of_chance():
    same = pd.DataFrame({"c": "x", "order": ["0 1 2 3"] * 3})
    row = dependence.agreement(same, ["c"], n_drop=2).iloc[0]
    assert (row.w, row.w_excess, row.overlap, row.overlap_excess) == (1, 1, 1, 1)
    rng = np.random.default_rng(0)
    lots = [" ".join(map(str, rng.permutation(20))) for _ in range(60)]
    chance = dependence.agreement(pd.DataFrame({"c": "x", "order": lots}), ["c"], n_drop=5).iloc[0]
    assert abs(chance.w_excess) < 0.02
    assert abs(chance.overlap_excess) < 0.03


def test_set_plans_are_the_lowest_of_whole_sets():
    table = pd.DataFrame(
        {
            "calibration": ["s", "t", "t"],
            "criterion": ["c", "c", "other"],
            "order": ["3 1 2 0", "2 0 1 3", "0 1 2 3"],
        }
    )
    found = dependence.set_plans(table, ["c"], n_drops=[1, 2])
    assert found.arm.to_list() == ["c on s", "c on s", "c on t", "c on t"]
    assert found["drop"].to_list() == ["3", "1 3", "2", "0 2"]


def test_random_rows_are_decided_by_the_seed_and_batches_keep_their_order():
    tokenizer, sizes = tiny_tokenizer(), dict(n_texts=5, length=4)
    rows = calibration_rows(tokenizer, RANDOM_TOKENS, **sizes, seed=1)
    assert rows == calibration_rows(tokenizer, RANDOM_TOKENS, **sizes, seed=1)
    assert not {i for row in rows for i in row[1:]} & set(tokenizer.all_special_ids)
    batches = row_batches([*rows, [7]], batch_size=4)
    joined = [
        ids[mask.bool()].tolist() for b in batches for ids, mask in zip(*b.values(), strict=True)
    ]
    assert joined == [*rows, [7]]
