"""What every arm of an experiment is judged on: questions and windows of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.calibrations import calibration_batches, part_windows
from avss_utils.data.loading import check_set, load_questions, load_texts, standard_split
from avss_utils.data.own import is_own, set_name
from avss_utils.data.rows import Question
from avss_utils.data.windows import Window
from avss_utils.errors import UsageError


@dataclass(frozen=True)
class Suite:
    """Questions by task and text windows by set.

    ``batch_tokens`` bounds one forward pass, padding included; it does not change results beyond
    float rounding.
    """

    questions: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    windows: Mapping[str, Sequence[Window]] = field(default_factory=dict)
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
    """Raise UsageError for an unknown set, before a model is loaded for it."""
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
    if not is_own(calibration):
        return
    files = (calibration, *filter(is_own, text_sets))  # under whatever name or link
    first, *others = (load_texts(name).identity["sha256"] for name in files)
    if first in others:
        raise UsageError(
            f"{calibration!r} cannot serve both calibration and evaluation: give one file for each"
        )


def _first_tokens(windows: Sequence[Window], n_tokens: int) -> list[Window]:
    before = np.cumsum([0, *(len(window.ids) - 1 for window in windows)])
    return [window for window, n in zip(windows, before, strict=False) if n < n_tokens]


@dataclass(frozen=True)
class Inputs:
    """A suite, the batches that statistics come from, and the identity of all data used."""

    suite: Suite
    calibration: list[dict]
    identities: list[dict]


def build_suite(
    tokenizer: Tokenizer,
    *,
    tasks: Sequence[str],
    text_sets: Sequence[str],
    n_questions: int,
    n_tokens: int,
    context: int,
    batch_tokens: int = 4096,
) -> tuple[Suite, list[dict]]:
    """The evaluation parts of tasks and text sets, cut to size, and their identities.

    Both go by their names in tables (``own.set_name``): a file's without its folder. At most
    ``n_questions`` rows per task and, in windows of ``context`` tokens, ``n_tokens`` scored ones
    per text set.
    """
    for names in (tasks, text_sets):
        _check_distinct(names)
    questions, windows, identities = {}, {}, []
    for task in tasks:
        corpus = load_questions(task)
        questions[set_name(task)] = standard_split(corpus)["evaluation"][:n_questions]
        identities.append(corpus.identity)
    for name in text_sets:
        windows[set_name(name)], identity = part_windows(
            tokenizer, name, part="evaluation", context=context, n_tokens=n_tokens
        )
        identities.append(identity)
    return Suite(questions, windows, batch_tokens), identities


def build_inputs(
    tokenizer: Tokenizer,
    *,
    calibration: str,
    n_calibration: int,
    calibration_length: int,
    **suite_options: Any,
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
