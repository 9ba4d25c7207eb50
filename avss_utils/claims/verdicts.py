"""Intervals -> the verdict of each claim, by one rule.

A claim says that a quantity lies above a threshold. With the 95 % interval [low, high] of what was
measured: *reproduced* if low is above the threshold, *not reproduced* if high is below it,
*undecided* between, *cannot be tested* when the measurement could not have shown it either way.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from avss_utils.stats.resampling import Estimate

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
UNDECIDED = "undecided"
CANNOT_BE_TESTED = "cannot be tested"


def verdict(estimate: Estimate, *, threshold: float, testable: bool = True) -> str:
    """The verdict on "the quantity is above ``threshold``"; NaN or infinite limits test nothing."""
    finite = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    if not testable or estimate.n == 0 or not finite:
        return CANNOT_BE_TESTED
    if estimate.low > threshold:
        return REPRODUCED
    return NOT_REPRODUCED if estimate.high < threshold else UNDECIDED


def verdict_below(estimate: Estimate, *, threshold: float, testable: bool = True) -> str:
    """The same for "the quantity is below ``threshold``"."""
    mirrored = Estimate(-estimate.value, -estimate.high, -estimate.low, estimate.n)
    return verdict(mirrored, threshold=-threshold, testable=testable)


@dataclass(frozen=True)
class Finding:
    """One row of the ledger: a claim and what was measured, judged by the rule.

    ``testable``: whether the measurement could have shown it either way; ``below``: the claim says
    that the quantity lies below the threshold, as a p-value is to be small.
    """

    claim: str
    measure: str
    estimate: Estimate
    threshold: float
    primary: bool
    testable: bool = True
    below: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        judge = verdict_below if self.below else verdict
        return judge(self.estimate, threshold=self.threshold, testable=self.testable)


def ledger(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row per finding: what it says, without its direction, its estimate in columns."""
    numbers = ["value", "low", "high", "n", "threshold"]
    names = ["claim", "measure", *numbers, "verdict", "primary", "note"]
    rows = [{**vars(f), **vars(f.estimate), "verdict": f.verdict} for f in findings]
    return pd.DataFrame(rows, columns=names)
