"""Flags that hold on another set, and flags that do not, on made-up scores."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from avss_utils.chapters.hallucination import Hallucination
from avss_utils.chapters.hallucination.transfer import precision_table, transfer_table
from avss_utils.claims.awaited import AWAITED
from avss_utils.claims.papers import ANSWERS

N_BLOCKS, N_DRAWS = 12, 100


def made_scores(planted: dict[str, tuple[int, ...]]) -> pd.DataFrame:
    """Noise, the same for every draw, with higher scores of the planted blocks on true labels."""
    rng, parts = np.random.default_rng(0), []
    for name, blocks in planted.items():
        scores = rng.random((N_DRAWS, N_BLOCKS))
        scores[0, list(blocks)] += 5
        parts.append(
            pd.DataFrame(
                {
                    "set": name,
                    "reading": "contrast",
                    "draw": np.repeat(np.arange(N_DRAWS) - 1, N_BLOCKS),
                    "block": np.tile(np.arange(N_BLOCKS), N_DRAWS),
                    "score": scores.ravel(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_blocks_that_all_sets_flag_are_found_on_the_one_left_out():
    scores = made_scores(dict.fromkeys("abc", (2, 5, 7)))
    table = transfer_table(scores, sources=["a", "b", "c"], targets=["a", "c"], top=3)
    assert table.target.to_list() == ["a", "c"]
    assert (table.value == 1).all()
    assert table.shuffled.to_numpy() == pytest.approx(3 / N_BLOCKS, abs=0.1)
    assert (table.p <= 0.02).all()
    assert (table.lift > 2).all()
    assert table.lift_shuffled.to_numpy() == pytest.approx(1, abs=0.1)


def test_true_labels_have_the_recorded_scores_and_random_ones_those_of_the_study():
    sources = ["a", "b", "c"]
    asked = dict(targets=sources, top=3)
    recorded = made_scores(dict.fromkeys("abc", (2, 5, 7)))
    again = made_scores(dict.fromkeys("abc", (1, 4, 8)))  # of a run that went on elsewhere

    def study(name: str) -> SimpleNamespace:
        own = again[again.set == name]
        return SimpleNamespace(scores=lambda n_shuffles: own[own.draw < n_shuffles])

    chapter = object.__new__(Hallucination)
    chapter.p, chapter.n_drop = SimpleNamespace(n_shuffles=40, sets=sources), 3
    chapter.studies = {name: study(name) for name in "abc"}
    written = recorded[recorded.draw < 0]
    table = chapter.transfer(written)
    drawn = pd.concat([written, again[(again.draw >= 0) & (again.draw < 40)]])
    pd.testing.assert_frame_equal(table, transfer_table(drawn, sources=sources, **asked))
    assert (table.n == 40).all()
    assert table.lift.to_list() != transfer_table(again, sources=sources, **asked).lift.to_list()

    draws = chapter.transfer_draws(written)
    assert draws.columns.to_list() == list(AWAITED[ANSWERS]["transfer_draws"])
    for target, own in draws.groupby("target"):
        (row,) = table[table.target == target].itertuples()
        by_draw = own.set_index("draw").shared
        assert by_draw[-1] == row.value == 1
        assert by_draw.drop(-1).mean() == pytest.approx(row.shuffled)
        assert (by_draw.drop(-1) >= by_draw[-1]).mean() == row.as_good
        assert by_draw.index.to_list() == list(range(-1, 40))


def test_a_set_with_blocks_of_its_own_shares_none_and_flags_nothing_for_itself():
    planted = {"a": (2, 5), "b": (2, 5), "own": (9, 10)}
    for sources in (["a", "b"], ["a", "b", "own"]):
        found = transfer_table(made_scores(planted), sources=sources, targets=["own"], top=2)
        (row,) = found.itertuples()
        assert row.value == 0
        assert row.p > 0.5
        assert row.excess < 0


def test_rounded_scores_are_compared_block_by_block_within_a_set():
    scores = made_scores({"a": (2, 5, 7), "b": (1, 3, 4)})
    first = scores[scores.draw == -1]
    same = precision_table(scores, first, top=3)
    assert same.set.to_list() == ["a", "b"]
    assert (same.rho == 1).all()
    assert (same.overlap == 1).all()
    moved = first.assign(block=np.where(first.set == "b", N_BLOCKS - 1 - first.block, first.block))
    table = precision_table(scores, moved, top=3).set_index("set")
    assert table.overlap["a"] == 1
    assert table.overlap["b"] == 0  # blocks 1 3 4 against 10 8 7
    assert table.rho["b"] < 0.9
