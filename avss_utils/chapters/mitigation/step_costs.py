"""What a step of training costs, by arm: blocks before the first trained one need no gradients."""

from collections.abc import Sequence

import pandas as pd
import torch

from avss_utils.chapters.mitigation.adapter_training import loss_of
from avss_utils.chapters.mitigation.adapters import with_adapters
from avss_utils.chapters.mitigation.arms import Arm, Recipe
from avss_utils.chapters.mitigation.lessons import Lesson, collate
from avss_utils.models.devices import median_seconds, trains_in_bfloat16, without_cudnn_attention


@without_cudnn_attention()
def step_row(
    loaded, lessons: Sequence[Lesson], recipe: Recipe, repeats: int, arm: Arm
) -> pd.DataFrame:
    """Seconds of one forward and backward pass over ``recipe.questions`` lessons: arm, seconds.

    The median of ``repeats``, in the number format that training takes on this device.
    """
    model = with_adapters(loaded.model, arm, recipe, seed=0).train()
    batch = collate(lessons[: recipe.questions])
    device = model.device
    halved = trains_in_bfloat16(device)

    def both_passes() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=halved):
            loss = loss_of(model, batch, arm, recipe)
        loss.backward()
        model.zero_grad()

    seconds = median_seconds(both_passes, device, repeats=repeats)
    return pd.DataFrame({"arm": [arm.name], "seconds": [seconds]})
