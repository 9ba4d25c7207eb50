"""Greedy answers against a plain loop without a cache, and the rules that judge answers."""

import math

import pytest
import torch
import transformers as tf
from tiny import FAMILIES, speaking, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models

from avss_utils.errors import UsageError
from avss_utils.measure.decoding import greedy_answers
from avss_utils.measure.own_answers import contains, f1, is_abstention, matches
from avss_utils.models.blocks import remove_blocks, shares_cache

PROMPTS = ["d:", "abcd abcd a", "a b", "cab\nb:", "bad cab bad cab:", "b", "dd d\nd:", "ca ab"]
N_NEW = 9


def small_tokenizer() -> tf.PreTrainedTokenizerFast:
    """Ten characters, two of them newlines in longer tokens, so that a random model ends a line."""
    tokens = ["<pad>", "</s>", "\n", " ", ":", "a", "b", "c", "d", "d\n", "\n\n"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("d", "\n"), ("\n", "\n")]))
    tokenizer.decoder = decoders.Fuse()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def small_model(family: str, seed: int = 0, **overrides):
    return FAMILIES[family](
        seed=seed, vocab_size=11, pad_token_id=0, bos_token_id=None, eos_token_id=1, **overrides
    )


def plain_answer(model, tokenizer, prompt: str, n_new: int = N_NEW) -> tuple:
    """(ids, text, log-probabilities, entropies, what ended it) without batch, padding and cache."""
    prefix, new, best, entropies = tokenizer(prompt)["input_ids"], [], [], []
    end = "length"
    while len(new) < n_new:
        with torch.no_grad():
            out = model(torch.tensor([[*prefix, *new]]), use_cache=False)
        row = out.logits[0, -1].double().log_softmax(-1)
        best.append(row.max().item())
        entropies.append(-(row.exp() * row).sum().item())
        if row.argmax() == tokenizer.eos_token_id:
            end = "eos"
            break
        new.append(row.argmax().item())
        if "\n" in tokenizer.decode(new).lstrip():
            end = "newline"
            break
    text = tokenizer.decode(new).lstrip().split("\n")[0].rstrip()
    while new and tokenizer.decode(new[:-1]).strip() == text:  # only blank tokens at the end
        new.pop()
    return tuple(new) if text else (), text, best, entropies, end


def assert_plain(model, tokenizer, answers, prompts=PROMPTS, n_new: int = N_NEW) -> list[str]:
    ends = []
    for prompt, got in zip(prompts, answers, strict=True):
        ids, text, best, entropies, end = plain_answer(model, tokenizer, prompt, n_new)
        assert (got.ids, got.text) == (ids, text)
        assert got.prefix == tuple(tokenizer(prompt)["input_ids"])
        assert got.log_probability == pytest.approx(sum(best[: len(ids)]), abs=1e-4)
        mean = sum(entropies[: len(ids)]) / len(ids) if ids else math.nan
        assert got.entropy == pytest.approx(mean, abs=1e-4, nan_ok=True)
        ends.append(end)
    return ends


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_a_plain_loop(family):
    tokenizer, model = small_tokenizer(), small_model(family)
    answers = greedy_answers(model, tokenizer, PROMPTS, max_new_tokens=N_NEW, batch_tokens=64)
    assert_plain(model, tokenizer, answers)


def test_every_way_to_end_is_met():
    tokenizer, ends, texts = small_tokenizer(), [], []
    for seed in range(6):
        model = small_model("llama", seed)
        answers = greedy_answers(model, tokenizer, PROMPTS, max_new_tokens=N_NEW)
        ends += assert_plain(model, tokenizer, answers)
        texts += [answer.text for answer in answers]
    assert set(ends) == {"eos", "newline", "length"}
    assert "" in texts
    assert any(len(text) > 2 for text in texts)


def test_a_finished_line_ends_the_computation_too():
    tokenizer, passes = small_tokenizer(), []
    for seed in range(6):
        model = small_model("llama", seed)
        shares_cache(model)  # tried once, before the passes are counted
        model.register_forward_hook(lambda *_: passes.append(1))
        for prompt in PROMPTS:
            *_, entropies, end = plain_answer(model, tokenizer, prompt)
            passes.clear()
            greedy_answers(model, tokenizer, [prompt], max_new_tokens=N_NEW)
            assert len(passes) == len(entropies), end


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3"])
@pytest.mark.parametrize("drop", [(0,), (1, 2), (0, 1, 3)])
def test_a_model_without_some_blocks_generates_as_without_a_cache(family, drop):
    tokenizer = small_tokenizer()
    model = remove_blocks(small_model(family), drop, share_weights=True)
    answers = greedy_answers(model, tokenizer, PROMPTS, max_new_tokens=N_NEW, batch_tokens=64)
    assert_plain(model, tokenizer, answers)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3"])
def test_answers_do_not_depend_on_the_batch(family):
    model, tokenizer = speaking(family)
    prompts = ["Question: which is it?\nAnswer:", "Why?", "The quick brown fox jumps over\n"]
    alone = greedy_answers(model, tokenizer, prompts, max_new_tokens=12, batch_tokens=1)
    twice = greedy_answers(model, tokenizer, prompts[::-1] * 2, max_new_tokens=12)
    for one, other in zip(alone, twice[2::-1], strict=True):
        assert (one.prefix, one.ids, one.text) == (other.prefix, other.ids, other.text)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-4, nan_ok=True)
    assert_plain(model, tokenizer, alone, prompts, 12)


def test_the_models_own_settings_are_left_alone_but_for_its_end_tokens():
    tokenizer, model = small_tokenizer(), small_model("llama", 1)

    def answered() -> list[tuple[int, ...]]:
        return [a.ids for a in greedy_answers(model, tokenizer, PROMPTS, max_new_tokens=N_NEW)]

    before = answered()
    settings = tf.GenerationConfig(
        do_sample=True, repetition_penalty=9.0, temperature=3.0, max_length=3, num_beams=2
    )
    model.generation_config = settings
    assert answered() == before
    assert model.generation_config is settings
    longest = max(before, key=len)
    end = longest[2]
    settings.eos_token_id = [1, end]
    cut = answered()[before.index(longest)]
    assert cut == longest[: len(cut)]
    assert len(cut) <= longest.index(end)
    tokenizer.eos_token, settings.eos_token_id = None, None
    assert all(a[: len(b)] == b for a, b in zip(answered(), before, strict=True))


def test_an_answer_of_padding_alone_is_empty():
    tokenizer, model = tiny_tokenizer(), FAMILIES["gpt_neox"](vocab_size=300)
    model.get_output_embeddings().weight.data.zero_()  # uniform: <pad> is the first of equals
    (answer,) = greedy_answers(model, tokenizer, ["Why?"], max_new_tokens=3)
    assert (answer.ids, answer.text, answer.log_probability) == ((), "", 0.0)
    assert math.isnan(answer.entropy)


def test_prompts_longer_than_the_context_lose_their_beginning_and_are_counted():
    tokenizer, model = small_tokenizer(), small_model("gpt2", n_positions=24)
    with pytest.warns(UserWarning, match="1 of 2 prompts with 4 new tokens .* 24 tokens"):
        long, _ = greedy_answers(model, tokenizer, ["abc " * 9, "b:"], max_new_tokens=4)
    assert long.prefix == tuple(tokenizer("abc " * 5)["input_ids"])
    with pytest.raises(UsageError, match="no room for a prompt"):
        greedy_answers(model, tokenizer, ["b:"], max_new_tokens=24)


def test_what_cannot_be_answered_is_refused():
    tokenizer, model = small_tokenizer(), small_model("gpt2")
    assert greedy_answers(model, tokenizer, [], max_new_tokens=4) == []
    with pytest.raises(UsageError, match="empty"):
        greedy_answers(model, tokenizer, ["b:", ""], max_new_tokens=4)
    with pytest.raises(UsageError, match="1 or more"):
        greedy_answers(model, tokenizer, ["b:"], max_new_tokens=0)


@pytest.mark.parametrize(
    ("text", "answers", "same", "within", "overlap"),
    [
        ("Paris", ["Paris"], True, True, 1),
        ("the PARIS.", ["London", "Paris"], True, True, 1),
        ("in Paris, France", ["Paris"], False, True, 0.5),
        ("in Paris, France", ["Paris", "Paris France"], False, True, 0.8),
        ("Parisian", ["Paris"], False, False, 0),
        ("York, new", ["New York"], False, False, 1),
        ("New York", ["New York City"], False, False, 0.8),
        ("42", ["42"], True, True, 1),
        ("142", ["42"], False, False, 0),
        ("1,000", ["1000"], True, True, 1),
        ("CAFÉ", ["cafe\u0301"], True, True, 1),
        ("cafe", ["café"], False, False, 0),
        ("東京", ["東京"], True, True, 1),
        ("a", ["A"], True, True, 1),
        ("that that", ["that"], False, True, 2 / 3),
        ("", ["Paris"], False, False, 0),
        ("", [""], False, False, 0),
        ("?", ["!"], False, False, 0),
        ("Paris", ["?", ""], False, False, 0),
        ("Paris", [], False, False, 0),
    ],
)
def test_answers_are_compared_by_their_words(text, answers, same, within, overlap):
    assert matches(text, answers) is same
    assert contains(text, answers) is within
    assert f1(text, answers) == pytest.approx(overlap)


@pytest.mark.parametrize("rule", [matches, contains, f1])
def test_one_text_does_not_pass_for_a_list_of_answers(rule):
    with pytest.raises(TypeError, match="sequence of texts"):
        rule("a", "abc")


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("", True),
        (" \n", True),
        ("...", True),
        ("I don't know.", True),
        ("I don’t know who that was", True),
        ("i DO NOT know", True),
        ("Unknown", True),
        ("not sure", True),
        ("No answer.", True),
        ("The answer is unknown.", True),
        ("I'm not sure, maybe Paris", True),
        ("I know", False),
        ("I don't knowingly lie", False),
        ("Unknown Pleasures", False),
        ("No Answer Is Also an Answer", False),
        ("Na", False),
        ("None", False),
        ("0", False),
        ("Paris", False),
    ],
)
def test_refusals_are_told_from_answers(text, refuses):
    assert is_abstention(text) is refuses
