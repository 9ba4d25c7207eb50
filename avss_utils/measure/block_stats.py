"""The mergeable statistics of every block that one streaming pass leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from avss_utils.errors import UsageError

N_BINS = 2048  # exponent (8 bits) and first three mantissa bits of a positive float32
# Lower edges of the bins; those past the largest finite float32 hold nothing and read as infinite.
_EDGES = (np.arange(N_BINS, dtype=np.int32) << 20).view(np.float32)
_EDGES = np.where(np.isfinite(_EDGES), _EDGES, np.float32(np.inf)).astype(np.float64)


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviation, each (rows, n_blocks), float64."""

    n: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def from_sums(
        cls, n: np.ndarray, first: np.ndarray, second: np.ndarray, shift: np.ndarray
    ) -> "Moments":
        """From sums of (x - shift) and (x - shift)^2; rows with n = 0 hold zeros."""
        offset = first / np.maximum(n, 1)
        mean = np.where(n > 0, shift + offset, 0.0)
        return cls(n, mean, np.maximum(second - first * offset, 0.0))

    def merged(self) -> "Moments":
        """All rows as one: Chan, Golub and LeVeque 1979 over rows."""
        n = self.n.sum(0, keepdims=True)
        mean = (self.n * self.mean).sum(0, keepdims=True) / np.maximum(n, 1)
        m2 = (self.m2 + self.n * (self.mean - mean) ** 2).sum(0, keepdims=True)
        return Moments(n, mean, m2)

    def rows(self, index: np.ndarray) -> "Moments":
        return Moments(self.n[index], self.mean[index], self.m2[index])

    def stacked(self, other: "Moments") -> "Moments":
        return Moments(
            *map(np.concatenate, zip(vars(self).values(), vars(other).values(), strict=True))
        )


@dataclass(frozen=True)
class BlockStats:
    """Statistics of a model's blocks; one row for all texts, or one a text.

    Arrays are (rows, n_blocks); methods return (n_blocks,) over all rows. ``a + b`` merges to one
    row when both sides are merged, and keeps the rows side by side otherwise. Asking for what was
    not collected is a UsageError that names what was. ``sums`` holds all
    that simply adds up, by name: ("zeros", site, eps), ("pooled", site), ("influence",),
    ("magnitude",), ("angle", span). Take the statistics of some texts with ``rows``.
    """

    n_tokens: np.ndarray
    n_sequences: np.ndarray
    moments: dict[str, Moments]
    sums: dict[tuple, np.ndarray]
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    is_merged: bool = False

    @property
    def n_blocks(self) -> int:
        return self.sums[("influence",)].shape[1]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.moments)

    def variance(self, site: str) -> np.ndarray:
        """Population variance over all entries, (n_blocks,). AVSS (arXiv 2411.02117), eq. 1."""
        total = self._moments(site).merged()
        return (total.m2 / np.maximum(total.n, 1))[0]

    def mean(self, site: str) -> np.ndarray:
        """Mean over all entries, (n_blocks,)."""
        return self._moments(site).merged().mean[0]

    def n_entries(self, site: str) -> np.ndarray:
        """Number of entries (tokens x units) behind a site's statistics, (n_blocks,)."""
        return self._moments(site).n.sum(0)

    def zeros(self, site: str, *, eps: float) -> np.ndarray:
        """Exact number of entries with abs(a) < eps, (n_blocks,); eps must have been collected."""
        return self._sum(("zeros", site, eps))

    def sparsity(self, site: str, eps: float = 1e-5) -> np.ndarray:
        """Share of entries with abs(a) < eps, strict, (n_blocks,). AVSS, eq. 2."""
        return self.zeros(site, eps=eps) / self.n_entries(site)

    def relative_sparsity(self, site: str, *, ratio: float) -> np.ndarray:
        """Share of entries below ``ratio`` x the block's standard deviation, (n_blocks,).

        Read off the magnitude histogram, linear inside a bin (bins are an eighth of an octave).
        """
        limits = ratio * np.sqrt(self.variance(site))
        if site not in self.histograms:
            raise UsageError(f"no magnitude histogram at {site!r}: collect with histogram=True")
        below = [_count_below(*pair) for pair in zip(self.histograms[site], limits, strict=True)]
        return np.array(below) / self.n_entries(site)

    def pooled_variance(self, site: str) -> np.ndarray:
        """The released reduction: mean over tokens, unbiased variance over units, mean over texts.

        Shape (n_blocks,); texts without a counted token do not enter.
        """
        return self._sum(("pooled", site)) / max(self.n_sequences.sum(), 1)

    @property
    def influence(self) -> np.ndarray:
        """Block influence, mean over tokens of 1 - cos(residual in, out), (n_blocks,), in [0, 2].

        Source: ShortGPT (arXiv 2403.03853).
        """
        return self._sum(("influence",)) / self.n_tokens.sum()

    @property
    def relative_magnitude(self) -> np.ndarray:
        """Mean over tokens of |update| / |residual after the block|, (n_blocks,), 0 and above."""
        return self._sum(("magnitude",)) / self.n_tokens.sum()

    def angular_distance(self, span: int = 1) -> np.ndarray:
        """Mean arccos(cos(residual in, out)) / pi across ``span`` blocks, (n_blocks - span + 1,).

        Source: Gromov et al. (arXiv 2403.17887), the distance between block i's input and block
        (i + span - 1)'s output; in [0, 1].
        """
        return self._sum(("angle", span)) / self.n_tokens.sum()

    def merged(self) -> "BlockStats":
        """The same statistics with all rows as one."""
        moments = {site: m.merged() for site, m in self.moments.items()}
        return self._with(lambda a: a.sum(0, keepdims=True), moments, is_merged=True)

    def rows(self, index: np.ndarray) -> "BlockStats":
        """The statistics of some rows (texts); magnitude histograms do not split and are left."""
        moments = {site: m.rows(index) for site, m in self.moments.items()}
        return replace(self._with(lambda a: a[index], moments, is_merged=False), histograms={})

    def __add__(self, other: "BlockStats") -> "BlockStats":
        if self.n_blocks != other.n_blocks or set(self.sums) != set(other.sums):
            raise ValueError("only statistics of the same blocks, sites and eps can be merged")
        both = BlockStats(
            np.concatenate([self.n_tokens, other.n_tokens]),
            np.concatenate([self.n_sequences, other.n_sequences]),
            {site: m.stacked(other.moments[site]) for site, m in self.moments.items()},
            {key: np.concatenate([a, other.sums[key]]) for key, a in self.sums.items()},
            {site: h + other.histograms[site] for site, h in self.histograms.items()},
        )
        return both.merged() if self.is_merged and other.is_merged else both

    def _moments(self, site: str) -> Moments:
        if site not in self.moments:
            raise UsageError(
                f"these statistics of the model have no site {site!r}: choose from "
                f"{', '.join(self.sites)}"
            )
        return self.moments[site]

    def _sum(self, key: tuple) -> np.ndarray:
        if key[0] in ("zeros", "pooled"):
            self._moments(key[1])  # names the sites that there are
        if key not in self.sums:
            there = ", ".join(sorted(map(_named, self.sums)))
            raise UsageError(f"{_named(key)} was not collected: choose from {there}")
        return self.sums[key].sum(0)

    def _with(
        self, function: Callable, moments: dict[str, Moments], *, is_merged: bool
    ) -> "BlockStats":
        return replace(
            self,
            n_tokens=function(self.n_tokens),
            n_sequences=function(self.n_sequences),
            moments=moments,
            sums={key: function(a) for key, a in self.sums.items()},
            is_merged=is_merged,
        )


def _count_below(histogram: np.ndarray, limit: float) -> float:
    """Entries under ``limit``, counting the limit's own bin in proportion."""
    index = int(np.searchsorted(_EDGES, limit, side="right")) - 1
    low, high = _EDGES[index], _EDGES[min(index + 1, N_BINS - 1)]
    share = (limit - low) / (high - low) if np.isfinite(high) and high > low else 0.0
    return float(histogram[:index].sum() + share * histogram[index])


def _named(key: tuple) -> str:
    return " ".join(map(str, key))


def stats_table(stats: BlockStats, *, eps: float, ratio: float) -> pd.DataFrame:
    """Tidy statistics, one row per site and block.

    Columns: site, block, n_entries, mean, variance, zeros and sparsity (abs(a) < eps),
    relative_sparsity (abs(a) < ratio x standard deviation), pooled_variance, influence, angle.
    Needs statistics collected with pooled=True and histogram=True.
    """
    parts = [
        pd.DataFrame(
            {
                "site": site,
                "block": np.arange(stats.n_blocks),
                "n_entries": stats.n_entries(site),
                "mean": stats.mean(site),
                "variance": stats.variance(site),
                "zeros": stats.zeros(site, eps=eps),
                "sparsity": stats.sparsity(site, eps=eps),
                "relative_sparsity": stats.relative_sparsity(site, ratio=ratio),
                "pooled_variance": stats.pooled_variance(site),
                "influence": stats.influence,
                "angle": stats.angular_distance(1),
            }
        )
        for site in stats.sites
    ]
    return pd.concat(parts, ignore_index=True)
