"""Texts and questions as rows of tokens: padded, in batches, scored at their end."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.rows import Text
from avss_utils.data.windows import Window
from avss_utils.errors import UsageError
from avss_utils.models import blocks as families


class Scored(NamedTuple):
    """Token ids of which the last ``n_scored`` are predicted from what stands before them."""

    ids: tuple[int, ...]
    n_scored: int

    @classmethod
    def window(cls, window: Window) -> "Scored":
        """A text window, all of whose tokens but the first are predicted."""
        return cls(window.ids, len(window.ids) - 1)

    @classmethod
    def batches(cls, batches: Iterable[dict]) -> list["Scored"]:
        """Every text of tokenizer outputs, without its padding, all but its first token scored."""
        rows = [
            tuple(ids[mask.bool()].tolist())
            for batch in batches
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        return [cls(ids, len(ids) - 1) for ids in rows if len(ids) > 1]


@dataclass(frozen=True)
class ChoiceUnit:
    """One choice of one question: the tokens of its prompt, and its own."""

    question: int
    choice: int
    prefix: tuple[int, ...]
    ids: tuple[int, ...]


def choice_units(
    model: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], choices: Sequence[Sequence[str]]
) -> Sequence[ChoiceUnit]:
    """Every choice in tokens, the beginning of a prompt cut where the model's context is full."""
    texts = tuple(prompts), tuple(map(tuple, choices))
    return _fitted(_units(tokenizer, *texts), families.context_length(model))


@lru_cache(maxsize=16)
def _units(
    tokenizer: Tokenizer, prompts: tuple[str, ...], choices: tuple[tuple[str, ...], ...]
) -> tuple[ChoiceUnit, ...]:
    """Tokens of each prompt and of each choice as they stand in their joint text.

    All prompts and then all joint texts go to the tokenizer at once, and only once for the plans
    of one experiment: tokenising would otherwise take as long as a small model on a GPU.
    """
    named = [
        (question, number, choice)
        for question, (_, own) in enumerate(zip(prompts, choices, strict=True))
        for number, choice in enumerate(own)
    ]
    if not named:
        return ()
    cuts = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
    joint = tokenizer([prompts[question] + choice for question, _, choice in named])["input_ids"]
    for (question, _, choice), ids in zip(named, joint, strict=True):
        if not prompts[question] or not 0 < cuts[question] < len(ids):
            raise UsageError(f"a choice needs text after a prompt that is not empty: {choice!r}")
    return tuple(
        ChoiceUnit(question, number, tuple(ids[: cuts[question]]), tuple(ids[cuts[question] :]))
        for (question, number, _), ids in zip(named, joint, strict=True)
    )


def _fitted(units: Sequence[ChoiceUnit], limit: int | None) -> Sequence[ChoiceUnit]:
    """Units of at most ``limit`` tokens, the beginnings of longer prompts cut."""
    if limit is None:
        return units
    if longest := max((len(u.ids) for u in units if len(u.ids) >= limit), default=0):
        raise UsageError(
            f"a choice of {longest} tokens leaves no room for its prompt: the model has positions "
            f"for {limit}"
        )
    n_long = sum(len(u.prefix) + len(u.ids) > limit for u in units)
    if n_long:
        warnings.warn(
            f"{n_long} of {len(units)} prompts with their choice are longer than the model's "
            f"{limit} tokens: their beginning was cut",
            stacklevel=3,
        )
    return [replace(u, prefix=u.prefix[-(limit - len(u.ids)) :]) for u in units]


@dataclass(frozen=True)
class ChoiceRows:
    """Rows of every choice of some questions: row i belongs to ``question[i]``, right or not."""

    rows: tuple[Scored, ...]
    question: np.ndarray
    right: np.ndarray


def choice_rows(
    model: nn.Module,
    tokenizer: Tokenizer,
    asked: Sequence[tuple[str, Sequence[str]]],
    answers: Sequence[int],
) -> ChoiceRows:
    """Rows of prompts with their choices, as ``wordings.prompt`` gives them."""
    units = choice_units(model, tokenizer, [a[0] for a in asked], [a[1] for a in asked])
    return ChoiceRows(
        tuple(Scored(unit.prefix + unit.ids, len(unit.ids)) for unit in units),
        np.array([unit.question for unit in units]),
        np.array([unit.choice == answers[unit.question] for unit in units]),
    )


def text_batches(
    tokenizer: Tokenizer, texts: Sequence[Text], *, length: int, batch_size: int
) -> list[dict]:
    """Texts as padded batches of at most ``length`` tokens each.

    What is longer is cut. Raises UsageError for a text without a token, naming its row.
    """
    batches = []
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        own = [row.text for row in part]
        encoded = tokenizer(own, truncation=True, max_length=length)["input_ids"]
        if [] in encoded:
            raise UsageError(f"text {part[encoded.index([])].row_id!r} is empty: leave it out")
        batches.append(dict(tokenizer.pad({"input_ids": encoded}, return_tensors="pt")))
    return batches
