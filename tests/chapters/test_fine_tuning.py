"""Fine-tuning: what is learned, what stays, and how far the weights go."""

import copy
import math

import numpy as np
import pytest
import torch
from data_sources import write
from tiny import tiny_model, tiny_tokenizer

from avss_utils.chapters.dynamics import StatsCallback
from avss_utils.chapters.dynamics.fine_tuning import METHODS, fine_tune, weight_movement
from avss_utils.chapters.dynamics.tasks import (
    Part,
    TuningTask,
    judge_rows,
    judged,
    size_table,
    tuning_task,
)
from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.measure.training import collate
from avss_utils.models.blocks import decoder_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.store.tables import read_csv

PATTERN = (5, 9, 7, 30, 11, 40)
ROWS = tuple(Scored((*PATTERN, 50 + i, 60 + i), 2) for i in range(8))
RATES = {"full": 3e-3, "lora": 3e-2}


def loaded(family: str = "llama", n_blocks: int = 4) -> LoadedModel:
    tokenizer = tiny_tokenizer()
    model = tiny_model(family, n_blocks, vocab_size=len(tokenizer))
    return LoadedModel(model, tokenizer, {"n_blocks": n_blocks})


def recipe(method: str, steps: int = 12) -> dict:
    rate = RATES[method]
    return dict(method=method, rank=4, steps=steps, batch_rows=4, learning_rate=rate)


def loss(model) -> float:
    return drop_losses(model, ROWS, [()], batch_tokens=64).mean[0]


# what is learned


def test_the_losses_are_those_that_training_lowers():
    model = loaded().model
    assert model(**collate(ROWS)).loss.item() == pytest.approx(loss(model), rel=1e-5)


QA, SENTIMENT, TEXTS = (["sciq", "nq_open"], ["sst2"], ["wikipedia"])


@pytest.mark.parametrize("sets", [QA, SENTIMENT, TEXTS], ids=["qa", "sentiment", "texts"])
def test_the_parts_of_a_task_share_no_row(sets):
    task, identities = tuning_task("t", sets, loaded(), sizes=(9, 7, 5), length=24)
    parts = (task.training, task.development, task.evaluation)
    assert [len(part.rows) for part in parts] == [n * len(sets) for n in (9, 7, 5)]
    ids = [i for part in parts for i in part.row_ids]
    assert len(set(ids)) == len(ids) == 21 * len(sets)
    assert [d["name"] for d in identities] == sets
    assert all(1 < len(r.ids) <= 24 and 0 < r.n_scored < len(r.ids) for p in parts for r in p.rows)
    asked = {name: len(questions) for name, questions in task.evaluation.questions}
    assert asked == {"sciq": {"sciq": 5}, "sst2": {"sst2": 5}}.get(sets[0], {})
    again, _ = tuning_task("t", sets, loaded(), sizes=(9, 7, 5), length=24)
    assert again == task


def test_a_row_is_a_prompt_with_its_right_answer():
    task, _ = tuning_task("t", ["sciq"], loaded(), sizes=(3, 1, 1), length=400)
    question = task.training.questions[0][1][0]
    row, tokenizer = task.training.rows[0], tiny_tokenizer()
    answer = question.choices[question.answer]
    assert tokenizer.decode(row.ids) == f"Question: {question.question}\nAnswer: {answer}"
    assert tokenizer.decode(row.ids[-row.n_scored :]) == f" {answer}"


def test_sizes_are_counted_by_part():
    part = Part(("a", "b"), (Scored((1, 2, 3), 1), Scored((1, 2, 3, 4), 2)), ())
    table = size_table([TuningTask("t", part, part, Part((), (), ()))])
    assert table.to_numpy().tolist() == [
        ["t", "training", 2, 7, 3, 0],
        ["t", "development", 2, 7, 3, 0],
        ["t", "evaluation", 0, 0, 0, 0],
    ]


def test_sets_that_are_not_split_are_refused(tmp_path, monkeypatch):
    write(tmp_path, "wikitext2/wikitext2_raw_test.txt", " = A title = \n\n A text of it . \n")
    monkeypatch.setenv("AVSS_DATA_DIR", str(tmp_path))
    file = tmp_path / "questions.csv"
    file.write_text("question,answer,distractors\nIs it?,yes,no\nWas it?,no,yes\n")
    for name, part in ((str(file), "development"), ("wikitext2", "calibration")):
        with pytest.raises(UsageError, match=f"has no {part} rows: choose a set that is split"):
            tuning_task("t", [name], loaded(), sizes=(1, 1, 1), length=8)
    with pytest.raises(UsageError, match="there is no question set 'nothing'"):
        tuning_task("t", ["nothing"], loaded(), sizes=(1, 1, 1), length=8)


def test_accuracy_is_the_share_of_likeliest_choices_that_are_right():
    task, _ = tuning_task("t", ["sciq"], loaded(), sizes=(1, 1, 30), length=400)
    ours = loaded()
    found = judged(ours.model, ours.tokenizer, task.evaluation, prefix="held", batch_tokens=512)
    rows = judge_rows(ours.model, ours.tokenizer, task.evaluation, batch_tokens=512)
    assert rows.correct.isin([0.0, 1.0]).all()
    assert found["held accuracy"] == rows.correct.mean()
    mean = drop_losses(ours.model, task.evaluation.rows, [()], batch_tokens=512).mean[0]
    assert found["held loss"] == pytest.approx(mean)
    texts, _ = tuning_task("t", ["c4"], ours, sizes=(1, 1, 2), length=16)
    found = judged(ours.model, ours.tokenizer, texts.evaluation, prefix="a", batch_tokens=64)
    assert set(found) == {"a loss"}


# training


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_and_leaves_the_given_model_alone(family, method):
    ours = loaded(family)
    before = copy.deepcopy(ours.model.state_dict())
    tuned = fine_tune(ours, ROWS, **recipe(method), seed=0)
    assert loss(tuned.model) < loss(ours.model) - 0.3
    assert not tuned.model.training
    assert type(tuned.model) is type(ours.model)
    assert all(torch.equal(before[name], t) for name, t in ours.model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_frozen_blocks_do_not_change_and_the_others_do(method):
    ours = loaded()
    for frozen in ([0, 2], []):
        tuned = fine_tune(ours, ROWS, **recipe(method, 3), seed=0, frozen=frozen)
        moved = weight_movement(ours.model)(tuned.model)["weights"] > 0
        assert moved.tolist() == [block not in frozen for block in range(4)]


def test_a_seed_gives_the_same_weights_and_another_does_not():
    for method in METHODS:
        one, same, other = (
            fine_tune(loaded(), ROWS, **recipe(method, 3), seed=s).model.state_dict()
            for s in (0, 0, 1)
        )
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(method="half"), "unknown method 'half': choose from full, lora"),
        (dict(rows=[]), "needs rows"),
        (dict(frozen=range(4)), "leave at least one block"),
    ],
)
def test_what_cannot_be_trained_is_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        fine_tune(loaded(), **(dict(rows=ROWS, seed=0) | recipe("full") | wrong))


# how far the weights go


def test_weight_movement_by_hand():
    before = loaded().model
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in decoder_blocks(after)[1].parameters():
            parameter *= 1.25
        weight = decoder_blocks(after)[3].mlp.down_proj.weight
        weight[0, 0] += 3.0
    size = math.sqrt(sum(float((p**2).sum()) for p in decoder_blocks(before)[3].parameters()))
    moved = weight_movement(before)(after)["weights"]
    np.testing.assert_allclose(moved, [0, 0.25, 0, 3.0 / size], rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_movement_during_training_is_that_of_the_trained_model(tmp_path, family, method):
    ours, file = loaded(family), tmp_path / "stats.csv"
    batches = [{"input_ids": torch.tensor([row.ids for row in ROWS])}]
    callback = StatsCallback(batches, file, steps=[0, 2, 4], measures=[weight_movement(ours.model)])
    options = dict(seed=0, frozen=[2], callbacks=[callback])
    tuned = fine_tune(ours, ROWS, **recipe(method, 4), **options)
    table = read_csv(file)
    moved = table[table.measure == "weights"].pivot(index="step", columns="block", values="value")
    assert moved.loc[0].eq(0).all()
    assert moved[2].eq(0).all()
    assert (moved.loc[4, [0, 1, 3]] > 1e-4).all()
    wanted = weight_movement(ours.model)(tuned.model)["weights"]
    np.testing.assert_allclose(moved.loc[4], wanted, rtol=1e-4)
