"""Model x texts: token log-likelihoods, perplexity, and scores of answer choices.

All log-likelihoods are natural logarithms, taken from float32 logits whatever the model's dtype.
"""

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import signature

import numpy as np
import pandas as pd
import torch
from torch import nn

from avss_utils import blocks as families
from avss_utils.progress import progress
from avss_utils.runs import UsageError
from avss_utils.windows import Window, text_windows


def window_likelihoods(
    model: nn.Module, windows: Sequence[Window], *, batch_tokens: int
) -> pd.DataFrame:
    """Score windows: a row each with row_id, window, nll (nats), n_tokens, n_bytes.

    ``batch_tokens`` bounds tokens (padding included) of one forward pass.
    """
    families.check_length(model, max((len(w.ids) for w in windows), default=0))
    nll = np.zeros(len(windows))
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i].ids))
    parts = list(_batches(order, [len(w.ids) for w in windows], batch_tokens))
    for part in progress(parts, "texts"):
        ids, mask = _pad([windows[i].ids for i in part], side="right")
        logits = _logits(model, {"input_ids": ids, "attention_mask": mask})
        scores = _gather(logits[:, :-1], ids[:, 1:])
        nll[part] = -(scores * mask[:, 1:]).sum(-1).numpy()
    rows = [
        (w.row_id, k, x, len(w.ids) - 1, w.n_bytes)
        for k, (w, x) in enumerate(zip(windows, nll, strict=True))
    ]
    return pd.DataFrame(rows, columns=["row_id", "window", "nll", "n_tokens", "n_bytes"])


def perplexity(
    model: nn.Module,
    tokenizer,
    texts: Iterable,
    *,
    context: int,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
) -> float:
    """exp(mean negative log-likelihood a token) over texts, in windows of ``context`` tokens."""
    windows = text_windows(tokenizer, texts, context=context, max_tokens=max_tokens)
    table = window_likelihoods(model, windows, batch_tokens=batch_tokens)
    return float(np.exp(table.nll.sum() / table.n_tokens.sum()))


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
    units = _fitted(_units(tokenizer, prompts, choices), families.context_length(model))
    groups = _group(units) if shared_prefix else [[unit] for unit in units]
    longest = [len(g[0].prefix) + max(len(u.ids) for u in g) for g in groups]
    sizes = [len(g) * n for g, n in zip(groups, longest, strict=True)]
    order = sorted(range(len(groups)), key=lambda i: -len(groups[i][0].prefix))
    scores = [np.full(len(own), np.nan) for own in choices]
    run = _score_shared if shared_prefix else _score_whole
    parts = list(_batches(order, sizes, batch_tokens, summed=True))
    for part in progress(parts, "choices"):
        batch = [groups[i] for i in part]
        values = run(model, batch)
        for unit, value in zip((u for g in batch for u in g), values, strict=True):
            scores[unit.question][unit.choice] = value
    return scores


@dataclass(frozen=True)
class _Unit:
    question: int
    choice: int
    prefix: tuple[int, ...]
    ids: tuple[int, ...]


def _units(tokenizer, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[_Unit]:
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
        _Unit(question, number, tuple(ids[: cuts[question]]), tuple(ids[cuts[question] :]))
        for (question, number, _), ids in zip(named, joint, strict=True)
    ]


def _fitted(units: list[_Unit], limit: int | None) -> list[_Unit]:
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


def _group(units: list[_Unit]) -> list[list[_Unit]]:
    groups: dict[tuple, list[_Unit]] = {}
    for unit in units:
        groups.setdefault((unit.question, unit.prefix), []).append(unit)
    return list(groups.values())


def _score_whole(model, groups: list[list[_Unit]]) -> np.ndarray:
    units = [u for g in groups for u in g]
    ids, mask = _pad([u.prefix + u.ids for u in units], side="left")
    last = max(len(u.ids) for u in units)
    logits = _logits(model, {"input_ids": ids, "attention_mask": mask}, last=last + 1)
    scores = _gather(logits[:, :-1], ids[:, -last:])
    own = torch.tensor([[last - len(u.ids)] for u in units]) <= torch.arange(last)
    return (scores * own).sum(-1).numpy()


def _score_shared(model, groups: list[list[_Unit]]) -> np.ndarray:
    ids, mask = _pad([g[0].prefix for g in groups], side="left")
    inputs = families.forward_inputs(model, {"input_ids": ids, "attention_mask": mask})
    with torch.inference_mode():
        out = model(**inputs, use_cache=True, **_last_only(model, 1))
    group_of = torch.tensor([i for i, g in enumerate(groups) for _ in g])
    units = [u for g in groups for u in g]
    firsts = torch.tensor([[u.ids[0]] for u in units])
    scores = _gather(out.logits[:, -1:][group_of.to(out.logits.device)], firsts)[:, 0]
    for part in _alike([i for i, u in enumerate(units) if len(u.ids) > 1], units):
        cache = copy.deepcopy(out.past_key_values)
        cache.batch_select_indices(group_of[part].to(inputs["input_ids"].device))
        scores[part] += _score_rest(
            model, cache, mask[group_of[part]], [units[i].ids for i in part]
        )
    return scores.numpy()


def _alike(longer: list[int], units: list[_Unit]) -> list[list[int]]:
    """Choices in parts whose lengths differ by less than a factor of two, to spare padding."""
    parts: dict[int, list[int]] = {}
    for i in longer:
        parts.setdefault((len(units[i].ids) - 1).bit_length(), []).append(i)
    return list(parts.values())


def _score_rest(model, cache, prefix_mask: torch.Tensor, choices: list[tuple[int, ...]]):
    """Log-probability of every token of the choices after their first, given the cached prompt."""
    ids, mask = _pad(choices, side="right")
    full = torch.cat([prefix_mask, mask[:, :-1]], dim=1)
    batch = {"input_ids": ids[:, :-1], "attention_mask": full}
    logits = _logits(model, batch, past_key_values=cache)
    return (_gather(logits, ids[:, 1:]) * mask[:, 1:]).sum(-1)


def _logits(model, batch: dict, *, last: int | None = None, past_key_values=None) -> torch.Tensor:
    inputs = families.forward_inputs(model, batch)
    if past_key_values is not None:
        inputs["past_key_values"] = past_key_values
    keep = {} if last is None else _last_only(model, last)
    with torch.inference_mode():
        out = model(**inputs, use_cache=past_key_values is not None, **keep)
    return out.logits if last is None else out.logits[:, -last:]


def _last_only(model, n: int) -> dict:
    return {"logits_to_keep": n} if "logits_to_keep" in signature(model.forward).parameters else {}


def _gather(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) at each position, float64 on the CPU; logits (B, L, V), targets (B, L)."""
    logits, targets = logits.float(), targets.to(logits.device)
    picked = logits.gather(-1, targets[..., None])[..., 0]
    return (picked - logits.logsumexp(-1)).double().cpu()


def _pad(rows: Sequence[Sequence[int]], *, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[i, where], mask[i, where] = torch.tensor(row), 1
    return ids, mask


def _batches(
    order: list[int], sizes: list[int], batch_tokens: int, *, summed: bool = False
) -> Iterator[list[int]]:
    """Split ``order`` so that each part stays within the budget.

    A part's size is the sum of its sizes, or else its first size times its rows: then ``order``
    must begin with the longest.
    """
    part, total = [], 0
    for i in order:
        size = total + sizes[i] if summed else sizes[(part or [i])[0]] * (len(part) + 1)
        if part and size > batch_tokens:
            yield part
            part, total = [], 0
        part.append(i)
        total += sizes[i]
    if part:
        yield part
