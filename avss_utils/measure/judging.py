"""Plan x tasks -> one tidy row per question: what notebooks and the command line share."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.rows import Question
from avss_utils.data.suites import Suite
from avss_utils.data.wordings import prompt
from avss_utils.measure.choices import score_choices
from avss_utils.measure.texts import window_likelihoods
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.devices import as_dtype
from avss_utils.models.load import LoadedModel


def answer_questions(
    model: nn.Module,
    tokenizer: Tokenizer,
    name: str,
    questions: Sequence[Question],
    *,
    wording: str,
    batch_tokens: int,
    per_byte: bool = False,
) -> pd.DataFrame:
    """Closed-book choice by summed log-probability: one row per question of the set ``name``.

    Columns: set, wording, row_id, n_choices, label, prediction (highest score, earlier choice
    among equals), correct, p_true (softmax over the choices' scores, at the label), beaten (share
    of the other choices that the label's score beats, ties half: the within-question AUROC).
    With ``per_byte`` also prediction_per_byte and correct_per_byte: by log-probability over the
    choice's UTF-8 bytes, its leading space not counted, which is the evaluation harness's
    ``acc_bytes``; its ``acc_norm`` divides by characters, the same for ASCII. Which of the two a
    set is judged by is chosen by ``stats.scorings``.
    """
    asked = [prompt(question, name, wording) for question in questions]
    scores = score_choices(
        model, tokenizer, [a[0] for a in asked], [a[1] for a in asked], batch_tokens=batch_tokens
    )
    rows = []
    predicted = []
    for q, s in zip(questions, scores, strict=True):
        best, own, others = int(np.argmax(s)), s[q.answer], np.delete(s, q.answer)
        beaten = float(((others < own) + 0.5 * (others == own)).mean())
        weights = np.exp(s - s.max())
        p_true = round(float(weights[q.answer] / weights.sum()), 5)
        judged = (best, best == q.answer, p_true, beaten)
        rows.append((name, wording, q.row_id, len(s), q.answer, *judged))
        n_bytes = [len(choice.strip().encode()) for choice in q.choices]
        predicted.append(int(np.argmax(s / np.array(n_bytes))))
    columns = ["set", "wording", "row_id", "n_choices", "label", "prediction"]
    table = pd.DataFrame(rows, columns=[*columns, "correct", "p_true", "beaten"])
    if per_byte:
        table["prediction_per_byte"] = predicted
        table["correct_per_byte"] = table.prediction_per_byte == table.label
    return table


def judge_answers(
    loaded: LoadedModel,
    suite: Suite,
    arm: tuple[str, Iterable[int]],
    *,
    wording: str = "plain",
    per_byte: bool = False,
) -> pd.DataFrame:
    """Rows of ``answer_questions`` for every set of the suite; ``arm`` is (name, dropped)."""
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    options: dict[str, Any] = dict(wording=wording, batch_tokens=suite.batch_tokens)
    options |= dict(per_byte=per_byte)
    tables = [
        answer_questions(model, loaded.tokenizer, task, questions, **options)
        for task, questions in suite.questions.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "arm", name)
    return table


def judge_correct(
    loaded: LoadedModel, suite: Suite, arm: tuple[str, Iterable[int]]
) -> pd.DataFrame:
    """Of ``judge_answers`` what hundreds of plans are compared by: arm, set, row_id, n_choices,
    correct.
    """
    table = judge_answers(loaded, suite, arm)
    table["n_choices"] = table.n_choices.astype(np.int8)
    return table[["arm", "set", "row_id", "n_choices", "correct"]]


def judge_texts(loaded: LoadedModel, suite: Suite, arm: tuple[str, Iterable[int]]) -> pd.DataFrame:
    """Rows of ``window_likelihoods`` for every text set; ``arm`` is (name, dropped).

    A pass holds half of ``batch_tokens``: here every position has logits, not only a few.
    """
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    tables = []
    for key, windows in suite.windows.items():
        table = window_likelihoods(model, windows, batch_tokens=suite.batch_tokens // 2)
        tables.append(table.assign(text_set=key))
    return pd.concat(tables, ignore_index=True).assign(arm=name)


def for_evaluation(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """The loaded model in the number format it is judged in; the original is left as it is.

    "auto" is bfloat16 where the device computes it natively, float32 elsewhere.
    """
    wanted = as_dtype(dtype, loaded.model.device)
    if loaded.model.dtype == wanted:
        return loaded
    model = copy.deepcopy(loaded.model)
    # the class's own method: accelerate gives a spread model one that would change the original
    return replace(loaded, model=type(model).to(model, wanted))


def device_name(model: nn.Module | torch.Tensor) -> str:
    """Kind of device and number format, as recorded with a run: "NVIDIA H200, bfloat16"."""
    name = f"{model.device.type}, {torch.get_num_threads()} threads"
    if model.device.type == "cuda":
        name = torch.cuda.get_device_name(model.device)
    return f"{name}, {str(model.dtype).removeprefix('torch.')}"


def bits_per_byte(texts: pd.DataFrame) -> float:
    """Summed negative log-likelihood in bits over UTF-8 bytes of the scored text."""
    return float(texts.nll.sum() / np.log(2) / texts.n_bytes.sum())
