"""Fine-tuning of a whole model or of low-rank adapters on it, with some blocks frozen if wanted."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.training import adapted, train_on
from avss_utils.models.blocks import checked_numbers, decoder_blocks, unwrapped
from avss_utils.models.load import LoadedModel

METHODS = FULL, LORA = ("full", "lora")


@dataclass(frozen=True)
class Recipe:
    """``steps`` of ``batch_rows`` each; AdamW at ``learning_rate``, a tenth of warm-up, then down
    along a cosine.

    ``method``: "full" trains every weight, "lora" adapters of ``rank`` (alpha twice the rank) on
    every linear layer of every block (Hu et al. 2021, arXiv 2106.09685), the rest frozen.
    """

    method: str
    steps: int
    batch_rows: int
    learning_rate: float
    rank: int = 8

    def __post_init__(self):
        if self.method not in METHODS:
            raise UsageError(f"unknown method {self.method!r}: choose from {', '.join(METHODS)}")


def fine_tune(
    loaded: LoadedModel,
    rows: Sequence[Scored],
    recipe: Recipe,
    *,
    seed: int,
    frozen: Sequence[int] = (),
    callbacks: Sequence = (),
) -> LoadedModel:
    """The model after training on ``rows``, adapters merged; the given one stays as it is.

    ``frozen``: blocks whose weights do not change, by number; ``seed`` decides the order of the
    rows and the adapters' start. Weights stay in float32; where the device computes bfloat16
    natively, passes run in it. Raises UsageError for no rows, or blocks that are not the model's or
    are all of them.
    """
    if not rows:
        raise UsageError("training needs rows to learn from")
    model = copy.deepcopy(loaded.model).float()
    if recipe.method == LORA:
        model = adapted(model, rank=recipe.rank, alpha=2 * recipe.rank, seed=seed)
    freeze(model, frozen)
    train_on(
        model,
        rows,
        steps=recipe.steps,
        batch_rows=recipe.batch_rows,
        learning_rate=recipe.learning_rate,
        seed=seed,
        callbacks=callbacks,
    )
    tuned = model.merge_and_unload() if recipe.method == LORA else model
    return replace(loaded, model=tuned.eval())


def freeze(model: nn.Module, numbers: Sequence[int]) -> None:
    """Keep the weights of these blocks, and adapters on them, out of the training."""
    blocks = decoder_blocks(unwrapped(model))
    for number in checked_numbers(numbers, len(blocks)):
        blocks[number].requires_grad_(False)
