"""Flagged blocks out, beside sets of as many blocks that harm text as much.

Nothing that a set is chosen by knows which answer is true: it is drawn at random, and kept for the
bits that its absence adds to neutral text.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from avss_utils.data.token_rows import Scored
from avss_utils.data.windows import Window
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import as_drop, as_text
from avss_utils.stats.retention import BASELINE

ALIKE = 1.25  # how many times the flagged blocks' added bits a match may add, or the other way
AT_ONCE = 50  # sets of blocks whose losses are taken together, for they share prefixes
FLAGGED, DRAWN, MATCHED = "flagged", "random ", "matched "
Bypass = tuple[str, tuple[int, ...], float]  # arm, blocks, added bits per byte


def batches(n: int) -> range:
    """Numbers of the batches that ``n`` sets are drawn in."""
    return range(-(-n // AT_ONCE))


def drawn_sets(
    batch: int, *, n_blocks: int, size: int, n: int, seed: int
) -> dict[str, tuple[int, ...]]:
    """One batch of ``n`` sets of ``size`` blocks, evenly from all of that size, by arm.

    A set can be drawn twice.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(n_blocks, size, replace=False) for _ in range(n)]
    own = range(n)[batch * AT_ONCE : (batch + 1) * AT_ONCE]
    return {f"{DRAWN}{i}": tuple(sorted(drawn[i].tolist())) for i in own}


def added_bits(
    loaded: LoadedModel,
    windows: Sequence[Window],
    sets: Mapping[str, tuple[int, ...]],
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Bits per byte that the absence of each set adds to a text: arm, drop, added_bits."""
    drops = [(), *sets.values()]
    rows = [Scored.window(window) for window in windows]
    nll = drop_losses(loaded.model, rows, drops, batch_tokens=batch_tokens).nll.sum(1)
    bits = (nll[1:] - nll[0]) / np.log(2) / sum(window.n_bytes for window in windows)
    table = {"arm": list(sets), "drop": [as_text(drop) for drop in sets.values()]}
    return pd.DataFrame({**table, "added_bits": bits})


def bypass_arms(bits: pd.DataFrame, *, n: int) -> list[Bypass]:
    """The full model, without the flagged blocks, and without each of ``n`` matches at most.

    ``bits``: as of ``added_bits``, with an arm FLAGGED. A match is a drawn set other than the
    flagged one that adds at most ALIKE times the bits, and at least the flagged's over ALIKE; each
    counts once, the first ones are taken. There are none where flagged blocks add no bits.
    """
    flagged = bits.set_index("arm").loc[FLAGGED]
    drawn = bits[bits["drop"] != flagged["drop"]].drop_duplicates("drop")
    alike = drawn.added_bits.between(flagged.added_bits / ALIKE, flagged.added_bits * ALIKE)
    rows = [(FLAGGED, flagged["drop"], flagged.added_bits)]
    for number, row in enumerate(drawn[alike].head(n).itertuples(index=False)):
        rows.append((f"{MATCHED}{number}", row.drop, row.added_bits))
    arms = [(arm, as_drop(drop), float(own)) for arm, drop, own in rows]
    return [(BASELINE, (), 0.0), *arms]


def bypass_shifts(bypassed: pd.DataFrame) -> pd.DataFrame:
    """What each arm but the full model does: arm, added_bits, points (the change of the
    hallucination rate, the share of questions whose false answer is likelier, in points).
    """
    by_arm = bypassed.groupby("arm", sort=False)[["correct", "added_bits"]].mean()
    points = 100 * (by_arm.correct[BASELINE] - by_arm.correct)
    return by_arm[["added_bits"]].assign(points=points).drop(BASELINE).reset_index()
