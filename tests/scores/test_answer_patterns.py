"""Patterns of answers by question: planted ones are found, on other questions than they judge."""

import numpy as np
import pandas as pd
import pytest
from test_hallucination_study import rows as questions
from tiny import tiny_loaded

from avss_utils.claims.awaited import AWAITED
from avss_utils.claims.papers import ANSWERS
from avss_utils.data.answer_sets import IRRELEVANT, KINDS, PAIRED, events_of
from avss_utils.scores.answer_patterns import (
    block_effects,
    cross_fitted,
    pattern_effects,
    pattern_rows,
)
from avss_utils.scores.answer_study import PRIMARY, SetStudy
from avss_utils.scores.contrasts import each_answer, log_variance
from avss_utils.store.tables import read_table, write_table

N, N_BLOCKS = 400, 12


def made_rows(
    planted: dict[tuple[str, str], tuple[int, float]], *, sets: str = "ab", seed: int = 0
) -> pd.DataFrame:
    """Answers that vary by 1 together and 1 / sqrt(2) alone: false less true varies by 1.

    ``planted``: by kind and score, the block at which false answers lie so many standard deviations
    from true ones.
    """
    rng, parts = np.random.default_rng(seed), []
    for name in sets:
        for kind in KINDS:
            for score in ("HSAV", "HSS"):
                common = rng.standard_normal((N, N_BLOCKS))
                for answer in ("true", "false"):
                    values = common + rng.standard_normal((N, N_BLOCKS)) / np.sqrt(2)
                    if answer == "false" and (kind, score) in planted:
                        block, size = planted[kind, score]
                        values[:, block] += size
                    columns = [f"b{i}" for i in range(N_BLOCKS)]
                    own = pd.DataFrame(values.astype(np.float16), columns=columns)
                    names = dict(set=name, kind=kind, answer=answer, score=score)
                    parts.append(own.assign(**names, row_id=range(N)))
    return pd.concat(parts, ignore_index=True)


def means(effects: pd.DataFrame) -> pd.Series:
    return effects.groupby(["kind", "score"]).value.mean()


def test_a_planted_effect_is_found_with_its_block_and_the_others_are_none():
    planted = {(PAIRED, "HSAV"): (7, 0.5), (PAIRED, "HSS"): (2, -0.4), (IRRELEVANT, "HSAV"): (3, 1)}
    effects = pattern_effects(made_rows(planted), seed=0)
    assert effects.columns.to_list() == list(AWAITED[ANSWERS]["pattern_effects"])
    assert len(effects) == 2 * N * len(KINDS) * 2
    assert not effects.duplicated(["set", "row_id", "kind", "score"]).any()
    found = means(effects)
    error = 1 / np.sqrt(2 * N)
    for kind in KINDS:
        for score in ("HSAV", "HSS"):
            block, size = planted.get((kind, score), (None, 0))
            assert found[kind, score] == pytest.approx(abs(size), abs=4 * error)  # towards the sign
            own = effects[(effects.kind == kind) & (effects.score == score)]
            assert block is None or set(own.block) == {block}
            assert own.value.std() == pytest.approx(1, abs=0.15)


def test_nothing_is_chosen_on_the_half_that_it_judges():
    """Of noise the largest of many blocks is no effect elsewhere, and one on its own half."""
    rng, elsewhere, same = np.random.default_rng(0), [], []
    for _ in range(200):
        noise = rng.standard_normal((40, 50))
        half = rng.permutation(40) < 20
        elsewhere.append(cross_fitted(noise, half)[1].mean())
        for own in (half, ~half):
            effects = noise[own].mean(0) / noise[own].std(0)
            same.append(np.abs(effects).max())
    assert abs(np.mean(elsewhere)) < 4 * np.std(elsewhere) / np.sqrt(200)
    assert np.mean(elsewhere) < 0.1 < 0.4 < np.mean(same)


def test_block_sign_and_unit_of_a_half_come_from_the_other():
    rng = np.random.default_rng(0)
    half = np.arange(100) < 50
    noise = 0.1 * rng.standard_normal((100, 4))
    noise[half, 1] -= 3.0  # seen in one half alone, and in a block of its own in each
    noise[~half, 2] = 5.0 + 2.0 * rng.standard_normal(50)
    block, value = cross_fitted(noise, half)
    assert set(block[half]) == {2}
    assert set(block[~half]) == {1}
    unit = noise[~half, 2].std()
    np.testing.assert_allclose(value[half], noise[half, 2] / unit)
    np.testing.assert_allclose(value[~half], -noise[~half, 1] / noise[half, 1].std())
    moved = noise.copy()
    moved[half] *= 7  # of a half nothing of what it is judged by
    assert cross_fitted(moved, half)[0][half].tolist() == block[half].tolist()
    np.testing.assert_allclose(cross_fitted(moved, half)[1][half], 7 * value[half])


def test_blocks_that_do_not_vary_tell_nothing():
    block, value = cross_fitted(np.ones((6, 3)), np.arange(6) < 3)
    assert (block == 0).all()
    assert (value == 0).all()


def test_halves_follow_the_seed_and_are_the_same_for_all_kinds():
    planted = {(kind, "HSAV"): (block, 1.0) for block, kind in enumerate(KINDS)}
    rows = made_rows(planted, sets="a")
    effects = pattern_effects(rows, seed=0)
    pd.testing.assert_frame_equal(effects, pattern_effects(rows, seed=0))
    assert not effects.value.equals(pattern_effects(rows, seed=1).value)
    # one block more stands out in one half alone: who sees it is in the other
    odd = np.random.default_rng(0).permutation(N) < N // 2
    false = (rows.answer == "false") & rows.row_id.map(dict(enumerate(odd)))
    rows.loc[false, "b9"] += 50.0
    blocks = pattern_effects(rows, seed=0).pivot(
        index="row_id", columns=["kind", "score"], values="block"
    )
    assert (blocks[~odd] == 9).all(axis=None)
    assert (blocks[odd].xs("HSAV", axis=1, level="score") != 9).all(axis=None)


def test_effects_by_block_are_means_over_the_sets_named():
    rows = made_rows({(PAIRED, "HSAV"): (7, 0.5)}, sets="abc")
    rows.loc[(rows["set"] == "c") & (rows.answer == "false"), "b7"] += 9  # not named
    table = block_effects(rows, ["a", "b"]).set_index(["kind", "score", "block"])
    own = table.loc[PAIRED, "HSAV"]
    assert len(table) == len(KINDS) * 2 * N_BLOCKS
    assert own.value[7] == pytest.approx(0.5, abs=0.15)
    assert own.low[7] < 0.5 < own.high[7]
    assert ((own.low < 0) & (own.high > 0)).drop(7).mean() > 0.7
    assert own.high[0] - own.low[0] == pytest.approx(2 * 1.96 / np.sqrt(2 * N), rel=0.02)


@pytest.fixture(scope="module")
def study() -> SetStudy:
    before, after = (events_of(questions(n), "nq_open", wording="plain", seed=0) for n in (6, 10))
    options = dict(sites=("residual", "update"), eps=1e-3, ratio=0.05, seed=0, batch_tokens=256)
    return SetStudy(tiny_loaded(), before, after, **options)


def test_rows_hold_both_measures_of_answers_cut_to_equal_length(study):
    table = pattern_rows(study)
    assert len(table) == 10 * len(KINDS) * 2 * 2
    assert table.columns.to_list() == [
        *("set", "row_id", "kind", "answer", "score"),
        *(f"b{i}" for i in range(4)),
    ]
    blocks = [f"b{i}" for i in range(4)]
    for kind in KINDS:
        sums, pairs = study.sums(study.tokens, study.evaluation, kind, *PRIMARY)
        np.testing.assert_array_equal(sums.n[pairs.true], sums.n[pairs.false])
        own = table[table.kind == kind].set_index(["score", "answer"])
        logs = log_variance(each_answer(sums))
        np.testing.assert_allclose(own.loc["HSAV", "false"][blocks], logs[pairs.false], rtol=1e-3)
        share = (sums.zeros + 0.5) / (sums.n + 1)
        odds = np.log(share / (1 - share))
        np.testing.assert_allclose(own.loc["HSS", "true"][blocks], odds[pairs.true], rtol=1e-3)
    true = table[(table.answer == "true") & (table.score == "HSAV")]
    assert not true[true.kind == PAIRED].b0.equals(true[true.kind == IRRELEVANT].b0)


def test_rows_of_a_full_run_take_less_than_four_megabytes(tmp_path):
    """Six sets of 600 questions, three kinds, two answers and two scores, of thirty blocks."""
    rng, n = np.random.default_rng(0), 6 * 600
    names = [(k, a, s) for k in KINDS for s in ("HSAV", "HSS") for a in ("true", "false")]
    blocks = rng.standard_normal((len(names) * n, 30)).astype(np.float16)
    table = pd.DataFrame(blocks).add_prefix("b")
    table["row_id"] = [f"question {i}" for i in range(n)] * len(names)
    table[["kind", "answer", "score"]] = np.repeat(names, n, axis=0)
    file = write_table(table, tmp_path / "rows")
    assert file.suffix == ".parquet"
    assert read_table(file).b0.dtype == np.float16
    assert blocks.nbytes == 2_592_000
    assert file.stat().st_size < 4e6
