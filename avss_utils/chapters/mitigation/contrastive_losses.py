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


def collate(arms: Sequence[Sequence[Lesson]]) -> dict[str, torch.Tensor]:
    """Batches of n questions each as 2 n rows an arm, the true answers first, right-padded.

    On the left, padding would attend to nothing, whose states are not finite on every device.

    ``input_ids``, ``attention_mask`` and ``answer_mask`` (the answer's tokens): (2 n len(arms), T)
    each, in the arms' order.
    """
    rows = []
    for batch in arms:
        rows += [(own.prompt, own.true) for own in batch]
        rows += [(own.prompt, own.false) for own in batch]
    ids, mask = families.pad([(*prompt, *answer) for prompt, answer in rows], side="right")
    starts = torch.tensor([[len(prompt)] for prompt, _ in rows])
    answer_mask = mask * (torch.arange(ids.shape[1]) >= starts)
    return {"input_ids": ids, "attention_mask": mask, "answer_mask": answer_mask}


def read_answers(
    model: nn.Module, batch: dict[str, torch.Tensor], *, reads: Sequence[Sequence[int]]
) -> list[Answers]:
    """The pass that losses are taken from, gradients kept: what it gives of each arm.

    ``batch``: of ``collate``; ``reads``: by arm, the blocks whose states are kept.
    """
    inputs = families.forward_inputs(model, batch)
    ids, mask = inputs["input_ids"], batch["answer_mask"].to(inputs["input_ids"].device)
    scored = torch.zeros_like(mask, dtype=torch.bool)
    scored[:, :-1] = mask[:, 1:].bool()  # a token's logits are those of the position before
    with _kept_states(model, sorted({block for own in reads for block in own})) as states:
        logits = families.logits_at(model, inputs, scored)
    targets = ids[:, 1:][mask[:, 1:].bool()]
    picked = logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    summed = torch.zeros(len(ids), device=ids.device, dtype=picked.dtype)
    each = summed.index_add(0, scored.nonzero()[:, 0], picked) / mask.sum(1)
    prompts, answers = _pooled(states, mask, len(reads))
    found = []
    for i, log in enumerate(each.unflatten(0, (len(reads), -1)).unbind()):
        blocks = [list(states).index(block) for block in reads[i]]
        own, n = answers[i][:, blocks], len(log) // 2
        found.append(Answers(prompts[i][:, blocks], own[:n], own[n:], log[:n], log[n:]))
    return found


def _pooled(
    states: dict[int, torch.Tensor], mask: torch.Tensor, n_arms: int
) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    """By arm, prompts (n, n_kept, width) and answers (2 n, n_kept, width), of every kept block.

    Block by block and for all arms at once: few, large operations, and no copy of all states.
    """
    if not states:
        empty = torch.zeros(n_arms, len(mask) // n_arms, 0, 1, device=mask.device)
        return empty[:, : empty.shape[1] // 2].unbind(), empty.unbind()
    weights, last = mask.float() / mask.sum(1, keepdim=True), mask.argmax(1) - 1
    rows = torch.arange(len(mask), device=mask.device)
    means, prompts = [], []
    for state in states.values():
        with torch.autocast(state.device.type, enabled=False):
            means.append((weights[:, None] @ state.float())[:, 0])
        prompts.append(state[rows, last].float())  # the token before the answer
    answers = torch.stack(means, 1).unflatten(0, (n_arms, -1))
    before = torch.stack(prompts, 1).unflatten(0, (n_arms, -1))
    return before[:, : before.shape[1] // 2].unbind(), answers.unbind()


@contextlib.contextmanager
def _kept_states(model: nn.Module, read: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """The residual after each block in ``read``, by number, of the pass inside the context."""
    blocks, found = families.decoder_blocks(model), dict[int, torch.Tensor]()
    handles = []
    try:
        for number in read:

            def keep(module, args, output, number=number):
                found[number] = families.hidden_out(output)

            handles.append(blocks[number].register_forward_hook(keep))
        yield found
    finally:
        for handle in handles:
            handle.remove()
