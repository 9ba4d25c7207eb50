"""What a model answers before and after training, and what it costs on neutral text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import nn

from avss_utils.data.answer_sets import Events
from avss_utils.data.suites import Suite
from avss_utils.data.windows import Window
from avss_utils.data.wordings import answer_prompt
from avss_utils.measure.choices import score_choices, score_choices_side_by_side
from avss_utils.measure.finite import check_finite
from avss_utils.measure.judging import bits_per_byte, judge_correct, judge_texts
from avss_utils.measure.own_answers import ABSTAINED, RIGHT, generated_answers
from avss_utils.measure.passes import longest_first
from avss_utils.measure.side_by_side import Adapter
from avss_utils.models.blocks import forward_inputs, pad
from avss_utils.models.load import LoadedModel

MOST_FALSE = 7  # false answers of a question that are scored
# How answers came about: choices between given ones, with the question and with it left out, the
# model's own words, and tasks that nothing was trained for.
PLAIN, UNASKED, OWN_WORDS, TASK = "plain", "answer-only", "own words", "task"
WHOLE = ("", ())  # the arm that removes no block


@dataclass(frozen=True)
class Bench:
    """What every arm is judged on: choices, the model's own answers, and the costs elsewhere.

    ``choices``: held-out questions by set; ``asked``: likewise, in the prompt that own answers are
    given to; ``suite``: tasks and texts that nothing was trained for.
    """

    choices: Sequence[Events]
    asked: Sequence[Events]
    suite: Suite
    wording: str
    max_new_tokens: int


def choice_arrays(
    loaded: LoadedModel,
    events: Events,
    adapters: Sequence[Adapter] = (),
    *,
    wording: str,
    batch_tokens: int,
) -> list[list[np.ndarray]]:
    """Scores of every question's answers (summed log-probability, nats), by adapter beside the
    model; of the model itself, as the only one, where there are none.

    Answers: all true ones, the canonical one first, then the false one of the pair and up to
    MOST_FALSE published ones.
    """
    prompts, choices = [], []
    for question, (_, pair) in zip(events.questions, events.asked, strict=True):
        false = [pair[1].strip(), *question.false_answers[:MOST_FALSE]]
        answers = [*question.answers, *dict.fromkeys(false)]
        prompt, continuations = answer_prompt(question, answers, events.name, wording)
        prompts.append(prompt)
        choices.append(continuations)
    asked = (loaded.model, loaded.tokenizer, prompts, choices)
    if not adapters:
        return [score_choices(*asked, batch_tokens=batch_tokens)]
    return score_choices_side_by_side(*asked, adapters, batch_tokens=batch_tokens)


def choice_scores(
    loaded: LoadedModel, events: Events, *, wording: str, batch_tokens: int
) -> pd.DataFrame:
    """``choice_arrays`` of the model, one row per answer: set, row_id, choice (from 0), is_true,
    score.
    """
    (scores,) = choice_arrays(loaded, events, wording=wording, batch_tokens=batch_tokens)
    rows = [
        (events.name, question.row_id, choice, choice < len(question.answers), score)
        for question, own in zip(events.questions, scores, strict=True)
        for choice, score in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["set", "row_id", "choice", "is_true", "score"])


def canonical_scores(scores: pd.DataFrame) -> list[np.ndarray]:
    """Of each question of ``choice_scores``: the canonical answer's score, then the false ones'.

    These are the choices that ``correct`` and ``confidence`` of ``choice_outcomes`` are about.
    """
    kept = scores[(scores.choice == 0) | ~scores.is_true]
    return [own.to_numpy() for _, own in kept.groupby(["set", "row_id"], sort=False).score]


def choice_outcomes(events: Events, scores: Sequence[np.ndarray]) -> pd.DataFrame:
    """One row per question of ``choice_arrays``: set, row_id, correct, p_true, confidence.

    ``correct``: the canonical answer is likelier than every false one (MC1); ``p_true``:
    probability of all true answers among all (MC2); ``confidence``: that of the likeliest of the
    canonical and the false answers, in that company. Source: Lin et al. 2022 (arXiv 2109.07958).
    """
    rows = []
    for question, own in zip(events.questions, scores, strict=True):
        n_true = len(question.answers)
        rivals = np.r_[own[0], own[n_true:]]
        p_true, sure = softmax(own)[:n_true].sum(), softmax(rivals).max()
        rows.append((events.name, question.row_id, rivals.argmax() == 0, p_true, sure))
    return pd.DataFrame(rows, columns=["set", "row_id", "correct", "p_true", "confidence"])


def judged_choices(
    loaded: LoadedModel, bench: Bench, adapters: Sequence[Adapter] = ()
) -> list[pd.DataFrame]:
    """``choice_outcomes`` of every set with the question, PLAIN, and left out, UNASKED; by adapter,
    or of the model itself where there are none.
    """
    parts: list[list[pd.DataFrame]] = [[] for _ in range(max(1, len(adapters)))]
    for events in bench.choices:
        for name, wording in ((PLAIN, bench.wording), (UNASKED, UNASKED)):
            options: dict[str, Any] = dict(wording=wording, batch_tokens=bench.suite.batch_tokens)
            found = choice_arrays(loaded, events, adapters, **options)
            for own, scores in zip(parts, found, strict=True):
                table = choice_outcomes(events, scores).assign(wording=name)
                unsure = ["p_true", "confidence"] if name == UNASKED else []
                own.append(table.drop(columns=unsure))
    return [pd.concat(own, ignore_index=True) for own in parts]


def likelier_true(
    loaded: LoadedModel, bench: Bench, sets: Sequence[str], adapters: Sequence[Adapter]
) -> list[pd.DataFrame]:
    """MC1 alone, on some of the bench's sets: set, row_id, correct; by adapter, or of the model
    itself where there are none.
    """
    options: dict[str, Any] = dict(wording=bench.wording, batch_tokens=bench.suite.batch_tokens)
    parts: list[list[pd.DataFrame]] = [[] for _ in range(max(1, len(adapters)))]
    for events in bench.choices:
        if events.name not in sets:
            continue
        for own, scores in zip(
            parts, choice_arrays(loaded, events, adapters, **options), strict=True
        ):
            own.append(choice_outcomes(events, scores)[["set", "row_id", "correct"]])
    return [pd.concat(own, ignore_index=True) for own in parts]


def judged_outcomes(after: LoadedModel, bench: Bench, choices: pd.DataFrame) -> pd.DataFrame:
    """Every answer of a model on the bench: set, wording, row_id, correct, and where they apply
    p_true, confidence, contains, abstained (NaN elsewhere).

    Of ``choices`` as in ``judged_choices``; of own answers ``correct`` (is one of the aliases),
    ``contains`` (has one of them within), ``abstained``, and as ``confidence`` its probability.
    """
    tokens, parts = bench.suite.batch_tokens, [choices]
    for events in bench.asked:
        options = dict(max_new_tokens=bench.max_new_tokens, batch_tokens=tokens)
        table, _ = generated_answers(after, events, **options)
        own = table[["set", "row_id", "contains"]].assign(
            wording=OWN_WORDS,
            correct=table.label == RIGHT,
            confidence=np.exp(table.log_probability),
            abstained=table.label == ABSTAINED,
        )
        parts.append(own)
    tasks = judge_correct(after, bench.suite, WHOLE)[["set", "row_id", "correct"]]
    table = pd.concat([*parts, tasks.assign(wording=TASK)], ignore_index=True)
    numbers = ["p_true", "confidence", "contains", "abstained"]
    table = table.reindex(columns=["set", "wording", "row_id", "correct", *numbers])
    return table.astype(dict.fromkeys(numbers, float)).round(5)


def cost_rows(before: LoadedModel, after: LoadedModel, suite: Suite) -> pd.DataFrame:
    """Bits per byte and divergence from the model ``before`` by text set: set, measure, value."""
    texts = judge_texts(after, suite, WHOLE).groupby("text_set", sort=False)
    rows = [(name, "bits per byte", bits_per_byte(own)) for name, own in texts]
    tokens = suite.batch_tokens // 4
    for name, windows in suite.windows.items():
        kl = divergence_rows(before.model, after.model, windows, batch_tokens=tokens)
        rows.append((name, "divergence", kl.kl.sum() / kl.n_tokens.sum()))
    return pd.DataFrame(rows, columns=["set", "measure", "value"])


def divergence_rows(
    before: nn.Module, after: nn.Module, windows: Sequence[Window], *, batch_tokens: int
) -> pd.DataFrame:
    """KL divergence of the next token's distribution from the original's; one row per window.

    Columns: row_id, window, kl (nats, summed over scored tokens), n_tokens. ``before`` and
    ``after``: models with one tokenizer; 0 where nothing changed. Raises UsageError for logits that
    are not finite.
    """
    found = np.zeros(len(windows))
    for part in longest_first(before, [len(w.ids) for w in windows], batch_tokens):
        ids, mask = pad([windows[i].ids for i in part], side="right")
        batch = {"input_ids": ids, "attention_mask": mask}
        with torch.inference_mode():
            one, other = (
                model(**forward_inputs(model, batch), use_cache=False).logits[:, :-1]
                for model in (before, after)
            )
            each = torch.stack([_divergence(*row) for row in zip(one, other, strict=True)]).cpu()
        total = torch.where(mask[:, 1:].bool(), each, 0.0).sum(-1)
        check_finite(total, after, [windows[i].ids for i in part])
        found[part] = total.double().numpy()
    rows = [
        (w.row_id, i, x, len(w.ids) - 1)
        for i, (w, x) in enumerate(zip(windows, found, strict=True))
    ]
    return pd.DataFrame(rows, columns=["row_id", "window", "kl", "n_tokens"])


def _divergence(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL divergence of a row's next tokens, (T,), from logits (T, V).

    Row by row: a large vocabulary's logits take gigabytes, and this takes five float32 copies.
    """
    log_p, log_q = one.float().log_softmax(-1), other.float().log_softmax(-1)
    each = log_p.exp() * (log_p - log_q)
    return each.masked_fill_(log_p == -torch.inf, 0.0).sum(-1)
