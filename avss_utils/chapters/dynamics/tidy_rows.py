"""The rows that a training is followed by, and the steps at which they are taken."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from avss_utils.errors import UsageError

COLUMNS = ["step", "block", "site", "measure", "value"]
WHOLE = -1  # the block of what is measured on the whole model
SITES = ("residual", "update")
FOLLOWED = ("avss", "block-influence", "relative-update-variance")
N_STEPS = 12
# A number, or an array of shape (n_blocks,), under each name, from a model as it is.
Measure = Callable[[nn.Module], Mapping[str, float | np.ndarray]]


def log_steps(last: int, n: int = N_STEPS) -> list[int]:
    """0, 1 and ``last`` and at most ``n`` numbers in all, evenly spaced in the logarithm.

    Raises UsageError unless ``last`` is 1 or more and ``n`` 2 or more.
    """
    if last < 1 or n < 2:
        raise UsageError(f"steps need a last one of 1 or more and 2 in all, not {last} and {n}")
    spaced = np.geomspace(1, last, n - 1).round().astype(int).tolist() if n > 2 else [last]
    return sorted({0, *spaced})
