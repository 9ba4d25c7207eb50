"""What training lowers: likelihood of true answers, and three ways to part them from false ones.

The papers name contrastive learning and give no loss (arXiv 2411.10069); each form is a named
variant. States are (n, n_blocks, width), one row per question; every loss is one number, a mean.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from avss_utils.data.answer_sets import Events
from avss_utils.data.token_rows import choice_units
from avss_utils.models import blocks as families
from avss_utils.models.load import LoadedModel

END = "\n"  # where ``measure.decoding`` ends an answer


@dataclass(frozen=True)
class Answers:
    """What one pass gives of n questions: of the prompt, of its true and of its false answer.

    ``prompt``, ``true``, ``false``: states, (n, n_blocks, width), the prompt's at its last token,
    an answer's as the mean over its tokens. ``log_true``, ``log_false``: log-probability a token,
    nats, (n,).
    """

    prompt: torch.Tensor
    true: torch.Tensor
    false: torch.Tensor
    log_true: torch.Tensor
    log_false: torch.Tensor


def info_nce(answers: Answers, *, temperature: float, **_: float) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), the mean over questions and blocks.

    Anchor: the prompt; positive: its true answer; negatives: the false answers of all questions in
    the batch. Cosines over ``temperature``; log(1 + n) where states tell nothing.
    """
    anchor, true, false = (
        functional.normalize(x, dim=-1) for x in (answers.prompt, answers.true, answers.false)
    )
    own = (anchor * true).sum(-1)[..., None]
    others = torch.einsum("ibw,jbw->ibj", anchor, false)
    scores = torch.cat([own, others], -1) / temperature
    return (scores.logsumexp(-1) - scores[..., 0]).mean()


def triplet(answers: Answers, *, margin: float, **_: float) -> torch.Tensor:
    """How far the false answer is not ``margin`` further from the prompt than the true one.

    Distance is 1 - cosine; the mean over questions and blocks (Schroff et al. 2015,
    arXiv 1503.03832).
    """
    near, far = (
        1 - functional.cosine_similarity(answers.prompt, x, dim=-1)
        for x in (answers.true, answers.false)
    )
    return functional.relu(near - far + margin).mean()


def preference(answers: Answers, *, strength: float, **_: float) -> torch.Tensor:
    """-log sigmoid of ``strength`` times the gap of log-probabilities a token, true less false.

    As SimPO (Meng et al. 2024, arXiv 2405.14734) without its target margin; needs no states.
    """
    return -functional.logsigmoid(strength * (answers.log_true - answers.log_false)).mean()


CONTRASTS: dict[str, Callable[..., torch.Tensor]] = {
    "infonce": info_nce,
    "triplet": triplet,
    "preference": preference,
    "none": lambda answers, **_: torch.zeros((), device=answers.log_true.device),
}


@dataclass(frozen=True)
class Lesson:
    """One question to learn from: tokens of its prompt, of its true and of its false answer."""

    row_id: str
    prompt: tuple[int, ...]
    true: tuple[int, ...]
    false: tuple[int, ...]


def lessons_of(loaded: LoadedModel, events: Events) -> list[Lesson]:
    """The true and the false answer of every question, in tokens, each with its END.

    The prompt is the one before the true answer. A model that learns answers without an end goes
    on writing behind them.
    """
    prompts = [prompt for prompt, _ in events.asked]
    answers = [tuple(answer + END for answer in own[:2]) for _, own in events.asked]
    units = iter(choice_units(loaded.model, loaded.tokenizer, prompts, answers))
    return [
        Lesson(question.row_id, true.prefix, true.ids, false.ids)
        for question, true, false in zip(events.questions, units, units, strict=True)
    ]


def collate(batch: Sequence[Lesson]) -> dict[str, torch.Tensor]:
    """A batch of n questions as 2 n rows, the true answers first, right-padded.

    On the left, padding would attend to nothing, whose states are not finite on every device.

    ``input_ids``, ``attention_mask`` and ``answer_mask`` (the answer's tokens): (2 n, T) each.
    """
    rows = [(own.prompt, own.true) for own in batch] + [(own.prompt, own.false) for own in batch]
    ids, mask = families.pad([(*prompt, *answer) for prompt, answer in rows], side="right")
    starts = torch.tensor([[len(prompt)] for prompt, _ in rows])
    answer_mask = mask * (torch.arange(ids.shape[1]) >= starts)
    return {"input_ids": ids, "attention_mask": mask, "answer_mask": answer_mask}


def read_answers(
    model: nn.Module, batch: dict[str, torch.Tensor], *, read: Sequence[int]
) -> Answers:
    """The pass that losses are taken from, gradients kept; ``read``: blocks, by number.

    ``model``: a causal language model, with adapters or without, alone or in torch's wrapper for
    several processes.
    """
    base = families.unwrapped(model)
    inputs = families.forward_inputs(base, batch)
    first = int(batch["answer_mask"].argmax(1).min())  # no token before it is an answer's
    n_last = batch["input_ids"].shape[1] - first + 1
    with _kept_states(base, read) as states:
        few = families.last_only(base, n_last)
        logits = model(**inputs, use_cache=False, **few).logits[:, -n_last:]
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


def _pooled(
    states: list[torch.Tensor], mask: torch.Tensor, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
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
def _kept_states(model: nn.Module, read: Sequence[int]) -> Iterator[list[torch.Tensor]]:
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
