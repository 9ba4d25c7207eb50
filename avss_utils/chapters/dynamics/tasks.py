"""What a model is fine-tuned on: questions and their answers, sentiment, or texts of one domain."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from avss_utils.data.loading import disjoint_parts, load_open, load_questions, load_texts
from avss_utils.data.registry import SPECS
from avss_utils.data.rows import Corpus, Question, Text
from avss_utils.data.token_rows import Scored, choice_units
from avss_utils.data.windows import text_windows
from avss_utils.data.wordings import answer_prompt
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.measure.judging import answer_questions
from avss_utils.models.load import LoadedModel

PARTS = ("calibration", "development", "evaluation")  # the first is what is trained on


@dataclass(frozen=True)
class Part:
    """Rows of one part of a task, and the questions with choices among them, by set.

    ``rows`` are token ids of which the last are learned: the answer, or all but a text's first.
    """

    row_ids: tuple[str, ...]
    rows: tuple[Scored, ...]
    questions: tuple[tuple[str, tuple[Question, ...]], ...]


@dataclass(frozen=True)
class TuningTask:
    """Disjoint rows to train on, to follow the training by, and to judge it by."""

    name: str
    training: Part
    development: Part
    evaluation: Part


def tuning_task(
    name: str, sets: Sequence[str], loaded: LoadedModel, *, sizes: Sequence[int], length: int
) -> tuple[TuningTask, list[dict]]:
    """A task of the given sets, and their identities.

    ``sizes``: rows per set for training, development and evaluation, at most; ``length``: tokens of
    a row, of which a longer prompt loses its beginning and a longer text its end. Sets may be
    closed or open questions, labelled sentences, or texts, by name. Raises UsageError for an
    unknown set, and for one whose rows cannot be parted, as those of a file of one's own.
    """
    found: dict[str, list[Part]] = {part: [] for part in PARTS}
    identities = []
    for set_name in sets:
        corpus = _load(set_name)
        split = disjoint_parts(corpus)
        for part, n in zip(PARTS, sizes, strict=True):
            found[part].append(_part(loaded, set_name, split[part][:n], length))
        identities.append(corpus.identity)
    return TuningTask(name, *(_joined(found[part]) for part in PARTS)), identities


def judge_rows(model: nn.Module, tokenizer: Any, part: Part, *, batch_tokens: int) -> pd.DataFrame:
    """One row per evaluation row: row_id, n_tokens (learned), nll (their sum, nats), correct.

    ``correct``: 1 where the likeliest choice is the right one, else 0; NaN without choices.
    """
    nll = drop_losses(model, part.rows, [()], batch_tokens=batch_tokens).nll[0]
    n_tokens = [row.n_scored for row in part.rows]
    table = pd.DataFrame({"row_id": part.row_ids, "n_tokens": n_tokens, "nll": nll})
    options: dict[str, Any] = dict(wording="plain", batch_tokens=batch_tokens)
    right: dict[str, bool] = {}
    for name, questions in part.questions:
        own = answer_questions(model, tokenizer, name, questions, **options)
        right |= dict(zip(own.row_id, own.correct, strict=True))
    return table.assign(correct=table.row_id.map(right).astype(float))


def judged(
    model: nn.Module, tokenizer: Any, part: Part, *, prefix: str, batch_tokens: int
) -> dict[str, float]:
    """Measures named after ``prefix``: its loss, nats a learned token, and its accuracy.

    The latter, the share of questions whose likeliest choice is right, only where there are any.
    """
    rows = judge_rows(model, tokenizer, part, batch_tokens=batch_tokens)
    found = {f"{prefix} loss": float(rows.nll.sum() / rows.n_tokens.sum())}
    if part.questions:
        found[f"{prefix} accuracy"] = float(rows.correct.mean())
    return found


def size_table(tasks: Iterable[TuningTask]) -> pd.DataFrame:
    """One row per task and part: task, part, rows, tokens, learned (tokens), questions."""
    parts = ("training", "development", "evaluation")
    rows = [
        (
            task.name,
            name,
            len(own.rows),
            sum(len(row.ids) for row in own.rows),
            sum(row.n_scored for row in own.rows),
            sum(len(questions) for _, questions in own.questions),
        )
        for task in tasks
        for name, own in ((part, getattr(task, part)) for part in parts)
    ]
    return pd.DataFrame(rows, columns=["task", "part", "rows", "tokens", "learned", "questions"])


def budget(
    record: dict, sizes: pd.DataFrame, *, trainings: int, freezings: int, n_steps: int
) -> pd.DataFrame:
    """What a run spent: part, count, tokens of training and tokens of looking (both in millions,
    padding left out), seconds.

    ``n_steps``: at how many of the steps a training is followed. A training token is one forward
    and one backward pass; looking is forward passes over the probe and the development rows, and
    over the evaluation rows at the end; choices and plans come on top.
    """
    wanted = record["parameters"]
    of_part = sizes.groupby("part")[["rows", "tokens"]].sum()
    row_tokens = of_part.tokens / of_part.rows
    n_tasks = sizes.task.nunique()
    trained = wanted["steps"] * wanted["batch_rows"] * row_tokens["training"] / 1e6
    probe = wanted["n_calibration"] * wanted["calibration_length"]
    looked = n_steps * (probe + of_part.tokens["development"] / n_tasks)
    judged = of_part.tokens["evaluation"] / n_tasks
    rows = [
        ("followed trainings", trainings, (looked + judged) / 1e6, record["seconds"]["tuned"]),
        ("trainings with frozen blocks", freezings, judged / 1e6, record["seconds"]["frozen"]),
    ]
    table = pd.DataFrame(rows, columns=["part", "count", "looking", "seconds"])
    table.insert(2, "training", table["count"] * trained)
    return table.assign(looking=table["count"] * table.looking)


def _load(name: str) -> Corpus:
    kind = SPECS[name].kind if name in SPECS else "question"
    return {"text": load_texts, "open": load_open}.get(kind, load_questions)(name)


def _part(loaded: LoadedModel, name: str, rows: Sequence, length: int) -> Part:
    ids = tuple(row.row_id for row in rows)
    if isinstance(rows[0], Text):
        cut = dict(context=length, max_tokens=length - 1)
        windows = [text_windows(loaded.tokenizer, [row], **cut)[0] for row in rows]
        return Part(ids, tuple(map(Scored.window, windows)), ())
    closed = isinstance(rows[0], Question)
    true = [row.choices[row.answer] if closed else row.answers[0] for row in rows]
    asked = [answer_prompt(row, [own], name, "plain") for row, own in zip(rows, true, strict=True)]
    units = choice_units(loaded.model, loaded.tokenizer, *map(list, zip(*asked, strict=True)))
    kept = [Scored((u.prefix + u.ids)[-length:], min(len(u.ids), length - 1)) for u in units]
    return Part(ids, tuple(kept), ((name, tuple(rows)),) if closed else ())


def _joined(parts: Sequence[Part]) -> Part:
    return Part(
        tuple(i for part in parts for i in part.row_ids),
        tuple(row for part in parts for row in part.rows),
        tuple(own for part in parts for own in part.questions),
    )
