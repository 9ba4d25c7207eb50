"""Training after removal: what is trained, what is left alone, and what is read off."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_tokenizer

from avss_utils import sensitivity
from avss_utils.chapters.thresholds import healing
from avss_utils.data.rows import Question
from avss_utils.data.suites import Suite
from avss_utils.data.windows import Window
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import as_drop
from avss_utils.scores import rights

RECIPE = healing.Recipe(steps=12, batch_rows=4, rank=4, learning_rate=1e-2)
PATTERN = (5, 9, 7, 30, 11, 40)


def windows() -> list[Window]:
    return [Window(str(i), PATTERN * 2, 12) for i in range(8)]


def loaded(family: str = "llama") -> LoadedModel:
    tokenizer = tiny_tokenizer()
    return LoadedModel(tiny_model(family, vocab_size=len(tokenizer)), tokenizer, {})


def loss(model) -> float:
    rows = [sensitivity.Scored.window(window) for window in windows()]
    return sensitivity.drop_losses(model, rows, [()], batch_tokens=64).mean[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3"])
def test_healing_learns_its_texts_and_leaves_the_given_model_alone(family):
    assert family in FAMILIES
    ours = loaded(family)
    before = copy.deepcopy(ours.model.state_dict())
    healed = healing.heal(ours, [1, 2], windows(), RECIPE, seed=0)
    assert healed.model.config.get_text_config().num_hidden_layers == 2
    assert not healed.model.training
    plain = healing.heal(ours, [1, 2], windows(), healing.Recipe(1, 1, 1, 1e-12), seed=0)
    assert loss(healed.model) < loss(plain.model) - 0.1
    for name, tensor in ours.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert type(healed.model) is type(ours.model)  # adapters merged, an ordinary checkpoint


def test_only_linear_layers_of_the_blocks_change():
    ours = loaded()
    healed = healing.heal(ours, [3], windows(), RECIPE, seed=0)
    old = ours.model.state_dict()
    changed = {n for n, w in healed.model.state_dict().items() if not torch.equal(w, old[n])}
    linear = {
        f"{name}.weight"
        for name, module in healed.model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }
    assert changed == linear


def test_a_seed_gives_the_same_weights_and_another_does_not():
    one, same, other = (
        healing.heal(loaded(), [1], windows(), RECIPE, seed=seed).model.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_batch_whose_logits_are_too_many_is_split_and_gives_the_same_weights(monkeypatch):
    whole = healing.heal(loaded(), [1], windows(), RECIPE, seed=0).model.state_dict()
    few = 2 * 12 * len(tiny_tokenizer())  # two windows at once
    monkeypatch.setattr("avss_utils.measure.passes.MOST_LOGITS", few)
    split = healing.heal(loaded(), [1], windows(), RECIPE, seed=0).model.state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(split[name], tensor, rtol=0, atol=2e-3)
    assert any(not torch.equal(split[name], tensor) for name, tensor in whole.items())


def test_arms_are_each_distinct_plan_and_the_unpruned_model_seed_by_seed():
    plans = pd.DataFrame({"arm": ["a", "b", "c"], "drop": ["1", "2", "1"]})
    assert healing.healing_arms(plans, n_seeds=2) == [
        ("full", (), 0),
        ("without 1", (1,), 0),
        ("without 2", (2,), 0),
        ("full", (), 1),
        ("without 1", (1,), 1),
        ("without 2", (2,), 1),
    ]


def test_rows_hold_every_task_and_text_set_of_the_healed_model():
    questions = tuple(Question(str(i), "a?", ("b", "c"), i % 2) for i in range(3))
    suite = Suite({"sciq": questions}, {"s": windows()}, batch_tokens=64)
    arm = ("without 1", (1,), 0)
    table = healing.healed_rows(loaded(), suite, windows(), RECIPE, "float32", arm)
    assert table["set"].to_list() == ["sciq", "s"]
    assert set(table.arm) == {"without 1"}
    assert len(table.right[0]) == 3
    again = healing.heal(loaded(), [1], windows(), RECIPE, seed=0)
    assert table.nll[1] / (8 * 11) == pytest.approx(loss(again.model), rel=1e-4)
    assert table.n_bytes[1] == 8 * 12


HEALED = pd.DataFrame(
    [
        ("full", 0, "t", "xxxx", np.nan, np.nan),
        ("full", 1, "t", "xx..", np.nan, np.nan),
        ("without 1", 0, "t", "x...", np.nan, np.nan),
        ("without 1", 1, "t", "x..x", np.nan, np.nan),
        ("without 1", 0, "s", None, 8 * np.log(2), 4),
        ("without 1", 1, "s", None, 4 * np.log(2), 4),
    ],
    columns=["arm", "seed", "set", "right", "nll", "n_bytes"],
)


def before() -> rights.Rights:
    questions = pd.DataFrame({"task": "t", "row_id": range(4), "n_choices": 2})
    table = pd.DataFrame({"arm": ["full"], "task": ["t"], "right": ["xx.."]})
    return rights.Rights(table, questions)


def test_recovery_is_against_the_model_as_it_was_or_trained_alike():
    plans = pd.DataFrame({"arm": ["a"], "n_dropped": [1], "drop": ["1"]})
    assert as_drop("1") == (1,)
    for control, full in ((False, 2 / 4), (True, 3 / 4)):
        own = healing.healed_rights(HEALED, before(), control=control)
        assert own.of("without 1", "t").tolist() == [1.0, 0.0, 0.0, 0.5]
        assert own.full("t").mean() == full
        kept = rights.retention_rows(plans, own, seed=0)
        assert kept.value[0] == pytest.approx(1.5 / 4 / full)
    both = rights.retention_rows(healing.with_unpruned(plans), own, seed=0)
    assert both.value[0] == pytest.approx(1.0)  # the trained unpruned model against itself


def test_bits_are_the_mean_over_seeds_and_their_range():
    plans = pd.DataFrame({"arm": ["a", "b"], "drop": ["1", "1"]})
    table = healing.healed_bits(HEALED, plans)
    assert table.to_numpy().tolist() == [["a", "s", 1.5, 1.0, 2.0, 2], ["b", "s", 1.5, 1.0, 2.0, 2]]
