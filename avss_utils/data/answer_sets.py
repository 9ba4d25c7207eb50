"""What is asked of a model: questions with true, false and placebo answers, and their pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.loading import load_open, standard_split
from avss_utils.data.own import set_name
from avss_utils.data.pairing import false_against_false, irrelevant, paired
from avss_utils.data.rows import OpenQuestion
from avss_utils.data.wordings import answer_prompt
from avss_utils.errors import UsageError
from avss_utils.models.tokenizers import automatic_bos

PAIRED, FALSE_FALSE, IRRELEVANT = "false against true", "false against false", "irrelevant"
KINDS = (PAIRED, FALSE_FALSE, IRRELEVANT)
# Answers of a question by their place in ``asked``: the pairs of each kind are two of them.
_PLACES = {PAIRED: (0, 1), FALSE_FALSE: (2, 3), IRRELEVANT: (0, 4)}
N_ANSWERS = 5
PROMPTS = PLAIN, FEW_SHOT, CHAT = "plain", "few-shot", "chat"
N_EXAMPLES = 5
INSTRUCTION = "Answer the question with a name, a number or a few words, and nothing else."


@dataclass(frozen=True)
class Pairs:
    """Numbers of the true and of the false answer of each question, (n_pairs,) each."""

    true: np.ndarray
    false: np.ndarray
    n_answers: int

    def weights(
        self, counts: np.ndarray | None = None, swapped: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(false, true): how often each answer is in the group, (n_groups, n_answers) each.

        ``counts``, (n_groups, n_pairs): how often each pair enters, once if None; ``swapped``, of
        the same shape: pairs that change their labels.
        """
        shape = next((a.shape for a in (counts, swapped) if a is not None), (1, len(self.true)))
        counts = np.ones(shape) if counts is None else counts
        moved = np.zeros(shape) if swapped is None else counts * swapped
        false, true = np.zeros((2, shape[0], self.n_answers))
        false[:, self.false], false[:, self.true] = counts - moved, moved
        true[:, self.true], true[:, self.false] = counts - moved, moved
        return false, true


@dataclass(frozen=True)
class Events:
    """Questions of one part of a set, each with five answers: true, false, two for a placebo, and
    a true answer to another question.

    ``asked``: (prompt, answers) of each question, as ``answer_tokens.collect_answers`` takes them;
    ``origin``: where each false answer comes from, published or borrowed, (n_questions,).
    """

    name: str
    questions: tuple[OpenQuestion, ...]
    asked: tuple[tuple[str, tuple[str, ...]], ...]
    origin: np.ndarray

    def pairs(self, kind: str, *, only: np.ndarray | None = None) -> Pairs:
        """The pairs of a kind, of the questions numbered ``only`` if given.

        "false against true"; "false against false", where the first false answer stands for the
        true one; "irrelevant", the true answer to another question against the true one.
        """
        questions = np.arange(len(self.asked)) if only is None else np.asarray(only)
        first, second = _PLACES[kind]
        start = questions * N_ANSWERS
        return Pairs(start + first, start + second, len(self.asked) * N_ANSWERS)

    def first(self, n: int) -> "Events":
        """The same of the first ``n`` questions; their borrowed answers stay as they are."""
        return replace(
            self, questions=self.questions[:n], asked=self.asked[:n], origin=self.origin[:n]
        )


def unpaired(rows: Sequence[OpenQuestion], name: str, *, wording: str) -> Events:
    """Questions for the model to answer by itself: true answers alone, and so without pairs."""
    asked = tuple(answer_prompt(row, row.answers[:1], name, wording) for row in rows)
    return Events(set_name(name), tuple(rows), asked, np.full(len(rows), ""))


def prompted(events: Events, tokenizer: Tokenizer, prompt: str, examples: Events) -> Events:
    """The same questions in another prompt, see PROMPTS; ``examples``: calibration questions.

    plain: as they are; few-shot: after N_EXAMPLES questions with their true answers, as open
    questions are usually put to base models; chat: in the tokenizer's chat template, with an
    INSTRUCTION to be brief. Raises UsageError for another name or a tokenizer without a template.
    """
    check_prompts([prompt], tokenizer)
    if prompt == PLAIN:
        return events
    if prompt == FEW_SHOT:
        shown = "".join(f"{text}{own[0]}\n\n" for text, own in examples.asked[:N_EXAMPLES])
        return replace(events, asked=tuple((shown + text, own) for text, own in events.asked))
    asked = tuple(
        (_in_chat(tokenizer, question.question), tuple(answer.lstrip() for answer in answers))
        for question, (_, answers) in zip(events.questions, events.asked, strict=True)
    )
    return replace(events, asked=asked)


def check_prompts(prompts: Sequence[str], tokenizer: Tokenizer) -> None:
    """Raise UsageError unless questions can be asked in every one of these ways."""
    _check(prompts, getattr(tokenizer, "chat_template", None))


def _check(prompts: Sequence[str], template: object) -> None:
    for prompt in prompts:
        if prompt not in PROMPTS:
            raise UsageError(f"unknown prompt {prompt!r}: choose from {', '.join(PROMPTS)}")
        if prompt == CHAT and not template:
            raise UsageError(
                "this model's tokenizer has no chat template: ask with "
                f"{PLAIN!r} or {FEW_SHOT!r} instead of {CHAT!r}"
            )


def usable_prompts(prompts: Sequence[str], template: object) -> list[str]:
    """Those of ``prompts`` that a model with this chat template can be asked in; without one (a
    base model) there is no chat.

    Raises UsageError for an unknown name, or where none is left.
    """
    left = [prompt for prompt in prompts if prompt != CHAT or template]
    _check(left or prompts, template)
    return left


def _in_chat(tokenizer: Tokenizer, question: str) -> str:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{INSTRUCTION}\n\n{question}"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    # a template that writes it and a tokenizer that adds it would begin the text twice
    return text.removeprefix(tokenizer.bos_token) if automatic_bos(tokenizer) else text


def set_events(
    name: str, *, part: str, n_questions: int, wording: str, seed: int
) -> tuple[Events, dict]:
    """Events of the first ``n_questions`` of a part of an open set, and the set's identity.

    Answers are borrowed within the part, so that none of another part is seen.
    """
    corpus = load_open(name)
    rows = standard_split(corpus)[part][:n_questions]
    return events_of(rows, name, wording=wording, seed=seed), corpus.identity


def further_events(
    name: str, *, part: str, n_questions: int, number: int, wording: str, seed: int
) -> Events | None:
    """Events of the next ``n_questions`` of a part after ``number`` times as many; None where the
    part has fewer.
    """
    start = number * n_questions
    rows = standard_split(load_open(name))[part][start : start + n_questions]
    full = len(rows) == n_questions
    return events_of(rows, name, wording=wording, seed=seed) if full else None


def events_of(rows: Sequence[OpenQuestion], name: str, *, wording: str, seed: int) -> Events:
    """Events of these rows; ``name`` is their set, whose prompt is taken."""
    kinds = (paired, false_against_false, irrelevant)
    asked, origins = [], []
    for pair, placebo, other in zip(*(make(rows, seed=seed) for make in kinds), strict=True):
        answers = (pair.true, pair.false, placebo.true, placebo.false, other.false)
        asked.append(answer_prompt(pair.question, answers, name, wording))
        origins.append(pair.origin)
    return Events(set_name(name), tuple(rows), tuple(asked), np.array(origins))
