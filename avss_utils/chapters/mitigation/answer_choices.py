"""What an adapter does to answers, and what it costs elsewhere: a row a question or window."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax

from avss_utils.data.answer_sets import Events
from avss_utils.data.token_rows import pad
from avss_utils.data.windows import Window
from avss_utils.data.wordings import answer_prompt
from avss_utils.measure.choices import score_choices
from avss_utils.measure.passes import longest_first
from avss_utils.models.blocks import forward_inputs

MOST_FALSE = 7  # false answers of a question that are scored


def choice_table(loaded, events: Events, *, wording: str, batch_tokens: int) -> pd.DataFrame:
    """Every true and false answer of every question scored: a row a question.

    Choices: all true answers, then the false one of the pair and up to MOST_FALSE published ones.
    Columns: set, row_id, n_true, n_choices, scores (summed log-probabilities, nats, parted by
    spaces), mc1 (the canonical answer is likelier than every false one), mc2 (probability of all
    true answers among all choices), confidence (of the likeliest of the canonical and the false
    answers, in that company). MC1 and MC2: Lin et al. 2022 (arXiv 2109.07958).
    """
    asked, n_true = [], []
    for question, (_, pair) in zip(events.questions, events.asked, strict=True):
        false = [pair[1].strip(), *question.false_answers[:MOST_FALSE]]
        answers = [*question.answers, *dict.fromkeys(false)]
        asked.append(answer_prompt(question, answers, events.name, wording))
        n_true.append(len(question.answers))
    prompts, choices = zip(*asked, strict=True)
    options = dict(batch_tokens=batch_tokens)
    scores = score_choices(loaded.model, loaded.tokenizer, prompts, choices, **options)
    rows = [
        (events.name, question.row_id, n, len(own), _joined(own), *_standing(own, n))
        for question, own, n in zip(events.questions, scores, n_true, strict=True)
    ]
    names = ["set", "row_id", "n_true", "n_choices", "scores", "mc1", "mc2", "confidence"]
    return pd.DataFrame(rows, columns=names)


def _joined(scores: np.ndarray) -> str:
    return " ".join(f"{score:.3f}" for score in scores)


def as_scores(cell: str) -> np.ndarray:
    """A cell of ``choice_table``'s scores, (n_choices,)."""
    return np.array(cell.split(" "), dtype=float)


def _standing(scores: np.ndarray, n_true: int) -> tuple[float, float, float]:
    """mc1, mc2 and confidence of one question."""
    mc1 = np.concatenate([scores[:1], scores[n_true:]])
    mc2 = softmax(scores)[:n_true].sum()
    return float(mc1.argmax() == 0), float(mc2), float(softmax(mc1).max())


def divergence_rows(before, after, windows: Sequence[Window], *, batch_tokens: int) -> pd.DataFrame:
    """KL divergence of the next token's distribution from the original's; a row a window.

    Columns: row_id, window, kl (nats, summed over scored tokens), n_tokens. ``before`` and
    ``after``: models with one tokenizer; 0 where nothing changed.
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
        found[part] = (each * mask[:, 1:]).sum(-1).double().numpy()
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
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def merged(loaded, trained, *, keep: bool = True):
    """The loaded model with the adapter merged into a copy: an ordinary checkpoint.

    Without ``keep`` it is merged into the trained model itself, which is then no longer that: one
    copy of the weights less.
    """
    model = copy.deepcopy(trained.model) if keep else trained.model
    return replace(loaded, model=model.merge_and_unload().eval())
