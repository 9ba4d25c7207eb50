"""Token likelihoods and choice scores against plain computations."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES, speaking, tiny_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from avss_utils.data.rows import Text
from avss_utils.data.token_rows import choice_units
from avss_utils.data.windows import text_windows
from avss_utils.errors import UsageError
from avss_utils.measure import passes
from avss_utils.measure.choices import group_batches, grouped, score_choices
from avss_utils.measure.texts import perplexity, window_likelihoods
from avss_utils.models.blocks import forward_logits

TEXTS = [
    Text("a", "The quick brown fox jumps over the lazy dog, twice. " * 3),
    Text("b", "Ein kurzer Satz mit Umlaut: über."),
]
PROMPTS = ["Question: which animal barks?\nAnswer:", "Why?\nAnswer:"]
CHOICES = [[" a dog", " the cat", " x"], [" because", " no"]]


def plain_score(model, tokenizer, prompt: str, choice: str) -> float:
    whole = tokenizer(prompt + choice)["input_ids"]
    cut = len(tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(logits[i - 1, whole[i]].item() for i in range(cut, len(whole)))


@pytest.mark.parametrize(
    "family",
    ["llama", "gpt2", "gpt_neox", "gpt_neo", "opt", "bloom", "mpt", "gemma3", "qwen2", "mistral"],
)
def test_choice_scores_equal_one_plain_pass_a_choice(family):
    model, tokenizer = speaking(family)
    expected = [
        [plain_score(model, tokenizer, p, c) for c in own]
        for p, own in zip(PROMPTS, CHOICES, strict=True)
    ]
    for shared in (True, False):
        scores = score_choices(model, tokenizer, PROMPTS, CHOICES, shared_prefix=shared)
        for got, want in zip(scores, expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-5)


def test_choice_scores_do_not_depend_on_batching_or_order():
    model, tokenizer = speaking("llama")
    together = score_choices(model, tokenizer, PROMPTS * 3, CHOICES * 3)
    alone = score_choices(model, tokenizer, PROMPTS[::-1], CHOICES[::-1], batch_tokens=1)
    for i in range(2):
        np.testing.assert_allclose(together[i], alone[1 - i], atol=1e-4)
        np.testing.assert_allclose(together[i + 4], together[i], atol=1e-4)


def test_only_tokens_with_logits_count_against_what_a_pass_may_hold(monkeypatch):
    model, tokenizer = speaking("llama")
    prompts, choices = PROMPTS[:1] * 12, [[" yes"]] * 12
    units = choice_units(model, tokenizer, prompts, choices)
    n_choice = sum(len(u.ids) for u in units)
    n_prompt = sum(len(u.prefix) for u in units)
    assert n_choice < n_prompt / 2

    def n_batches(*, whole: bool = True) -> int:
        return len(group_batches(model, grouped(units), 10_000, whole=whole))

    monkeypatch.setattr(passes, "MOST_LOGITS", n_choice * len(tokenizer))
    assert n_batches() == 1
    monkeypatch.setattr(passes, "MOST_LOGITS", n_choice // 3 * len(tokenizer))
    assert n_batches() == 3
    assert n_batches(whole=False) == 1  # behind a pass over prompts, they are parted later
    monkeypatch.setattr("avss_utils.models.blocks.last_only", lambda model, n: {})
    assert n_batches() > 3
    assert n_batches(whole=False) > 1


def test_choices_behind_their_prompts_keep_within_the_logits_that_a_pass_may_hold(monkeypatch):
    model, tokenizer = speaking("llama")
    choices = [[f" {word}" * n for n in (1, 2, 3, 5, 9)] for word in ("yes", "no", "it is")]
    prompts, sizes = [*PROMPTS, "Is it?"], []
    plain = score_choices(model, tokenizer, prompts, choices, batch_tokens=10_000)

    def noted(*args, **options):
        logits = forward_logits(*args, **options)
        sizes.append(logits.shape[0] * logits.shape[1])
        return logits

    monkeypatch.setattr("avss_utils.models.blocks.forward_logits", noted)
    assert len(score_choices(model, tokenizer, prompts, choices, batch_tokens=10_000)) == 3
    assert max(sizes) > 40
    sizes.clear()
    monkeypatch.setattr(passes, "MOST_LOGITS", 40 * len(tokenizer))
    parted = score_choices(model, tokenizer, prompts, choices, batch_tokens=10_000)
    assert max(sizes) <= 40
    for one, other in zip(parted, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_rows_of_which_the_last_token_alone_has_logits_fill_larger_batches(monkeypatch):
    model = FAMILIES["llama"](vocab_size=100)
    monkeypatch.setattr(passes, "MOST_LOGITS", 4 * 100)  # numbers for four tokens
    lengths = [2, 3, 1, 3, 2, 1, 3, 1]
    together = passes.longest_first(model, lengths, 12, last_alone=True)
    assert sorted(i for part in together for i in part) == list(range(8))
    assert [len(part) for part in together] == [4, 4]  # of 12 and 6 tokens
    assert max(map(len, passes.longest_first(model, lengths, 12))) <= 4
    assert passes.longest_first(model, lengths, 12)[0] == [1]
    monkeypatch.setattr("avss_utils.models.blocks.last_only", lambda model, n: {})
    again = passes.longest_first(model, lengths, 12, last_alone=True)
    assert again == passes.longest_first(model, lengths, 12)


def test_texts_are_tokenised_once_for_all_plans():
    calls = []
    tokenizer = tiny_tokenizer()

    class Counting:
        def __call__(self, texts):
            calls.append(len(texts))
            return tokenizer(texts)

    counting = Counting()
    for family in ("llama", "gpt2"):
        model = FAMILIES[family](vocab_size=len(tokenizer))
        score_choices(model, counting, PROMPTS, CHOICES)
    assert calls == [2, 5]
    score_choices(model, counting, PROMPTS[::-1], CHOICES[::-1])
    assert calls == [2, 5, 2, 5]


def test_prompts_longer_than_the_context_lose_their_beginning_and_are_counted():
    model, tokenizer = speaking("gpt2", n_positions=24)
    long = "The quick brown fox jumps over the lazy dog. " * 4 + "Which is it?"
    with pytest.warns(UserWarning, match="2 of 3 prompts .* 24 tokens"):
        scores = score_choices(model, tokenizer, [long, "Why?"], [[" a dog", " no"], [" no"]])
    for score, choice in zip(scores[0], (" a dog", " no"), strict=True):
        kept = tokenizer(long + choice)["input_ids"][-24:]
        n = len(tokenizer(choice)["input_ids"])
        with torch.no_grad():
            logits = model(torch.tensor([kept])).logits[0].double().log_softmax(-1)
        want = sum(logits[i - 1, kept[i]].item() for i in range(24 - n, 24))
        assert score == pytest.approx(want, abs=1e-4)
    with pytest.raises(UsageError, match="leaves no room for its prompt"):
        score_choices(model, tokenizer, ["Why?"], [[" " + long]])
    with pytest.raises(UsageError, match="longer than the 24"):
        window_likelihoods(model, text_windows(tokenizer, TEXTS, context=25), batch_tokens=99)


def test_windows_score_every_token_but_the_first_once_and_all_its_bytes():
    tokenizer = tiny_tokenizer()
    windows = text_windows(tokenizer, TEXTS, context=16)
    for text in TEXTS:
        own = [w for w in windows if w.row_id == text.row_id]
        ids = tokenizer(text.text)["input_ids"]
        scored = [i for w in own for i in w.ids[1:]]
        assert scored == ids[1:]
        first = len(tokenizer.decode(ids[:1]).encode())
        assert sum(w.n_bytes for w in own) == len(text.text.encode()) - first
        assert all(len(w.ids) <= 16 for w in own)
    some = text_windows(tokenizer, TEXTS, context=16, max_tokens=37)
    assert sum(len(w.ids) - 1 for w in some) == 37


def test_likelihoods_equal_cross_entropy_whatever_the_batch():
    model, tokenizer = speaking("gpt2")
    windows = text_windows(tokenizer, TEXTS, context=16)
    table = window_likelihoods(model, windows, batch_tokens=40)
    single = window_likelihoods(model, windows, batch_tokens=1)
    for window, one, other in zip(windows, table.nll, single.nll, strict=True):
        ids = torch.tensor([window.ids])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].double()
        want = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        assert one == pytest.approx(want, rel=1e-5)
        assert other == pytest.approx(want, rel=1e-5)


def test_perplexity_of_a_uniform_model_is_the_vocabulary():
    model, tokenizer = speaking("gpt_neox")
    model.get_output_embeddings().weight.data.zero_()
    assert perplexity(model, tokenizer, TEXTS, context=32) == pytest.approx(
        model.get_output_embeddings().weight.shape[0], rel=1e-5
    )


def test_an_empty_choice_and_no_text_are_refused():
    tokenizer = tiny_tokenizer()
    with pytest.raises(UsageError, match="two tokens"):
        text_windows(tokenizer, [Text("x", "")], context=8)
    model = FAMILIES["llama"](vocab_size=len(tokenizer))
    with pytest.raises(UsageError, match="choice"):
        score_choices(model, tokenizer, ["Why?"], [["", " no"]])


class Largest(TorchDispatchMode):
    """Numbers in the largest floating-point tensor that an operation has made."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point() and not out._is_view():
            self.n = max(self.n, out.numel())
        return out


def test_log_probabilities_take_few_logits_to_float32_at_once(monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(7, 5, 1000, dtype=torch.bfloat16)
    targets = torch.randint(1000, (7, 5))
    expected = logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    for most, largest in ((10**6, 7 * 5 * 1000), (11_000, 2 * 5 * 1000), (1, 5 * 1000)):
        monkeypatch.setattr(passes, "AT_ONCE", most)
        with Largest() as seen:
            got = passes.log_probabilities(logits, targets)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        assert seen.n == largest
    assert passes.log_probabilities(logits[:0], targets[:0]).shape == (0, 5)
