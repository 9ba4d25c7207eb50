"""Answers that are drawn: from the model's own distribution, the same in any company."""

import math

import numpy as np
import pytest
import torch
import transformers as tf
from cases import zoo
from test_generation import PROMPTS, assert_plain, small_model, small_tokenizer
from tiny import FAMILIES, speaking, tiny_tokenizer

from avss_utils.errors import UsageError
from avss_utils.measure import decoding
from avss_utils.measure.decoding import Generated, greedy_answers, sampled_answers
from avss_utils.measure.token_steps import Steps, drawn, token_steps

ASKED = ["Question: which is it?\nAnswer:", "Why?", "The quick brown fox jumps over\n"]
OPTIONS = dict(n_samples=3, max_new_tokens=8, seed=5)


def same(one: Generated, other: Generated) -> bool:
    assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    assert one.first_entropy == pytest.approx(other.first_entropy, abs=1e-4)
    return (one.prefix, one.ids, one.text) == (other.prefix, other.ids, other.text)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2", "mixtral"])
def test_samples_depend_on_prompt_number_and_seed_alone(family):
    model, tokenizer = speaking(family)
    found = sampled_answers(model, tokenizer, ASKED, **OPTIONS)
    alone = sampled_answers(model, tokenizer, ASKED, **OPTIONS, batch_tokens=1)
    turned = sampled_answers(model, tokenizer, ASKED[::-1], **OPTIONS | dict(n_samples=2))
    for own, one, other in zip(found, alone, turned[::-1], strict=True):
        assert [len(own), len(one), len(other)] == [3, 3, 2]
        assert all(same(a, b) for a, b in zip(own, one, strict=True))
        assert all(same(a, b) for a, b in zip(own, other, strict=False))
        assert len({a.ids for a in own}) > 1, "samples of one prompt differ"
    again = sampled_answers(model, tokenizer, ASKED, **OPTIONS | dict(seed=6))
    assert [a.ids for own in again for a in own] != [a.ids for own in found for a in own]


def test_a_drawn_answer_says_how_likely_it_was():
    model, tokenizer = small_model("llama", 1), small_tokenizer()
    options = dict(n_samples=20, max_new_tokens=6, seed=0)
    ended = 0
    for temperature in (1.0, 2.0):
        answers = sampled_answers(model, tokenizer, PROMPTS, **options, temperature=temperature)
        for own in (a for samples in answers for a in samples):
            with torch.no_grad():
                logits = model(torch.tensor([[*own.prefix, *own.ids]])).logits[0].double()
            rows = logits.log_softmax(-1)[len(own.prefix) - 1 :]
            picked = [rows[i, token].item() for i, token in enumerate(own.ids)]
            entropies = (-(rows.exp() * rows).sum(-1)).tolist()
            assert own.log_probability == pytest.approx(sum(picked), abs=1e-4)
            assert own.first_entropy == pytest.approx(entropies[0], abs=1e-4)
            if own.ids:
                mean = sum(entropies[:-1]) / len(own.ids)
                assert own.entropy == pytest.approx(mean, abs=1e-4)
                assert own.mean_log_probability == pytest.approx(
                    sum(picked) / len(picked), abs=1e-4
                )
            else:
                assert math.isnan(own.entropy)
                assert math.isnan(own.mean_log_probability)
            assert own.log_probability_with_end <= own.log_probability + 1e-9
            ended += own.log_probability_with_end < own.log_probability
    assert ended > 20


def test_an_answer_of_its_end_alone_has_the_probability_of_that_end():
    model, tokenizer = small_model("llama", 1), small_tokenizer()
    answers = sampled_answers(model, tokenizer, ["b:"], n_samples=300, max_new_tokens=1, seed=0)[0]
    with torch.no_grad():
        log_p = model(**tokenizer("b:", return_tensors="pt")).logits[0, -1].log_softmax(-1)
    ends = {a.log_probability_with_end for a in answers if not a.ids}
    blank = [log_p[i].item() for i in (0, 1, 2, 3, 10)]  # <pad>, </s>, and white space
    assert ends
    assert all(min(abs(end - own) for own in blank) < 1e-4 for end in ends)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    logits = torch.tensor([[1.0, -torch.inf, 0.0, 2.0, -1.0]])
    uniform = np.random.default_rng(0).random((1, 20_000))
    tokens = drawn(uniform.T, temperature)(logits.expand(20_000, -1), np.arange(20_000), 0)
    share = torch.bincount(tokens, minlength=5) / 20_000
    wanted = (logits[0] / temperature).softmax(-1)
    assert share[1] == 0
    assert torch.allclose(share, wanted, atol=4 * 0.5 / 20_000**0.5)


def test_what_has_no_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(5, -1)
    uniform = np.array([[0.0], [0.4999], [0.5], [np.nextafter(1, 0)], [1 - 2**-60]])
    tokens = drawn(uniform, 1.0)(logits, np.arange(5), 0)
    assert tokens.tolist() == [1, 1, 2, 2, 2]


def test_a_low_temperature_is_greedy():
    model, tokenizer = speaking("llama")
    greedy = greedy_answers(model, tokenizer, ASKED, max_new_tokens=8)
    cold = sampled_answers(model, tokenizer, ASKED, **OPTIONS, temperature=1e-4)
    assert all(same(a, one) for own, one in zip(cold, greedy, strict=True) for a in own)


def own_decoding(model, tokenizer, prompts: list[str], n_new: int) -> list[list[int]]:
    """New tokens by transformers' own greedy decoding of a padded batch."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = tf.GenerationConfig(
        do_sample=False, max_new_tokens=n_new, eos_token_id=2, pad_token_id=0
    )
    out = model.generate(**inputs, generation_config=settings)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "olmo2", "openai_gpt"])
def test_greedy_answers_are_those_of_transformers_own_decoding(family):
    model, tokenizer = speaking(family)
    answers = greedy_answers(model, tokenizer, ASKED, max_new_tokens=12)
    for row, answer in zip(own_decoding(model, tokenizer, ASKED, 12), answers, strict=True):
        assert tuple(row[: len(answer.ids)]) == answer.ids
    assert any(answer.ids for answer in answers)


def test_rows_that_have_ended_leave_and_change_nothing():
    model, sizes = FAMILIES["gemma3"](), []
    prompts = [(5, 6, 7), (8,), (9, 10, 11, 12, 13, 14, 15)] * 3
    uniform = np.random.default_rng(1).random((18, 8))

    def steps(has_ended) -> Steps:
        return token_steps(model, prompts, drawn(uniform, 1.0), has_ended, n_samples=2, n_new=8)

    whole = steps(lambda numbers, tokens: np.zeros(len(numbers), bool))
    model.model.register_forward_hook(lambda m, args, out: sizes.append(out[0].shape[0]))
    length = np.arange(18) % 5 + 1
    cut = steps(lambda numbers, tokens: length[numbers] == tokens.shape[1])
    there = np.arange(8) < length[:, None]
    assert sizes == [9, 18, 18, 6, 3], "half of them, and half of the others, had ended"
    assert np.array_equal(cut.tokens, np.where(there, whole.tokens, -1))
    for own, wanted in zip(cut[1:], whole[1:], strict=True):
        np.testing.assert_allclose(own, np.where(there, wanted, np.nan), atol=1e-5)


@pytest.mark.parametrize("name", ["lfm2", "qwen3_next", "zamba2", "falcon_h1", "mamba"])
def test_hybrids_answer_whatever_cache_they_keep(name):
    model, tokenizer = zoo.make(name), tiny_tokenizer()
    prompts = ["d: which?", "The quick brown fox", "a"]
    answers = greedy_answers(model, tokenizer, prompts, max_new_tokens=6)
    assert_plain(model, tokenizer, answers, prompts, 6)
    found = sampled_answers(model, tokenizer, prompts, **OPTIONS)
    for prompt, own in zip(prompts, found, strict=True):
        (alone,) = sampled_answers(model, tokenizer, [prompt], **OPTIONS, batch_tokens=1)
        assert all(same(a, b) for a, b in zip(own, alone, strict=True))


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("a\n", True),
        ("\n a\nb", True),
        ("\u3000\né\n", True),
        ("\u3000\n", False),
        (" \n", False),
        ("é", False),
    ],
)
def test_a_line_ends_as_its_text_says_though_characters_come_in_parts(text, ends):
    tokenizer = tiny_tokenizer()
    ids = [i for own in text for i in tokenizer(own, add_special_tokens=False)["input_ids"]]
    assert tokenizer.decode(ids) == text
    endings, found = decoding._Endings(tokenizer, [], 1), []
    for n in range(1, len(ids) + 1):
        found.append(endings(np.array([0]), np.array([ids[:n]]))[0])
        if found[-1]:
            break
    assert found[-1] == ends == ("\n" in tokenizer.decode(ids[:n]).lstrip())
    assert not any("\n" in tokenizer.decode(ids[:i]).lstrip() for i in range(1, n))


def test_spare_places_of_a_vocabulary_spell_nothing():
    model, tokenizer = FAMILIES["llama"](vocab_size=400), tiny_tokenizer()
    answers = greedy_answers(model, tokenizer, ASKED * 4, max_new_tokens=12)
    assert len(tokenizer) < 400
    assert_plain(model, tokenizer, answers, ASKED * 4, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_samples=0), "n_samples must be 1 or more"),
        (dict(temperature=0.0), "temperature must be a number above 0"),
        (dict(temperature=math.nan), "temperature must be a number above 0"),
        (dict(temperature=math.inf), "temperature must be a number above 0"),
        (dict(max_new_tokens=0), "max_new_tokens must be 1 or more"),
    ],
)
def test_impossible_samples_are_refused(change, message):
    model, tokenizer = small_model("gpt2"), small_tokenizer()
    with pytest.raises(UsageError, match=message):
        sampled_answers(model, tokenizer, ["b:"], **OPTIONS | change)
    assert sampled_answers(model, tokenizer, [], **OPTIONS) == []
