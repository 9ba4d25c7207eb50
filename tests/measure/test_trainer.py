"""Batches, schedule and devices of every training."""

import pytest
import torch
from tiny import tiny_model
from transformers import TrainerCallback

from avss_utils.data.token_rows import Scored
from avss_utils.measure.training import (
    collate,
    on_one_device,
    train_on,
    training_arguments,
)

ROWS = [Scored((5, 9, 7 + i), 1) for i in range(8)]
SIZES = dict(steps=20, batch_rows=4, learning_rate=1e-3, seed=7)


def test_labels_are_the_answers_tokens_alone():
    batch = collate([Scored((5, 6, 7, 8), 2), Scored((9, 8, 7), 2)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 8, 7, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, 8, 7, -100]]


def test_one_gpu_takes_the_whole_batch_however_many_are_visible(tmp_path):
    arguments = training_arguments(tmp_path, torch.device("cpu"), **SIZES)
    assert (arguments.n_gpu, arguments.train_batch_size) == (0, 4)
    arguments._n_gpu = 2  # what transformers counts on a machine with two
    assert arguments.train_batch_size == 8
    assert on_one_device(arguments).train_batch_size == 4
    assert arguments.n_gpu == 1


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing():
    rates = []

    class Rates(TrainerCallback):
        def on_step_end(self, args, state, control, lr_scheduler=None, **_):
            rates.append(lr_scheduler.get_last_lr()[0])

    train_on(tiny_model("llama"), ROWS, **SIZES, callbacks=[Rates()])
    assert rates[:2] == pytest.approx([5e-4, 1e-3])
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_trained_model_computes_in_float32_again(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr("avss_utils.measure.training.trains_in_bfloat16", lambda device: True)
    seen = []
    hook = model.lm_head.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    train_on(model, ROWS, **SIZES | dict(steps=2))
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    model(**collate(ROWS))
    assert seen == [torch.float32]
    hook.remove()


def test_a_training_keeps_off_cudnn_attention_and_gives_it_back():
    model, seen = tiny_model("llama"), []
    model.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))
    train_on(model, ROWS, **SIZES | dict(steps=2))
    model(**collate(ROWS))
    assert seen == [False, False, True]
