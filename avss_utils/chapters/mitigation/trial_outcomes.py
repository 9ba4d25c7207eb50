"""What a model answers before and after training, and what it costs on neutral text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import nn

from avss_utils.data.answer_sets import Events
from avss_utils.data.suites import Suite
from avss_utils.data.windows import Window
from avss_utils.data.wordings import answer_prompt
from avss_utils.measure.choices import score_choices
from avss_utils.measure.finite import check_finite
from avss_utils.measure.judging import bits_per_byte, judge_correct, judge_texts
from avss_utils.measure.own_answers import ABSTAINED, RIGHT, generated_answers
from avss_utils.measure.passes import longest_first
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


def choice_scores(
    loaded: LoadedModel, events: Events, *, wording: str, batch_tokens: int
) -> pd.DataFrame:
    """Every true and false answer of every question scored: one row per answer.

    Answers: all true ones, the canonical one first, then the false one of the pair and up to
    MOST_FALSE published ones. Columns: set, row_id, choice (from 0), is_true, score (summed
    log-probability, nats).
    """
    asked, n_true = [], []
    for question, (_, pair) in zip(events.questions, events.asked, strict=True):
        false = [pair[1].strip(), *question.false_answers[:MOST_FALSE]]
        answers = [*question.answers, *dict.fromkeys(false)]
        asked.append(answer_prompt(question, answers, events.name, wording))
        n_true.append(len(question.answers))
    prompts, choices = zip(*asked, strict=True)
    scores = score_choices(
        loaded.model, loaded.tokenizer, prompts, choices, batch_tokens=batch_tokens
    )
    rows = [
        (events.name, question.row_id, choice, choice < n, score)
        for question, own, n in zip(events.questions, scores, n_true, strict=True)
        for choice, score in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["set", "row_id", "choice", "is_true", "score"])


def canonical_scores(scores: pd.DataFrame) -> list[np.ndarray]:
    """Of each question of ``choice_scores``: the canonical answer's score, then the false ones'.

    These are the choices that ``correct`` and ``confidence`` of ``choice_outcomes`` are about.
    """
    kept = scores[(scores.choice == 0) | ~scores.is_true]
    return [own.to_numpy() for _, own in kept.groupby(["set", "row_id"], sort=False).score]


def choice_outcomes(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per question of ``choice_scores``: set, row_id, correct, p_true, confidence.

    ``correct``: the canonical answer is likelier than every false one (MC1); ``p_true``:
    probability of all true answers among all (MC2); ``confidence``: that of the likeliest of the
    canonical and the false answers, in that company. Source: Lin et al. 2022 (arXiv 2109.07958).
    """
    rows = []
    questions = scores.groupby(["set", "row_id"], sort=False)
    for (key, own), rivals in zip(questions, canonical_scores(scores), strict=True):
        p_true = softmax(own.score.to_numpy())[own.is_true.to_numpy()].sum()
        rows.append((*key, rivals.argmax() == 0, p_true, softmax(rivals).max()))
    return pd.DataFrame(rows, columns=["set", "row_id", "correct", "p_true", "confidence"])


def judged_outcomes(after: LoadedModel, bench: Bench) -> pd.DataFrame:
    """Every answer of a model on the bench: set, wording, row_id, correct, and where they apply
    p_true, confidence, contains, abstained (NaN elsewhere).

    Of choices as in ``choice_outcomes``; of own answers ``correct`` (is one of the aliases),
    ``contains`` (has one of them within), ``abstained``, and as ``confidence`` its probability.
    """
    tokens, parts = bench.suite.batch_tokens, []
    for events in bench.choices:
        for name, wording in ((PLAIN, bench.wording), (UNASKED, UNASKED)):
            scores = choice_scores(after, events, wording=wording, batch_tokens=tokens)
            own = choice_outcomes(scores).assign(wording=name)
            parts.append(own if name == PLAIN else own.drop(columns=["p_true", "confidence"]))
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
