"""One pass over questions with a true and a false answer each: what the losses are made of."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from avss_utils.chapters.mitigation.contrastive_losses import Answers
from avss_utils.data.token_rows import ChoiceUnit, pad
from avss_utils.errors import UsageError
from avss_utils.measure.passes import last_only
from avss_utils.models import blocks as families


@dataclass(frozen=True)
class Lesson:
    """One question to learn from: tokens of its prompt, of its true and of its false answer."""

    row_id: str
    prompt: tuple[int, ...]
    true: tuple[int, ...]
    false: tuple[int, ...]


def lessons(row_ids: Sequence[str], units: Sequence[ChoiceUnit]) -> list[Lesson]:
    """From ``likelihood.choice_units`` of each question's true and false answer, in this order.

    The prompt is the one before the true answer. Raises UsageError unless each has both.
    """
    by_question: dict[int, list[ChoiceUnit]] = {}
    for unit in units:
        by_question.setdefault(unit.question, []).append(unit)
    if len(by_question) != len(row_ids) or any(len(own) != 2 for own in by_question.values()):
        raise UsageError("every question needs two answers, the true one and a false one")
    return [
        Lesson(row_ids[i], own[0].prefix, own[0].ids, own[1].ids)
        for i, own in sorted(by_question.items())
    ]


def collate(batch: Sequence[Lesson]) -> dict[str, torch.Tensor]:
    """A batch of n questions as 2 n rows, the true answers first, right-padded.

    On the left, padding would attend to nothing, whose states are not finite on every device.

    ``input_ids``, ``attention_mask`` and ``answer_mask`` (the answer's tokens): (2 n, T) each.
    """
    rows = [(own.prompt, own.true) for own in batch] + [(own.prompt, own.false) for own in batch]
    ids, mask = pad([(*prompt, *answer) for prompt, answer in rows], side="right")
    starts = torch.tensor([[len(prompt)] for prompt, _ in rows])
    answer_mask = mask * (torch.arange(ids.shape[1]) >= starts)
    return {"input_ids": ids, "attention_mask": mask, "answer_mask": answer_mask}


def read_answers(model, batch: dict[str, torch.Tensor], *, read: Sequence[int]) -> Answers:
    """The pass that ``losses`` are taken from, gradients kept; ``read``: blocks, by number.

    ``model``: a causal language model, with adapters or without, alone or in torch's wrapper for
    several processes.
    """
    base = families.unwrapped(model)
    inputs = families.forward_inputs(base, batch)
    first = int(batch["answer_mask"].argmax(1).min())  # no token before it is an answer's
    n_last = batch["input_ids"].shape[1] - first + 1
    with _kept_states(base, read) as states:
        logits = model(**inputs, use_cache=False, **last_only(base, n_last)).logits[:, -n_last:]
    ids = inputs["input_ids"]
    mask = batch["answer_mask"].to(ids.device)
    targets, own = ids[:, 1 - n_last :], mask[:, 1 - n_last :].bool()
    # only what is scored is taken to float32
    picked = logits[:, :-1][own].float().log_softmax(-1).gather(-1, targets[own][:, None])
    summed = torch.zeros(len(ids), device=ids.device)
    each = summed.index_add(0, own.nonzero()[:, 0], picked[:, 0]) / mask.sum(1)
    n = len(ids) // 2
    prompt, answer = _pooled(states, mask, n)
    return Answers(prompt, answer[:n], answer[n:], each[:n], each[n:])


def _pooled(states: list[torch.Tensor], mask: torch.Tensor, n: int):
    """(prompt (n, n_read, width), answers (2 n, n_read, width)); empty where nothing is read."""
    if not states:
        empty = torch.zeros(len(mask), 0, 1, device=mask.device)
        return empty[:n], empty
    stacked = torch.stack([state.float() for state in states], 1)
    weights = mask[:, None, :, None]
    answers = (stacked * weights).sum(2) / weights.sum(2)
    last = mask.argmax(1) - 1  # the token before the answer
    rows = torch.arange(n, device=mask.device)
    return stacked[rows, :, last[:n]], answers


@contextlib.contextmanager
def _kept_states(model, read: Sequence[int]) -> Iterator[list[torch.Tensor]]:
    """The residual after each block in ``read``, in its order, of the pass inside the context."""
    blocks, found = families.decoder_blocks(model), {}
    handles = []
    try:
        for number in read:

            def keep(module, args, output, number=number):
                found[number] = families.hidden_out(output)

            handles.append(blocks[number].register_forward_hook(keep))
        states: list[torch.Tensor] = []
        yield states
        states += [found[number] for number in read]
    finally:
        for handle in handles:
            handle.remove()
