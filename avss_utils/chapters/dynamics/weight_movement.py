"""Measures for ``StatsCallback`` beside its own: EAVSS, and how far the weights have gone."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from avss_utils.chapters.dynamics.tidy_rows import Measure
from avss_utils.data.answer_sets import Events
from avss_utils.models.blocks import decoder_blocks
from avss_utils.models.load import LoadedModel
from avss_utils.scores.eavss import ProneScores


def prone_scores(
    tokenizer,
    sets: Sequence[Events],
    *,
    reading: str = "contrast",
    eps: float = 1e-5,
    ratio: float = 1e-3,
    batch_tokens: int = 4096,
) -> Measure:
    """ "eavss": EAVSS by block on fixed questions, mean over ``sets``.

    ``reading``: one of ``hallucination.contrasts.READINGS``.
    """

    def measure(model: nn.Module) -> dict[str, np.ndarray]:
        loaded = LoadedModel(model, tokenizer, {})
        options = dict(eps=eps, ratio=ratio, batch_tokens=batch_tokens)
        return {"eavss": ProneScores(loaded, sets, **options)[reading]}

    return measure


def weight_movement(before: nn.Module) -> Measure:
    """ "weights": the relative change by block, (n_blocks,).

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
    for old, change in _changes(before, after):
        changed += float(change.float().square().sum())
        whole += float(old.float().square().sum())
    return (changed / whole) ** 0.5


def _changes(before: nn.Module, after: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(weights before, their change) of every parameter that the block had before."""
    adapted = {name: m for name, m in after.named_modules() if hasattr(m, "get_delta_weight")}
    now = {name.replace(".base_layer.", "."): p for name, p in after.named_parameters()}
    for name, old in before.named_parameters():
        change = now[name] - old.to(now[name].device)
        module = adapted.get(name.removesuffix(".weight"))
        if module is not None:
            change = change + sum(map(module.get_delta_weight, module.active_adapters))
        yield old, change
