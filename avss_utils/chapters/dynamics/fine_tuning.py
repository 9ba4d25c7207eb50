"""Fine-tuning of a whole model or of low-rank adapters on it, and what it is followed by."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from avss_utils.chapters.dynamics.stats_callback import Measure
from avss_utils.data.answer_sets import Events
from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.adapters import adapted
from avss_utils.measure.training import train_on
from avss_utils.models.blocks import checked_numbers, decoder_blocks, unwrapped
from avss_utils.models.load import LoadedModel
from avss_utils.scores.eavss import ProneScores

METHODS = FULL, LORA = ("full", "lora")


def check_methods(names: Sequence[str]) -> None:
    """Raise UsageError for a method of training that is not one of METHODS."""
    for name in names:
        if name not in METHODS:
            raise UsageError(f"unknown method {name!r}: choose from {', '.join(METHODS)}")


def fine_tune(
    loaded: LoadedModel,
    rows: Sequence[Scored],
    *,
    method: str,
    seed: int,
    rank: int = 8,
    frozen: Sequence[int] = (),
    **schedule: Any,
) -> LoadedModel:
    """The model after training on ``rows``, adapters merged; the given one stays as it is.

    ``method``: "full" trains every weight, "lora" adapters of ``rank`` (alpha twice the rank) on
    every linear layer of every block (Hu et al. 2021, arXiv 2106.09685), the rest frozen; ``seed``
    decides the order of the rows and the adapters' start; ``frozen``: blocks whose weights do not
    change, by number; ``schedule``: steps, batch_rows, learning_rate and callbacks of ``train_on``.
    Weights stay in float32; where the device computes bfloat16 natively, passes run in it. Raises
    UsageError for an unknown method, no rows, or blocks that are not the model's or are all of
    them.
    """
    check_methods([method])
    if not rows:
        raise UsageError("training needs rows to learn from")
    model = copy.deepcopy(loaded.model).float()
    if method == LORA:
        model = adapted(model, rank=rank, alpha=2 * rank, seed=seed)
    blocks = decoder_blocks(unwrapped(model))
    for number in checked_numbers(frozen, len(blocks)):
        blocks[number].requires_grad_(False)  # adapters on it too
    train_on(model, rows, seed=seed, **schedule)
    tuned = model.merge_and_unload() if method == LORA else model
    return replace(loaded, model=tuned.eval())


def prone_scores(
    tokenizer: Any, sets: Sequence[Events], *, eps: float, ratio: float, batch_tokens: int
) -> Measure:
    """For ``StatsCallback``: "eavss", EAVSS by block on fixed questions, mean over ``sets``."""

    def measure(model: nn.Module) -> dict[str, np.ndarray]:
        loaded = LoadedModel(model, tokenizer, {})
        scores = ProneScores(loaded, sets, eps=eps, ratio=ratio, batch_tokens=batch_tokens)
        return {"eavss": scores["contrast"]}

    return measure


def weight_movement(before: nn.Module) -> Measure:
    """For ``StatsCallback``: "weights", the relative change by block, (n_blocks,).

    Frobenius norm of the change over that of the weights before, over all weights of a block,
    adapters' changes included. ``before``: the model at the start, not the one that is trained.
    """

    def measure(model: nn.Module) -> dict[str, np.ndarray]:
        pairs = zip(decoder_blocks(before), decoder_blocks(model), strict=True)
        return {"weights": np.array([_relative_change(*pair) for pair in pairs])}

    return measure


@torch.no_grad()
def _relative_change(before: nn.Module, after: nn.Module) -> float:
    changed, whole = 0.0, 0.0
    adapters = {name: m for name, m in after.named_modules() if hasattr(m, "get_delta_weight")}
    now = {name.replace(".base_layer.", "."): p for name, p in after.named_parameters()}
    for name, old in before.named_parameters():
        change = now[name] - old.to(now[name].device)
        module = adapters.get(name.removesuffix(".weight"))
        if module is not None:
            change = change + sum(map(module.get_delta_weight, module.active_adapters))
        changed += float(change.float().square().sum())
        whole += float(old.float().square().sum())
    return (changed / whole) ** 0.5
