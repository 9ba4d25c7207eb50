"""The ledger in one figure: the effect of every claim against its threshold."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from avss_utils.claims.verdicts import (
    CANNOT_BE_TESTED,
    IN_PART,
    NOT_MEASURED,
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
)
from avss_utils.show.figures import COLOURS, FAINT, INK

# verdict -> marker, colour, whether it is filled: told apart without colours too
LOOKS = {
    REPRODUCED: ("o", COLOURS[2], True),
    IN_PART: ("P", COLOURS[1], True),
    NOT_REPRODUCED: ("X", COLOURS[3], True),
    UNDECIDED: ("D", COLOURS[0], False),
    CANNOT_BE_TESTED: ("s", FAINT, False),
    NOT_MEASURED: ("v", FAINT, False),
}
REACH = 1.0  # of the scale to both sides; what lies beyond ends in an arrow
SMALL, GAP = 7, 0.5  # points; between claims, in rows
LONGEST = 18  # characters of a model's name
# where columns of text begin and the last ends, in units of the scale
CLAIM, SHORT = -2.75, -2.47
SEVERAL = {"model": 1.07, "estimate [95 %]": 2.5, "needed": 4.2, "": 4.65}
ALONE = {"estimate [95 %]": 1.12, "needed": 2.5, "": 2.95}


def figure_height(table: pd.DataFrame) -> float:
    """Inches for ``forest``: it grows with the rows of ``tables.distances``."""
    return 0.17 * (len(table) + GAP * table.claim.nunique()) + 1.0


def forest(ax: Axes, table: pd.DataFrame) -> Axes:
    """A line for each row of ``ledger_tables.distances``, claims in bands: estimate less threshold,
    turned so that a claim holds to the right of 0.

    Marker and colour say the verdict; beside the scale stand the claim, the model, the estimate as
    it is and what the claim needs. Where there is one model its name is left out.
    """
    columns = SEVERAL if table.model[table.model != ""].nunique() > 1 else ALONE
    options: dict[str, Any] = dict(va="center", fontsize=SMALL, color=INK)
    y = 0.0
    for number, (_, own) in enumerate(table.groupby("claim", sort=False)):
        ax.text(CLAIM, y, own.claim.iloc[0], **options)
        ax.text(SHORT, y, own.short.iloc[0], **options)
        top = y - 0.5 - GAP / 2
        for row in own.itertuples():
            _interval(ax, y, row)
            name = row.model
            name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
            told = {"model": name, "estimate [95 %]": row.text, "needed": row.needed}
            for column in columns.keys() & told.keys():
                ax.text(columns[column], y, told[column], **options)
            y += 1
        if number % 2 == 0:
            ax.axhspan(top, y - 0.5 + GAP / 2, color=INK, alpha=0.06, lw=0)
        y += GAP
    ax.set(xlim=(CLAIM - 0.05, columns[""]), ylim=(y - 0.5, -1.9))
    for name, x in {"claim": CLAIM, **columns}.items():
        ax.text(x, -1.25, name, **{**options, "color": "#555555"})
    return _scale(ax, bottom=y - 0.5)


def _interval(ax: Axes, y: float, row: Any) -> None:
    """Point and limits; a limit beyond the scale is an arrow at its end."""
    if not np.isfinite(row.value):
        return
    marker, colour, filled = LOOKS[row.verdict]
    low, high = np.nan_to_num([row.low, row.high], posinf=9, neginf=-9)
    ax.plot(np.clip([low, high], -REACH, REACH), [y, y], color=colour, lw=1.4)
    for beyond, end, arrow in ((low < -REACH, -REACH, "<"), (high > REACH, REACH, ">")):
        if beyond:
            ax.plot(end, y, arrow, color=colour, ms=4)
    if abs(row.value) <= REACH:
        face = colour if filled else "white"
        ax.plot(row.value, y, marker, ms=5, mec=colour, mfc=face, mew=1.2)


def _scale(ax: Axes, *, bottom: float) -> Axes:
    """Axis, grid and legend; they take up the middle of ``ax`` alone."""
    ticks = np.linspace(-REACH, REACH, 5)
    ax.grid(False)
    ax.vlines(ticks, -0.75, bottom, color=FAINT, lw=0.4, alpha=0.6, zorder=0)
    ax.vlines(0, -0.75, bottom, color=INK, lw=1, ls="--", zorder=1)
    for x, side, text in ((-0.06, "right", "fails"), (0.06, "left", "holds")):
        ax.text(x, -1.25, text, ha=side, va="center", fontsize=SMALL, color="#555555")
    ax.set_xticks(ticks, [f"{t:+.1f}".replace("-", "−") if t else "0" for t in ticks])
    ax.tick_params(labelsize=SMALL, length=2)
    ax.set_yticks([])
    for side in ("left", "right", "top", "bottom"):
        ax.spines[side].set_visible(False)
    left, right = ax.get_xlim()
    ax.set_xlabel("estimate less threshold, in the claim's direction", fontsize=SMALL)
    ax.xaxis.label.set_x(-left / (right - left))
    handles = [
        Line2D([], [], marker=m, color=c, mfc=c if filled else "white", mew=1.2, ms=5, label=name)
        for name, (m, c, filled) in LOOKS.items()
    ]
    ax.figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=SMALL
    )
    return ax
