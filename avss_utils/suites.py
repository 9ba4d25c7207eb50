"""What every arm of an experiment is judged on, and the texts its statistics come from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from avss_utils.activations import text_batches
from avss_utils.corpora import (
    Question,
    check_set,
    load_questions,
    load_texts,
    prompt,
    set_name,
    standard_split,
)
from avss_utils.corpora.own import is_own
from avss_utils.corpora.registry import SPECS
from avss_utils.corpora.rows import Text
from avss_utils.runs import UsageError
from avss_utils.sensitivity import ChoiceRows, Scored, choice_rows
from avss_utils.windows import Window, text_windows


@dataclass(frozen=True)
class Suite:
    """Questions by task and text windows by set.

    ``batch_tokens`` bounds one forward pass, padding included; it does not change results beyond
    float rounding.
    """

    questions: dict[str, tuple[Question, ...]] = field(default_factory=dict)
    windows: dict[str, Sequence[Window]] = field(default_factory=dict)
    batch_tokens: int = 4096

    def smaller(
        self, *, tasks: Sequence[str], text_sets: Sequence[str], n_questions: int, n_tokens: int
    ) -> "Suite":
        """The first rows and windows of some of the tasks and sets, at least one of each."""
        for name in (*tasks, *text_sets):
            if name not in {**self.questions, **self.windows}:
                raise UsageError(f"{name!r} is not among the evaluated tasks and text sets")
        return replace(
            self,
            questions={t: self.questions[t][:n_questions] for t in tasks},
            windows={t: _first_tokens(self.windows[t], n_tokens) for t in text_sets},
        )


def check_names(
    *,
    tasks: Sequence[str] = (),
    text_sets: Sequence[str] = (),
    calibration: str | None = None,
    null_task: str | None = None,
) -> None:
    """Raise UsageError for a set that there is not, before a model is loaded for it."""
    for task in tasks:
        check_set(task, text=False)
    for name in (*text_sets, *([calibration] if calibration else [])):
        check_set(name, text=True)
    for names in (tasks, text_sets):
        _check_distinct(names)
    if calibration:
        _check_apart(calibration, text_sets)
    if null_task is not None and null_task not in tasks:
        raise UsageError(f"{null_task!r} is not among the evaluated tasks: {', '.join(tasks)}")


def _check_distinct(names: Sequence[str]) -> None:
    """Tables know a file by its name without folders, under which two would become one."""
    by_name: dict[str, str] = {}
    for name in names:
        if by_name.setdefault(set_name(name), name) != name:
            raise UsageError(
                f"{by_name[set_name(name)]!r} and {name!r} would have one name in tables: rename "
                "one file"
            )


def _check_apart(calibration: str, text_sets: Sequence[str]) -> None:
    """Files of one's own are not split, so that one of them cannot serve both uses."""
    own = [name for name in text_sets if is_own(name)]
    if is_own(calibration) and _content(calibration) in map(_content, own):
        raise UsageError(
            f"{calibration!r} cannot serve both calibration and evaluation: give one file for each"
        )


def _content(name: str) -> str:
    """What a file of one's own holds, under whatever name or link it is given."""
    return load_texts(name).identity["sha256"]


def _first_tokens(windows: Sequence[Window], n_tokens: int) -> list[Window]:
    taken, left = [], n_tokens
    for window in windows:
        if left <= 0:
            break
        taken.append(window)
        left -= len(window.ids) - 1
    return taken


@dataclass(frozen=True)
class Inputs:
    """A suite, the batches that statistics come from, and the identity of all data used."""

    suite: Suite
    calibration: list[dict]
    identities: list[dict]


def build_suite(
    tokenizer,
    *,
    tasks: Sequence[str],
    text_sets: Sequence[str],
    n_questions: int,
    n_tokens: int,
    context: int,
    batch_tokens: int = 4096,
) -> tuple[Suite, list[dict]]:
    """The evaluation parts of tasks and text sets, cut to size, and their identities.

    Both go by their names in tables (``corpora.set_name``): a file's without its folder. At most
    ``n_questions`` rows a task and ``n_tokens`` scored tokens a text set, in windows of ``context``
    tokens.
    """
    for names in (tasks, text_sets):
        _check_distinct(names)
    questions, windows, identities = {}, {}, []
    for task in tasks:
        corpus = load_questions(task)
        questions[set_name(task)] = standard_split(corpus)["evaluation"][:n_questions]
        identities.append(corpus.identity)
    for name in text_sets:
        corpus = load_texts(name)
        rows = standard_split(corpus)["evaluation"]
        windows[set_name(name)] = text_windows(
            tokenizer, rows, context=context, max_tokens=n_tokens
        )
        identities.append(corpus.identity)
    return Suite(questions, windows, batch_tokens), identities


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


def build_inputs(
    tokenizer, *, calibration: str, n_calibration: int, calibration_length: int, **suite_options
) -> Inputs:
    """``build_suite`` and ``calibration_batches`` together; no row stands in both."""
    _check_apart(calibration, suite_options["text_sets"])
    suite, identities = build_suite(tokenizer, **suite_options)
    batches, identity = calibration_batches(
        tokenizer,
        calibration,
        n_texts=n_calibration,
        length=calibration_length,
        batch_tokens=suite.batch_tokens,
    )
    return Inputs(suite, batches, identities + [identity] * (identity not in identities))


def scored_texts(
    tokenizer, name: str, *, part: str, n_tokens: int, context: int
) -> tuple[list[Scored], dict]:
    """Windows of one part of a text set for ``sensitivity``, and the set's identity."""
    corpus = load_texts(name)
    rows = standard_split(corpus)[part]
    windows = text_windows(tokenizer, rows, context=context, max_tokens=n_tokens)
    return [Scored.window(window) for window in windows], corpus.identity


def scored_choices(model, tokenizer, task: str, *, n_questions: int) -> tuple[ChoiceRows, dict]:
    """Choices of a task's calibration questions for ``sensitivity``, and the task's identity."""
    corpus = load_questions(task)
    questions = standard_split(corpus)["calibration"][:n_questions]
    asked = [prompt(question, task, "plain") for question in questions]
    return choice_rows(model, tokenizer, asked, [q.answer for q in questions]), corpus.identity


RANDOM_TOKENS = "random tokens"


def calibration_set(
    tokenizer, name: str, *, n_texts: int, length: int, batch_tokens: int, seed: int
) -> list[dict]:
    """Batches to take statistics on: a text set's texts, a task's questions, or noise.

    Questions come from the calibration part with their right answer behind them; "random tokens"
    are drawn evenly from the vocabulary without the special tokens.
    """
    batch_size = max(1, batch_tokens // length)
    if name == RANDOM_TOKENS:
        return _random_batches(tokenizer, n_texts, length, batch_size, seed)
    if SPECS[name].kind == "text":
        sizes = {"n_texts": n_texts, "length": length, "batch_tokens": batch_tokens}
        return calibration_batches(tokenizer, name, **sizes)[0]
    rows = standard_split(load_questions(name))["calibration"][:n_texts]
    asked = [(q, *prompt(q, name, "plain")) for q in rows]
    texts = [Text(q.row_id, before + choices[q.answer]) for q, before, choices in asked]
    return text_batches(tokenizer, texts, length=length, batch_size=batch_size)


def _random_batches(tokenizer, n_texts: int, length: int, batch_size: int, seed: int) -> list:
    special = set(tokenizer.all_special_ids)
    usable = [i for i in range(len(tokenizer)) if i not in special]
    ids = np.random.default_rng(seed).choice(usable, size=(n_texts, length))
    first = tokenizer("a")["input_ids"][0]
    if first == tokenizer.bos_token_id:
        ids[:, 0] = first
    parts = [torch.as_tensor(ids[i : i + batch_size]) for i in range(0, n_texts, batch_size)]
    return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in parts]
