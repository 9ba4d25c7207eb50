"""Statistics at answer tokens: the prompt computed once, the same numbers as whole passes."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_tokenizer

from avss_utils.data.token_rows import choice_units
from avss_utils.measure import passes
from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.answer_tokens import absolute_limits, collect_answers, relative_limits
from avss_utils.measure.choices import score_choices

ASKED = [
    ("Question: who barks?\nAnswer:", (" a dog", " the quick cat")),
    ("Question: what is wet, really wet?\nAnswer:", (" water", " sand")),
    ("Q:", (" x", " the lazy dog jumps")),
]
SITES = ("residual", "update")


def model_of(family: str):
    return tiny_model(family, vocab_size=len(tiny_tokenizer()))


def collected(model, **options):
    limits = {"absolute": absolute_limits(0.05, SITES, 4)}
    return collect_answers(model, tiny_tokenizer(), ASKED, limits=limits, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_equal_whole_passes_with_the_answers_masked(family):
    model, tokenizer = model_of(family), tiny_tokenizer()
    tokens = collected(model, batch_tokens=64)
    units = choice_units(model, tokenizer, [a[0] for a in ASKED], [a[1] for a in ASKED])
    assert tokens.lengths.tolist() == [len(u.ids) for u in units]
    for number, unit in enumerate(units):
        ids = torch.tensor([unit.prefix + unit.ids])
        mask = torch.arange(ids.shape[1])[None] >= len(unit.prefix)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        whole = collect_block_stats(model, [batch], eps=(0.05,), token_mask=[mask])
        own = tokens.answer == number
        for site in SITES:
            mean = tokens.mean[site][own].mean(0)
            variance = tokens.m2[site][own].sum(0) / (own.sum() * tokens.width[site])
            variance = variance + tokens.mean[site][own].var(0)
            np.testing.assert_allclose(mean, whole.mean(site), atol=1e-5)
            np.testing.assert_allclose(variance, whole.variance(site), rtol=1e-4)
            zeros = tokens.zeros[site, "absolute"][own].sum(0)
            assert np.abs(zeros - whole.zeros(site, eps=0.05)).max() <= 1


@pytest.mark.parametrize("at_once", [passes.AT_ONCE, 1])
@pytest.mark.parametrize("family", ["llama", "openai_gpt"])
def test_log_probabilities_are_those_of_choices_and_entropies_those_of_the_softmax(
    family, at_once, monkeypatch
):
    monkeypatch.setattr(passes, "AT_ONCE", at_once)
    model, tokenizer = model_of(family), tiny_tokenizer()
    tokens = collected(model)
    scores = score_choices(model, tokenizer, [a[0] for a in ASKED], [a[1] for a in ASKED])
    summed = np.bincount(tokens.answer, tokens.log_probability)
    np.testing.assert_allclose(summed, np.concatenate(scores), atol=1e-5)
    unit = choice_units(model, tokenizer, [ASKED[0][0]], [ASKED[0][1]])[1]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([unit.prefix + unit.ids])).logits[0].double()
    before = torch.distributions.Categorical(logits=logits[len(unit.prefix) - 1 : -1])
    np.testing.assert_allclose(tokens.entropy[tokens.answer == 1], before.entropy(), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "openai_gpt"])
def test_states_are_the_last_tokens_residual_after_each_block(family):
    model, tokenizer = model_of(family), tiny_tokenizer()
    tokens = collected(model, keep_states=True, batch_tokens=48)
    units = choice_units(model, tokenizer, [a[0] for a in ASKED], [a[1] for a in ASKED])
    for number, unit in enumerate(units):
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([unit.prefix + unit.ids]), output_hidden_states=True)
        last = torch.stack(out.hidden_states[1:-1])[:, 0, -1]  # the last one is normed
        np.testing.assert_allclose(tokens.states[number][:-1], last, atol=2e-3)


def test_the_batch_size_changes_nothing_and_the_prompt_runs_once():
    model = model_of("llama")
    seen = []
    model.model.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(out[0].shape[1]), with_kwargs=True
    )
    small, large = collected(model, batch_tokens=40), collected(model, batch_tokens=4096)
    prompts, *parts = seen[-4:]
    assert prompts > max(parts)  # one pass over the prompts, then the answers alone
    for site in SITES:
        np.testing.assert_allclose(small.m2[site], large.m2[site], rtol=1e-4)
    assert (small.answer == large.answer).all()
    assert (small.position == large.position).all()


def test_relative_limits_are_shares_of_each_blocks_own_spread():
    tokens = collected(model_of("llama"))
    limits = relative_limits(tokens, 0.5)
    for site in SITES:
        total = tokens.m2[site].sum(0) / (len(tokens.answer) * tokens.width[site])
        np.testing.assert_allclose(limits[site] ** 2, 0.25 * (total + tokens.mean[site].var(0)))
    again = collect_answers(
        model_of("llama"), tiny_tokenizer(), ASKED, limits={"relative": limits}, sites=SITES
    )
    share = again.zeros["residual", "relative"].sum(0) / (
        len(again.answer) * again.width["residual"]
    )
    assert ((share > 0.2) & (share < 0.6)).all()  # half a standard deviation: 0.38 of a Gaussian
