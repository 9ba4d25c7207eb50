"""Arms trained and judged alike: what a row holds, and changes over questions and seeds."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_mitigation import LEARNT, RECIPE, events_of_animals, loaded

from avss_utils.chapters.mitigation import answer_choices as measures
from avss_utils.chapters.mitigation import effects
from avss_utils.chapters.mitigation import step_costs as costs
from avss_utils.chapters.mitigation import temperature as calibrated
from avss_utils.chapters.mitigation import trials as study
from avss_utils.chapters.mitigation.arms import Arm
from avss_utils.chapters.mitigation.cells import as_cells, as_shares
from avss_utils.chapters.mitigation.judging import MC1_UNASKED, UNASKED, Bench
from avss_utils.chapters.mitigation.outcomes import TYPICAL, UNTRAINED, Outcomes
from avss_utils.data.rows import Question
from avss_utils.data.suites import Suite
from avss_utils.data.windows import Window
from avss_utils.scores.eavss import ProneScores
from avss_utils.stats.calibration import expected_calibration_error
from avss_utils.stats.detection import risk_coverage
from avss_utils.store.tables import read_csv, write_csv

LESSONS = study.Lessons(LEARNT, LEARNT)
ARM = Arm("eavss top", (1,), (1,))


def bench() -> Bench:
    events = events_of_animals()
    questions = tuple(Question(str(i), "a?", ("b", "c"), i % 2) for i in range(3))
    windows = [Window("a", (5, 9, 7, 30), 8), Window("b", (6, 9, 31), 6)]
    suite = Suite({"sst2": questions}, {"c4": windows}, batch_tokens=128)
    return Bench([events], [events], suite, "plain", 4)


def test_cells_keep_shares_and_survive_a_file(tmp_path):
    shares = np.random.default_rng(0).random(200)
    table = pd.DataFrame({"cells": [as_cells(shares), as_cells([0, 1, 0.5]), ""]})
    write_csv(table, tmp_path / "t.csv")
    again = read_csv(tmp_path / "t.csv").cells
    np.testing.assert_allclose(as_shares(again[0]), shares, atol=1e-3)
    np.testing.assert_allclose(as_shares(again[1])[:2], [0, 1])
    assert again[2] == ""


def test_an_arm_is_judged_on_everything_and_the_untrained_model_as_it_is():
    ours = loaded()
    trial = (None, 0.0, 0)
    table = study.arm_rows(ours, LESSONS, bench(), RECIPE, "float32", trial)
    found = {(row.set, row.measure): row for row in table.itertuples()}
    assert set(table.arm) == {UNTRAINED}
    assert found["c4", "divergence"].value == pytest.approx(0, abs=1e-6)
    assert found["", "parameters"].value == 0
    choices = measures.choice_table(ours, bench().choices[0], wording="plain", batch_tokens=128)
    name = choices.set[0]
    for measure in ("mc1", "mc2", "confidence"):
        own = as_shares(found[name, measure].cells)
        np.testing.assert_allclose(own, choices[measure], atol=1e-3)
    assert len(as_shares(found["sst2", "right"].cells)) == 3
    own = {m: as_shares(found[name, m].cells) for m in ("match", "contains", "abstained")}
    assert all(set(cells) <= {0.0, 1.0} for cells in own.values())
    assert (own["match"] <= own["contains"]).all()
    sure = as_shares(found[name, "own confidence"].cells)
    assert ((sure > 0) & (sure <= 1)).all()
    options = dict(wording=UNASKED, batch_tokens=128)
    unasked = measures.choice_table(ours, bench().choices[0], **options)
    np.testing.assert_array_equal(as_shares(found[name, MC1_UNASKED].cells), unasked.mc1)
    assert found["c4", "bits per byte"].value > 0


def test_a_trained_arm_differs_and_has_its_name_seed_and_costs():
    trial = (ARM, 1e-2, 7)
    table = study.arm_rows(loaded(), LESSONS, bench(), RECIPE, "float32", trial)
    assert set(table.arm) == {"eavss top"}
    assert set(table.seed) == {7}
    values = table.set_index(["set", "measure"]).value
    assert values["c4", "divergence"] > 1e-4
    assert values["", "parameters"] > 0
    again = study.arm_rows(loaded(), LESSONS, bench(), RECIPE, "float32", trial)
    pd.testing.assert_frame_equal(table, again)


def test_blocks_are_ranked_by_eavss_and_by_probes():
    ours, sets = loaded(), [events_of_animals(), events_of_animals()]
    options = dict(eps=1e-3, ratio=0.01, batch_tokens=256)
    table = study.ranking_table(ours, sets, n_folds=2, seed=0, **options)
    assert table.ranking.value_counts().to_dict() == {"eavss": 4, "probe": 4}
    own = ProneScores(ours, sets[:1], **options)["contrast"]
    np.testing.assert_allclose(table[table.ranking == "eavss"].score, own)
    assert table[table.ranking == "probe"].score.between(0, 1).all()


def test_the_rate_of_least_development_loss_is_taken():
    table = study.rate_rows(loaded(), LESSONS, RECIPE, (1e-6, 1e-2), 0, ARM)
    assert set(table.rate) == {1e-6, 1e-2}
    assert study.best_rates(table) == {"eavss top": 1e-2}  # the other hardly moves


def outcomes_of(shares: dict[str, np.ndarray], measure: str = "mc1") -> Outcomes:
    rows = [
        (arm, seed, "s", measure, as_cells(own))
        for arm, seeds in shares.items()
        for seed, own in enumerate(seeds)
    ]
    return Outcomes(pd.DataFrame(rows, columns=["arm", "seed", "set", "measure", "cells"]))


def test_changes_by_hand():
    found = outcomes_of({"none": [[0, 0, 1, 0]], "a": [[0, 1, 1, 0], [1, 1, 1, 0]]})
    options = dict(rng=np.random.default_rng(0))
    change = effects.mean_change(found, "a", "s", "mc1", **options)
    assert change.value == pytest.approx(5 / 8 - 1 / 4)
    assert change.n == 4
    fall = effects.mean_change(found, "a", "s", "mc1", fall=True, relative=True, **options)
    assert fall.value == pytest.approx((3 / 4 - 3 / 8) / (3 / 4))  # a rate of errors that halves
    same = effects.mean_change(found, "none", "s", "mc1", **options)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_interval_minds_seeds_and_questions():
    rng, covered, widths, values = np.random.default_rng(0), [], [], []
    for _ in range(60):
        before = rng.random((1, 120)) < 0.4
        lifts = 0.1 + rng.normal(0, 0.05, (5, 1))  # seeds differ
        after = before | (rng.random((5, 120)) < lifts)
        found = outcomes_of({"none": before, "a": after})
        own = effects.mean_change(found, "a", "s", "mc1", rng=rng, n_resamples=300)
        covered.append(own.low <= 0.1 * 0.6 <= own.high)
        widths.append(own.high - own.low)
        values.append(own.value)
    assert np.mean(covered) >= 0.9
    assert 3 < np.mean(widths) / np.std(values) < 6  # 3.92 for a normal's 95 %
    assert effects.detectable(own) == pytest.approx(2.8 * widths[-1] / 3.92)


def test_the_fall_of_the_calibration_error():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.7
    rows = []
    for arm, sure in (("none", 1.0), ("a", 0.85), ("b", 0.7)):
        for measure, shares in (("mc1", right), ("confidence", np.full(400, sure))):
            rows.append((arm, 0, "s", measure, as_cells(shares)))
    names = ["arm", "seed", "set", "measure", "cells"]
    found = Outcomes(pd.DataFrame(rows, columns=names))
    options = dict(n_bins=10, rng=rng, n_resamples=200)
    half = effects.error_fall(found, "a", "s", **options)
    error = 1 - right.mean()
    assert half.value == pytest.approx(0.15 / error, abs=0.02)
    assert half.low < half.value < half.high
    whole = effects.error_fall(found, "b", "s", **options)
    assert whole.value == pytest.approx(1 - abs(right.mean() - 0.7) / error, abs=0.02)
    assert whole.high <= 1
    assert effects.error_fall(found, "none", "s", **options).value == 0


def test_an_arm_stands_among_the_random_ones():
    guided = [[1, 1], [0, 0]]  # of which the first seed is ranked
    shares = {"none": [[0, 0]], "eavss top": guided, "random 0": [[0, 1]], "random 1": [[1, 1]]}
    value, null = effects.rank_among(outcomes_of(shares), "eavss top", "s", "mc1")
    assert value == 1
    assert sorted(null) == pytest.approx([0.5, 1])


def test_a_typical_random_set_is_the_mean_of_all_and_minds_which_were_drawn():
    shares = {"none": [[0, 0]], "a": [[1, 1], [1, 0]]}
    without = outcomes_of(shares)
    assert TYPICAL not in without.arms
    shares |= {"random 0": [[0, 1]], "random 1": [[1, 1]], "random 2": [[0, 0]]}
    found, rng = outcomes_of(shares), np.random.default_rng(0)
    assert found.of(TYPICAL, "s", "mc1").tolist() == [[0, 1], [1, 1], [0, 0]]
    gain = effects.mean_change(found, "a", "s", "mc1", reference=TYPICAL, rng=rng)
    assert gain.value == pytest.approx(3 / 4 - 1 / 2)
    alike = {f"random {i}": [[0, 1] * 200] for i in range(3)}
    apart = {f"random {i}": [own * 200] for i, own in enumerate(([0, 1], [1, 1], [0, 0]))}
    one, other = (
        effects.mean_change(
            outcomes_of({"a": [[1, 1] * 200], **own}), "a", "s", "mc1", reference=TYPICAL, rng=rng
        )
        for own in (alike, apart)
    )
    assert other.value == one.value == 0.5
    assert other.high - other.low > 5 * (one.high - one.low)


def test_trials_take_every_arm_seed_by_seed_and_random_ones_once():
    arms = [ARM, Arm("random 0", (0,), (0,)), Arm("uniform", (0, 1, 2, 3), (0,))]
    found = study.trials(arms, {arm.name: 0.1 for arm in arms}, n_seeds=2)
    assert [(arm and arm.name, seed) for arm, _, seed in found] == [
        (None, 0),
        ("eavss top", 0),
        ("random 0", 0),
        ("uniform", 0),
        ("eavss top", 1),
        ("uniform", 1),
    ]
    assert study.arm_table(arms, RECIPE)["rank"].to_list() == [8, 8, 2]


def choices_table(scores: list[str], n_true: int = 1) -> pd.DataFrame:
    rows = [("s", str(i), n_true, len(c.split()), c) for i, c in enumerate(scores)]
    table = pd.DataFrame(rows, columns=["set", "row_id", "n_true", "n_choices", "scores"])
    cells = [calibrated.mc1_scores(table.iloc[[i]])[0] for i in range(len(table))]
    return table.assign(mc1=[float(own.argmax() == 0) for own in cells])


def test_the_canonical_answer_stands_among_the_false_ones_alone():
    table = choices_table(["-1 -9 -2 -3"], n_true=2)
    assert calibrated.mc1_scores(table)[0].tolist() == [-1, -2, -3]


def test_one_temperature_is_fitted_by_set_and_moves_confidence_alone():
    sure = choices_table(["0 -8"] * 3 + ["-8 0"])  # three in four are right, at once with 0.9997
    fitted = calibrated.temperatures(sure)
    assert fitted["s"] == fitted[""]
    found = calibrated.tempered(sure.assign(set="t"), fitted)  # a set that none was fitted for
    np.testing.assert_allclose(found["t", "mc1"], [1, 1, 1, 0])
    np.testing.assert_allclose(found["t", "confidence"], 0.75, atol=1e-3)


def test_confidence_is_measured_by_arm_with_its_change():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.7
    told = np.where(right, 0.9, 0.1 + 0.2 * rng.random(400))
    shares = {("s", "mc1"): right, ("s", "confidence"): np.full(400, 1.0)}
    names = ["arm", "seed", "set", "measure", "cells"]
    found = Outcomes(pd.DataFrame(columns=names))
    found.add("none", shares)
    found.add("a", {**shares, ("s", "confidence"): told})
    table = calibrated.calibration_rows(found, ["none", "a"], "s", seed=0, n_resamples=100)
    own = table.set_index(["arm", "measure"])
    error = expected_calibration_error(told, right, n_bins=15)
    assert own.value["none", calibrated.ERROR] == pytest.approx(1 - right.mean())
    assert own.value["a", calibrated.ERROR] == pytest.approx(error)
    assert own.value["a", "AUROC"] == 1
    assert own.value["none", "AUROC"] == 0.5
    assert own.value["a", "Brier"] == pytest.approx(((told - right) ** 2).mean())
    risks = risk_coverage(-told, ~right).risk.mean()
    assert own.value["a", "risk over coverage"] == pytest.approx(risks)
    change = own.loc["a", f"change of {calibrated.ERROR}"]
    assert change.value == pytest.approx(error - (1 - right.mean()))
    assert change.low < change.value < change.high
    assert not own.loc["none"].index.str.startswith("change").any()
    assert 0 < own.value["a", calibrated.FLOOR] < 0.1


def test_wrong_own_answers_are_counted_among_those_given():
    names = ["arm", "seed", "set", "measure", "cells"]
    found = Outcomes(pd.DataFrame(columns=names))
    silent = np.array([0, 0, 0, 1.0])
    found.add("none", {("s", "match"): [1, 0, 0, 0], ("s", "abstained"): silent})
    found.add("a", {("s", "match"): [1, 1, 0, 0], ("s", "abstained"): silent})
    options = dict(rng=np.random.default_rng(0))
    assert effects.own_fall(found, "a", "s", **options).value == pytest.approx(1 / 3)
    relative = effects.own_fall(found, "a", "s", relative=True, **options)
    assert relative.value == pytest.approx(1 / 2)


def test_the_looser_rule_counts_answers_within_answers():
    found = Outcomes(pd.DataFrame(columns=["arm", "seed", "set", "measure", "cells"]))
    none = np.zeros(4)
    found.add("none", {("s", "match"): none, ("s", "contains"): none, ("s", "abstained"): none})
    within = {("s", "match"): none, ("s", "contains"): [1, 1, 1, 0], ("s", "abstained"): none}
    found.add("a", within)
    strict, loose = (
        effects.own_fall(found, "a", "s", measure=m, rng=np.random.default_rng(0))
        for m in ("match", "contains")
    )
    assert strict.value == 0
    assert loose.value == pytest.approx(3 / 4)


def test_the_error_of_own_answers_leaves_out_abstentions():
    found = Outcomes(pd.DataFrame(columns=["arm", "seed", "set", "measure", "cells"]))
    shares = {"match": [1, 0, 1, 0, 0], "abstained": [0, 0, 0, 0, 1]}
    for arm, sure in (("none", [1, 1, 1, 1, 1]), ("a", [0.75, 0.75, 0.75, 0.75, 1])):
        found.add(arm, {("s", m): own for m, own in {**shares, "own confidence": sure}.items()})
    options = dict(n_bins=4, own_answers=True, rng=np.random.default_rng(0))
    half = effects.error_fall(found, "a", "s", **options)
    assert half.value == pytest.approx(1 - 0.25 / 0.5)  # the sure abstention counts in neither
    fallen = effects.error_fall(found, "a", "s", relative=False, **options)
    assert fallen.value == pytest.approx(0.5 - 0.25)
    assert effects.error_of(found, "a", "s", n_bins=4, own_answers=True) == pytest.approx(0.25)


def test_a_gain_is_told_from_one_that_needs_no_question():
    found = Outcomes(pd.DataFrame(columns=["arm", "seed", "set", "measure", "cells"]))
    found.add("none", {("s", "mc1"): [0, 0, 0, 1], ("s", MC1_UNASKED): [0, 0, 0, 0]})
    found.add("a", {("s", "mc1"): [1, 1, 0, 1], ("s", MC1_UNASKED): [1, 0, 0, 0]})
    excess = effects.excess_change(
        found, "a", "s", "mc1", MC1_UNASKED, rng=np.random.default_rng(0)
    )
    assert excess.value == pytest.approx(2 / 4 - 1 / 4)
    assert excess.low <= excess.value <= excess.high


def test_a_step_is_timed_and_leaves_the_model_as_it_was():
    ours = loaded()
    before = {name: own.clone() for name, own in ours.model.state_dict().items()}
    table = costs.step_row(ours, LEARNT, RECIPE, 2, ARM)
    assert table.arm.to_list() == ["eavss top"]
    assert table.seconds[0] > 0
    for name, own in ours.model.state_dict().items():
        assert torch.equal(own, before[name])


def test_one_rate_leaves_nothing_to_choose():
    table = study.rate_rows(loaded(), LESSONS, RECIPE, [0.5], 0, ARM)
    assert study.best_rates(table) == {"eavss top": 0.5}
