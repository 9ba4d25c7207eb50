"""What a step of training costs, by arm: blocks before the first trained one need no gradients."""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from avss_utils.devices import synchronise, trains_in_bfloat16
from avss_utils.mitigation.adapters import with_adapters
from avss_utils.mitigation.arms import Arm, Recipe
from avss_utils.mitigation.reading import Lesson, collate
from avss_utils.mitigation.training import loss_of


def step_row(
    loaded, lessons: Sequence[Lesson], recipe: Recipe, repeats: int, arm: Arm
) -> pd.DataFrame:
    """Seconds of one forward and backward pass over ``recipe.questions`` lessons: arm, seconds.

    The median of ``repeats``, in the number format that training takes on this device.
    """
    model = with_adapters(loaded.model, arm, recipe, seed=0).train()
    batch = collate(lessons[: recipe.questions])
    device, seconds = model.device, []
    halved = trains_in_bfloat16(device)
    for _ in range(repeats + 1):  # the first warms up and does not count
        synchronise(device)
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=halved):
            loss = loss_of(model, batch, arm, recipe)
        loss.backward()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
        model.zero_grad()
    return pd.DataFrame({"arm": [arm.name], "seconds": [float(np.median(seconds[1:]))]})
