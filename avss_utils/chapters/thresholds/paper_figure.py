"""What the papers' own figure and the printed formula say about each other, and why.

The figure's numbers are the papers', read off by eye; the scale law is measured on a model.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from torch import nn

from avss_utils.measure.activations import available_sites, collect_block_stats
from avss_utils.scores.importance import floored_sparsity, min_max, normalised
from avss_utils.scores.plans import plan_as_released, plan_lowest

# AVSS (arXiv 2411.02117), Figure 1, 32 layers: variance to 0.02, sparsity to 0.6e-6. Where the
# figure shows only a range over several layers, or a fall between two values, the values here are
# spaced evenly in it, and READ_OFF is False.
_FALL = np.linspace(11.7, 2.5, 15)

FIGURE_VARIANCE = np.array(
    [0.0] * 8
    + [0.02, 0.05, 0.07, 0.1]
    + [0.8, 0.9, 1.0, 1.0, 3.5]
    + list(np.linspace(4.0, 4.7, 9))
    + [5.2, 6.2, 8.2, 13.3, 16.0, 10.0]
)
_MICRO = (
    "210 154 109 81 66 55 51 42 40 34 33 31 26 24 23 20 17 17 16 12 13 12 11 10 8 7 6 4 4 3 3 2"
)
FIGURE_SPARSITY = 1e-6 * np.array([float(x) for x in _MICRO.split()])
FIGURE_PLOTTED = 1e-3 * np.array(
    [0.0] + [0.25] * 10 + [7.0, 5.6, 5.3, 5.3, 13.4] + list(_FALL) + [0.0]
)
READ_OFF = np.array([True] * 8 + [False] * 4 + [True] * 5 + [False] * 9 + [True] * 6)


def figure_one() -> pd.DataFrame:
    """AVSS Figure 1 by layer: what is plotted, and what each formula makes of its inputs."""
    return pd.DataFrame(
        {
            "layer": np.arange(len(FIGURE_VARIANCE)),
            "variance": FIGURE_VARIANCE,
            "sparsity": FIGURE_SPARSITY,
            "plotted": FIGURE_PLOTTED,
            "ratio": normalised(FIGURE_VARIANCE / FIGURE_SPARSITY),
            "product": min_max(FIGURE_VARIANCE) * min_max(FIGURE_SPARSITY),
            "read_off": READ_OFF,
        }
    )


def figure_fits(figure: pd.DataFrame) -> pd.DataFrame:
    """Pearson correlation of the plotted curve with each formula, shifted by up to two layers.

    ``shift`` s compares the plotted value of layer i with the formula's of layer i + s.
    """
    rows = []
    for formula in ("ratio", "product"):
        for shift in range(-2, 3):
            first, last = max(0, -shift), len(figure) - max(0, shift)
            plotted = figure.plotted.to_numpy()[first:last]
            other = figure[formula].to_numpy()[first + shift : last + shift]
            rows.append((formula, shift, float(np.corrcoef(plotted, other)[0, 1])))
    return pd.DataFrame(rows, columns=["formula", "shift", "pearson"])


def figure_facts(figure: pd.DataFrame) -> dict[str, object]:
    """The sum of the plotted curve, and which layers each rule removes from the figure's data."""
    ratio = (figure.variance / figure.sparsity).to_numpy()
    n = len(figure)
    return {
        "sum_plotted": float(figure.plotted.sum()),
        "lowest_quarter": plan_lowest(ratio, n_drop=n // 4).drop,
        "n_as_released": len(plan_as_released(ratio, ratio=0.25).drop),
        "n_layers": n,
    }


def scale_table(
    model: nn.Module, batches: Iterable[dict], *, eps: Iterable[float], tokens: str
) -> pd.DataFrame:
    """Scale and sparsity by site, eps and block; ``tokens``: "all", or "skip-first" of each text.

    Columns: tokens, site, eps, block, std, zeros, n_entries, avss (variance / floored sparsity).
    """
    skip, eps, parts = tokens == "skip-first", tuple(eps), []
    sites = available_sites(model)
    stats = collect_block_stats(model, batches, sites=sites, eps=eps, skip_first_token=skip)
    for site in stats.sites:
        variance = stats.variance(site)
        for one in eps:
            part = {
                "tokens": tokens,
                "site": site,
                "eps": one,
                "block": np.arange(stats.n_blocks),
                "std": np.sqrt(variance),
                "zeros": stats.zeros(site, eps=one),
                "n_entries": stats.n_entries(site),
                "avss": variance / floored_sparsity(stats, site, eps=one),
            }
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def scale_law(table: pd.DataFrame) -> pd.DataFrame:
    """Slope of log AVSS on log scale over blocks, by every column but block: 3 is the cubic law.

    Columns beside the groups': slope, r2, floored (blocks without one entry below eps).
    """
    rows = []
    keys = ["dtype", "tokens", "site", "eps"]
    for key, own in table.groupby(keys, sort=False):
        x, y = np.log(own["std"].to_numpy()), np.log(own.avss.to_numpy())
        slope, offset = np.polyfit(x, y, 1)
        rest = y - slope * x - offset
        r2 = 1 - float(rest @ rest / ((y - y.mean()) @ (y - y.mean())))
        rows.append((*key, float(slope), r2, int((own.zeros == 0).sum())))
    return pd.DataFrame(rows, columns=[*keys, "slope", "r2", "floored"])
