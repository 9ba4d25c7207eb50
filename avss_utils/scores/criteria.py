"""The criteria by name: how one is registered, asked for and given what it needs.

``CRITERIA`` maps a name to a function of BlockStats. Each takes the keywords it needs and no
other: ``eps`` or ``bulk_eps`` where a threshold enters, ``rng`` where chance does, ``sensitivity``
where the loss itself is asked, ``answers`` where true and false ones are compared.
``score_blocks`` passes them. The project's own are in ``importance``; an installed package adds
some through entry points of the group ENTRY_POINTS, each naming a module that registers them.
"""

import inspect
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from avss_utils.errors import UsageError
from avss_utils.measure.block_stats import BlockStats

ENTRY_POINTS = "avss_utils.criteria"
CRITERIA: dict[str, Callable[..., np.ndarray]] = {}
SCORED_ONCE = {"sensitivity", "answers"}  # options that belong to the whole model, no block removed


def criterion(name: str) -> Callable:
    """Register a function (stats, *, keywords) -> scores, shape (n_blocks,), under ``name``."""

    def register(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        CRITERIA[name] = function
        return function

    return register


def score_blocks(name: str, stats: BlockStats, **options: Any) -> np.ndarray:
    """Scores of criterion ``name``, shape (n_blocks,), passing it only the options it takes.

    Raises UsageError for an unknown name or a score that is not finite.
    """
    if name not in CRITERIA:
        raise UsageError(f"unknown criterion {name!r}: choose from {', '.join(sorted(CRITERIA))}")
    function = CRITERIA[name]
    wanted = wanted_options(name)
    if missing := sorted(wanted - set(options)):
        raise UsageError(f"criterion {name!r} needs {', '.join(missing)}, which is not given here")
    scores = function(stats, **{k: v for k, v in options.items() if k in wanted})
    if not np.isfinite(scores).all():
        raise UsageError(
            f"criterion {name!r} gave no finite score for block "
            f"{int(np.argmin(np.isfinite(scores)))}: use a larger eps or more text"
        )
    return scores


def wanted_options(name: str) -> set[str]:
    """The keywords that criterion ``name`` takes."""
    return set(list(inspect.signature(CRITERIA[name]).parameters)[1:])


def load_outside_criteria() -> None:
    """Import what installed packages name under ENTRY_POINTS; a broken one only warns."""
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:  # of somebody else's code
            warnings.warn(
                f"the criteria of {entry.value!r} cannot be loaded: {error}", stacklevel=2
            )
