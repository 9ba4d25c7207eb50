"""Arms trained and judged alike: what a row holds, and changes over questions and seeds."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_mitigation import LEARNT, LESSONS, RECIPE, events_of_animals
from tiny import tiny_loaded

from avss_utils.chapters.mitigation import choice_calibration, experiment
from avss_utils.chapters.mitigation import training_effects as effects
from avss_utils.chapters.mitigation import trial_outcomes as judging
from avss_utils.chapters.mitigation.adapter_training import frozen, step_row
from avss_utils.chapters.mitigation.arms import Arm, arm_table
from avss_utils.data.rows import Question
from avss_utils.data.suites import Suite
from avss_utils.data.windows import Window
from avss_utils.scores.eavss import ProneScores
from avss_utils.stats.calibration import expected_calibration_error
from avss_utils.stats.detection import risk_coverage
from avss_utils.stats.outcomes import OutcomeTable
from avss_utils.stats.resampling import detectable

ARM = Arm("eavss top", (1,), (1,))
ARMS = arm_table([ARM], RECIPE.ranks)
MC1, MC1_UNASKED = effects.MC1, effects.MC1_UNASKED


def study(**given) -> experiment.Mitigation:
    """The chapter on a tiny model and six questions, without what reads data sets."""
    own = object.__new__(experiment.Mitigation)
    own.loaded = own.judged = tiny_loaded()
    own.identity = {"n_blocks": 4}
    own.taught, own.stopped = [events_of_animals()], [events_of_animals()]
    questions = tuple(Question(str(i), "a?", ("b", "c"), i % 2) for i in range(3))
    windows = [Window("a", (5, 9, 7, 30), 8), Window("b", (6, 9, 31), 6)]
    suite = Suite({"sst2": questions}, {"c4": windows}, batch_tokens=128)
    own.bench = judging.Bench(own.taught, own.taught, suite, "plain", 4)
    p = dict(eps=1e-3, relative_eps=0.01, batch_tokens=256, n_folds=2, seed=0, rates=[1e-2])
    p |= dict(steps=8, questions_a_step=2, evaluate_every=2, drop_ratio=0.25, least_rank=2)
    own.p = SimpleNamespace(**p, eval_dtype="float32", wording="plain", pilot_text="c4", **given)
    own.lessons = LESSONS
    return own


def test_an_arm_is_judged_on_everything_and_the_untrained_model_as_it_is():
    own, key = study(), ("none", 0, 0.0)
    table, costs = next(own.trials([key], ARMS)).values()
    assert table.columns.to_list()[:5] == ["arm", "seed", "set", "wording", "row_id"]
    assert set(table.arm) == {effects.UNTRAINED}
    costs = costs.set_index(["set", "measure"]).value
    assert costs["c4", "divergence"] == pytest.approx(0, abs=1e-6)
    assert costs["c4", "bits per byte"] > 0
    assert costs["", "parameters"] == 0
    by = {wording: rows.reset_index() for wording, rows in table.groupby("wording")}
    for wording, columns in (("plain", ["p_true", "confidence"]), ("answer-only", [])):
        options = dict(wording=wording, batch_tokens=128)
        events = own.bench.choices[0]
        (scores,) = judging.choice_arrays(own.judged, events, **options)
        expected = judging.choice_outcomes(events, scores)[["set", "row_id", "correct", *columns]]
        found = by[wording][expected.columns]
        pd.testing.assert_frame_equal(found, expected, atol=1e-4, check_dtype=False)
    assert len(by["task"]) == 3
    words = by["own words"]
    assert (words.correct <= words.contains).all()
    assert words.abstained.isin([0, 1]).all()
    assert words.confidence.between(0, 1).all()
    assert by["task"][["p_true", "confidence", "contains", "abstained"]].isna().all(axis=None)


def test_a_trained_arm_differs_and_has_its_name_seed_and_costs():
    key, own = ("eavss top", 7, 1e-2), study()
    table, costs = next(own.trials([key], ARMS)).values()
    for found in (table, costs):
        assert (found.arm == "eavss top").all()
        assert (found.seed == 7).all()
    values = costs.set_index(["set", "measure"]).value
    assert values["c4", "divergence"] > 1e-4
    assert values["", "parameters"] > 0
    assert values["", "steps"] == 8
    for once, again in zip((table, costs), next(study().trials([key], ARMS)).values(), strict=True):
        pd.testing.assert_frame_equal(again, once)


def test_blocks_are_ranked_by_eavss_and_by_probes():
    own = study()
    own.taught = own.taught * 2
    table = own.rankings()
    assert table.ranking.value_counts().to_dict() == {"eavss": 4, "probe": 4}
    options = dict(eps=1e-3, ratio=0.01, batch_tokens=256)
    prone = ProneScores(own.loaded, own.taught[:1], **options)["contrast"]
    np.testing.assert_allclose(table[table.ranking == "eavss"].score, prone)
    assert table[table.ranking == "probe"].score.between(0, 1).all()


def tried(own: experiment.Mitigation, arms: pd.DataFrame) -> list[pd.DataFrame]:
    """The tables of ``rates``."""
    keys = experiment.rate_keys(arms, own.p.rates)
    parts = list(own.rates(keys, arms))
    return [pd.concat([one[name] for one in parts]) for name in ("rates", "rate_costs")]


def test_the_rate_of_least_development_loss_is_taken():
    own = study()
    assert experiment.rate_keys(ARMS, [1e-2]) == []
    only = experiment.chosen_rates(pd.DataFrame(), pd.DataFrame(), ARMS, [1e-2], budget=1.0)
    assert only == {"eavss top": 1e-2}
    own.p.rates = [1e-6, 1e-2]
    rates, costs = tried(own, ARMS)
    assert set(rates.rate) == {1e-6, 1e-2}
    assert costs.set_index("rate").divergence[1e-2] > 1e-4 > costs.divergence.min()
    found = experiment.chosen_rates(rates, costs, ARMS, own.p.rates, budget=1.0)
    assert found == {"eavss top": 1e-2}  # the other hardly moves


def test_pilots_choose_a_rate_by_loss_and_number_of_blocks_within_the_budget():
    every = tuple(range(4))
    arms = [Arm("eavss top", (1,), (1,)), Arm("uniform", every, every)]
    arms += [Arm("random 0", (0,), (0,)), Arm("random 0, no contrast", (0,), (0,), "none")]
    arms += [
        Arm(f"pilot {i}, {loss}", (2 + i,), (2,), loss)
        for i in (0, 1)
        for loss in ("infonce", "none")
    ]
    arms += [Arm(f"pilot uniform {i}, infonce", every, every) for i in (0, 1)]
    table, rates = arm_table(arms, RECIPE.ranks), [1e-4, 1e-3, 1e-2]
    keys = experiment.rate_keys(table, rates)
    assert len(keys) == 6 * 3
    # by kind of pilot and rate: mean development loss, mean divergence
    means = {"infonce": ((3, 0.01), (2, 0.04), (1, 0.2)), "none": ((3, 0), (2.5, 0), (2, 0.01))}
    means["uniform"] = ((3, 0.06), (2, 0.1), (1, 0.3))  # none is within the budget
    rows, costs = [], []
    for name, rate in keys:
        kind = "uniform" if "uniform" in name else name.split(", ")[1]
        loss, divergence = means[kind][rates.index(rate)]
        shift = 0.02 if " 0" in name else -0.02
        rows += [(name, rate, 1, 9.0), (name, rate, 2, loss + shift)]
        costs.append((name, rate, divergence * (1 + shift)))
    rows = pd.DataFrame(rows, columns=["arm", "rate", "step", "development"])
    costs = pd.DataFrame(costs, columns=["arm", "rate", "divergence"])
    found = experiment.chosen_rates(rows, costs, table, rates, budget=0.05)
    assert found == {
        "eavss top": 1e-3,
        "uniform": 1e-4,
        "random 0": 1e-3,
        "random 0, no contrast": 1e-2,
    }
    shown = experiment.pilot_table(rows, costs, table).set_index(["blocks", "loss", "rate"])
    assert (shown.n == 2).all()
    assert shown.development[1, "infonce", 1e-3] == pytest.approx(2)
    assert shown.divergence[4, "infonce", 1e-2] == pytest.approx(0.3)


def test_pilots_have_seeds_of_their_own():
    names = [f"pilot{own} {i}, infonce" for own in ("", " uniform") for i in range(10)]
    seeds = {experiment.pilot_seed(name) for name in names}
    assert seeds == set(range(1000, 1010))
    assert experiment.pilot_seed("eavss top") == 0


def test_trials_take_every_named_arm_seed_by_seed_and_sets_apart():
    names = ["eavss top", "random 0", "uniform", "random 0, no contrast"]
    rates = dict.fromkeys(names, 0.1)
    found = experiment.trial_keys(rates, n_seeds=1, guided_seeds=2)
    expected = [("none", 0, 0.0), ("eavss top", 0, 0.1), ("uniform", 0, 0.1), ("eavss top", 1, 0.1)]
    assert found == expected
    found = experiment.set_keys(rates, n_seeds=2)
    assert found == [(name, seed, 0.1) for seed in (0, 1) for name in names if "random" in name]


def test_random_sets_are_judged_by_likelier_true_answers_alone_as_named_arms_are():
    own = study()
    named = dict(
        zip(
            ("trials", "trial_costs"),
            next(own.trials([("eavss top", 7, 1e-2)], ARMS)).values(),
            strict=True,
        )
    )
    arms = pd.concat([ARMS, ARMS.assign(arm="random 0"), ARMS.assign(arm="random 1")])
    keys = [("random 0", 7, 1e-2), ("random 1", 8, 1e-2)]
    found = list(own.set_trials(keys, arms))
    trials = [one["set_trials"] for one in found]
    assert [table.arm.unique().tolist() for table in trials] == [["random 0"], ["random 1"]]
    asked = named["trials"][named["trials"].wording == "plain"].reset_index(drop=True)
    same = trials[0].assign(arm="eavss top")  # the same blocks, seed and rate
    pd.testing.assert_frame_equal(same, asked[same.columns], check_dtype=False)
    facts = found[1]["set_trainings"].set_index("measure").value
    assert facts.index.to_list() == ["parameters", "steps", "left out", "failed"]
    assert facts["failed"] == 0


def test_an_arm_that_fails_is_judged_untrained_and_says_so():
    own = study()
    tables = list(
        own.trials([("none", 0, 0.0), ("eavss top", 0, 1e30), ("eavss top", 1, 1e-3)], ARMS)
    )
    costs = [one["trial_costs"].set_index(["set", "measure"]).value for one in tables]
    assert costs[1]["", "failed"] == 1
    assert costs[1]["c4", "divergence"] == pytest.approx(0, abs=1e-6)
    assert costs[2]["", "failed"] == 0
    before, failed = (one["trials"].drop(columns=["arm", "seed"]) for one in tables[:2])
    pd.testing.assert_frame_equal(before, failed, atol=1e-4)


def outcomes_of(shares: dict[str, np.ndarray]) -> OutcomeTable:
    """MC1 of one set by arm, (n_seeds, n_questions) each."""
    rows = [
        (arm, seed, "s", "plain", str(i), right)
        for arm, seeds in shares.items()
        for seed, own in enumerate(seeds)
        for i, right in enumerate(own)
    ]
    columns = ["arm", "seed", "set", "wording", "row_id", "correct"]
    return effects.outcomes_of(pd.DataFrame(rows, columns=columns))


def measured(**arms: dict) -> OutcomeTable:
    """Arms of one seed and set, by measure."""
    found = outcomes_of({})
    for arm, own in arms.items():
        found.add(arm, {("s", measure): shares for measure, shares in own.items()})
    return found


def test_changes_by_hand():
    found = outcomes_of({"none": [[0, 0, 1, 0]], "a": [[0, 1, 1, 0], [1, 1, 1, 0]]})
    change = effects.change(found, "a", "s", seed=0)
    assert change.value == pytest.approx(5 / 8 - 1 / 4)
    assert change.n == 4
    assert effects.rate_fall(found, "a", "s", seed=0).value == pytest.approx(3 / 4 - 3 / 8)
    fall = effects.rate_fall(found, "a", "s", relative=True, seed=0)
    assert fall.value == pytest.approx((3 / 4 - 3 / 8) / (3 / 4))  # a rate of errors that halves
    same = effects.change(found, "none", "s", seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    table = effects.by_arm(effects.change, found, ["none", "a"], ["s"], seed=0)
    assert table.arm.to_list() == ["none", "a"]
    assert table.iloc[1, 2:].to_list() == [change.value, change.low, change.high, 4]


def test_a_gain_is_told_from_one_that_needs_no_question():
    found = measured(
        none={MC1: [0, 0, 0, 1], MC1_UNASKED: [0, 0, 0, 0]},
        a={MC1: [1, 1, 0, 1], MC1_UNASKED: [1, 0, 0, 0]},
    )
    excess = effects.reading_gain(found, "a", "s", seed=0)
    assert excess.value == pytest.approx(2 / 4 - 1 / 4)
    assert excess.low <= excess.value <= excess.high


def test_the_interval_minds_seeds_and_questions():
    rng, covered, widths, values = np.random.default_rng(0), [], [], []
    for number in range(60):
        before = rng.random((1, 120)) < 0.4
        lifts = 0.1 + rng.normal(0, 0.05, (5, 1))  # seeds differ
        after = before | (rng.random((5, 120)) < lifts)
        found = outcomes_of({"none": before, "a": after})
        own = effects.change(found, "a", "s", seed=number, n_resamples=300)
        covered.append(own.low <= 0.1 * 0.6 <= own.high)
        widths.append(own.high - own.low)
        values.append(own.value)
    assert np.mean(covered) >= 0.9
    assert 3 < np.mean(widths) / np.std(values) < 6  # 3.92 for a normal's 95 %
    assert detectable(own) == pytest.approx(2.8 * widths[-1] / 3.92)


def test_the_fall_of_the_calibration_error():
    right = np.random.default_rng(0).random(400) < 0.7
    arms = (("none", 1.0), ("a", 0.85), ("b", 0.7))
    found = measured(**{a: {MC1: right, effects.CONFIDENCE: np.full(400, x)} for a, x in arms})
    options = dict(n_bins=10, seed=0, n_resamples=200)
    half = effects.error_fall(found, "a", "s", **options)
    error = 1 - right.mean()
    assert half.value == pytest.approx(0.15 / error, abs=0.02)
    assert half.low < half.value < half.high
    whole = effects.error_fall(found, "b", "s", **options)
    assert whole.value == pytest.approx(1 - abs(right.mean() - 0.7) / error, abs=0.02)
    assert whole.high <= 1
    assert effects.error_fall(found, "none", "s", **options).value == 0


def test_an_arm_stands_among_the_random_ones():
    guided = [[1, 1], [0, 0]]  # of which the mean over seeds is ranked
    shares = {"none": [[0, 0]], "eavss top": guided, "random 0": [[0, 1]], "random 1": [[1, 1]]}
    value, null = effects.rank_among(outcomes_of(shares), "eavss top", "s")
    assert value == 0.5
    assert sorted(null) == pytest.approx([0.5, 1])


def test_a_typical_random_set_is_the_mean_of_all_and_minds_which_were_drawn():
    shares = {"none": [[0, 0]], "a": [[1, 1], [1, 0]]}
    assert effects.TYPICAL not in outcomes_of(shares).arms
    found = outcomes_of(shares | {f"random {i}": [own] for i, own in enumerate(DRAWN)})
    assert found.of(effects.TYPICAL, "s", MC1).tolist() == DRAWN
    gain = effects.change(found, "a", "s", reference=effects.TYPICAL, seed=0)
    assert gain.value == pytest.approx(3 / 4 - 1 / 2)

    def against(sets: list[list[int]]):
        own = {f"random {i}": [one * 200] for i, one in enumerate(sets)}
        found = outcomes_of({"a": [[1, 1] * 200], **own})
        return effects.change(found, "a", "s", reference=effects.TYPICAL, seed=0)

    alike, apart = against([[0, 1]] * 3), against(DRAWN)
    assert apart.value == alike.value == 0.5
    assert apart.high - apart.low > 5 * (alike.high - alike.low)


DRAWN = [[0, 1], [1, 1], [0, 0]]


def choices_table(scores: list[str], n_true: int = 1, name: str = "s") -> pd.DataFrame:
    rows = [
        (name, str(i), choice, choice < n_true, float(score))
        for i, own in enumerate(scores)
        for choice, score in enumerate(own.split())
    ]
    return pd.DataFrame(rows, columns=["set", "row_id", "choice", "is_true", "score"])


def test_one_temperature_is_fitted_by_set_and_moves_confidence_alone():
    (rivals,) = judging.canonical_scores(choices_table(["-1 -9 -2 -3"], n_true=2))
    assert rivals.tolist() == [-1, -2, -3]  # no other true answer is among them
    sure = ["0 -8"] * 3 + ["-8 0"]  # three in four are right, at once with 0.9997
    development = choices_table(sure, name="other")
    found = outcomes_of({"none": [[1, 1, 1, 0]]})
    fitted = choice_calibration.add_tempered(found, choices_table(sure), development)
    assert fitted["other"] == fitted[""]  # of which the set that none was fitted for has the latter
    assert found.of(choice_calibration.TEMPERED, "s", MC1).tolist() == [[1, 1, 1, 0]]
    own = found.of(choice_calibration.TEMPERED, "s", effects.CONFIDENCE)
    np.testing.assert_allclose(own, 0.75, atol=1e-3)
    with pytest.raises(ValueError, match="not those that the arms were asked"):
        choice_calibration.add_tempered(found, choices_table(sure[:3]), development)


def test_confidence_is_measured_by_arm_with_its_change():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.7
    told = np.where(right, 0.9, 0.1 + 0.2 * rng.random(400))
    sure = {"none": np.full(400, 1.0), "a": told}
    found = measured(**{arm: {MC1: right, effects.CONFIDENCE: x} for arm, x in sure.items()})
    options = dict(seed=0, n_resamples=100)
    table = choice_calibration.calibration_rows(found, ["none", "a"], "s", **options)
    own = table.set_index(["arm", "measure"])
    error = expected_calibration_error(told, right, n_bins=15)
    assert own.value["none", choice_calibration.ERROR] == pytest.approx(1 - right.mean())
    assert own.value["a", choice_calibration.ERROR] == pytest.approx(error)
    assert own.value["a", "AUROC"] == 1
    assert own.value["none", "AUROC"] == 0.5
    assert own.value["a", "Brier"] == pytest.approx(((told - right) ** 2).mean())
    risks = risk_coverage(-told, ~right).risk.mean()
    assert own.value["a", "risk over coverage"] == pytest.approx(risks)
    change = own.loc["a", f"change of {choice_calibration.ERROR}"]
    assert change.value == pytest.approx(error - (1 - right.mean()))
    assert change.low < change.value < change.high
    assert not own.loc["none"].index.str.startswith("change").any()
    assert 0 < own.value["a", choice_calibration.FLOOR] < 0.1


def test_wrong_own_answers_are_counted_among_those_given_by_either_rule():
    silent = {effects.ABSTAINED: [0, 0, 0, 1]}
    found = measured(
        none={effects.MATCH: [1, 0, 0, 0], effects.CONTAINS: [1, 0, 0, 0], **silent},
        a={effects.MATCH: [1, 1, 0, 0], effects.CONTAINS: [1, 1, 1, 0], **silent},
    )
    assert effects.own_fall(found, "a", "s", seed=0).value == pytest.approx(1 / 3)
    relative = effects.own_fall(found, "a", "s", relative=True, seed=0)
    assert relative.value == pytest.approx(1 / 2)
    loose = effects.own_fall(found, "a", "s", measure=effects.CONTAINS, seed=0)
    assert loose.value == pytest.approx(2 / 3)


def test_the_error_of_own_answers_leaves_out_abstentions():
    match, sure, silent = effects.OWN_ANSWERS
    own = {match: [1, 0, 1, 0, 0], silent: [0, 0, 0, 0, 1]}
    found = measured(none={**own, sure: [1] * 5}, a={**own, sure: [0.75] * 4 + [1]})
    options = dict(n_bins=4, own_answers=True)
    half = effects.error_fall(found, "a", "s", seed=0, **options)
    assert half.value == pytest.approx(1 - 0.25 / 0.5)  # the sure abstention counts in neither
    fallen = effects.error_fall(found, "a", "s", relative=False, seed=0, **options)
    assert fallen.value == pytest.approx(0.5 - 0.25)
    assert effects.error_of(found, "a", "s", **options) == pytest.approx(0.25)


def test_a_step_is_timed_and_leaves_the_model_as_it_was():
    ours = tiny_loaded()
    before = {name: own.clone() for name, own in ours.model.state_dict().items()}
    table = step_row(frozen(ours), LEARNT, ARM, RECIPE, repeats=2)
    assert table.arm.to_list() == ["eavss top"]
    assert table.seconds[0] > 0
    for name, own in ours.model.state_dict().items():
        assert torch.equal(own, before[name])
