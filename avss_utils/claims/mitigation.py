"""C9-C11: does training the flagged blocks help, and is the choice why (notebook 03)?"""

from collections.abc import Sequence

import numpy as np

from avss_utils.claims.thresholds import ERROR_BINS, ERROR_FALL, GUIDED, LEVEL, RATE_FALL
from avss_utils.mitigation.effects import (
    Outcomes,
    detectable,
    error_fall,
    mean_change,
    rank_among,
)
from avss_utils.statistics import against_null
from avss_utils.verdicts import Finding, finding


def rate_findings(
    outcomes: Outcomes, sets: Sequence[str], *, primary_set: str, seed: int
) -> list[Finding]:
    """C9 by set: how far the share of questions with a likelier false answer fell, relative.

    Of the guided arm against the untrained model, above RATE_FALL. Not testable where the smallest
    fall that would have been found is larger.
    """
    found = []
    for name in sets:
        options = dict(fall=True, relative=True, rng=np.random.default_rng(seed))
        fall = mean_change(outcomes, GUIDED, name, "mc1", **options)
        found.append(
            finding(
                "C9",
                f"fall of the hallucination rate, {name}",
                fall,
                threshold=RATE_FALL,
                testable=detectable(fall) <= RATE_FALL,
                primary=name == primary_set,
            )
        )
    return found


def error_findings(
    outcomes: Outcomes, sets: Sequence[str], *, primary_set: str, seed: int
) -> list[Finding]:
    """C10 by set: how far the calibration error of choices fell, relative, above ERROR_FALL."""
    found = []
    for name in sets:
        options = dict(n_bins=ERROR_BINS, rng=np.random.default_rng(seed))
        found.append(
            finding(
                "C10",
                f"fall of ECE, {name}",
                error_fall(outcomes, GUIDED, name, **options),
                threshold=ERROR_FALL,
                primary=name == primary_set,
            )
        )
    return found


def choice_findings(
    outcomes: Outcomes, sets: Sequence[str], *, primary_set: str, seed: int
) -> list[Finding]:
    """C11 by set: is the choice of blocks what helps?

    Primary: the share of random sets of as many blocks that keep at least as many true answers
    likelier, below LEVEL. Beside it what the guided arm has over uniform training, above 0.
    """
    found = []
    for name in sets:
        place = against_null(*rank_among(outcomes, GUIDED, "random", name, "mc1"))
        found.append(
            finding(
                "C11",
                f"random blocks at least as good, {name}",
                place.at_least_as_good,
                threshold=LEVEL,
                below=True,
                primary=name == primary_set,
                note=f"p = {place.p_value:.3g}",
            )
        )
        rng = np.random.default_rng(seed)
        gain = mean_change(outcomes, GUIDED, name, "mc1", reference="uniform", rng=rng)
        found.append(
            finding(
                "C11", f"gain over uniform training, {name}", gain, threshold=0.0, primary=False
            )
        )
    return found
