"""Planted tables that reach the verdicts on C5 to C11 through what a run of a notebook is read by.

What is planted is known, so that each verdict can be told beforehand.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta
from test_ledger import opened

from avss_utils import claims
from avss_utils.claims import hallucination, mechanisms, mitigation, papers, verdicts
from avss_utils.claims.awaited import AWAITED, awaited
from avss_utils.claims.verdicts import (
    CANNOT_BE_TESTED,
    FAILS,
    HOLDS,
    IN_PART,
    NOT_REPRODUCED,
    OPEN,
    REPRODUCED,
    UNDECIDED,
    WAITS,
    Finding,
)
from avss_utils.data.answer_sets import IRRELEVANT, KINDS, PAIRED
from avss_utils.errors import UsageError
from avss_utils.store.run_folder import Run
from avss_utils.store.tables import find_table, write_table

SETS = list(papers.CALIBRATED)


def parts(found: list[Finding], claim: str) -> dict[str, Finding]:
    """The conditions of a claim that no group of them repeats, by part."""
    return {f.part: f for f in found if f.claim == claim and f.part}


# C9 to C11: damage in known blocks, which training mends

DAMAGED, N_BLOCKS, N_QUESTIONS = (4, 9), 30, 600
QUESTION = np.arange(N_QUESTIONS)


def first(share: float) -> np.ndarray:
    """This share of the questions."""
    return np.arange(N_QUESTIONS) < share * N_QUESTIONS


def right_after(trained: tuple[int, ...]) -> np.ndarray:
    """Which questions have a likelier true answer: one in four, and one more in four if the block
    on which it hangs, one of the two that are damaged, is trained.
    """
    hangs_on = np.where(QUESTION // 4 % 2, *DAMAGED)
    return (QUESTION % 4 == 0) | ((QUESTION % 4 == 1) & np.isin(hangs_on, trained))


def choices(arm: str, right: np.ndarray, *, sure: float | None = None) -> pd.DataFrame:
    """Confidence is 0.9 where a quarter is right and honest where half is, unless it is given."""
    sure = 0.9 - 1.6 * (right.mean() - 0.25) if sure is None else sure
    rows = {"row_id": QUESTION.astype(str), "correct": right.astype(float), "confidence": sure}
    return pd.DataFrame(rows).assign(arm=arm, wording="plain", abstained=np.nan)


def own_words(arm: str, share: float) -> pd.DataFrame:
    """Own answers of which this share is right, the same questions first; each tenth is none."""
    rows = choices(arm, first(share), sure=0.5)
    return rows.assign(wording="own words", abstained=(QUESTION % 10 == 9).astype(float))


def trials(
    flagged: tuple[int, ...] = DAMAGED,
    *,
    n_random: int = 200,
    shuffled: float | None = 0.2,
    words: tuple[float, float] = (0.3, 0.35),
    sure: float | None = None,
) -> pd.DataFrame:
    """One set's trials. ``shuffled``: labels mend so many of what true ones do (None: no such arm);
    ``words``: right ones among own answers, before and after; ``sure``: confidence after training.
    """
    rng = np.random.default_rng(0)
    before, after = right_after(()), right_after(flagged)
    drawn = [tuple(rng.choice(N_BLOCKS, len(DAMAGED), replace=False)) for _ in range(n_random)]
    rows = [choices("none", before), choices("eavss top", after, sure=sure)]
    rows += [choices(f"random {i}", right_after(blocks)) for i, blocks in enumerate(drawn)]
    if shuffled is not None:
        some = np.where(first(shuffled), after, before)
        rows.append(choices("shuffled labels", some))
    rows += [own_words(arm, x) for arm, x in zip(("none", "eavss top"), words, strict=True)]
    return pd.concat(rows)


def training_run(folder: Path, **sets: pd.DataFrame) -> Run:
    rows = pd.concat([own.assign(set=name) for name, own in sets.items()]).assign(seed=0)
    parameters = {"sets": list(sets)}
    return opened(folder, "tiny", papers.TRAINING, {"trials": rows}, parameters).finish()


def found_in(folder: Path, **options) -> list[Finding]:
    """The findings on SETS, all alike; ``options`` of ``trials``."""
    sets = dict.fromkeys(SETS, trials(**options))
    return claims.mitigation_findings(training_run(folder, **sets))


def test_damage_in_the_flagged_blocks_is_found_and_mended(tmp_path):
    found = found_in(tmp_path / "full")
    ends = verdicts.verdicts_of(found)
    assert ends == dict.fromkeys(("C9", "C10", "C11"), REPRODUCED)
    assert parts(found, "C9")["a"].estimate.value == pytest.approx(1 / 3)  # of three wrong in four
    assert parts(found, "C9")["b"].estimate.value == pytest.approx(0.8 / 3)
    assert parts(found, "C11")["a"].estimate.n == len(SETS) * N_QUESTIONS
    assert parts(found, "C11")["b"].estimate.n == 200
    assert parts(found, "C11")["b"].note == ""


def test_training_the_wrong_blocks_mends_nothing(tmp_path):
    found = found_in(tmp_path / "full", flagged=(0, 1), n_random=100)
    ends = verdicts.verdicts_of(found)
    assert ends == dict.fromkeys(("C9", "C10", "C11"), NOT_REPRODUCED)
    own = parts(found, "C11")
    assert (own["a"].state, own["b"].state) == (FAILS, FAILS)
    assert own["b"].estimate.value == 1.0  # a tie is as good


def test_a_choice_that_some_random_sets_match_is_not_what_helps(tmp_path):
    own = trials(n_random=60)
    lucky = [f"random {i}" for i in range(12)]
    best = own[(own.arm == "eavss top") & (own.wording == "plain")]
    own = pd.concat([own[~own.arm.isin(lucky)], *(best.assign(arm=arm) for arm in lucky)])
    found = claims.mitigation_findings(training_run(tmp_path / "full", nq_open=own))
    c11 = parts(found, "C11")
    assert c11["b"].estimate.value == 12 / 60
    assert (c11["a"].state, c11["b"].state) == (HOLDS, FAILS)  # better than their mean
    assert verdicts.verdicts_of(found)["C11"] == IN_PART


def test_the_share_of_random_sets_is_drawn_with_the_questions():
    """None of 200 does as well; on few questions some might have."""
    everyone = trials()
    outcomes = mitigation.outcomes_of(everyone.assign(set="s", seed=0))
    sharp = mitigation.share_at_least_as_good(outcomes, ["s"], seed=0)
    few = everyone[everyone.row_id.astype(int) < 16].assign(set="s", seed=0)
    blurred = mitigation.share_at_least_as_good(mitigation.outcomes_of(few), ["s"], seed=0)
    assert sharp.value == blurred.value == 0.0
    assert sharp.high < 0.02 < 0.05 < blurred.high


def test_seeds_of_random_sets_are_drawn_too_and_their_own_table_is_read():
    own = trials()
    own = own[own.wording == "plain"].assign(set="s", seed=0)
    random = own.arm.str.startswith("random")
    once = mitigation.outcomes_of(own)
    sets = own[random][["arm", "seed", "set", "row_id", "correct"]]
    apart = mitigation.outcomes_of(own[~random], sets)
    share = mitigation.share_at_least_as_good(once, ["s"], seed=0)
    assert mitigation.share_at_least_as_good(apart, ["s"], seed=0) == share
    twice = mitigation.outcomes_of(own[~random], pd.concat([sets, sets.assign(seed=1)]))
    assert mitigation.share_at_least_as_good(twice, ["s"], seed=0) == share  # equal seeds
    assert twice.of(mitigation.TYPICAL, "s", ("plain", "correct")).shape[0] == sets.arm.nunique()
    # the second seed of every set has all right: now and then only such are drawn
    lucky = pd.concat([sets, sets.assign(seed=1, correct=True)])
    drawn = mitigation.outcomes_of(own[~random], lucky)
    assert mitigation.share_at_least_as_good(drawn, ["s"], seed=0).high > 0.1 > share.high


@pytest.mark.parametrize(("k", "below"), [(0, True), (3, True), (20, False)])
def test_of_two_hundred_sets_none_is_below_a_twentieth_and_a_tenth_above(k, below):
    low, high = beta(k + 0.5, 200 - k + 0.5).ppf([0.025, 0.975])
    assert high < 0.05 if below else low > 0.05


def test_nineteen_random_sets_never_confirm_the_choice(tmp_path):
    found = found_in(tmp_path / "full", n_random=19)
    ends = verdicts.verdicts_of(found)
    assert ends == {"C9": REPRODUCED, "C10": REPRODUCED, "C11": CANNOT_BE_TESTED}
    own = parts(found, "C11")
    assert (own["b"].estimate.value, own["b"].state) == (0.0, OPEN)
    assert "19 random sets" in own["b"].note


@pytest.mark.parametrize(
    ("options", "part", "state", "end"),
    [
        (dict(shuffled=1.0), "b", OPEN, UNDECIDED),  # the labels do not matter
        (dict(shuffled=None), "b", WAITS, UNDECIDED),
        (dict(words=(0.4, 0.3)), "c", FAILS, IN_PART),
        (dict(words=(0.4, 0.4)), "c", HOLDS, REPRODUCED),
        (dict(words=(0.04, 0.5)), "c", OPEN, CANNOT_BE_TESTED),  # hardly one was right before
    ],
)
def test_a_fall_alone_does_not_make_the_claim(tmp_path, options, part, state, end):
    run = training_run(tmp_path / "full", nq_open=trials(n_random=1, **options))
    found = claims.mitigation_findings(run)
    own = parts(found, "C9")
    assert {name: f.state for name, f in own.items()} == dict.fromkeys("abc", HOLDS) | {part: state}
    assert verdicts.verdicts_of(found)["C9"] == end


def test_any_one_of_the_sets_may_show_the_fall_and_none_by_the_help_of_another(tmp_path):
    good, unmended = trials(n_random=1), trials((0, 1), n_random=1)
    worse = trials(n_random=1, words=(0.5, 0.3))
    for name, other, end in (("a", good, REPRODUCED), ("b", worse, IN_PART)):
        run = training_run(tmp_path / name, nq_open=unmended, wiki_qa=other)
        found = claims.mitigation_findings(run)
        assert verdicts.verdicts_of(found)["C9"] == end
        assert {f.group for f in found if f.claim == "C9" and f.part} == {"nq_open", "wiki_qa"}
    assert (
        verdicts.words_of(found)["C9"] == "fails: (c) wrong answers in its own words rise, wiki_qa"
    )


def test_more_sets_have_wider_limits(tmp_path):
    own = trials(n_random=1)
    widths = []
    for folder, names in (("one", SETS[:1]), ("three", SETS)):
        run = training_run(tmp_path / folder, **dict.fromkeys(names, own))
        e = parts(claims.mitigation_findings(run), "C9")["a"].estimate
        widths.append(e.high - e.low)
    assert widths[1] / widths[0] == pytest.approx(2.39 / 1.96, rel=0.1)  # normal limits at 0.05 / 3


def test_sets_that_are_held_out_decide_nothing(tmp_path):
    rows = [trials(n_random=1).assign(set="nq_open")]
    rows.append(trials((0, 1), n_random=1, words=(0.5, 0.1)).assign(set="halueval_qa"))
    tables = {"trials": pd.concat(rows).assign(seed=0)}
    parameters = {"sets": ["nq_open"], "held_out": ["halueval_qa"]}
    run = opened(tmp_path / "full", "tiny", papers.TRAINING, tables, parameters).finish()
    found = claims.mitigation_findings(run)
    assert verdicts.verdicts_of(found)["C9"] == REPRODUCED
    assert {f.group for f in found if f.claim == "C9" and f.part} == {"nq_open"}
    assert parts(found, "C11")["a"].estimate.n == N_QUESTIONS
    assert [f for f in found if "halueval_qa" in f.measure and not f.part]


def test_an_error_that_falls_by_less_than_is_claimed_is_not_reproduced(tmp_path):
    # sure by 0.9 with a quarter right, then wholly with half
    found = found_in(tmp_path / "full", n_random=1, sure=1.0)
    e = parts(found, "C10")["a"].estimate
    assert e.value == pytest.approx(0.15 / 0.65, abs=0.01)
    assert 0 < e.low < e.high < papers.ERROR_FALL
    assert verdicts.verdicts_of(found)["C10"] == NOT_REPRODUCED


def test_calibration_needs_all_the_sets_that_the_papers_name(tmp_path):
    own = trials(n_random=1)
    run = training_run(tmp_path / "a", nq_open=own, sciq_open=own, trivia_qa=own)
    assert "C10" not in verdicts.verdicts_of(claims.mitigation_findings(run))
    honest, same = own, trials((0, 1), n_random=1)
    run = training_run(tmp_path / "b", nq_open=honest, sciq_open=honest, wiki_qa=same)
    found = claims.mitigation_findings(run)
    states = [f.state for f in found if (f.claim, f.part) == ("C10", "b")]
    assert states == [HOLDS, HOLDS, OPEN]
    assert verdicts.verdicts_of(found)["C10"] == UNDECIDED


def test_a_small_run_is_judged_without_controls_or_own_answers(tmp_path):
    few = trials(n_random=1, shuffled=None)
    few = few[(few.wording == "plain") & few.row_id.isin(["0", "1", "2"])]
    found = claims.mitigation_findings(training_run(tmp_path / "smoke", nq_open=few))
    assert {f.part: f.state for f in found if f.claim == "C9" and f.part} == {
        "a": OPEN,
        "b": WAITS,
        "c": OPEN,
    }
    assert "C10" not in verdicts.verdicts_of(found)
    assert len(verdicts.ledger(found)) == len(found)


# C7: a pattern, and what a placebo shows

NOISE = np.random.default_rng(0).standard_normal(500)
NOISE = (NOISE - NOISE.mean()) / NOISE.std()


def cross_fit_table(variance: float = 0.5, placebo: float = 0.1) -> pd.DataFrame:
    values = dict.fromkeys(KINDS, 0.0) | {PAIRED: variance, IRRELEVANT: placebo}
    rows = [(name, kind, 4, value) for name in SETS for kind, value in values.items()]
    table = pd.DataFrame(rows, columns=["set", "kind", "block", "value"])
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.1, n=len(NOISE))


def effects_table(
    variance: float, sparsity: float, placebo: float, *, alike: bool = False
) -> pd.DataFrame:
    """Effects by question that vary by 1; ``alike``: a question's placebo varies as it does."""
    other = NOISE if alike else np.roll(NOISE, 1)
    values = {
        (PAIRED, "HSAV"): variance + NOISE,
        (PAIRED, "HSS"): sparsity + NOISE,
        (IRRELEVANT, "HSAV"): placebo + other,
        (IRRELEVANT, "HSS"): placebo + other,
    }
    rows = [
        pd.DataFrame({"row_id": range(len(own)), "kind": kind, "score": score, "value": own})
        for (kind, score), own in values.items()
    ]
    return pd.concat([table.assign(set=name, block=4) for name in SETS for table in rows])


def answer_run(folder: Path, sets: list[str] = SETS, **tables: pd.DataFrame) -> Run:
    return opened(folder, "tiny", papers.ANSWERS, tables, {"sets": sets}).finish()


@pytest.mark.parametrize(
    ("variance", "sparsity", "placebo", "states", "end"),
    [
        (0.5, 0.5, 0.1, [HOLDS, HOLDS, HOLDS], REPRODUCED),
        (0.5, 0.0, 0.1, [HOLDS, FAILS, HOLDS], IN_PART),
        (0.5, 0.5, 0.7, [HOLDS, HOLDS, FAILS], IN_PART),
        (0.5, 0.5, 0.5, [HOLDS, HOLDS, OPEN], CANNOT_BE_TESTED),  # a tenth would not be seen
        (0.2, 0.5, 0.4, [OPEN, HOLDS, FAILS], NOT_REPRODUCED),
        (0.2, 0.5, 0.0, [OPEN, HOLDS, HOLDS], UNDECIDED),
        (0.1, 0.5, 0.0, [FAILS, HOLDS, HOLDS], NOT_REPRODUCED),
        (-0.5, -0.5, 0.0, [FAILS, FAILS, FAILS], NOT_REPRODUCED),
    ],
)
def test_a_planted_pattern(tmp_path, variance, sparsity, placebo, states, end):
    rows = effects_table(variance, sparsity, placebo)
    run = answer_run(tmp_path / "full", cross_fit=cross_fit_table(), pattern_effects=rows)
    found = claims.pattern_findings(run)
    own = parts(found, "C7")
    assert [own[part].state for part in "abc"] == states
    assert verdicts.verdicts_of(found) == {"C7": end}
    assert own["a"].estimate.value == pytest.approx(variance)
    assert own["b"].estimate.value == pytest.approx(sparsity)
    assert own["c"].estimate.value == pytest.approx(variance - placebo)
    assert {f.estimate.n for f in own.values()} == {len(SETS) * len(NOISE)}


def test_the_placebo_is_paired_with_the_answers_to_the_same_questions(tmp_path):
    rows = effects_table(0.5, 0.5, 0.45, alike=True)
    run = answer_run(tmp_path / "full", cross_fit=cross_fit_table(), pattern_effects=rows)
    gap = parts(claims.pattern_findings(run), "C7")["c"]
    assert gap.estimate.high - gap.estimate.low < 1e-9
    assert gap.state == HOLDS


def test_a_pattern_is_the_mean_over_the_sets_that_are_not_held_out(tmp_path):
    rows = effects_table(0.5, 0.5, 0.1)
    rows["value"] += rows["set"].map({SETS[0]: 0.0, SETS[1]: 0.2, SETS[2]: -9.0})
    tables = dict(cross_fit=cross_fit_table(), pattern_effects=rows)
    found = claims.pattern_findings(answer_run(tmp_path / "full", SETS[:2], **tables))
    assert parts(found, "C7")["a"].estimate.value == pytest.approx(0.6)
    assert len([f for f in found if not f.part]) == len(SETS)


def test_without_effects_by_question_sparsity_waits_and_the_placebo_decides(tmp_path):
    run = answer_run(tmp_path / "a", cross_fit=cross_fit_table(0.5, 0.1))
    found = claims.pattern_findings(run)
    own = parts(found, "C7")
    assert [own[part].state for part in "abc"] == [HOLDS, WAITS, HOLDS]
    assert "--notebook 02_hallucination_metrics" in own["b"].waits
    assert verdicts.verdicts_of(found) == {"C7": UNDECIDED}
    # three independent sets of half-width 0.1, and two such means that are not paired
    e = own["c"].estimate
    half = np.sqrt(2) * 0.1 / np.sqrt(3)
    assert (e.value, e.low, e.high) == pytest.approx((0.4, 0.4 - half, 0.4 + half))
    run = answer_run(tmp_path / "b", cross_fit=cross_fit_table(0.5, 0.7))
    assert verdicts.verdicts_of(claims.pattern_findings(run)) == {"C7": IN_PART}


def test_the_effect_of_every_set_stands_beside_with_its_placebos(tmp_path):
    found = claims.pattern_findings(answer_run(tmp_path / "full", cross_fit=cross_fit_table()))
    beside = [f for f in found if not f.part]
    assert [f.measure for f in beside] == [f"effect on log variance, {name}" for name in SETS]
    assert beside[0].estimate.value == 0.5
    assert "block 4" in beside[0].note
    assert "irrelevant 0.10" in beside[0].note


# C8: the same blocks elsewhere, and causes

TARGETS = [*SETS, "trivia_qa", "truthful_qa", "halueval_qa"]


def half_draws(excess: float, *, spread: float = 0.05) -> pd.DataFrame:
    """Three draws of the questions of every set, with the same mean excess and 200 resamples."""
    rng = np.random.default_rng(0)
    rows = [
        (name, draw, resample, excess + shift + (resample >= 0) * spread * rng.standard_normal())
        for name in SETS
        for draw, shift in enumerate((-0.1, 0.0, 0.1))
        for resample in range(-1, 200)
    ]
    return pd.DataFrame(rows, columns=["set", "draw", "resample", "excess"])


def transfer_draws(n_carried: int, *, shared: float = 0.9, as_good: int = 0) -> pd.DataFrame:
    """Of the six sets left out so many share more than shuffled labels, but for ``as_good`` of 199
    draws of these, the others a quarter, as shuffled ones do.
    """
    rng = np.random.default_rng(0)
    rows = [(t, -1, shared if i < n_carried else 0.25) for i, t in enumerate(TARGETS)]
    rows += [
        (t, draw, shared if draw < as_good else rng.choice([0.0, 0.25, 0.5]))
        for t in TARGETS
        for draw in range(199)
    ]
    return pd.DataFrame(rows, columns=["target", "draw", "shared"])


def bypassed(flagged: float, matched: float, *, n_matched: int = 20) -> pd.DataFrame:
    """Half of 400 questions are right; without blocks so large a share of all turns wrong."""
    rng, rows = np.random.default_rng(0), []
    shares = {"full": 0.0, "flagged": flagged}
    shares |= {f"matched {i}": matched for i in range(n_matched)}
    for arm, share in shares.items():
        right = np.arange(400) % 2
        right[rng.choice(np.flatnonzero(right), round(400 * share), replace=False)] = 0
        table = pd.DataFrame({"set": SETS[0], "row_id": range(400), "correct": right})
        rows.append(table.assign(arm=arm, added_bits=0.1))
    return pd.concat(rows)


def flag_run(folder: Path, sets: list[str] = SETS, **tables: pd.DataFrame) -> Run:
    """With the summaries that are always there: nothing is shared, nothing carries over."""
    halves = pd.DataFrame({"set": SETS, "value": 0.0, "low": -0.2, "high": 0.2, "n": 500})
    transfer = dict(value=0.25, shuffled=0.25, excess=0.0, p=0.5, as_good=0.5, low=0.4, high=0.6)
    transfer = pd.DataFrame({"target": TARGETS, **transfer, "n": 199})
    own = {
        name: pd.concat([table.assign(reading="contrast"), table.assign(reading="restricted")])
        for name, table in {"half_excess": halves, "transfer": transfer}.items()
    }
    return opened(folder, "tiny", papers.ANSWERS, own | tables, {"sets": sets}).finish()


PRONE = dict(
    half_draws=half_draws(0.4), transfer_draws=transfer_draws(6), bypassed=bypassed(0.3, 0.05)
)


@pytest.mark.parametrize(
    ("planted", "states", "end"),
    [
        ({}, [HOLDS, HOLDS, HOLDS], REPRODUCED),
        (dict(transfer_draws=transfer_draws(4)), [HOLDS, HOLDS, HOLDS], REPRODUCED),
        (dict(transfer_draws=transfer_draws(3)), [HOLDS, OPEN, HOLDS], UNDECIDED),
        (dict(transfer_draws=transfer_draws(0)), [HOLDS, FAILS, HOLDS], IN_PART),
        (dict(transfer_draws=transfer_draws(6, shared=0.5)), [HOLDS, OPEN, HOLDS], UNDECIDED),
        # p is 0.02 on each of the six, and 0.12 by Holm's method
        (dict(transfer_draws=transfer_draws(6, as_good=3)), [HOLDS, OPEN, HOLDS], UNDECIDED),
        (dict(half_draws=half_draws(-0.4)), [FAILS, HOLDS, HOLDS], NOT_REPRODUCED),
        (dict(half_draws=half_draws(0.0)), [OPEN, HOLDS, HOLDS], UNDECIDED),
        (dict(half_draws=half_draws(0.2, spread=1.0)), [OPEN, HOLDS, HOLDS], CANNOT_BE_TESTED),
        (dict(bypassed=bypassed(0.05, 0.3)), [HOLDS, HOLDS, FAILS], IN_PART),
        (dict(bypassed=bypassed(0.3, 0.05, n_matched=19)), [HOLDS, HOLDS, OPEN], CANNOT_BE_TESTED),
        (
            dict(half_draws=half_draws(0.0), bypassed=bypassed(0.05, 0.3)),
            [OPEN, HOLDS, FAILS],
            NOT_REPRODUCED,
        ),
    ],
)
def test_planted_flags(tmp_path, planted, states, end):
    found = claims.flag_findings(flag_run(tmp_path / "full", **(PRONE | planted)))
    own = parts(found, "C8")
    assert [own[part].state for part in "abc"] == states
    assert verdicts.verdicts_of(found) == {"C8": end}


def test_flags_are_averaged_over_draws_and_splits_are_not_counted(tmp_path):
    draws = half_draws(0.4)
    draws.loc[draws["set"] == SETS[2], "excess"] = -9.0  # held out
    found = claims.flag_findings(flag_run(tmp_path / "full", SETS[:2], half_draws=draws))
    e = parts(found, "C8")["a"].estimate
    assert (e.value, e.n) == (pytest.approx(0.4), 2)
    assert e.high - e.low == pytest.approx(2 * 1.96 * 0.05 / np.sqrt(6), rel=0.2)


def test_flags_without_the_awaited_tables_are_judged_by_summaries_as_far_as_they_go(tmp_path):
    found = claims.flag_findings(flag_run(tmp_path / "full"))
    own = parts(found, "C8")
    assert [own[part].state for part in "abc"] == [OPEN, OPEN, WAITS]
    e = own["a"].estimate
    assert (e.value, e.low, e.high) == pytest.approx((0.0, -0.2 / np.sqrt(3), 0.2 / np.sqrt(3)))
    assert "0 of 6 sets with Holm's p at most 0.05" in own["b"].note
    beside = [f for f in found if not f.part]
    assert [f.state for f in beside] == [OPEN] * len(SETS) + [FAILS] * len(TARGETS)


def test_moving_the_rate_either_way_is_moving_it(tmp_path):
    rows = bypassed(0.3, 0.05)
    turned = rows.assign(correct=1 - rows.correct)  # bypassing flagged blocks now helps
    found = claims.flag_findings(flag_run(tmp_path / "full", **(PRONE | {"bypassed": turned})))
    moved = parts(found, "C8")["c"]
    assert (moved.estimate.value, moved.state) == (pytest.approx(0.25), HOLDS)
    assert moved.note == "20 matched sets"


# C5 and C6: over models


def limits_run(
    folder: Path,
    model: str,
    *,
    important: float = 2.5,
    redundant: float = 1.5,
    sign: int = 1,
    n_blocks: int = 12,
    architecture: str = "llama",
) -> Run:
    """Bits per byte without the blocks that both scores call important and redundant; ``sign``: of
    the correlation of both with what a block's absence costs.
    """
    rng = np.random.default_rng(sum(map(ord, model)))
    cost = np.linspace(1.0, 2.0, n_blocks) + 0.1 * rng.standard_normal(n_blocks)
    scores = [
        pd.DataFrame({"criterion": name, "block": range(n_blocks), "score": score})
        for name in mechanisms.MECHANISMS.values()
        for score in [sign * (cost + 0.1 * rng.standard_normal(n_blocks))]
    ]
    nll = np.vstack([np.zeros(6), cost[:, None] + 0.01 * rng.standard_normal((n_blocks, 6))])
    losses = pd.DataFrame(
        {
            "block": np.repeat(np.arange(n_blocks + 1) - 1, 6),
            "text": np.tile(range(6), n_blocks + 1),
            "nll": nll.ravel(),
            "n_scored": 10,
        }
    )
    drops = [
        (arm, drop)
        for name in mechanisms.MECHANISMS.values()
        for arm, drop in ((name, "0 1 2"), (f"{name}:highest", "4 5 6"))
    ]
    bits = {"full": 1.2, "without 0 1 2": redundant, "without 4 5 6": important}
    texts = pd.concat(
        pd.DataFrame({"arm": arm, "row_id": range(20), "bits": x + 0.01 * rng.standard_normal(20)})
        for arm, x in bits.items()
    )
    texts = texts.assign(nll=40 * np.log(2) * texts.bits)
    tables = {
        "scores": pd.concat(scores),
        "leave_one_out": losses,
        "opposites": pd.DataFrame(drops, columns=["arm", "drop"]),
        "texts": texts.assign(text_set="wikipedia", window=0, n_tokens=10, n_bytes=40),
    }
    parameters = {"text_sets": ["wikipedia"]}
    run = opened(folder, model, papers.LIMITS, tables, parameters, architecture=architecture)
    return run.finish()


def limits_runs(folder: Path, **models: dict) -> dict[str, Run]:
    return {model: limits_run(folder, model, **options) for model, options in models.items()}


ALIKE = {"a": dict(important=2.5), "b": dict(important=2.55), "c": dict(important=2.45)}


def test_models_that_agree_reproduce_the_mechanisms(tmp_path):
    found = mechanisms.pooled(limits_runs(tmp_path / "full", **ALIKE))
    assert verdicts.verdicts_of(found) == {"C5": REPRODUCED, "C6": REPRODUCED}
    own = parts(found, "C5")
    assert own["a"].estimate.value == pytest.approx(1.0, abs=0.01)
    assert own["a"].estimate.n == own["b"].estimate.n == 3
    assert 0.5 < own["b"].estimate.low < own["b"].estimate.high <= 1
    assert own["a"].note == "models: a, b, c"


def test_models_that_agree_on_the_reverse_refute_them(tmp_path):
    reverse = {m: dict(important=1.5, redundant=x["important"], sign=-1) for m, x in ALIKE.items()}
    found = mechanisms.pooled(limits_runs(tmp_path / "full", **reverse))
    assert verdicts.verdicts_of(found) == {"C5": NOT_REPRODUCED, "C6": NOT_REPRODUCED}


def test_the_break_alone_without_the_correlation_is_in_part(tmp_path):
    turned = {m: x | dict(sign=-1) for m, x in ALIKE.items()}
    found = mechanisms.pooled(limits_runs(tmp_path / "full", **turned))
    assert verdicts.verdicts_of(found) == {"C5": IN_PART, "C6": IN_PART}


def test_three_models_that_disagree_cannot_test_the_mechanisms(tmp_path):
    models = {"a": {}, "b": dict(important=1.5, redundant=2.5, sign=-1), "c": dict(redundant=2.4)}
    found = mechanisms.pooled(limits_runs(tmp_path / "full", **models))
    assert verdicts.verdicts_of(found) == {"C5": CANNOT_BE_TESTED, "C6": CANNOT_BE_TESTED}


def test_one_model_cannot_test_the_mechanisms(tmp_path):
    found = mechanisms.pooled(limits_runs(tmp_path / "full", a={}))
    assert verdicts.verdicts_of(found) == {"C5": CANNOT_BE_TESTED, "C6": CANNOT_BE_TESTED}


def test_only_wrecks_on_both_sides_are_left_out(tmp_path):
    both = {"d": dict(important=4.6, redundant=9.0)}
    found = mechanisms.pooled(limits_runs(tmp_path / "a", **ALIKE, **both))
    assert verdicts.verdicts_of(found)["C5"] == REPRODUCED
    assert parts(found, "C5")["a"].note == "models: a, b, c"
    assert parts(found, "C5")["b"].note == "models: a, b, c, d"
    one = {"d": dict(important=9.0, redundant=4.4)}
    found = mechanisms.pooled(limits_runs(tmp_path / "b", **one))
    assert parts(found, "C5")["a"].note == "models: d"
    found = mechanisms.pooled(limits_runs(tmp_path / "c", **both))
    assert parts(found, "C5")["a"].estimate.n == 0
    assert verdicts.verdicts_of(found)["C5"] == CANNOT_BE_TESTED


def test_families_count_once_each_beside_the_models(tmp_path):
    models = {"a": {}, "b": dict(important=3.5), "c": dict(important=2.0, architecture="gemma")}
    found = mechanisms.pooled(limits_runs(tmp_path / "full", **models))
    families, _ = (f for f in found if f.claim == "C5" and f.measure.endswith("over families"))
    assert (families.part, families.estimate.n) == ("", 2)
    assert families.estimate.value == pytest.approx((1.5 + 0.5) / 2, abs=0.01)
    assert families.note == "families: llama, gemma"


@pytest.mark.parametrize(("n_blocks", "testable"), [(7, False), (8, True), (12, True)])
def test_one_model_decides_nothing_and_a_correlation_needs_blocks(tmp_path, n_blocks, testable):
    run = limits_run(tmp_path / "full", "a", n_blocks=n_blocks, important=4.6, redundant=4.7)
    found = claims.mechanism_findings(run)
    assert not any(f.part for f in found)
    assert [f.claim for f in found] == ["C5", "C5", "C6", "C6"]
    ranks, gaps = found[::2], found[1::2]
    assert [f.testable for f in ranks] == [testable] * 2
    assert [f.note for f in gaps] == ["both are wrecks: left out"] * 2
    assert not any(f.testable for f in gaps)


# tables that are waited for

TABLES = [(notebook, table) for notebook, own in AWAITED.items() for table in own]


@pytest.mark.parametrize(("notebook", "table"), TABLES)
def test_an_awaited_table_has_to_have_its_columns(tmp_path, notebook, table):
    columns = AWAITED[notebook][table]
    whole = pd.DataFrame({name: ["1", "2"] for name in columns})
    run = opened(tmp_path / "full", "tiny", notebook, {"other": whole}, {})
    assert awaited(run, table) is None
    write_table(whole, run.place(table))
    assert set(awaited(run, table).columns) == set(columns)
    find_table(run.place(table)).unlink()
    for lacking in columns:
        file = write_table(whole.drop(columns=lacking), run.place(table))
        with pytest.raises(UsageError, match=f"table '{table}' without {lacking}$"):
            awaited(run, table)
        file.unlink()


def test_a_table_is_there_while_its_run_is_not_finished(tmp_path):
    rows = effects_table(0.5, 0.5, 0.1)
    tables = dict(cross_fit=cross_fit_table(), pattern_effects=rows)
    run = opened(tmp_path / "full", "tiny", papers.ANSWERS, tables, {"sets": SETS})
    assert verdicts.verdicts_of(claims.pattern_findings(run)) == {"C7": REPRODUCED}
    assert hallucination.own_sets(run) == SETS


# C5 and C6 on trained models of several shapes


@pytest.mark.parametrize(("sign", "state"), [(1, HOLDS), (-1, FAILS)])
def test_shapes_are_the_units_of_trained_models_and_decide_nothing(tmp_path, sign, state):
    rng, members = np.random.default_rng(0), []
    for shape in range(12):
        for seed in (0, 1):
            variance = np.cumsum(rng.random(10))
            rise = sign * variance + 0.1 * rng.standard_normal(10)
            own = dict(architecture=f"s{shape}", seed=seed, taught=0.5, block=range(10))
            own |= dict(variance=variance, sparsity=-variance, rise=rise)
            members.append(pd.DataFrame(own))
    tables = {"block_losses": pd.concat(members)}
    run = opened(tmp_path / "full", "tiny", "06_architecture", tables, {}).finish()
    found = mechanisms.shape_findings(run)
    assert [(f.claim, f.state, f.part, f.estimate.n) for f in found] == [
        ("C5", state, "", 12),
        ("C6", state, "", 12),
    ]
    bare = opened(tmp_path / "full", "bare", "06_architecture", {"x": members[0]}, {}).finish()
    assert {f.state for f in mechanisms.shape_findings(bare)} == {WAITS}


def test_sets_that_harm_text_otherwise_are_no_matches(tmp_path):
    rows = bypassed(0.3, 0.05)
    rows.loc[rows.arm.str.startswith("matched"), "added_bits"] = 9.0
    tables = PRONE | {"bypassed": rows}
    found = parts(claims.flag_findings(flag_run(tmp_path / "full", **tables)), "C8")["c"]
    assert (found.state, found.could_show) == (OPEN, False)
    assert found.note == "0 matched sets"
