"""Plan x tasks -> one tidy row per question: what notebooks and the command line share."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from avss_utils.data.rows import Question
from avss_utils.data.suites import Suite
from avss_utils.data.wordings import prompt
from avss_utils.likelihood.choices import score_choices
from avss_utils.likelihood.texts import window_likelihoods
from avss_utils.models import blocks as families
from avss_utils.models.blocks import remove_blocks
from avss_utils.models.devices import as_dtype, median_seconds
from avss_utils.models.plan import as_text
from avss_utils.scores.plans import plan_random


def answer_questions(
    model, tokenizer, task: str, questions: Sequence[Question], *, wording: str, batch_tokens: int
) -> pd.DataFrame:
    """Closed-book choice by summed log-probability: one row a question.

    Columns: task, wording, row_id, n_choices, label, prediction (highest score, earlier choice
    among equals), p_label (softmax over the choices' scores, at the label), beaten (share of the
    other choices that the label's score beats, ties half: the within-question AUROC).
    """
    asked = [prompt(question, task, wording) for question in questions]
    scores = score_choices(
        model, tokenizer, [a[0] for a in asked], [a[1] for a in asked], batch_tokens=batch_tokens
    )
    rows = [
        (task, wording, q.row_id, len(s), q.answer, int(np.argmax(s)), *_standing(s, q.answer))
        for q, s in zip(questions, scores, strict=True)
    ]
    columns = ["task", "wording", "row_id", "n_choices", "label", "prediction", "p_label", "beaten"]
    return pd.DataFrame(rows, columns=columns)


def _standing(scores: np.ndarray, label: int) -> tuple[float, float]:
    own, others = scores[label], np.delete(scores, label)
    beaten = float(((others < own) + 0.5 * (others == own)).mean())
    weights = np.exp(scores - scores.max())
    return round(float(weights[label] / weights.sum()), 5), beaten


def judge_answers(
    loaded, suite: Suite, arm: tuple[str, Iterable[int]], *, wording: str = "plain"
) -> pd.DataFrame:
    """Rows of ``answer_questions`` for every task of the suite; ``arm`` is (name, dropped)."""
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    tables = [
        answer_questions(
            model,
            loaded.tokenizer,
            task,
            questions,
            wording=wording,
            batch_tokens=suite.batch_tokens,
        )
        for task, questions in suite.questions.items()
    ]
    return pd.concat(tables, ignore_index=True).assign(arm=name)


def judge_texts(loaded, suite: Suite, arm: tuple[str, Iterable[int]]) -> pd.DataFrame:
    """Rows of ``window_likelihoods`` for every text set; ``arm`` is (name, dropped).

    A pass holds half of ``batch_tokens``: here every position has logits, not only a few.
    """
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    tables = [
        window_likelihoods(model, windows, batch_tokens=suite.batch_tokens // 2).assign(
            text_set=key
        )
        for key, windows in suite.windows.items()
    ]
    return pd.concat(tables, ignore_index=True).assign(arm=name)


def summary_row(loaded, suite: Suite, arm: tuple[str, Iterable[int]]) -> pd.DataFrame:
    """One row an arm: accuracy by task and bits per byte over all text of the suite."""
    return _summary(judge_answers(loaded, suite, arm), judge_texts(loaded, suite, arm), arm[1])


def _summary(answers: pd.DataFrame, texts: pd.DataFrame, drop: Iterable[int]) -> pd.DataFrame:
    row = {"drop": as_text(drop)}
    for task, rows in answers.groupby("task", sort=False):
        row[f"accuracy_{task}"] = (rows.label == rows.prediction).mean()
    row["bits_per_byte"] = bits_per_byte(texts)
    return pd.DataFrame([row])


def null_sets(
    n_blocks: int, *, n_drop: int, n: int, seed: int, marks: Iterable[tuple[str, tuple]]
) -> list[tuple[str, tuple[int, ...]]]:
    """(name, drop): the marked arms, then n uniform and n end-protected random sets."""
    rng = np.random.default_rng(seed)
    sets = list(marks)
    for protect in (False, True):
        for _ in range(n):
            plan = plan_random(n_blocks, n_drop=n_drop, rng=rng, protect_ends=protect)
            sets.append((plan.rule, plan.drop))
    return sets


def null_row(
    loaded,
    suite: Suite,
    arm: tuple[str, Iterable[int]],
    *,
    answers: pd.DataFrame,
    texts: pd.DataFrame,
) -> pd.DataFrame:
    """One block set of the null on the null's own budget; column ``null`` names its kind.

    An arm that ``answers`` and ``texts`` hold already is read from there and not judged again;
    ``suite`` must then be a part (``Suite.smaller``) of the one they come from.
    """
    name, drop = arm
    if name not in set(answers.arm):
        return summary_row(loaded, suite, arm).assign(null=name)
    ids = {q.row_id for questions in suite.questions.values() for q in questions}
    own = answers[(answers.arm == name) & answers.task.isin(list(suite.questions))]
    own = own[own.row_id.astype(str).isin(ids)]
    read = texts[(texts.arm == name) & texts.text_set.isin(list(suite.windows))]
    read = read[read.window < read.text_set.map({k: len(w) for k, w in suite.windows.items()})]
    return _summary(own, read, drop).assign(null=name)


def dtype_rows(loaded, suite: Suite, arm: tuple[str, Iterable[int]]) -> pd.DataFrame:
    """The same arm judged in float32 and in bfloat16: a row each."""
    tables = [
        summary_row(for_evaluation(loaded, name), suite, arm).assign(arm=arm[0], dtype=name)
        for name in ("float32", "bfloat16")
    ]
    return pd.concat(tables, ignore_index=True)


def for_evaluation(loaded, dtype: str):
    """The loaded model in the number format it is judged in; the original is left as it is.

    "auto" is bfloat16 where the device computes it natively, float32 elsewhere.
    """
    wanted = as_dtype(dtype, loaded.model.device)
    if loaded.model.dtype == wanted:
        return loaded
    model = copy.deepcopy(loaded.model)
    # the class's own method: accelerate gives a spread model one that would change the original
    return replace(loaded, model=type(model).to(model, wanted))


def device_name(model) -> str:
    """Kind of device and number format, as recorded with a run: "NVIDIA H200, bfloat16"."""
    device = model.device
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else (f"{device.type}, {torch.get_num_threads()} threads")
    )
    return f"{name}, {str(model.dtype).removeprefix('torch.')}"


def bits_per_byte(texts: pd.DataFrame) -> float:
    """Summed negative log-likelihood in bits over UTF-8 bytes of the scored text."""
    return float(texts.nll.sum() / np.log(2) / texts.n_bytes.sum())


def cost_row(
    loaded, arm: tuple[str, Iterable[int]], *, n_tokens: int, repeats: int
) -> pd.DataFrame:
    """Parameters and the seconds of one forward pass over (1, n_tokens): median of ``repeats``."""
    name, drop = arm
    model = remove_blocks(loaded.model, drop, share_weights=True)
    ids = torch.arange(n_tokens)[None] % model.config.get_text_config().vocab_size
    inputs = families.forward_inputs(model, {"input_ids": ids})
    with torch.inference_mode():
        one_pass = partial(model, **inputs, use_cache=False)
        seconds = median_seconds(one_pass, model.device, repeats=repeats)
    n_parameters = sum(p.numel() for p in model.parameters())
    return pd.DataFrame(
        [
            {
                "arm": name,
                "n_parameters": n_parameters,
                "forward_seconds": seconds,
            }
        ]
    )
