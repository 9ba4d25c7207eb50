"""Training after removal: what is trained, what is left alone, and what is read off."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_thresholds import answer_rows
from tiny import tiny_loaded, tiny_tokenizer
from transformers.pytorch_utils import Conv1D

from avss_utils.chapters.thresholds import healing
from avss_utils.chapters.thresholds.experiment import Thresholds
from avss_utils.chapters.thresholds.inputs import Inputs
from avss_utils.data.rows import Question
from avss_utils.data.suites import Suite
from avss_utils.data.token_rows import Scored
from avss_utils.data.windows import Window
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.models.blocks import decoder_blocks
from avss_utils.stats.retention import retention_rows

TRAINING = dict(steps=12, batch_rows=4, rank=4, learning_rate=1e-2)
PATTERN = (5, 9, 7, 30, 11, 40)


def windows() -> list[Window]:
    return [Window(str(i), PATTERN * 2, 12) for i in range(8)]


def loss(model) -> float:
    rows = [Scored.window(window) for window in windows()]
    return drop_losses(model, rows, [()], batch_tokens=64).mean[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3"])
def test_healing_trains_the_linear_layers_that_are_left_and_no_given_weight(family):
    ours = tiny_loaded(family)
    before = copy.deepcopy(ours.model.state_dict())
    healed = healing.heal(ours, [1, 2], windows(), **TRAINING, seed=0)
    assert healed.model.config.get_text_config().num_hidden_layers == 2
    assert not healed.model.training
    nothing = dict(steps=1, batch_rows=1, rank=1, learning_rate=1e-12)
    plain = healing.heal(ours, [1, 2], windows(), **nothing, seed=0)
    assert loss(healed.model) < loss(plain.model) - 0.1
    for name, tensor in ours.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert type(healed.model) is type(ours.model)  # adapters merged, an ordinary checkpoint
    old, new = plain.model.state_dict(), healed.model.state_dict()
    inside = {id(m) for block in decoder_blocks(healed.model) for m in block.modules()}
    linear = {
        f"{name}.weight"
        for name, module in healed.model.named_modules()
        if id(module) in inside and isinstance(module, torch.nn.Linear | Conv1D)
    }
    assert {name for name in new if not torch.equal(new[name], old[name])} == linear


def test_weights_are_decided_by_the_seed_and_not_by_how_a_batch_is_split(monkeypatch):
    def weights(seed: int):
        return healing.heal(tiny_loaded(), [1], windows(), **TRAINING, seed=seed).model.state_dict()

    one, same, other = map(weights, (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    few = 2 * 12 * len(tiny_tokenizer())  # the logits of two windows
    monkeypatch.setattr("avss_utils.measure.passes.MOST_LOGITS", few)
    split = weights(0)
    for name, tensor in one.items():
        torch.testing.assert_close(split[name], tensor, rtol=0, atol=2e-3)
    assert any(not torch.equal(split[name], tensor) for name, tensor in one.items())


def test_arms_are_each_distinct_plan_and_the_unpruned_model_seed_by_seed():
    plans = pd.DataFrame({"arm": ["a", "b", "c"], "drop": ["1", "2", "1"]})
    plan_of = {"full": (), "without 1": (1,), "without 2": (2,)}
    expected = [(name, seed, drop) for seed in (0, 1) for name, drop in plan_of.items()]
    assert healing.healing_arms(plans, n_seeds=2) == expected


def chapter(monkeypatch) -> Thresholds:
    """The chapter of a tiny model, without its data sets."""
    names = ["steps", "batch_rows", "rank", "rate"]
    values = zip((f"heal_{name}" for name in names), TRAINING.values(), strict=True)
    p = SimpleNamespace(eval_dtype="float32", **dict(values))
    monkeypatch.setattr(Inputs, "__init__", lambda self, load, p: vars(self).update(p=p))
    own = Thresholds(None, p)
    questions = tuple(Question(str(i), "a?", ("b", "c"), i % 2) for i in range(3))
    own.suite = Suite({"sciq": questions}, {"s": windows()}, batch_tokens=64)
    own.loaded, own.healing_windows = tiny_loaded(), windows()
    return own


def test_a_healed_model_is_judged_on_every_question_and_text_by_one_training(monkeypatch):
    own, key = chapter(monkeypatch), ("without 1", 0, (1,))
    answers, texts = own.healed(key).values()
    assert answers.columns.tolist() == ["arm", "seed", "set", "row_id", "n_choices", "correct"]
    assert (answers.arm + answers["set"]).tolist() == ["without 1sciq"] * 3
    assert texts.columns.tolist() == ["arm", "seed", "text_set", "nll", "n_bytes"]
    again = healing.heal(tiny_loaded(), [1], windows(), **TRAINING, seed=0)
    assert texts.nll[0] / (8 * 11) == pytest.approx(loss(again.model), rel=1e-4)
    assert texts.n_bytes[0] == 8 * 12


BEFORE = answer_rows({"full": "xx..", "without 1": "x..."}, n_choices=2)
HEALED = pd.concat(
    answer_rows({"full": full, "without 1": pruned}, n_choices=2).assign(seed=seed)
    for seed, (full, pruned) in enumerate((("xxxx", "x..."), ("xx..", "x..x")))
)
TEXTS = pd.DataFrame(
    [("without 1", 0, "s", 8 * np.log(2), 4), ("without 1", 1, "s", 4 * np.log(2), 4)],
    columns=["arm", "seed", "text_set", "nll", "n_bytes"],
)
PLANS = pd.DataFrame({"arm": ["a"], "n_dropped": [1], "drop": ["1"]})


@pytest.mark.parametrize(("baseline", "full"), [(healing.AS_IT_WAS, 2 / 4), ("full", 3 / 4)])
def test_recovery_is_against_the_model_as_it_was_or_trained_alike(baseline, full):
    outcomes = healing.healed_outcomes(BEFORE, HEALED)
    assert outcomes.of("without 1", "t").mean(0).tolist() == [1.0, 0.0, 0.0, 0.5]
    shown = healing.with_unpruned(PLANS)
    kept = retention_rows(shown, outcomes, baseline=baseline, seed=0).set_index(["arm", "measure"])
    assert kept.value["a", "raw retention"] == pytest.approx(1.5 / 4 / full)
    assert kept.value["full", "raw retention"] == pytest.approx(3 / 4 / full)


def test_recovery_has_a_stage_before_one_after_and_one_beside_the_trained_full_model():
    table = healing.recovery(PLANS, BEFORE, HEALED, sets=["t"], seed=0)
    raw = table[table.measure == "mean raw retention"].set_index("stage").value
    expected = {"unhealed": 1 / 2, "healed": 3 / 4, "healed, of the healed full model": 1 / 2}
    assert raw.to_dict() == pytest.approx(expected)


def test_bits_are_the_mean_over_seeds_and_their_range():
    plans = pd.DataFrame({"arm": ["a", "b"], "drop": ["1", "1"]})
    table = healing.healed_bits(TEXTS, plans)
    assert table.to_numpy().tolist() == [["a", "s", 1.5, 1.0, 2.0, 2], ["b", "s", 1.5, 1.0, 2.0, 2]]
