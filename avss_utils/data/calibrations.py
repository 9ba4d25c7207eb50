"""What statistics, losses and training are taken on, none of which is evaluated."""

from collections.abc import Sequence

import numpy as np
import torch

from avss_utils.data.loading import load_questions, load_texts, standard_split
from avss_utils.data.registry import SPECS
from avss_utils.data.rows import Text
from avss_utils.data.token_rows import ChoiceRows, Scored, choice_rows, pad, text_batches
from avss_utils.data.windows import Window, text_windows
from avss_utils.data.wordings import prompt
from avss_utils.errors import UsageError
from avss_utils.models.tokenizers import automatic_bos

RANDOM_TOKENS = "random tokens"


def calibration_batches(
    tokenizer, name: str, *, n_texts: int, length: int, batch_tokens: int
) -> tuple[list[dict], dict]:
    """Batches of the calibration part of a text set, ``length`` tokens a text, and its identity."""
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
    tokenizer, name: str, *, part: str, context: int, n_tokens: int | None = None
) -> tuple[list[Window], dict]:
    """Windows of one part of a text set, at most ``n_tokens`` scored, and the set's identity."""
    corpus = load_texts(name)
    rows = standard_split(corpus)[part]
    return text_windows(tokenizer, rows, context=context, max_tokens=n_tokens), corpus.identity


def scored_texts(
    tokenizer, name: str, *, part: str, n_tokens: int, context: int
) -> tuple[list[Scored], dict]:
    """``part_windows`` for ``sensitivity``, and the set's identity."""
    windows, identity = part_windows(tokenizer, name, part=part, context=context, n_tokens=n_tokens)
    return [Scored.window(window) for window in windows], identity


def scored_choices(model, tokenizer, task: str, *, n_questions: int) -> tuple[ChoiceRows, dict]:
    """Choices of a task's calibration questions for ``sensitivity``, and the task's identity."""
    corpus = load_questions(task)
    questions = standard_split(corpus)["calibration"][:n_questions]
    asked = [prompt(question, task, "plain") for question in questions]
    return choice_rows(model, tokenizer, asked, [q.answer for q in questions]), corpus.identity


def calibration_set(
    tokenizer, name: str, *, n_texts: int, length: int, batch_tokens: int, seed: int
) -> list[dict]:
    """At most ``n_texts`` rows of ``length`` tokens to take statistics on, in batches.

    Windows of a text set's calibration part, its questions with their right answer behind them, or
    noise: "random tokens" are drawn evenly from the vocabulary without the special tokens. A set
    that holds fewer gives what it has. Raises UsageError for an unknown set.
    """
    batch_size = max(1, batch_tokens // length)
    if name == RANDOM_TOKENS:
        return _random_batches(tokenizer, n_texts, length, batch_size, seed)
    if name.endswith(".txt") or (name in SPECS and SPECS[name].kind == "text"):
        size = n_texts * length
        windows, _ = part_windows(
            tokenizer, name, part="calibration", context=length, n_tokens=size
        )
        return _window_batches(windows[:n_texts], batch_size)
    rows = standard_split(load_questions(name))["calibration"][:n_texts]
    asked = [(q, *prompt(q, name, "plain")) for q in rows]
    texts = [Text(q.row_id, before + choices[q.answer]) for q, before, choices in asked]
    return text_batches(tokenizer, texts, length=length, batch_size=batch_size)


def _window_batches(windows: Sequence[Window], batch_size: int) -> list[dict]:
    parts = [windows[i : i + batch_size] for i in range(0, len(windows), batch_size)]
    padded = [pad([window.ids for window in part], side="right") for part in parts]
    return [{"input_ids": ids, "attention_mask": mask} for ids, mask in padded]


def _random_batches(tokenizer, n_texts: int, length: int, batch_size: int, seed: int) -> list:
    special = set(tokenizer.all_special_ids)
    usable = [i for i in range(len(tokenizer)) if i not in special]
    ids = np.random.default_rng(seed).choice(usable, size=(n_texts, length))
    if bos := automatic_bos(tokenizer):
        ids[:, 0] = bos
    parts = [torch.as_tensor(ids[i : i + batch_size]) for i in range(0, n_texts, batch_size)]
    return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in parts]
