"""Numbers that are none are refused at every door, by the block that they come from."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from avss_utils.chapters.mitigation.trial_outcomes import divergence_rows
from avss_utils.data.token_rows import Scored
from avss_utils.data.windows import Window
from avss_utils.errors import UsageError
from avss_utils.measure import passes
from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.answer_tokens import absolute_limits, collect_answers
from avss_utils.measure.choices import score_choices
from avss_utils.measure.decoding import greedy_answers
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.measure.sensitivity import gate_gradients
from avss_utils.measure.texts import window_likelihoods
from avss_utils.measure.training import train_on
from avss_utils.models.blocks import decoder_blocks

SITES = ("residual", "update")
WINDOWS = [Window("a", (5, 9, 7, 30), 8)]
ROWS = [Scored((5, 9, 7, 30), 3)]
ASKED, CHOICES = ["The fox"], [[" dog", " lazy dog"]]
BATCH = {"input_ids": torch.tensor([[5, 9, 7, 30]])}
TRAINING = dict(steps=1, batch_rows=1, learning_rate=1e-3, seed=0)


def answers(model):
    limits = {"absolute": absolute_limits(1e-5, SITES, len(decoder_blocks(model)))}
    asked = list(zip(ASKED, CHOICES, strict=True))
    return collect_answers(model, tiny_tokenizer(), asked, limits=limits)


DOORS = {
    "shared": lambda m: score_choices(m, tiny_tokenizer(), ASKED, CHOICES),
    "whole": lambda m: score_choices(m, tiny_tokenizer(), ASKED, CHOICES, shared_prefix=False),
    "texts": lambda m: window_likelihoods(m, WINDOWS, batch_tokens=64),
    "greedy": lambda m: greedy_answers(m, tiny_tokenizer(), ASKED, max_new_tokens=2),
    "answers": answers,
    "statistics": lambda m: collect_block_stats(m, [BATCH]),
    "losses": lambda m: drop_losses(m, ROWS, [(), (1,)], batch_tokens=64),
    "gradients": lambda m: gate_gradients(m, ROWS, batch_tokens=64),
    "divergence": lambda m: divergence_rows(m, m, WINDOWS, batch_tokens=64),
    "training": lambda m: train_on(m, ROWS, **TRAINING),
}


def broken(number: float, where: str = "block 2"):
    model = tiny_model("llama", vocab_size=300)
    weights = {
        "block 2": decoder_blocks(model)[2].mlp.down_proj.weight,
        "the embedding": model.get_input_embeddings().weight,
        "logits": model.model.norm.weight,
    }
    with torch.no_grad():
        weights[where].fill_(number)
    return model


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_number_is_refused_naming_the_block(door, number):
    model = broken(number)
    if door == "training":
        model.requires_grad_(False)
        decoder_blocks(model)[3].requires_grad_(True)
    with pytest.raises(UsageError, match="block 2 gave activations that are not finite") as caught:
        DOORS[door](model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("door", ["shared", "texts", "greedy", "losses"])
@pytest.mark.parametrize("where", ["the embedding", "logits"])
def test_what_is_no_block_is_named_too(door, where):
    with pytest.raises(UsageError, match=f"{where}.* not finite"):
        DOORS[door](broken(math.nan, where))


def test_a_block_that_is_left_out_is_not_blamed():
    model = broken(math.nan)
    assert np.isfinite(drop_losses(model, ROWS, [(2,)], batch_tokens=64).nll).all()
    with torch.no_grad():
        decoder_blocks(model)[3].mlp.down_proj.weight.fill_(math.nan)
    with pytest.raises(UsageError, match="block 3"):
        drop_losses(model, ROWS, [(2,)], batch_tokens=64)


def test_a_token_that_a_model_rules_out_is_no_fault():
    plain = tiny_model("llama", vocab_size=300)
    model = tiny_model("llama", vocab_size=300)

    def rule_out(_, args, output):
        output.logits[..., 299] = -math.inf
        return output

    model.register_forward_hook(rule_out)
    for door in ("shared", "texts", "losses", "answers", "greedy", "divergence"):
        DOORS[door](model)
    tokens, wanted = answers(model), answers(plain)
    assert np.isfinite(tokens.entropy).all()
    np.testing.assert_allclose(tokens.entropy, wanted.entropy, atol=0.1)
    found = window_likelihoods(model, [Window("a", (5, 299), 8)], batch_tokens=64)
    assert found.nll[0] == math.inf


def test_what_stands_at_padding_does_not_count():
    logits = torch.zeros(2, 3, 4)
    logits[1, 2] = math.nan
    targets, own = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [1, 1, 0]])
    rows = [(5, 9, 7), (5, 9)]
    found = passes.row_scores(logits, targets, own, model=tiny_model("llama"), rows=rows)
    np.testing.assert_allclose(found, [3 * math.log(1 / 4), 2 * math.log(1 / 4)], rtol=1e-6)
