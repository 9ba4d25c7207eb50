"""Low-rank adapters on chosen blocks of a frozen model."""

import copy
from collections.abc import Sequence

from torch import nn

from avss_utils.chapters.mitigation.arms import Arm, Recipe, rank_of
from avss_utils.errors import UsageError
from avss_utils.measure.training import adapted
from avss_utils.models.blocks import decoder_blocks


def with_adapters(model: nn.Module, arm: Arm, recipe: Recipe, *, seed: int) -> nn.Module:
    """A copy of the model with adapters on every linear layer of the arm's blocks.

    Rank-stabilised (Kalajdzievski 2023, arXiv 2312.03732), because arms of many blocks have small
    ranks and arms of few large ones. Raises UsageError for blocks that the model does not have.
    """
    base = copy.deepcopy(model).float()
    layers = linear_layers(base, arm.trained)
    rank = rank_of(arm, recipe.ranks)
    return adapted(base, rank=rank, alpha=16, seed=seed, layers=layers, stabilised=True)


def linear_layers(model: nn.Module, numbers: Sequence[int]) -> list[str]:
    """Names in the model of every linear layer of these blocks."""
    from transformers.pytorch_utils import Conv1D

    blocks = decoder_blocks(model)
    if not set(numbers) <= set(range(len(blocks))):
        raise UsageError(
            f"blocks have numbers from 0 to {len(blocks) - 1}, got {' '.join(map(str, numbers))}"
        )
    inside = {id(m) for number in numbers for m in blocks[number].modules()}
    return [
        name
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | Conv1D)
    ]
