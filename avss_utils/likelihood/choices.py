"""Log-probabilities of answer choices after their prompts."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from avss_utils import blocks as families
from avss_utils.likelihood.passes import (
    forward_logits,
    in_batches,
    last_only,
    left_padded,
    log_probabilities,
    pad,
    within_logits,
)
from avss_utils.progress import progress
from avss_utils.runs import UsageError


def score_choices(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    batch_tokens: int = 4096,
    shared_prefix: bool = True,
) -> list[np.ndarray]:
    """Summed log-probability (nats) of each choice after its prompt, one array a prompt.

    ``choices[i]`` are the continuations of ``prompts[i]``, leading space included. The prompt runs
    once a question and its cache serves every choice; ``shared_prefix=False`` runs prompt and
    choice together, for models without a cache. Both give the same scores within float tolerance.
    A prompt that does not fit into the model's context with its choice loses its beginning, and a
    warning counts these.
    """
    units = choice_units(model, tokenizer, prompts, choices)
    groups = _group(units) if shared_prefix else [[unit] for unit in units]
    longest = [len(g[0].prefix) + max(len(u.ids) for u in g) for g in groups]
    sizes = [len(g) * n for g, n in zip(groups, longest, strict=True)]
    order = sorted(range(len(groups)), key=lambda i: -len(groups[i][0].prefix))
    scores = [np.full(len(own), np.nan) for own in choices]
    run = _score_shared if shared_prefix else _score_whole
    batch_tokens = within_logits(model, batch_tokens)
    parts = list(in_batches(order, sizes, batch_tokens, summed=True))
    for part in progress(parts, "choices"):
        batch = [groups[i] for i in part]
        values = run(model, batch)
        for unit, value in zip((u for g in batch for u in g), values, strict=True):
            scores[unit.question][unit.choice] = value
    return scores


@dataclass(frozen=True)
class ChoiceUnit:
    """One choice of one question: the tokens of its prompt, and its own."""

    question: int
    choice: int
    prefix: tuple[int, ...]
    ids: tuple[int, ...]


def choice_units(
    model: nn.Module, tokenizer, prompts: Sequence[str], choices: Sequence[Sequence[str]]
) -> list[ChoiceUnit]:
    """Every choice in tokens, the beginning of a prompt cut where the model's context is full."""
    return _fitted(_units(tokenizer, prompts, choices), families.context_length(model))


def _units(tokenizer, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[ChoiceUnit]:
    """Tokens of each prompt and of each choice as they stand in their joint text.

    All prompts and then all joint texts go to the tokenizer at once: one call a text would take
    longer than a small model.
    """
    named = [
        (question, number, choice)
        for question, (_, own) in enumerate(zip(prompts, choices, strict=True))
        for number, choice in enumerate(own)
    ]
    if not named:
        return []
    cuts = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
    joint = tokenizer([prompts[question] + choice for question, _, choice in named])["input_ids"]
    for (question, _, choice), ids in zip(named, joint, strict=True):
        if not prompts[question] or not 0 < cuts[question] < len(ids):
            raise UsageError(f"a choice needs text after a prompt that is not empty: {choice!r}")
    return [
        ChoiceUnit(question, number, tuple(ids[: cuts[question]]), tuple(ids[cuts[question] :]))
        for (question, number, _), ids in zip(named, joint, strict=True)
    ]


def _fitted(units: list[ChoiceUnit], limit: int | None) -> list[ChoiceUnit]:
    """Units of at most ``limit`` tokens, the beginnings of longer prompts cut."""
    if limit is None:
        return units
    if longest := max((len(u.ids) for u in units if len(u.ids) >= limit), default=0):
        raise UsageError(
            f"a choice of {longest} tokens leaves no room for its prompt: the model has positions "
            f"for {limit}"
        )
    n_long = sum(len(u.prefix) + len(u.ids) > limit for u in units)
    if n_long:
        warnings.warn(
            f"{n_long} of {len(units)} prompts with their choice are longer than the model's "
            f"{limit} tokens: their beginning was cut",
            stacklevel=3,
        )
    return [replace(u, prefix=u.prefix[-(limit - len(u.ids)) :]) for u in units]


def _group(units: list[ChoiceUnit]) -> list[list[ChoiceUnit]]:
    groups: dict[tuple, list[ChoiceUnit]] = {}
    for unit in units:
        groups.setdefault((unit.question, unit.prefix), []).append(unit)
    return list(groups.values())


def _score_whole(model, groups: list[list[ChoiceUnit]]) -> np.ndarray:
    units = [u for g in groups for u in g]
    batch, targets, own = left_padded([(u.prefix + u.ids, len(u.ids)) for u in units])
    logits = forward_logits(model, batch, last=targets.shape[1] + 1)
    scores = log_probabilities(logits[:, :-1], targets)
    return (scores * own).sum(-1).numpy()


def _score_shared(model, groups: list[list[ChoiceUnit]]) -> np.ndarray:
    ids, mask = pad([g[0].prefix for g in groups], side="left")
    inputs = families.forward_inputs(model, {"input_ids": ids, "attention_mask": mask})
    with torch.inference_mode():
        out = model(**inputs, use_cache=True, **last_only(model, 1))
    group_of = torch.tensor([i for i, g in enumerate(groups) for _ in g])
    units = [u for g in groups for u in g]
    firsts = torch.tensor([[u.ids[0]] for u in units])
    scores = log_probabilities(out.logits[:, -1:][group_of.to(out.logits.device)], firsts)[:, 0]
    for part in _alike([i for i, u in enumerate(units) if len(u.ids) > 1], units):
        cache = copy.deepcopy(out.past_key_values)
        cache.batch_select_indices(group_of[part].to(inputs["input_ids"].device))
        scores[part] += _score_rest(
            model, cache, mask[group_of[part]], [units[i].ids for i in part]
        )
    return scores.numpy()


def _alike(longer: list[int], units: list[ChoiceUnit]) -> list[list[int]]:
    """Choices in parts whose lengths differ by less than a factor of two, to spare padding."""
    parts: dict[int, list[int]] = {}
    for i in longer:
        parts.setdefault((len(units[i].ids) - 1).bit_length(), []).append(i)
    return list(parts.values())


def _score_rest(model, cache, prefix_mask: torch.Tensor, choices: list[tuple[int, ...]]):
    """Log-probability of every token of the choices after their first, given the cached prompt."""
    ids, mask = pad(choices, side="right")
    full = torch.cat([prefix_mask, mask[:, :-1]], dim=1)
    batch = {"input_ids": ids[:, :-1], "attention_mask": full}
    logits = forward_logits(model, batch, past_key_values=cache)
    return (log_probabilities(logits, ids[:, 1:]) * mask[:, 1:]).sum(-1)
