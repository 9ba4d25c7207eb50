"""Conditions -> the verdict of each claim, by one rule.

A claim is a conjunction of conditions, the first of which, (a), is its effect. Each is one quantity
with a 95 % interval: it *holds* with the whole interval on its side, *fails* with the whole
interval on the other, and is *open* between. Declared before the records that they judge.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from avss_utils.show.tables import with_interval
from avss_utils.stats.resampling import Estimate, detectable

HOLDS, FAILS, OPEN, WAITS = "holds", "fails", "open", "waits"
REPRODUCED, IN_PART = "reproduced", "in part"
NOT_REPRODUCED, UNDECIDED = "not reproduced", "undecided"
CANNOT_BE_TESTED, NOT_MEASURED = "cannot be tested", "not yet measured"
EFFECT = "a"  # the part of a claim without which it is not reproduced


@dataclass(frozen=True)
class Needs:
    """What an interval has to do.

    ``side``: "above" or "below" ``threshold``, or "reaches" a claimed size, which is to lie above
    0, to hold the size or lie beyond it, and to be no wider than the size. ``beyond``: of "below",
    above what it fails, where that is not the threshold.
    """

    side: str
    threshold: float
    beyond: float | None = None

    def state(self, e: Estimate) -> str:
        """HOLDS, FAILS or OPEN; without rows, or with limits that are not finite, OPEN."""
        if e.n == 0 or not (math.isfinite(e.low) and math.isfinite(e.high)):
            return OPEN
        if self.side == "reaches":
            if e.high < self.threshold:
                return FAILS
            sharp = e.high - e.low <= self.threshold
            return HOLDS if e.low > 0 and sharp else OPEN
        if self.side == "above":
            return HOLDS if e.low > self.threshold else FAILS if e.high < self.threshold else OPEN
        beyond = self.threshold if self.beyond is None else self.beyond
        return HOLDS if e.high < self.threshold else FAILS if e.low > beyond else OPEN

    def __str__(self) -> str:
        sign = {"above": ">", "below": "<", "reaches": "≥"}[self.side]
        return f"{sign} {self.threshold:g}"


@dataclass(frozen=True)
class Finding:
    """One measurement and what it was to show: a condition of a claim, or beside it.

    ``part``: of the claim's conditions, "a" to "c"; "" is exploratory and decides nothing.
    ``size``: what it had to be able to show, in the estimate's unit; ``testable``: whether it could
    show anything at all. ``group``: of a claim that one of several sets can show, which one.
    ``waits``: the command that makes the record without which there is no estimate. ``decided``:
    the state, where a count decides and not the interval.
    """

    claim: str
    measure: str
    estimate: Estimate
    needs: Needs
    part: str = ""
    size: float = math.inf
    testable: bool = True
    group: str = ""
    waits: str = ""
    decided: str = ""
    note: str = ""

    @property
    def state(self) -> str:
        """HOLDS, FAILS, OPEN, or WAITS for a record."""
        if self.waits:
            return WAITS
        return self.decided or (self.needs.state(self.estimate) if self.testable else OPEN)

    @property
    def could_show(self) -> bool:
        """Whether an effect of its size would have been found with 80 % power."""
        return self.testable and detectable(self.estimate) <= self.size


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)  # of what waits for its record


def verdict(conditions: Sequence[Finding]) -> str:
    """The verdict on the conditions of one claim, (a) among them."""
    effect = [c.state for c in conditions if c.part == EFFECT]
    others = [c.state for c in conditions if c.part != EFFECT]
    if FAILS in effect or not effect:
        return NOT_REPRODUCED if effect else NOT_MEASURED
    if FAILS in others:
        return IN_PART if set(effect) == {HOLDS} else NOT_REPRODUCED
    if {*effect, *others} == {HOLDS}:
        return REPRODUCED
    if set(effect) == {WAITS}:
        return NOT_MEASURED
    unshown = [c for c in conditions if c.state == OPEN and not c.could_show]
    return CANNOT_BE_TESTED if unshown else UNDECIDED


def judged(findings: Iterable[Finding]) -> str:
    """The verdict on one claim's findings: where several sets could show it, any one of them.

    One and the same set has to pass every condition; while one is open the claim is.
    """
    own = sorted((f for f in findings if f.part), key=lambda f: f.group)
    ends = {verdict(list(group)) for _, group in groupby(own, lambda f: f.group)}
    order = (REPRODUCED, UNDECIDED, CANNOT_BE_TESTED, NOT_MEASURED, IN_PART, NOT_REPRODUCED)
    return next((end for end in order if end in ends), NOT_MEASURED)


def in_words(findings: Iterable[Finding]) -> str:
    """What fails, what is open and could not have been shown, what waits: a clause, or ""."""
    words: dict[str, list[str]] = {FAILS: [], OPEN: [], WAITS: []}
    for f in findings:
        if f.part and f.state in words:
            wide = ", too wide to tell" if f.state == OPEN and not f.could_show else ""
            words[f.state].append(f"({f.part}) {f.measure}{wide}")
    return "; ".join(f"{state}: {', '.join(own)}" for state, own in words.items() if own)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the one rule for a family of tests here."""
    from statsmodels.stats.multitest import multipletests  # a second, and few commands need it

    return list(multipletests(p_values, method="holm")[1]) if len(p_values) else []


def ledger(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row per finding: claim, part, group, measure, value, low, high, n, needed, state, note.

    What waits says for which command; what is open and could not have shown its size says so.
    """
    rows = []
    for f in findings:
        weak = f.state == OPEN and f.part and not f.could_show
        state = f"{f.state}, could not show" if weak else f.state
        note = "; ".join(filter(None, (f.note, f.waits and f"waits for: {f.waits}")))
        own = dict(claim=f.claim, part=f.part, group=f.group, measure=f.measure)
        rows.append(
            {**own, **vars(f.estimate), "needed": str(f.needs), "state": state, "note": note}
        )
    names = ["claim", "part", "group", "measure", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=[*names, "needed", "state", "note"])


def shown(findings: Iterable[Finding]) -> pd.DataFrame:
    """``ledger`` as a page shows it: estimates as text, columns that are empty left out."""
    table = with_interval(ledger(findings))
    columns = ["claim", "part", "measure", "estimate", "n", "needed", "state", "note"]
    return table[[c for c in columns if (table[c] != "").any()]]


def verdicts_of(findings: Iterable[Finding]) -> dict[str, str]:
    """The verdict on every claim that the findings have conditions of."""
    return {claim: judged(own) for claim, own in _by_claim(findings).items()}


def words_of(findings: Iterable[Finding]) -> dict[str, str]:
    """``in_words`` of every such claim; of one that several sets can show, of the nearest to it."""
    return {claim: in_words(nearest(own)) for claim, own in _by_claim(findings).items()}


def nearest(findings: Sequence[Finding]) -> list[Finding]:
    """The conditions of the set by which a claim has its verdict, the first of several."""
    groups = {group: list(own) for group, own in groupby(findings, lambda f: f.group)}
    end = judged(findings)
    return next((own for own in groups.values() if verdict(own) == end), list(findings))


def effect(findings: Iterable[Finding], claim: str, *, part: str = EFFECT) -> Estimate:
    """The estimate of one part of a claim's conditions, NOTHING where there is none."""
    own = _by_claim(findings).get(claim, [])
    return next((f.estimate for f in own if f.part == part), NOTHING)


def turned(e: Estimate) -> Estimate:
    """The same with its sign turned: a fall as a change."""
    return Estimate(-e.value, -e.high, -e.low, e.n)


def _by_claim(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Conditions by claim, and within one by set and part."""
    own = sorted((f for f in findings if f.part), key=lambda f: (f.claim, f.group, f.part))
    return {claim: list(part) for claim, part in groupby(own, lambda f: f.claim)}
