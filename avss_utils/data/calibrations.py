"""What statistics, losses and training are taken on, none of which is evaluated."""

from collections.abc import Sequence

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.loading import check_set, load_questions, load_texts, standard_split
from avss_utils.data.registry import SPECS
from avss_utils.data.token_rows import ChoiceRows, Scored, choice_rows, text_batches
from avss_utils.data.windows import Window, text_windows
from avss_utils.data.wordings import prompt
from avss_utils.errors import UsageError
from avss_utils.models.blocks import pad
from avss_utils.models.tokenizers import automatic_bos

RANDOM_TOKENS = "random tokens"


def calibration_batches(
    tokenizer: Tokenizer, name: str, *, n_texts: int, length: int, batch_tokens: int
) -> tuple[list[dict], dict]:
    """Batches of a text set's calibration part, ``length`` tokens per text, and its identity."""
    corpus = load_texts(name)
    rows = standard_split(corpus)["calibration"]
    if len(rows) < n_texts:
        raise UsageError(
            f"{name} has {len(rows)} calibration texts, fewer than the {n_texts} asked"
        )
    batch_size = max(1, batch_tokens // length)
    batches = text_batches(tokenizer, rows[:n_texts], length=length, batch_size=batch_size)
    return batches, corpus.identity


def part_windows(
    tokenizer: Tokenizer, name: str, *, part: str, context: int, n_tokens: int | None = None
) -> tuple[list[Window], dict]:
    """Windows of one part of a text set, at most ``n_tokens`` scored, and the set's identity."""
    corpus = load_texts(name)
    rows = standard_split(corpus)[part]
    return text_windows(tokenizer, rows, context=context, max_tokens=n_tokens), corpus.identity


def scored_texts(
    tokenizer: Tokenizer, name: str, *, part: str, n_tokens: int, context: int
) -> tuple[list[Scored], dict]:
    """``part_windows`` for ``sensitivity``, and the set's identity."""
    windows, identity = part_windows(tokenizer, name, part=part, context=context, n_tokens=n_tokens)
    return [Scored.window(window) for window in windows], identity


def scored_choices(
    model: nn.Module, tokenizer: Tokenizer, task: str, *, n_questions: int
) -> tuple[ChoiceRows, dict]:
    """Choices of a task's calibration questions for ``sensitivity``, and the task's identity."""
    corpus = load_questions(task)
    questions = standard_split(corpus)["calibration"][:n_questions]
    asked = [prompt(question, task, "plain") for question in questions]
    return choice_rows(model, tokenizer, asked, [q.answer for q in questions]), corpus.identity


def check_calibration_set(name: str) -> None:
    """Raise UsageError unless ``calibration_rows`` knows the set."""
    if name != RANDOM_TOKENS:
        check_set(name, text=_is_text(name))


def calibration_rows(
    tokenizer: Tokenizer, name: str, *, n_texts: int, length: int, seed: int
) -> list[Sequence[int]]:
    """At most ``n_texts`` rows of at most ``length`` token ids to take statistics on.

    Windows of a text set's calibration part, its questions with their right answer behind them, or
    noise: "random tokens" are drawn evenly from the vocabulary without the special tokens. A set
    that holds fewer gives what it has. Raises UsageError for an unknown set.
    """
    if name == RANDOM_TOKENS:
        special = set(tokenizer.all_special_ids)
        usable = [i for i in range(len(tokenizer)) if i not in special]
        ids = np.random.default_rng(seed).choice(usable, size=(n_texts, length))
        if bos := automatic_bos(tokenizer):
            ids[:, 0] = bos
        return ids.tolist()
    if _is_text(name):
        windows, _ = part_windows(
            tokenizer, name, part="calibration", context=length, n_tokens=n_texts * length
        )
        return [window.ids for window in windows[:n_texts]]
    rows = standard_split(load_questions(name))["calibration"][:n_texts]
    asked = [(q, *prompt(q, name, "plain")) for q in rows]
    texts = [before + choices[q.answer] for q, before, choices in asked]
    return tokenizer(texts, truncation=True, max_length=length)["input_ids"]


def row_batches(rows: Sequence[Sequence[int]], *, batch_size: int) -> list[dict]:
    """Rows of token ids as right-padded batches, in their order."""
    starts = range(0, len(rows), batch_size)
    padded = [pad(rows[i : i + batch_size], side="right") for i in starts]
    return [{"input_ids": ids, "attention_mask": mask} for ids, mask in padded]


def _is_text(name: str) -> bool:
    return name.endswith(".txt") or (name in SPECS and SPECS[name].kind == "text")
