"""Movement of scores, frozen blocks and plans before and after: by hand, and on tiny models."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from avss_utils.chapters.dynamics import freezing, movement
from avss_utils.chapters.dynamics import movement_plans as planning
from avss_utils.chapters.dynamics import tuning_study as study
from avss_utils.chapters.dynamics.fine_tuning import Recipe, fine_tune
from avss_utils.chapters.dynamics.tasks import Part, TuningTask, row_losses
from avss_utils.chapters.dynamics.tidy_rows import WHOLE
from avss_utils.data.rows import Question
from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.activations import collect_block_stats
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import as_drop
from avss_utils.store.tables import read_csv, write_csv

N = 6


def rows_of(values: dict[int, list], *, measure="variance", site="update", **unit) -> pd.DataFrame:
    """Rows of one measure: step -> a value a block."""
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


def test_movement_along_steps_follows_the_loss():
    steps = [0, 1, 2, 4, 8, 16, 32]
    growing = {s: [np.exp(0.1 * i), 1.0] for i, s in enumerate(steps)}
    rows = pd.concat([rows_of(growing), losses_of({s: 5.0 - i for i, s in enumerate(steps)})])
    found = movement.along_steps(rows, movement.moved(rows), ["update variance"], seed=0).iloc[0]
    assert found.rho == pytest.approx(-1.0)
    assert found.n == 6  # step 0 has not moved by construction
    # two profiles that only ever rise are no surprise, however high their correlation
    assert found.p_shift >= 1 / 6
    assert found.p_smooth > 0.01
    flat = pd.concat([rows_of(growing), losses_of(dict.fromkeys(steps, 1.0))])
    none = movement.along_steps(flat, movement.moved(flat), ["update variance"], seed=0).iloc[0]
    assert np.isnan(none.rho)


def test_movement_along_steps_follows_accuracy_where_there_is_any():
    steps = range(7)
    growing = {s: [np.exp(0.1 * s), 1.0] for s in steps}
    accuracies = losses_of({s: 0.1 * s for s in steps}).assign(measure="development accuracy")
    falling = losses_of({s: 5.0 - s for s in steps}, task="u")
    rows = pd.concat([rows_of(growing), rows_of(growing, task="u"), accuracies, falling])
    options = dict(seed=0, outcome=movement.ACCURACY)
    scores = ["update variance"]
    found = movement.along_steps(rows, movement.moved(rows), scores, **options)
    assert found.task.tolist() == ["t"]
    assert found.rho.tolist() == pytest.approx([1.0])


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


def outcome_rows(losses: dict[str, list[float]], *, task="t", seeds=(1, 2), weight=2):
    """Every row of an arm has the same loss a token, a little different by seed."""
    parts = []
    for arm, own in losses.items():
        for seed in (-1,) if arm == freezing.START else seeds:
            table = pd.DataFrame({"row": range(len(own)), "value": np.array(own) * weight})
            parts.append(table.assign(seed=seed, arm=arm))
    table = pd.concat(parts).assign(task=task, kind="loss", weight=weight)
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
    table = freezing.arm_table(frozen, moves, rng=rng).set_index(["task", "arm"])
    assert table.loss["t", "random 1"] == pytest.approx(1.6)
    assert frozen.mean("t", "loss", "random") == pytest.approx(1.4)
    assert table.moved["t", "most moved"] == pytest.approx(2.0)
    assert table.moved["u", "least moved"] == pytest.approx(1.0)
    assert np.isnan(table.moved["u", "none"])
    assert table.lost["t", "most moved"] == pytest.approx(0.5)
    assert table.lost["t", "untrained"] == pytest.approx(1.0)
    assert table.value["u", "none"] == 0
    assert table.accuracy.isna().all()


def test_where_training_gains_nothing_beyond_chance_no_share_of_it_is_lost():
    arms = {"untrained": [0.0, 4.0], "none": [1.0, 1.0], "most moved": [1.5, 1.5]}
    rows = pd.concat([outcome_rows(ARMS), outcome_rows(arms, task="u")])
    moves = {task: np.zeros(3) for task in "tu"}
    frozen = freezing.Frozen(rows[rows.arm.isin(list(arms))])
    table = freezing.arm_table(frozen, moves, rng=np.random.default_rng(0))
    table = table.set_index(["task", "arm"])
    assert table.value["u", "untrained"] == pytest.approx(1.0)
    assert table.low["u", "untrained"] <= 0
    assert table.lost["u"].isna().all()
    assert table.lost["t", "most moved"] == pytest.approx(0.5)


def test_long_answers_weigh_more_and_choices_are_counted_apart():
    rows = outcome_rows({"none": [1.0, 1.0], "most moved": [1.0, 2.0], "untrained": [9.0, 9.0]})
    rows["weight"] = rows.row.map({0: 1, 1: 3})
    rows["value"] = rows.value / 2 * rows.weight
    choices = rows.assign(kind="choice", value=(rows.arm == "none").astype(float), weight=1)
    frozen = freezing.Frozen(pd.concat([rows, choices]))
    assert frozen.mean("t", "loss", "most moved") == pytest.approx((1 + 6) / 4)
    assert frozen.mean("t", "choice", "none") == 1.0
    gap = frozen.difference(
        "most moved", "none", kind="choice", rng=np.random.default_rng(0), n_resamples=20
    )
    assert gap.value == -1.0


def test_the_interval_widens_with_rows_and_seeds_that_differ():
    rng = np.random.default_rng(0)
    rows = outcome_rows({a: list(rng.normal(2, 1, 40)) for a in ARMS})
    e = freezing.Frozen(rows).difference("most moved", "least moved", rng=rng, n_resamples=300)
    assert e.low < e.value < e.high
    shifted = rows.copy()
    away = (rows.seed == 2) & (rows.arm == "most moved")
    shifted.loc[away, "value"] += 10
    wide = freezing.Frozen(shifted).difference(
        "most moved", "least moved", rng=rng, n_resamples=300
    )
    assert wide.high - wide.low > 2 * (e.high - e.low)


def task(name: str = "t") -> TuningTask:
    rows = tuple(Scored((5, 9, 7, 30, 11, 40, 50 + i, 60 + i), 2) for i in range(8))
    questions = (("sciq", (Question("q", "is it?", ("yes", "no"), 0),)),)
    ids = tuple(map(str, range(8)))
    held = Part(ids, tuple(row._replace(n_scored=1) for row in rows), questions)
    return TuningTask(name, Part(ids, rows, ()), held, held)


def loaded() -> LoadedModel:
    tokenizer = tiny_tokenizer()
    return LoadedModel(tiny_model("llama", N, vocab_size=len(tokenizer)), tokenizer, {})


RECIPE = Recipe("full", steps=4, batch_rows=4, learning_rate=3e-3)


def test_freezings_share_sizes_and_come_seed_by_seed():
    moves = [np.arange(N), np.arange(N)[::-1]]
    found = freezing.freezings([task("a"), task("b")], moves, seeds=[1, 2], n_random=2, seed=0)
    assert [(f.task.name, f.arm) for f in found[:2]] == [("a", "untrained"), ("b", "untrained")]
    of_a = [f for f in found if f.task.name == "a" and f.seed == 1]
    assert [f.arm for f in of_a] == ["none", "most moved", "least moved", "random 0", "random 1"]
    assert [f.frozen for f in of_a[:3]] == [(), (4, 5), (0, 1)]
    assert all(len(f.frozen) == 2 for f in of_a[3:])
    again = [f for f in found if f.task.name == "a" and f.seed == 2]
    assert [f.frozen for f in again] == [f.frozen for f in of_a]
    assert len(found) == 2 + 2 * 2 * 5
    many = freezing.freezings([task("a")], moves[:1], seeds=[1], n_random=60, seed=0)
    drawn = [number for f in many if f.arm.startswith("random") for number in f.frozen]
    assert set(drawn) == set(range(N))  # the first and the last block too
    assert [f.seed for f in found[2:]] == [1] * 10 + [2] * 10


def test_blocks_are_not_chosen_on_the_seeds_that_judge():
    freezing.check_seeds([0], [1, 2])
    for moving, judging in (([0], [0, 1]), ([], [0]), ([0], [])):
        with pytest.raises(UsageError, match="take 2 seeds at least"):
            freezing.check_seeds(moving, judging)


def test_rows_of_a_freezing_are_the_evaluation_of_that_training():
    ours, held = loaded(), task().evaluation
    one = freezing.Freezing(task(), 1, "most moved", (2, 3))
    table = freezing.freezing_rows(ours, RECIPE, 64, one)
    tuned = fine_tune(ours, task().training.rows, RECIPE, seed=1, frozen=[2, 3])
    wanted = row_losses(tuned.model, held, batch_tokens=64)
    own = table[table.kind == "loss"]
    np.testing.assert_allclose(own.value, wanted, rtol=1e-5)
    assert own.weight.tolist() == [1] * 8
    assert set(table.frozen) == {"2 3"}
    assert table[table.kind == "choice"].value.isin([0.0, 1.0]).all()
    start = freezing.freezing_rows(ours, RECIPE, 64, freezing.Freezing(task(), None, "x", ()))
    untouched = row_losses(ours.model, held, batch_tokens=64)
    np.testing.assert_allclose(start[start.kind == "loss"].value, untouched, rtol=1e-6)
    assert set(start.seed) == {-1}


# plans


def test_plans_are_the_lowest_blocks_of_the_first_and_the_last_step():
    rows = rows_of({0: [1, 2, 3, 4], 1: [9, 9, 9, 9], 5: [4, 3, 1, 2]}, measure="avss", site="")
    found = planning.chosen(rows, ["avss"], n_drop=2)
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
    table = planning.overlaps(plan_rows({0: "0 1", 1: "0 2", 2: "4 5"}))
    row = table.iloc[0]
    assert (row.kept, row.n_seeds) == (pytest.approx((1 + 0.5 + 0) / 3), 3)
    assert row.seeds == pytest.approx((0.5 + 0 + 0) / 3)
    assert np.isnan(planning.overlaps(plan_rows({0: "0 1"})).seeds[0])
    both = pd.concat([plan_rows({0: "2 3", 1: "2 3"}), plan_rows({0: "0 3", 1: "0 3"}, task="u")])
    e = planning.kept_less_noise(planning.overlaps(both), "avss", rng=np.random.default_rng(0))
    assert e.value == pytest.approx(((0 - 1) + (0.5 - 1)) / 2)
    assert (e.low, e.high, e.n) == (-1.0, -0.5, 2)


def test_losses_of_plans_are_beyond_the_whole_models():
    row = planning.loss_table(plan_rows({0: "0 1", 1: "0 2"})).iloc[0]
    assert row["whole"] == 1.0
    assert row["random"] == pytest.approx(4.0)
    assert row["avss before"] == pytest.approx(1.5)
    assert row["avss after"] == pytest.approx(1.0)


def test_losses_under_plans_are_those_of_the_pruned_models():
    ours = loaded()
    plans = pd.DataFrame({"criterion": ["a"], "when": ["before"], "drop": ["1 4"]})
    table = planning.pruned_losses(
        ours, task().evaluation, plans, n_drop=2, n_random=2, seed=0, batch_tokens=64
    )
    assert table.when.tolist() == ["nothing dropped", "random", "random", "before"]
    for row in table.itertuples():
        pruned = remove_blocks(ours.model, as_drop(row.drop))
        wanted = row_losses(pruned, task().evaluation, batch_tokens=64).mean()
        assert row.loss == pytest.approx(wanted, rel=1e-4)


# everything together


def test_blocks_are_frozen_by_a_score_and_method_that_are_followed():
    study.check_choice("update variance", "full", ["full"])
    with pytest.raises(UsageError, match="cannot be frozen by 'variance': choose from avss"):
        study.check_choice("variance", "full", ["full"])
    with pytest.raises(UsageError, match="not followed in method 'full': choose from lora"):
        study.check_choice("eavss", "full", ["lora"])


def test_statistics_are_not_taken_on_what_is_trained_on():
    study.check_probe("c4", ["sciq", "wikipedia"])
    with pytest.raises(UsageError, match="'c4' cannot be both trained on and probed"):
        study.check_probe("c4", ["sciq", "c4"])


def test_a_training_gives_every_row_that_the_tables_need(tmp_path):
    ours = loaded()
    probe = [{"input_ids": torch.arange(40).reshape(4, 10) + 3}]
    first = collect_block_stats(ours.model, probe).variance("update")
    watch = study.Watch(probe, [0, 1, 4], 0.05, 0.1, n_drop=2, n_random=1, batch_tokens=64)
    trained = study.trainings([task()], ["full", "lora"], seeds=[0, 1])
    assert [(t.name, m, s) for t, m, s in trained] == [
        ("t", "full", 0),
        ("t", "lora", 0),
        ("t", "full", 1),
        ("t", "lora", 1),
    ]
    recipes = {m: Recipe(m, 4, 4, 3e-3) for m in ("full", "lora")}
    rows = pd.concat([study.tuned_rows(ours, watch, recipes, one) for one in trained])
    write_csv(rows, tmp_path / "tuned.csv")  # a record is read as it was written
    rows = read_csv(tmp_path / "tuned.csv")
    statistics, plans = study.statistics_rows(rows), study.plan_rows(rows)
    table = movement.moved(statistics)
    assert np.isfinite(movement.profile(table, "update variance", task="t", method="full")).all()
    start = statistics[(statistics.measure == "variance") & (statistics.site == "update")]
    start = start[start.step == 0].pivot(index=["method", "seed"], columns="block", values="value")
    np.testing.assert_allclose(start, np.tile(first, (4, 1)), rtol=1e-5)
    ends = statistics[statistics.measure == "evaluation loss"]
    assert len(ends) == 4
    assert set(ends.step) == {4}
    assert set(statistics[statistics.measure == "development loss"].step) == {0, 1, 4}
    whole = plans[plans.when == "nothing dropped"].loss.to_numpy()
    np.testing.assert_allclose(whole, ends.value, rtol=1e-5)
    assert set(statistics[statistics.measure == "weights"].block) == set(range(N))
    assert set(ends.block) == {WHOLE}
    start = plans[plans.when == "before"].groupby("criterion")["drop"].nunique()
    assert (start == 1).all()  # one model and one probe: the plan before is always the same
    shown = study.outcomes(statistics).set_index(["method", "measure"])
    assert shown.after["full", "evaluation loss"] == pytest.approx(
        ends[ends.method == "full"].value.mean()
    )
    assert np.isnan(shown.before["full", "evaluation loss"])
    assert shown.before["lora", "development loss"] > shown.after["lora", "development loss"]
    assert len(planning.overlaps(plans)) == 2 * 3
    assert set(planning.loss_table(plans).columns) >= {"whole", "random", "avss before"}
    assert len(movement.along_steps(statistics, table, ["update variance"], seed=0)) == 4
    again = study.tuned_rows(ours, watch, recipes, trained[0])
    pd.testing.assert_frame_equal(
        study.statistics_rows(again),
        statistics[(statistics.method == "full") & (statistics.seed == 0)].reset_index(drop=True),
    )
