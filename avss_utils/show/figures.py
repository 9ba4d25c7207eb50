"""Tables -> axes. Every function takes ``ax`` and returns it, reads no file and runs no model.

Colours are seaborn's colour-blind palette; the white background stays in dark pages.
"""

import re
from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.scale import LogScale, register_scale
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

COLOURS = sns.color_palette("colorblind")
INK, FAINT = "#222222", "#9a9a9a"


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class PlainLogFormatter(LogFormatterSciNotation):
    """Powers of ten as text, such as 2×10⁻³, which matplotlib writes as a formula."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos).replace(r"\times", "×")
        text = re.sub(r"\^\{([-\d]+)\}", lambda power: power[1].translate(SUPERSCRIPTS), text)
        return re.sub(r"\$|\\mathdefault|[{}\s]", "", text)


class PlainLogScale(LogScale):
    """The logarithmic scale, its ticks in text."""

    def set_default_locators_and_formatters(self, axis: Axis) -> None:
        super().set_default_locators_and_formatters(axis)
        axis.set_major_formatter(PlainLogFormatter(self.base))
        few = self.subs is not None
        axis.set_minor_formatter(PlainLogFormatter(self.base, labelOnlyBase=few))


def set_style() -> None:
    """House style for every figure: white ground, thin grid, sizes that print."""
    sns.set_theme(style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.edgecolor": INK,
            "axes.linewidth": 0.8,
            "grid.linewidth": 0.5,
            "legend.frameon": False,
            "axes.titlelocation": "left",
            "figure.constrained_layout.use": True,
            "svg.hashsalt": "avss",
            "text.parse_math": False,  # a name may hold dollar signs, and no label a formula
        }
    )
    register_scale(PlainLogScale)


def panels(
    n_rows: int, n_columns: int, *, height: float, width: float = 8.0
) -> tuple[Figure, list]:
    """A figure and its axes as a flat list; sizes in inches, ``height`` for each row."""
    figure, axes = plt.subplots(n_rows, n_columns, figsize=(width, height * n_rows), squeeze=False)
    return figure, list(axes.flat)


def block_profile(
    ax: Axes, profiles: dict[str, np.ndarray], *, ylabel: str, log: bool = True
) -> Axes:
    """One line per profile over block number; a value of 0 on a log axis leaves a gap."""
    for colour, (name, values) in zip(COLOURS, profiles.items(), strict=False):
        values = np.where(values > 0, values, np.nan) if log else values
        ax.plot(range(len(values)), values, marker="o", ms=2.5, lw=1.2, color=colour, label=name)
    ax.set(xlabel="block", ylabel=ylabel, yscale="log" if log else "linear")
    if len(profiles) > 1:
        ax.legend(fontsize="small")
    return ax


def dropped_blocks(ax: Axes, plans: pd.DataFrame, *, n_blocks: int) -> Axes:
    """One row per plan, a filled cell per removed block; ``plans`` has arm and drop (tuples)."""
    for row, drop in enumerate(plans["drop"]):
        ax.scatter(range(n_blocks), [row] * n_blocks, marker="s", s=26, c="#e6e6e6", lw=0)
        ax.scatter(drop, [row] * len(drop), marker="s", s=30, color=COLOURS[3], lw=0)
    ax.set_yticks(range(len(plans)), plans.arm)
    ax.set(xlabel="block", xlim=(-1, n_blocks), ylim=(len(plans) - 0.5, -0.5))
    ax.grid(False)
    return ax


def intervals(
    ax: Axes, estimates: pd.DataFrame, *, threshold: float, xlabel: str, highlight: str
) -> Axes:
    """A point and its interval per row (arm, value, low, high), with the claim's threshold."""
    for row, e in enumerate(estimates.itertuples()):
        colour = COLOURS[3] if e.arm == highlight else COLOURS[0]
        low, high = _drawable(e.low), _drawable(e.high)
        ax.plot([low, high], [row, row], color=colour, lw=2, solid_capstyle="butt")
        ax.plot(e.value, row, "o", color=colour, ms=5)
    return _rows_of_arms(ax, estimates.arm, threshold=threshold, xlabel=xlabel)


def intervals_by(
    ax: Axes, estimates: pd.DataFrame, *, by: str, threshold: float, xlabel: str
) -> Axes:
    """One row per arm, in it an interval per value of column ``by`` (arm, value, low, high)."""
    arms, groups = list(estimates.arm.unique()), list(estimates.groupby(by, sort=False))
    for number, (name, own) in enumerate(groups):
        rows = np.array([arms.index(arm) for arm in own.arm])
        rows = rows + 0.5 * ((number + 0.5) / len(groups) - 0.5)
        ax.hlines(rows, _drawable(own.low), _drawable(own.high), color=COLOURS[number], lw=2)
        ax.plot(own.value, rows, "o", color=COLOURS[number], ms=4, label=name)
    return _rows_of_arms(ax, arms, threshold=threshold, xlabel=xlabel)


def _rows_of_arms(ax: Axes, arms: Sequence[str], *, threshold: float, xlabel: str) -> Axes:
    """Arms from top to bottom, and the claim's threshold across them."""
    ax.axvline(threshold, color=INK, lw=1, ls="--")
    ax.set_yticks(range(len(arms)), arms)
    ax.set(xlabel=xlabel, ylim=(len(arms) - 0.5, -0.5))
    return ax


def _drawable(bound):
    """An interval's bound with infinity far outside of every axis."""
    return np.nan_to_num(bound, posinf=99, neginf=-99)


def curves(ax: Axes, estimates: pd.DataFrame, *, threshold: float) -> Axes:
    """One line per arm over ratio, with its interval as a band (arm, ratio, value, low, high)."""
    for colour, (arm, own) in zip(COLOURS, estimates.groupby("arm", sort=False), strict=False):
        own = own.sort_values("ratio")
        ax.plot(own.ratio, own.value, marker="o", ms=3, lw=1.3, color=colour, label=arm)
        low, high = _drawable(own.low), _drawable(own.high)
        ax.fill_between(own.ratio, low, high, color=colour, alpha=0.12, lw=0)
    ax.axhline(threshold, color=INK, lw=1, ls="--")
    ax.legend(fontsize="x-small")
    return ax


def heat_map(
    ax: Axes, values: pd.DataFrame, marked: pd.DataFrame, *, limit: float, label: str
) -> Axes:
    """Rows by columns in a diverging palette from minus ``limit`` to ``limit``; a dot where marked.

    Values beyond the limit have its colour, and the bar shows that they exist.
    """
    image = ax.imshow(values.to_numpy(float), cmap="vlag", vmin=-limit, vmax=limit, aspect="auto")
    rows, columns = np.nonzero(marked.to_numpy(bool))
    ax.scatter(columns, rows, s=9, color=INK, lw=0)
    ax.set_yticks(range(len(values)), values.index)
    ax.set(xlabel="block")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label=label, extend="both", pad=0.02)
    return ax


def step_map(ax: Axes, values: pd.DataFrame, *, highest: float, label: str) -> Axes:
    """Blocks by steps in a sequential palette from 0 to ``highest``; steps are evenly spaced."""
    image = ax.imshow(
        values.to_numpy(float), cmap="rocket_r", vmin=0, vmax=highest, aspect="auto", origin="lower"
    )
    ax.set_xticks(range(values.shape[1]), values.columns)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="step", ylabel="block")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label=label, extend="max", pad=0.02)
    return ax


def need(ax: Axes, estimates: pd.DataFrame, *, xlabel: str, ylabel: str) -> Axes:
    """A mark per arm at (moved, value) with its interval (low, high), a shape for each arm."""
    for number, (arm, own) in enumerate(estimates.groupby("arm", sort=False)):
        colour, shape = COLOURS[number % len(COLOURS)], "osD^vP*X"[number % 8]
        ax.vlines(own.moved, _drawable(own.low), _drawable(own.high), color=colour, lw=1.5)
        ax.plot(own.moved, own.value, shape, color=colour, ms=6, label=arm)
    ax.axhline(0, color=INK, lw=1, ls="--")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def legend_apart(axes: Sequence[Axes], n_used: int) -> None:
    """The first panel's legend in the first unused one, or over it where all are used."""
    handles = axes[0].get_legend_handles_labels()
    for ax in axes[n_used:]:
        ax.set_axis_off()
    where = axes[n_used] if n_used < len(axes) else axes[0]
    where.legend(*handles, fontsize="small", loc="center" if n_used < len(axes) else "best")


def null_distribution(
    ax: Axes,
    null: Sequence[float],
    marks: dict[str, float],
    *,
    xlabel: str,
    highlight: str,
    log: bool = False,
) -> Axes:
    """Histogram of a null with named vertical marks; on a log axis the bins are logarithmic."""
    everything = np.concatenate([np.asarray(null, float), list(marks.values())])
    low, high = everything.min(), everything.max()
    edges = np.geomspace(low, high, 31) if log else np.linspace(low, high, 31)
    ax.hist(
        null, bins=edges.tolist(), color="#c9c9c9", edgecolor="white", lw=0.4, label="random sets"
    )
    looks = cycle([(INK, "--"), (COLOURS[0], "-."), (COLOURS[2], ":"), (COLOURS[4], "--")])
    for name, value in marks.items():
        colour, style = (COLOURS[3], "-") if name == highlight else next(looks)
        over = 3 if style == ":" else 2  # dots on a dashed line show both
        ax.axvline(value, color=colour, ls=style, lw=1.8, label=name, zorder=over)
    ax.set(xlabel=xlabel, ylabel="random sets", xscale="log" if log else "linear")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def reliability(ax: Axes, bins: dict[str, pd.DataFrame]) -> Axes:
    """Accuracy over confidence by name, of ``stats.reliability_bins``, with Wilson intervals.

    A point's area grows with the answers in its bin; the dashed line is perfect calibration.
    """
    ax.plot([0, 1], [0, 1], color=INK, lw=1, ls="--")
    for colour, (name, own) in zip(COLOURS, bins.items(), strict=False):
        ax.vlines(own.confidence, own.accuracy_low, own.accuracy_high, color=colour, lw=1.2)
        ax.plot(own.confidence, own.accuracy, color=colour, lw=1, alpha=0.5)
        sizes = 8 + 90 * own.n / own.n.sum()
        ax.scatter(own.confidence, own.accuracy, s=sizes, color=colour, lw=0, label=name)
    ax.set(xlabel="confidence", ylabel="share right", xlim=(0, 1.02), ylim=(-0.02, 1.02))
    if len(bins) > 1:
        ax.legend(fontsize="small", loc="upper left")
    return ax
