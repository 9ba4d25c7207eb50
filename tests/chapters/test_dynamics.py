"""Movement of scores, frozen blocks and plans before and after: by hand, and on tiny models."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_fine_tuning import loaded

from avss_utils.chapters import dynamics
from avss_utils.chapters.dynamics import experiment, freezing, movement, plans_held
from avss_utils.chapters.dynamics.fine_tuning import fine_tune
from avss_utils.chapters.dynamics.stats_callback import WHOLE
from avss_utils.chapters.dynamics.tasks import Part, judge_rows
from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.plan import as_drop

N = 6


def rows_of(values: dict[int, list], *, measure="variance", site="update", **unit) -> pd.DataFrame:
    """Rows of one measure: step -> one value per block."""
    unit = {"task": "t", "method": "full", "seed": 0} | unit
    parts = [
        pd.DataFrame({"step": step, "block": range(len(own)), "value": own})
        for step, own in values.items()
    ]
    return pd.concat(parts).assign(site=site, measure=measure, **unit)


def losses_of(values: dict[int, float], **unit) -> pd.DataFrame:
    table = rows_of({s: [v] for s, v in values.items()}, measure="development loss", **unit)
    return table.assign(site="", block=WHOLE)


# movement


def test_movement_is_the_absolute_log_ratio_to_step_0():
    rows = rows_of({0: [1.0, 2.0, 0.0, 0.0], 3: [np.e, 1.0, 0.0, 2.0]})
    weights = rows_of({0: [0.0, 0.0], 3: [0.25, 0.5]}, measure="weights", site="")
    table = movement.moved(pd.concat([rows, weights, losses_of({0: 1.0, 3: 0.5})]))
    own = table[table.score == "update variance"].pivot(index="step", columns="block")["moved"]
    assert own.loc[0].tolist() == [0, 0, 0, 0]
    assert own.loc[3].tolist() == pytest.approx([1.0, np.log(2), 0.0, np.inf])
    assert movement.profile(table, "weights").tolist() == [0.25, 0.5]
    assert set(table.score) == {"update variance", "weights"}


def test_movement_does_not_mind_scale_or_direction():
    one = movement.moved(rows_of({0: [1.0, 2.0], 1: [3.0, 8.0]}))
    other = movement.moved(rows_of({0: [30.0, 80.0], 1: [10.0, 20.0]}))
    np.testing.assert_allclose(one.moved, other.moved)


def test_a_profile_is_the_mean_over_the_seeds_that_are_named():
    parts = [rows_of({0: [1.0, 1.0], 2: [np.e**s, 1.0]}, seed=s) for s in (0, 1, 5)]
    table = movement.moved(pd.concat(parts))
    assert movement.profile(table, "update variance", seed=[1, 5]).tolist() == [3.0, 0.0]
    assert movement.profile(table, "update variance", task="t", seed=0).tolist() == [0.0, 0.0]
    with pytest.raises(KeyError):
        movement.profile(table, "update variance", seed=9)


@pytest.mark.parametrize(
    ("moved", "most", "least"),
    [
        ([5.0, 1.0, 3.0, 0.5, 9.0, 2.0], (0, 4), (1, 3)),
        ([1.0, 1.0, 1.0, 1.0], (3,), (0,)),
        ([2.0, 1.0], (0,), (1,)),
    ],
)
def test_thirds(moved, most, least):
    assert movement.thirds(np.array(moved)) == (most, least)


def test_seeds_that_rank_blocks_alike_agree():
    def agreement(profiles) -> float:
        parts = [rows_of({0: [1.0] * 4, 1: np.exp(p)}, seed=s) for s, p in enumerate(profiles)]
        return movement.movement_table(movement.moved(pd.concat(parts))).iloc[0]

    up, down = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
    same = agreement([up, [2 * x for x in up]])
    assert same.agreement == pytest.approx(1.0)
    assert (same.most, same.least, same.largest) == (3, 0, pytest.approx(0.6))
    assert agreement([up, down]).agreement == pytest.approx(-1.0)
    assert np.isnan(agreement([up]).agreement)
    assert np.isnan(agreement([up, [0.0] * 4]).agreement)


def test_movement_along_steps_follows_loss_and_accuracy():
    steps = [0, 1, 2, 4, 8, 16, 32]
    growing = {s: [np.exp(0.1 * i), 1.0] for i, s in enumerate(steps)}
    accuracies = losses_of({s: 0.1 * i for i, s in enumerate(steps)})
    parts = [
        rows_of(growing),
        losses_of({s: 5.0 - i for i, s in enumerate(steps)}),
        accuracies.assign(measure="development accuracy"),
        rows_of(growing, task="flat"),
        losses_of(dict.fromkeys(steps, 1.0), task="flat"),
    ]
    rows = pd.concat(parts)
    found = movement.along_steps(rows, movement.moved(rows), ["update variance"], seed=0)
    assert found.task.tolist() == ["t", "flat", "t"]  # the other task has no accuracy
    assert found.outcome.tolist() == [movement.LOSS, movement.LOSS, movement.ACCURACY]
    assert found.rho.tolist() == pytest.approx([-1.0, np.nan, 1.0], nan_ok=True)
    # step 0 has not moved by construction
    assert set(found.n) == {6}
    # two profiles that only ever rise are no surprise, however high their correlation
    assert found.p_shift[0] >= 1 / 6
    assert found.p_smooth[0] > 0.01
    words = movement.along_summary(found, ["update variance"])
    assert words.columns.tolist() == ["score", "accuracy, full", "loss, full"]
    assert words["loss, full"][0] == "−1.00 (−1.00 to −1.00), 0 of 1"


def test_weights_and_tasks_are_compared_over_blocks():
    rng = np.random.default_rng(0)
    profile = rng.uniform(0.1, 1, 12)
    parts = []
    for task, own in (("t", profile), ("u", profile), ("v", 1.1 - profile)):
        parts.append(rows_of({0: np.ones(12), 1: np.exp(own)}, task=task))
        weights = {0: np.zeros(12), 1: own}
        parts.append(rows_of(weights, measure="weights", site="", task=task))
    table = movement.moved(pd.concat(parts))
    found = movement.with_weights(table, ["update variance"], seed=0)
    assert found.rho.tolist() == pytest.approx([1.0] * 3)
    assert (found.p_shift < 0.1).all()
    pairs = movement.between_tasks(table, "update variance", seed=0).set_index(["one", "two"])
    assert pairs.rho["t", "u"] == pytest.approx(1.0)
    assert pairs.rho["t", "v"] == pytest.approx(-1.0)


# freezing


def outcome_rows(losses: dict[str, list[float]], *, task="t", seeds=(1, 2), n_tokens=2):
    """Every row of an arm has a loss a token of its own, the same in all seeds; no choices."""
    parts = []
    for arm, own in losses.items():
        for seed in (freezing.UNTRAINED,) if arm == freezing.START else seeds:
            table = pd.DataFrame({"row_id": map(str, range(len(own))), "nll": np.array(own)})
            parts.append(table.assign(arm=arm, seed=seed))
    table = pd.concat(parts).assign(set=task, n_tokens=n_tokens, correct=np.nan)
    table = table.assign(nll=table.nll * n_tokens)
    return table.assign(frozen=table.arm.map({"most moved": "1 2", "least moved": "0"}).fillna("-"))


ARMS = {
    "untrained": [3.0, 3.0],
    "none": [1.0, 1.0],
    "most moved": [2.0, 2.0],
    "least moved": [1.5, 1.5],
    "random 0": [1.2, 1.2],
    "random 1": [1.6, 1.6],
}


def test_what_freezing_costs_by_hand():
    other = {arm: [x + 1 for x in own] for arm, own in ARMS.items()}
    frozen = freezing.Frozen(pd.concat([outcome_rows(ARMS), outcome_rows(other, task="u")]))
    rng = np.random.default_rng(0)
    e = frozen.difference("most moved", "least moved", rng=rng, n_resamples=50)
    assert (e.value, e.low, e.high, e.n) == pytest.approx((0.5, 0.5, 0.5, 4))
    moves = {"t": np.array([0.0, 3.0, 1.0]), "u": np.array([1.0, 2.0, 4.0])}
    table = freezing.arm_table(frozen, moves, seed=0).set_index(["task", "arm"])
    assert table.loss["t", "random 1"] == pytest.approx(1.6)
    assert frozen.mean("t", "loss", "random") == pytest.approx(1.4)
    assert table.moved["t", "most moved"] == pytest.approx(2.0)
    assert table.moved["u", "least moved"] == pytest.approx(1.0)
    assert np.isnan(table.moved["u", "none"])
    assert table.lost["t", "most moved"] == pytest.approx(0.5)
    assert table.lost["t", "untrained"] == pytest.approx(1.0)
    assert table.value["u", "none"] == 0
    assert table.accuracy.isna().all()
    gaps = frozen.differences([("random", "none")], seed=0).set_index("task")
    assert gaps.value.to_dict() == pytest.approx({"t": 0.4, "u": 0.4, freezing.MEAN: 0.4})
    assert frozen.differences([("random", "none")], kind="accuracy", seed=0).empty


def test_where_training_gains_nothing_beyond_chance_no_share_of_it_is_lost():
    arms = {"untrained": [0.0, 4.0], "none": [1.0, 1.0], "most moved": [1.5, 1.5]}
    rows = pd.concat([outcome_rows(ARMS), outcome_rows(arms, task="u")])
    moves = {task: np.zeros(3) for task in "tu"}
    frozen = freezing.Frozen(rows[rows.arm.isin(list(arms))])
    table = freezing.arm_table(frozen, moves, seed=0)
    table = table.set_index(["task", "arm"])
    assert table.value["u", "untrained"] == pytest.approx(1.0)
    assert table.low["u", "untrained"] <= 0
    assert table.lost["u"].isna().all()
    assert table.lost["t", "most moved"] == pytest.approx(0.5)


def test_long_answers_weigh_more_and_choices_are_counted_apart():
    rows = outcome_rows({"none": [1.0, 1.0], "most moved": [1.0, 2.0], "untrained": [9.0, 9.0]})
    rows["n_tokens"] = rows.row_id.map({"0": 1, "1": 3})
    rows["nll"] = rows.nll / 2 * rows.n_tokens
    rows["correct"] = (rows.arm == "none").astype(float).where(rows.row_id == "1")
    frozen = freezing.Frozen(rows)
    assert frozen.mean("t", "loss", "most moved") == pytest.approx((1 + 6) / 4)
    assert frozen.mean("t", "accuracy", "none") == 1.0
    options = dict(rng=np.random.default_rng(0), n_resamples=20)
    gap = frozen.difference("most moved", "none", kind="accuracy", **options)
    assert (gap.value, gap.n) == (-1.0, 1)


def test_the_interval_widens_with_rows_and_seeds_that_differ():
    rng = np.random.default_rng(0)
    rows = outcome_rows({a: list(rng.normal(2, 1, 40)) for a in ARMS})

    def width(table) -> float:
        e = freezing.Frozen(table).difference("most moved", "least moved", rng=rng, n_resamples=300)
        assert e.low < e.value < e.high
        return e.high - e.low

    one_seed = rows.assign(nll=rows.nll + 10 * ((rows.seed == 2) & (rows.arm == "most moved")))
    assert width(one_seed) > 2 * width(rows)
    # a seed orders the rows of every arm alike: what it does to all of them is no uncertainty
    assert width(rows.assign(nll=rows.nll + 10 * (rows.seed == 2))) == pytest.approx(
        width(rows), rel=0.2
    )


TRAINING = dict(steps=4, batch_rows=4, learning_rate=3e-3)
P = SimpleNamespace(
    **dict(seed=0, eps=0.05, relative_eps=0.1, drop_ratio=0.34, batch_tokens=512, length=24),
    **dict(question_sets=["sciq"], sentiment_sets=[], text_sets=["wikipedia"]),
    **dict(n_training=8, n_development=3, n_evaluation=5, prone_sets=["sciq_open"], n_prone=2),
    **dict(calibration="c4", n_calibration=4, calibration_length=10),
    **dict(methods=["full", "lora"], full_rate=3e-3, lora_rate=3e-2, lora_rank=4),
    **dict(steps=4, batch_rows=4, n_looks=4, n_seeds=2, n_choosing_seeds=1, n_random=1),
    **dict(moved_by="update variance", frozen_method="full"),
)


@pytest.fixture(scope="module")
def chapter() -> dynamics.Dynamics:
    return dynamics.Dynamics(lambda: loaded(n_blocks=N), P)


def test_freezings_share_sizes_and_come_seed_by_seed():
    moves = {"a": np.arange(N), "b": np.arange(N)[::-1]}
    found = freezing.freezings(moves, seeds=[1, 2], n_random=2, seed=0)
    assert found[:2] == [("a", -1, "untrained", ()), ("b", -1, "untrained", ())]
    of_a = [key[2:] for key in found if key[:2] == ("a", 1)]
    assert of_a[:3] == [("none", ()), ("most moved", (4, 5)), ("least moved", (0, 1))]
    assert [arm for arm, _ in of_a[3:]] == ["random 0", "random 1"]
    assert all(len(drop) == 2 for _, drop in of_a[3:])
    assert [key[2:] for key in found if key[:2] == ("a", 2)] == of_a
    assert [key[1] for key in found[2:]] == [1] * 10 + [2] * 10
    many = freezing.freezings({"a": moves["a"]}, seeds=[1], n_random=60, seed=0)
    drawn = [number for key in many if key[2].startswith("random") for number in key[3]]
    assert set(drawn) == set(range(N))  # the first and the last block too


def test_rows_of_a_freezing_are_the_evaluation_of_that_training(chapter):
    task, ours = chapter.tasks["questions"], loaded(n_blocks=N)
    table = chapter.frozen(("questions", 1, "most moved", (2, 3)))
    training = dict(method="full", seed=1, **TRAINING)
    tuned = fine_tune(ours, task.training.rows, frozen=[2, 3], **training)
    wanted = judge_rows(tuned.model, tuned.tokenizer, task.evaluation, batch_tokens=64)
    assert table.row_id.tolist() == list(task.evaluation.row_ids)
    np.testing.assert_allclose(table.nll, wanted.nll, rtol=1e-5)
    assert table.n_tokens.tolist() == [row.n_scored for row in task.evaluation.rows]
    assert set(table.frozen) == {"2 3"}
    assert table.correct.isin([0.0, 1.0]).all()
    start = chapter.frozen(("texts", freezing.UNTRAINED, "untrained", ()))
    untouched = drop_losses(
        ours.model, chapter.tasks["texts"].evaluation.rows, [()], batch_tokens=64
    )
    np.testing.assert_allclose(start.nll, untouched.nll[0], rtol=1e-6)
    assert set(start.frozen) == {"-"}
    assert start.correct.isna().all()
    assert experiment.same_rows(pd.concat([table, start])).all()
    other = pd.concat([table, table.assign(arm="none")[1:]])
    assert experiment.same_rows(other).tolist() == [False] + [True] * 8


# plans


def test_plans_are_the_lowest_blocks_of_the_first_and_the_last_step():
    rows = rows_of({0: [1, 2, 3, 4], 1: [9, 9, 9, 9], 5: [4, 3, 1, 2]}, measure="avss", site="")
    found = plans_held.chosen(rows, ["avss"], n_drop=2)
    assert found.to_numpy().tolist() == [["avss", "before", "0 1"], ["avss", "after", "2 3"]]


def plan_rows(after: dict[int, str], before="0 1", task="t") -> pd.DataFrame:
    rows = []
    for seed, drop in after.items():
        rows += [
            (task, "full", seed, "", "nothing dropped", "-", 1.0),
            (task, "full", seed, "", "random", "1 2", 4.0),
            (task, "full", seed, "", "random", "2 3", 6.0),
            (task, "full", seed, "avss", "before", before, 2.0 + seed),
            (task, "full", seed, "avss", "after", drop, 1.5 + seed),
        ]
    names = ["task", "method", "seed", "criterion", "when", "drop", "loss"]
    return pd.DataFrame(rows, columns=names)


def test_overlaps_before_and_after_against_those_of_seeds():
    table = plans_held.overlaps(plan_rows({0: "0 1", 1: "0 2", 2: "4 5"}))
    row = table.iloc[0]
    assert (row.kept, row.n_seeds) == (pytest.approx((1 + 0.5 + 0) / 3), 3)
    assert row.seeds == pytest.approx((0.5 + 0 + 0) / 3)
    assert np.isnan(plans_held.overlaps(plan_rows({0: "0 1"})).seeds[0])
    both = pd.concat([plan_rows({0: "2 3", 1: "2 3"}), plan_rows({0: "0 3", 1: "0 3"}, task="u")])
    e = plans_held.kept_less_noise(plans_held.overlaps(both), "avss", rng=np.random.default_rng(0))
    assert e.value == pytest.approx(((0 - 1) + (0.5 - 1)) / 2)
    assert (e.low, e.high, e.n) == (-1.0, -0.5, 2)
    shown = plans_held.shown_plans(both[both.seed == 0]).set_index("arm")["drop"]
    assert shown.to_dict() == {"avss: before": (0, 1), "after t": (2, 3), "after u": (0, 3)}


def test_losses_of_plans_are_beyond_the_whole_models():
    table = plans_held.loss_table(plan_rows({0: "0 1", 1: "0 2"}))
    wanted = {"whole": 1.0, "random": 4.0, "avss before": 1.5, "avss after": 1.0}
    assert table.iloc[0][list(wanted)].to_dict() == pytest.approx(wanted)
    stale = plans_held.stale_loss(table, "avss", rng=np.random.default_rng(0))
    assert stale.value == pytest.approx(0.5)


def test_losses_under_plans_are_those_of_the_pruned_models():
    ours, rows = (
        loaded(n_blocks=N),
        tuple(Scored((5, 9, 7, 30, 50 + i), 1 + i % 2) for i in range(6)),
    )
    plans = pd.DataFrame({"criterion": ["a"], "when": ["before"], "drop": ["1 4"]})
    options = dict(n_drop=2, n_random=2, seed=0, batch_tokens=64)
    table = plans_held.pruned_losses(ours, Part((), rows, ()), plans, **options)
    assert table.when.tolist() == ["nothing dropped", "random", "random", "before"]
    for row in table.itertuples():
        pruned = remove_blocks(ours.model, as_drop(row.drop))
        wanted = drop_losses(pruned, rows, [()], batch_tokens=64).mean[0]
        assert row.loss == pytest.approx(wanted, rel=1e-4)


# everything together


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(moved_by="variance"), "cannot be frozen by 'variance': choose from avss"),
        (dict(frozen_method="half"), "not followed in method 'half': choose from full, lora"),
        (dict(methods=["half"]), "unknown method 'half': choose from full, lora"),
        (dict(text_sets=["c4"]), "'c4' cannot be both trained on and probed"),
        (dict(n_choosing_seeds=2), "take 2 seeds at least"),
        (dict(n_choosing_seeds=0), "take 2 seeds at least"),
        (dict(question_sets=["nothing"]), "there is no question set 'nothing'"),
        (dict(prone_sets=["nothing"]), "there is no open question set 'nothing'"),
        (dict(steps=0), "1 or more"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(wrong, said):
    with pytest.raises(UsageError, match=said):
        dynamics.Dynamics(lambda: pytest.fail("loaded"), SimpleNamespace(**vars(P) | wrong))


def test_trainings_and_seeds():
    assert dynamics.split_seeds(3, 3, 1) == ([3], [4, 5])
    assert dynamics.looks(4, 4) == [0, 2, 4]
    assert dynamics.looks(1, 2) == [0, 1]
    found = dynamics.trainings(["a", "b"], ["full", "lora"], seeds=[0, 1])
    assert found[:4] == [(task, method, 0) for task in "ab" for method in ("full", "lora")]
    assert {key[2] for key in found[4:]} == {1}


def test_a_training_gives_every_row_that_the_tables_need(chapter):
    trained = dynamics.trainings(["questions"], ["full", "lora"], seeds=[0, 1])
    rows = pd.concat(map(chapter.tuned, trained), ignore_index=True)
    assert all(experiment.one_start(rows))
    assert not all(experiment.one_start(rows.assign(value=rows.value.where(rows.index > 0))))
    table = movement.moved(rows)
    whose = dict(task="questions", method="full")
    assert np.isfinite(movement.profile(table, "update variance", **whose)).all()
    own = rows[(rows.measure == "variance") & (rows.site == "update") & (rows.step == 0)]
    first = collect_block_stats(loaded(n_blocks=N).model, chapter.probe).variance("update")
    start = own.pivot(index=["method", "seed"], columns="block", values="value")
    np.testing.assert_allclose(start, np.tile(first, (4, 1)), rtol=1e-5)
    ends = rows[rows.measure == "evaluation loss"]
    assert ends.step.tolist() == [4] * 4
    assert set(ends.block) == {WHOLE}
    assert set(rows[rows.measure == "development loss"].step) == {0, 2, 4}
    for name in ("weights", "eavss"):
        assert set(rows[rows.measure == name].block) == set(range(N))
    plans = plans_held.plan_rows(rows)
    whole = plans[plans.when == "nothing dropped"].loss
    np.testing.assert_allclose(whole, ends.value, rtol=1e-5)
    start = plans[plans.when == "before"].groupby("criterion")["drop"].nunique()
    assert (start == 1).all()  # one model and one probe: the plan before is always the same
    shown = movement.before_and_after(rows).set_index(["method", "measure"])
    mean = ends[ends.method == "full"].value.mean()
    assert shown.after["full", "evaluation loss"] == pytest.approx(mean)
    assert np.isnan(shown.before["full", "evaluation loss"])
    assert shown.before["lora", "development loss"] > shown.after["lora", "development loss"]
    assert len(plans_held.overlaps(plans)) == 2 * 3
    pd.testing.assert_frame_equal(chapter.tuned(trained[0]), rows[: len(rows) // 4])
