"""Greedy answers to prompts, and how sure the model was of them."""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.errors import UsageError
from avss_utils.measure.finite import check_finite
from avss_utils.measure.passes import log_probabilities, longest_first
from avss_utils.models import blocks as families
from avss_utils.store.progress import progress

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Generated:
    """One answer: ``prefix`` and then ``ids`` are the tokens as the model saw them.

    ``ids`` are the fewest of the generated tokens that spell ``text``, none where it is empty.
    ``log_probability`` (nats, 0 or below) is their sum, without the token that ended the answer: 0
    for an empty answer. ``entropy`` (nats, 0 to log of the vocabulary) is the mean entropy of the
    distributions that these tokens were taken from, NaN for an empty answer.
    """

    prefix: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    log_probability: float
    entropy: float


def greedy_answers(
    model: "PreTrainedModel",
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_tokens: int = 4096,
) -> list[Generated]:
    """The model's likeliest next tokens after each prompt, one per prompt, in their order.

    An answer ends before an end-of-sequence token (the tokenizer's, or one that the model's
    generation settings name), at the first newline after text that is not blank, or after
    ``max_new_tokens``. The other settings that a model brings (sampling, penalties) are not used.
    ``batch_tokens`` bounds the tokens of a batch, padding and answers included. A prompt that does
    not fit into the model's context with ``max_new_tokens`` loses its beginning, and a warning
    counts these. Raises UsageError for an empty prompt, where no room for one is left, or for
    logits that are not finite.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens must be 1 or more, not {max_new_tokens}")
    prefixes = _prefixes(model, tokenizer, prompts, max_new_tokens)
    answers: dict[int, Generated] = {}
    lengths = [len(prefix) + max_new_tokens for prefix in prefixes]
    parts = longest_first(model, lengths, batch_tokens, last_alone=True)
    for part in progress(parts, "answers"):
        batch = [prefixes[i] for i in part]
        answers |= zip(part, _answer(model, tokenizer, batch, max_new_tokens), strict=True)
    return [answers[i] for i in range(len(prefixes))]


def _prefixes(
    model: "PreTrainedModel", tokenizer: Tokenizer, prompts: Sequence[str], n_new: int
) -> list[tuple[int, ...]]:
    """Tokens of each prompt, the beginning cut where no room for ``n_new`` more would be left."""
    prefixes = [tuple(ids) for ids in tokenizer(list(prompts))["input_ids"]] if prompts else []
    if not all(prefixes):
        raise UsageError("a prompt is empty: nothing says what to answer")
    limit = families.context_length(model)
    room = max(map(len, prefixes), default=1) if limit is None else limit - n_new
    if room < 1:
        raise UsageError(
            f"max_new_tokens {n_new} leaves no room for a prompt: the model has positions for "
            f"{limit}"
        )
    if n_long := sum(len(prefix) > room for prefix in prefixes):
        warnings.warn(
            f"{n_long} of {len(prefixes)} prompts with {n_new} new tokens are longer than the "
            f"model's {limit} tokens: their beginning was cut",
            stacklevel=3,
        )
    return [prefix[-room:] for prefix in prefixes]


def _answer(
    model: "PreTrainedModel", tokenizer: Tokenizer, prefixes: list[tuple[int, ...]], n_new: int
) -> list[Generated]:
    ids, mask = families.pad(prefixes, side="left")
    named = model.generation_config.eos_token_id  # none, one or several
    named = named if isinstance(named, list | tuple) else [named]
    ends = sorted({i for i in (tokenizer.eos_token_id, *named) if i is not None})
    fallback = ends[0] if ends else 0  # what fills finished rows is cut off again
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=n_new,
        eos_token_id=ends or None,
        pad_token_id=fallback if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )
    # generate fills in whatever is unset from the model's own settings, and these can hold a
    # repetition penalty: a second handle on the same model has none
    plain = copy.copy(model)
    plain.generation_config = settings
    sureness = _Sureness()
    out = plain.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=settings,
        logits_processor=[sureness],
        stopping_criteria=[_LineEnded(tokenizer, ids.shape[1])],
    )
    rows = out[:, ids.shape[1] :].tolist()
    best, entropies = (torch.stack(x, 1) for x in (sureness.best, sureness.entropies))
    seen = [(*prefix, *row) for prefix, row in zip(prefixes, rows, strict=True)]
    check_finite(best, model, seen)
    return [
        _generated(tokenizer, prefix, row, ends, *values)
        for prefix, row, *values in zip(
            prefixes, rows, best.tolist(), entropies.tolist(), strict=True
        )
    ]


class _Sureness(LogitsProcessor):
    """Watches the logits of each step, which all together would take too much memory.

    It leaves them as they are, and keeps the log-probability of the likeliest token, which is the
    one that greedy decoding takes, and the entropy.
    """

    def __init__(self) -> None:
        self.best: list[torch.Tensor] = []
        self.entropies: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        likeliest = scores.argmax(-1, keepdim=True)
        self.best.append(log_probabilities(scores[:, None], likeliest)[:, 0])
        probabilities = scores.float().softmax(-1)
        self.entropies.append(torch.special.entr(probabilities).sum(-1).double().cpu())
        return scores


class _LineEnded(StoppingCriteria):
    """A row is done once its new tokens hold a newline after text that is not blank."""

    def __init__(self, tokenizer: Tokenizer, n_prefix: int) -> None:
        self.tokenizer, self.n_prefix = tokenizer, n_prefix

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        texts = [_decoded(self.tokenizer, row) for row in input_ids[:, self.n_prefix :].tolist()]
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=input_ids.device)


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    # some tokenizers would otherwise take spaces away before punctuation
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _first_line(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return _decoded(tokenizer, ids).lstrip().partition("\n")[0].rstrip()


def _generated(
    tokenizer: Tokenizer,
    prefix: tuple[int, ...],
    row: list[int],
    ends: list[int],
    best: list[float],
    entropies: list[float],
) -> Generated:
    """The answer in the tokens of ``row``, up to its end and without what only stands after it.

    A token such as ".\\n" belongs to the answer and to what follows: it is kept.
    """
    row = row[: next((n for n, i in enumerate(row) if i in ends), len(row))]
    text = _first_line(tokenizer, row)
    n = next(n for n in range(len(row) + 1) if _first_line(tokenizer, row[:n]) == text)
    return Generated(
        prefix=prefix,
        ids=tuple(row[:n]),
        text=text,
        log_probability=math.fsum(best[:n]),
        entropy=math.fsum(entropies[:n]) / n if n else math.nan,
    )
