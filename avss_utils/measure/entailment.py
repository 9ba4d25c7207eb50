"""Do two answers to one question mean the same? A model of entailment that the user gives says.

Kuhn, Gal and Farquhar 2023 (arXiv 2302.09664): two answers are one meaning where each, behind the
question, entails the other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from avss_utils.data.rows import normalised
from avss_utils.errors import UsageError, one_line
from avss_utils.store.progress import progress

ENTAILMENT = "entailment"  # the label that a model has to have


class Entailment:
    """A sequence classifier with a label "entailment": a folder, or a name on the Hub.

    Raises UsageError where it does not load, or has no such label.
    """

    def __init__(self, name: str, *, device: str | torch.device, batch_rows: int = 64) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # seconds

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            model = AutoModelForSequenceClassification.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            reason = one_line(error)
            raise UsageError(f"the entailment model {name!r} does not load: {reason}") from error
        labels = {str(own).lower(): int(i) for i, own in model.config.id2label.items()}
        if ENTAILMENT not in labels:
            raise UsageError(
                f"{name!r} has the labels {', '.join(labels)} and none of {ENTAILMENT!r}: give a "
                "model that was trained on natural language inference"
            )
        self._model, self._label = model.to(device).eval(), labels[ENTAILMENT]
        self._batch_rows = batch_rows

    @torch.no_grad()
    def entails(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Whether each premise entails its hypothesis: the likeliest label, (n_pairs,) of bool."""
        found = np.zeros(len(pairs), bool)
        starts = range(0, len(pairs), self._batch_rows)
        for first in progress(starts, "entailment"):
            part = pairs[first : first + self._batch_rows]
            given = self._tokenizer(
                [one for one, _ in part],
                [other for _, other in part],
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self._model.device)
            chosen = self._model(**given).logits.argmax(-1)
            found[first : first + len(part)] = (chosen == self._label).cpu().numpy()
        return found

    def meanings(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[np.ndarray]:
        """Of each question's answers the meaning of each, numbered from 0 in the order of their
        first: (n_answers,) of int.

        ``asked``: (question, answers). Answers that are equal once normalised are one meaning
        without asking; another joins the first meaning whose first answer it entails and is
        entailed by.
        """
        pairs: dict[tuple[str, str], None] = {}
        for question, answers in asked:
            texts = _firsts(question, answers).values()
            pairs |= dict.fromkeys((one, two) for one in texts for two in texts if one != two)
        entailed = dict(zip(pairs, self.entails(list(pairs)), strict=True))
        return [_clustered(question, answers, entailed) for question, answers in asked]


def _firsts(question: str, answers: Sequence[str]) -> dict[str, str]:
    """By normalised answer, the question with the first answer that is spelt so."""
    found: dict[str, str] = {}
    for answer in answers:
        found.setdefault(normalised(answer), f"{question} {answer}")
    return found


def _clustered(
    question: str, answers: Sequence[str], entailed: dict[tuple[str, str], bool]
) -> np.ndarray:
    texts, meaning = _firsts(question, answers), dict[str, int]()
    heads: list[str] = []  # the first answer of each meaning
    for name, text in texts.items():
        like = (
            number
            for number, head in enumerate(heads)
            if entailed[text, head] and entailed[head, text]
        )
        meaning[name] = next(like, len(heads))
        if meaning[name] == len(heads):
            heads.append(text)
    return np.array([meaning[normalised(answer)] for answer in answers], int)
