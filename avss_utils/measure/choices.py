"""Log-probabilities of answer choices after their prompts."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.token_rows import ChoiceUnit, choice_units
from avss_utils.measure.passes import (
    in_batches,
    left_padded,
    row_scores,
    within_logits,
)
from avss_utils.measure.side_by_side import Adapter, side_by_side
from avss_utils.models import blocks as families
from avss_utils.store.progress import progress


def score_choices(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    batch_tokens: int = 4096,
    shared_prefix: bool = True,
) -> list[np.ndarray]:
    """Summed log-probability (nats) of each choice after its prompt, one array per prompt.

    ``choices[i]`` are the continuations of ``prompts[i]``, leading space included. The prompt runs
    once per question and its cache serves every choice; in a model whose cache cannot be shared, or
    with ``shared_prefix=False``, both run together: the same scores within float tolerance. A
    prompt that does not fit into the context with its choice loses its beginning, and a warning
    counts these. Raises UsageError for logits that are not finite.
    """
    options: dict[str, Any] = dict(batch_tokens=batch_tokens, shared_prefix=shared_prefix)
    return _scored(model, tokenizer, prompts, choices, 1, **options)[0]


def score_choices_side_by_side(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    adapters: Sequence[Adapter],
    *,
    batch_tokens: int = 4096,
) -> list[list[np.ndarray]]:
    """``score_choices`` of the model with each of the adapters, in their order, in the same passes.

    A pass has ``batch_tokens`` tokens of all adapters together. What belongs to each is what it
    would be alone, within float tolerance.
    """
    with side_by_side(model, adapters):
        options: dict[str, Any] = dict(batch_tokens=batch_tokens, shared_prefix=True)
        return _scored(model, tokenizer, prompts, choices, len(adapters), **options)


def _scored(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    n_arms: int,
    *,
    batch_tokens: int,
    shared_prefix: bool,
) -> list[list[np.ndarray]]:
    """Scores by arm, question and choice; of more arms than one each has its part of the rows."""
    shared_prefix = shared_prefix and families.shares_cache(model)
    units = choice_units(model, tokenizer, prompts, choices)
    groups = grouped(units) if shared_prefix else [[unit] for unit in units]
    scores = [[np.full(len(own), np.nan) for own in choices] for _ in range(n_arms)]
    run = _score_shared if shared_prefix else _score_whole
    own_tokens = max(1, batch_tokens // n_arms)
    batches = group_batches(model, groups, own_tokens, n_arms, whole=not shared_prefix)
    for batch in progress(batches, "choices"):
        values = run(model, batch, n_arms).reshape(n_arms, -1)
        for i, unit in enumerate(u for g in batch for u in g):
            for own, value in zip(scores, values[:, i], strict=True):
                own[unit.question][unit.choice] = value
    return scores


def group_batches(
    model: nn.Module,
    groups: Sequence[list[ChoiceUnit]],
    batch_tokens: int,
    n_arms: int = 1,
    *,
    whole: bool = False,
) -> list[list[list[ChoiceUnit]]]:
    """Groups in batches of at most ``batch_tokens`` tokens an arm, the longest prompts first.

    Tokens with logits stay within ``within_logits`` as well, which counts where the vocabulary is
    large: those of the prompts in a model that cannot spare them, those of the choices where they
    run with their prompts as a ``whole``. Behind a ``PromptPass``, ``alike`` sees to these.
    """
    with_logits = batch_tokens * n_arms / within_logits(model, batch_tokens * n_arms)
    spared = bool(families.last_only(model, 1))

    def size(group: list[ChoiceUnit]) -> float:
        prompt, choice = len(group[0].prefix), max(len(u.ids) for u in group)
        logits = choice * whole + prompt * (not spared)
        return len(group) * max(prompt + choice, with_logits * logits)

    order = sorted(range(len(groups)), key=lambda i: -len(groups[i][0].prefix))
    parts = in_batches(order, [size(g) for g in groups], batch_tokens, summed=True)
    return [[groups[i] for i in part] for part in parts]


def grouped(units: Sequence[ChoiceUnit]) -> list[list[ChoiceUnit]]:
    """Choices of one question after the same prompt, together."""
    groups: dict[tuple, list[ChoiceUnit]] = {}
    for unit in units:
        groups.setdefault((unit.question, unit.prefix), []).append(unit)
    return list(groups.values())


def _score_whole(model: nn.Module, groups: list[list[ChoiceUnit]], n_arms: int = 1) -> np.ndarray:
    units = [u for g in groups for u in g] * n_arms
    batch, targets, own = left_padded([(u.prefix + u.ids, len(u.ids)) for u in units])
    logits = families.forward_logits(model, batch, last=targets.shape[1] + 1)
    rows = [u.prefix + u.ids for u in units]
    return row_scores(logits[:, :-1], targets, own, model=model, rows=rows).numpy()


def _score_shared(model: nn.Module, groups: list[list[ChoiceUnit]], n_arms: int = 1) -> np.ndarray:
    prompts = families.PromptPass(model, [g[0].prefix for g in groups] * n_arms, cached=True)
    n_own = sum(map(len, groups))
    group_of = torch.tensor([i for i, g in enumerate(groups * n_arms) for _ in g])
    units = [u for g in groups for u in g] * n_arms
    firsts = torch.tensor([[u.ids[0]] for u in units])
    logits = prompts.logits[group_of.to(prompts.logits.device)]
    whole = [u.prefix + u.ids for u in units]
    first = torch.ones_like(firsts)
    scores = row_scores(logits, firsts, first, model=model, rows=whole)
    lengths = [len(u.ids) - 1 for u in units]
    longer = [i for i, n in enumerate(lengths[:n_own]) if n]
    for own in alike(model, longer, lengths, n_arms):
        part = [arm * n_own + i for arm in range(n_arms) for i in own]
        ids, mask = families.pad([units[i].ids for i in part], side="right")
        batch, cache, _ = prompts.followed_by(group_of[part], ids[:, :-1], mask[:, :-1])
        logits = families.forward_logits(model, batch, past_key_values=cache)
        rows = [whole[i] for i in part]
        scores[part] += row_scores(logits, ids[:, 1:], mask[:, 1:], model=model, rows=rows)
    return scores.numpy()


def alike(
    model: nn.Module, rows: Iterable[int], lengths: Sequence[int], n_arms: int = 1
) -> list[list[int]]:
    """Rows in parts of lengths that differ by less than a factor of two, to spare padding.

    A part has one row, or tokens of all arms, padding included, that ``within_logits`` allows.
    """
    by_length: dict[int, list[int]] = {}
    for i in rows:
        by_length.setdefault(lengths[i].bit_length(), []).append(i)
    most = max(1, within_logits(model, n_arms * sum(lengths)) // n_arms)
    ordered = [sorted(own, key=lambda i: -lengths[i]) for own in by_length.values()]
    return [part for own in ordered for part in in_batches(own, lengths, most)]
