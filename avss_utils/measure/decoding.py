"""A model's own answers to prompts, greedy or sampled, and how sure it was of them."""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.errors import UsageError
from avss_utils.measure.finite import check_finite
from avss_utils.measure.passes import longest_first, within_logits
from avss_utils.measure.token_steps import Choose, Steps, drawn, likeliest, token_steps
from avss_utils.models import blocks as families
from avss_utils.store.progress import progress

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Generated:
    """One answer: ``prefix`` and then ``ids`` are the tokens as the model saw them.

    ``ids`` are the fewest of the generated tokens that spell ``text``, none where it is empty.
    ``log_probability`` (nats, 0 or below) is their sum, without the token that ended the answer: 0
    for an empty answer; ``log_probability_with_end`` is that of all tokens up to the end, with the
    one that ended it. ``entropy`` (nats, 0 to log of the vocabulary) is the mean entropy of the
    distributions that ``ids`` were taken from, NaN for an empty answer; ``first_entropy`` that of
    the first token's, whatever it was. All are of the model's own distribution: a temperature that
    answers are drawn at does not change them.
    """

    prefix: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    log_probability: float
    log_probability_with_end: float
    entropy: float
    first_entropy: float

    @property
    def mean_log_probability(self) -> float:
        """``log_probability`` a token, NaN for an empty answer."""
        return self.log_probability / len(self.ids) if self.ids else math.nan


def greedy_answers(
    model: "PreTrainedModel",
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_tokens: int = 4096,
) -> list[Generated]:
    """The model's likeliest next tokens after each prompt, one answer per prompt, in their order.

    An answer ends before an end-of-sequence token (the tokenizer's, or one that the model's
    generation settings name), at the first newline after text that is not blank, or after
    ``max_new_tokens``. The other settings that a model brings (sampling, penalties) are not used.
    ``batch_tokens`` bounds the tokens of a batch, padding and answers included. A prompt that does
    not fit into the model's context with ``max_new_tokens`` loses its beginning, and a warning
    counts these. Raises UsageError for an empty prompt, where no room for one is left, or for
    logits that are not finite.
    """
    prefixes = _prefixes(model, tokenizer, prompts, max_new_tokens)

    def choice(part: Sequence[int]) -> Choose:
        return likeliest

    found = _answers(model, tokenizer, prefixes, choice, 1, max_new_tokens, batch_tokens)
    return [own for (own,) in found]


def sampled_answers(
    model: "PreTrainedModel",
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    n_samples: int,
    temperature: float = 1.0,
    max_new_tokens: int,
    seed: int,
    batch_tokens: int = 4096,
) -> list[list[Generated]]:
    """``n_samples`` answers drawn for each prompt, which end as ``greedy_answers`` do.

    What is drawn depends on ``seed``, the prompt's tokens and the sample's number alone: the same
    in any batch size and order of prompts, up to float rounding, and the first samples of more are
    those of fewer. A prompt that is asked twice gets the same answers twice. Raises UsageError as
    ``greedy_answers``, and for ``n_samples`` below 1 or a ``temperature`` that is not above 0.
    """
    if n_samples < 1:
        raise UsageError(f"n_samples must be 1 or more, not {n_samples}")
    if not 0 < temperature < math.inf:
        raise UsageError(f"temperature must be a number above 0, not {temperature}")
    prefixes = _prefixes(model, tokenizer, prompts, max_new_tokens)

    def choice(part: Sequence[int]) -> Choose:
        named = [(sample, prefixes[i]) for i in part for sample in range(n_samples)]
        uniform = [_uniform(seed, *name, max_new_tokens) for name in named]
        return drawn(np.stack(uniform), temperature)

    return _answers(model, tokenizer, prefixes, choice, n_samples, max_new_tokens, batch_tokens)


def _uniform(seed: int, sample: int, prefix: tuple[int, ...], n: int) -> np.ndarray:
    """The first ``n`` of the numbers in [0, 1) that belong to this name, (n,)."""
    name = hashlib.sha256(repr((seed, sample, prefix)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(name[:16]))).random(n)


def _answers(
    model: "PreTrainedModel",
    tokenizer: Tokenizer,
    prefixes: list[tuple[int, ...]],
    choice: Callable[[Sequence[int]], Choose],
    n_samples: int,
    n_new: int,
    batch_tokens: int,
) -> list[list[Generated]]:
    """Answers by prompt; ``choice``: of the numbers of a batch's prompts, how tokens are chosen."""
    ends, answers = _end_tokens(model, tokenizer), dict[int, list[Generated]]()
    lengths = [len(prefix) + n_new for prefix in prefixes]
    parts = longest_first(model, lengths, max(1, batch_tokens // n_samples), last_alone=True)
    most = max(1, within_logits(model, n_samples * len(prefixes)) // n_samples)
    parts = [part[i : i + most] for part in parts for i in range(0, len(part), most)]
    for part in progress(parts, "answers"):
        batch = [prefixes[i] for i in part]
        endings = _Endings(tokenizer, ends, len(batch) * n_samples)
        options = dict(n_samples=n_samples, n_new=n_new)
        steps = token_steps(model, batch, choice(part), endings, **options)
        _check_steps(model, batch, steps, n_samples)
        rows = iter(zip(*steps, strict=True))
        for i in part:
            own = [next(rows) for _ in range(n_samples)]
            answers[i] = [_generated(tokenizer, prefixes[i], ends, *row) for row in own]
    return [answers[i] for i in range(len(prefixes))]


def _check_steps(
    model: "PreTrainedModel", prefixes: list[tuple[int, ...]], steps: Steps, n_samples: int
) -> None:
    """Raise UsageError, naming the block, where a token was chosen by what is no number."""
    chosen = steps.tokens >= 0
    rows = [
        (*prefixes[i // n_samples], *own[real].tolist())
        for i, (own, real) in enumerate(zip(steps.tokens, chosen, strict=True))
    ]
    check_finite(torch.as_tensor(np.where(chosen, steps.log_probabilities, 0)), model, rows)


def _prefixes(
    model: "PreTrainedModel", tokenizer: Tokenizer, prompts: Sequence[str], n_new: int
) -> list[tuple[int, ...]]:
    """Tokens of each prompt, the beginning cut where no room for ``n_new`` more would be left."""
    if n_new < 1:
        raise UsageError(f"max_new_tokens must be 1 or more, not {n_new}")
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


def _end_tokens(model: "PreTrainedModel", tokenizer: Tokenizer) -> list[int]:
    """The tokenizer's end of a sequence, and those that the model's generation settings name."""
    named = model.generation_config.eos_token_id  # none, one or several
    named = named if isinstance(named, list | tuple) else [named]
    return sorted({i for i in (tokenizer.eos_token_id, *named) if i is not None})


class _Endings:
    """Which rows of a batch are done: at an end token, or once their new tokens hold a newline
    after text that is not blank.

    Tokens that may break a line are known by number; only rows that have one are decoded.
    """

    def __init__(self, tokenizer: Tokenizer, ends: list[int], n_rows: int) -> None:
        self.tokenizer, self.ends = tokenizer, ends
        self.has_text = np.zeros(n_rows, bool)

    def __call__(self, numbers: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        marks = [_marks(self.tokenizer, token) for token in tokens[:, -1].tolist()]
        spells, breaks, breaks_itself = np.array(marks, bool).T
        broken = breaks & (self.has_text[numbers] | breaks_itself)
        self.has_text[numbers] |= spells
        for i in np.flatnonzero(broken):
            broken[i] = "\n" in _decoded(self.tokenizer, tokens[i].tolist()).lstrip()
        return broken | np.isin(tokens[:, -1], self.ends)


@lru_cache(maxsize=2**17)
def _marks(tokenizer: Tokenizer, token: int) -> tuple[bool, bool, bool]:
    """Of a token alone: does it spell something, hold a newline, hold one after what it spells?

    Never too few: a part of a character spells, whatever the whole is.
    """
    text = _decoded(tokenizer, [token])
    return bool(text.strip()), "\n" in text, "\n" in text.lstrip()


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    # some tokenizers would otherwise take spaces away before punctuation
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _first_line(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return _decoded(tokenizer, ids).lstrip().partition("\n")[0].rstrip()


def _generated(
    tokenizer: Tokenizer,
    prefix: tuple[int, ...],
    ends: list[int],
    tokens: np.ndarray,
    log_probabilities: np.ndarray,
    entropies: np.ndarray,
) -> Generated:
    """The answer in a row of ``Steps``, up to its end and without what only stands after it.

    A token such as ".\\n" belongs to the answer and to what follows: it is kept.
    """
    whole = tokens[tokens >= 0].tolist()
    row = whole[: next((n for n, i in enumerate(whole) if i in ends), len(whole))]
    text = _first_line(tokenizer, row)
    n = next(n for n in range(len(row) + 1) if _first_line(tokenizer, row[:n]) == text)
    return Generated(
        prefix=prefix,
        ids=tuple(row[:n]),
        text=text,
        log_probability=math.fsum(log_probabilities[:n]),
        log_probability_with_end=math.fsum(log_probabilities[: len(whole)]),
        entropy=math.fsum(entropies[:n]) / n if n else math.nan,
        first_entropy=float(entropies[0]),
    )
