"""Padded passes of token rows: what every way of scoring shares.

Log-likelihoods are natural logarithms, from float32 logits whatever the model's dtype.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from avss_utils.measure.finite import check_finite
from avss_utils.models import blocks as families

MOST_LOGITS = 2**30  # numbers in one tensor: 4 GB, and half of what 32 bits can count
AT_ONCE = 2**27  # logits that are taken to float32 together, of which some copies are made


def within_logits(model: nn.Module, batch_tokens: int) -> int:
    """``batch_tokens``, or fewer where the logits of so many would be more than MOST_LOGITS.

    A vocabulary of 262,144 gets there with 4,096 tokens.
    """
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    return max(1, min(batch_tokens, MOST_LOGITS // vocabulary))


def log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) at each position, float64 on the CPU; logits (B, L, V), targets (B, L).

    NaN where the logits sum to no number; minus infinity for a target that a logit rules out.
    """
    parts = []
    for own, wanted in few_rows(logits, targets.to(logits.device)):
        own = own.float()
        picked = own.gather(-1, wanted[..., None])[..., 0]
        total = own.logsumexp(-1)
        parts.append(torch.where(total.isfinite(), picked - total, torch.nan))
    return torch.cat(parts).double().cpu()


def row_scores(
    logits: torch.Tensor,
    targets: torch.Tensor,
    own: torch.Tensor,
    *,
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    drop: Iterable = (),
) -> torch.Tensor:
    """Summed log p of each row's targets that ``own`` marks, (B,): what all rows are judged by.

    Whatever stands at the others, such as padding, does not count. ``rows``: the token ids that
    ``model`` saw, with ``drop`` out of it; raises UsageError for logits that are not finite, as
    ``check_finite`` does.
    """
    total = torch.where(own.bool(), log_probabilities(logits, targets), 0.0).sum(-1)
    check_finite(total, model, rows, drop=drop)
    return total


def few_rows(logits: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same rows of each tensor, as many as have AT_ONCE logits (B, L, V), or one."""
    n = max(1, AT_ONCE // max(1, logits.shape[1:].numel()))
    return zip(*(tensor.split(n) for tensor in (logits, *others)), strict=True)


def in_batches(
    order: Sequence[int], sizes: Sequence[float], batch_tokens: int, *, summed: bool = False
) -> Iterator[list[int]]:
    """Split ``order`` so that each part stays within the budget.

    A part's size is the sum of its sizes, or else its first size times its rows: then ``order``
    must begin with the longest.
    """
    part: list[int] = []
    total = 0.0
    for i in order:
        size = total + sizes[i] if summed else sizes[(part or [i])[0]] * (len(part) + 1)
        if part and size > batch_tokens:
            yield part
            part, total = [], 0.0
        part.append(i)
        total += sizes[i]
    if part:
        yield part


def longest_first(
    model: nn.Module, lengths: Sequence[int], batch_tokens: int, *, last_alone: bool = False
) -> list[list[int]]:
    """Numbers of rows in batches of like lengths, the longest first.

    Padding included, a batch has at most ``batch_tokens`` tokens, or those that ``within_logits``
    allows, and one row at least. With ``last_alone`` only the last token of a row has logits: rows
    are what that bounds then, in a model that can spare the others.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if not last_alone or not families.last_only(model, 1):
        return list(in_batches(order, lengths, within_logits(model, batch_tokens)))
    most = within_logits(model, len(order))
    parts = in_batches(order, lengths, batch_tokens)
    return [part[i : i + most] for part in parts for i in range(0, len(part), most)]


def left_padded(
    rows: Sequence[tuple[Sequence[int], int]],
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Rows (token ids, how many of the last are scored) as a batch, its targets, and their mask.

    Targets (B, L) are the last tokens of all rows, as many as the longest scored part has; the mask
    tells which of them are scored.
    """
    ids, mask = families.pad([ids for ids, _ in rows], side="left")
    last = max(n for _, n in rows)
    own = torch.tensor([[last - n] for _, n in rows]) <= torch.arange(last)
    return {"input_ids": ids, "attention_mask": mask}, ids[:, -last:], own
