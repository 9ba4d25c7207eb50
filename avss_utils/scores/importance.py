"""Block statistics -> one score per block; higher = more important.

Every criterion of this book, registered under its name; ``score_blocks`` gives each the keywords it
needs. Criteria of installed packages join them when ``avss_utils.scores`` is imported.
"""

from collections.abc import Callable

import numpy as np

from avss_utils.measure.block_stats import BlockStats
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.scores.criteria import (
    CRITERIA,
    SCORED_ONCE,
    criterion,
    score_blocks,
    wanted_options,
)

__all__ = [
    "CRITERIA",
    "SCORED_ONCE",
    "avss_at",
    "criterion",
    "empty_blocks",
    "floored_sparsity",
    "min_max",
    "normalised",
    "score_blocks",
    "wanted_options",
]


def floored_sparsity(stats: BlockStats, site: str, *, eps: float) -> np.ndarray:
    """Sparsity with S = 0 replaced by half a count, 0.5 / N, so that the printed ratio is defined.

    The papers say nothing about S = 0, which real models reach; ``empty_blocks`` reports where.
    """
    return np.maximum(stats.sparsity(site, eps=eps), 0.5 / stats.n_entries(site))


def empty_blocks(stats: BlockStats, site: str, *, eps: float) -> np.ndarray:
    """Numbers of the blocks without a single entry below eps, where the floor was used."""
    return np.flatnonzero(stats.zeros(site, eps=eps) == 0)


def normalised(scores: np.ndarray) -> np.ndarray:
    """Scores divided by their sum over blocks. AVSS (arXiv 2411.02117), normalised AVSS."""
    return scores / scores.sum()


def avss_at(stats: BlockStats, *, site: str, eps: float) -> np.ndarray:
    """variance / sparsity at a site over all entries: AVSS (arXiv 2411.02117), as printed."""
    return stats.variance(site) / floored_sparsity(stats, site, eps=eps)


def min_max(x: np.ndarray) -> np.ndarray:
    """``x`` scaled to [0, 1]; zeros where nothing varies."""
    spread = x.max() - x.min()
    return (x - x.min()) / spread if spread > 0 else np.zeros_like(x)


@criterion("avss")
def avss(stats: BlockStats, *, eps: float) -> np.ndarray:
    """AVSS as printed, on the residual after each block, the state the authors' hook saw."""
    return avss_at(stats, site="residual", eps=eps)


def _avss_of(site: str) -> Callable[..., np.ndarray]:
    return lambda stats, *, eps: avss_at(stats, site=site, eps=eps)


# AVSS of what a block adds to the residual, of the attention output, and of the MLP's inner
# activation, where sparsity has its usual meaning
for _site in ("update", "mlp", "attention"):
    criterion(f"avss-{_site}")(_avss_of(_site))


@criterion("avss-pooled")
def avss_pooled(stats: BlockStats, *, eps: float) -> np.ndarray:
    """AVSS by the released reduction: variance of the token mean, sparsity on every entry."""
    return stats.pooled_variance("residual") / floored_sparsity(stats, "residual", eps=eps)


@criterion("avss-relative")
def avss_relative(stats: BlockStats, *, ratio: float) -> np.ndarray:
    """AVSS with eps = ratio x the block's standard deviation, residual, all entries."""
    sparsity = stats.relative_sparsity("residual", ratio=ratio)
    return stats.variance("residual") / np.maximum(sparsity, 0.5 / stats.n_entries("residual"))


@criterion("avss-product")
def avss_product(stats: BlockStats, *, eps: float) -> np.ndarray:
    """Product of min-max-scaled variance and sparsity: what AVSS Figure 1c plots."""
    return min_max(stats.variance("residual")) * min_max(stats.sparsity("residual", eps=eps))


@criterion("variance")
def variance(stats: BlockStats) -> np.ndarray:
    """Activation variance alone (AVSS, mechanism 1), residual."""
    return stats.variance("residual")


@criterion("sparsity")
def sparsity(stats: BlockStats, *, eps: float) -> np.ndarray:
    """Minus activation sparsity (AVSS, mechanism 2: sparse = redundant), residual."""
    return -stats.sparsity("residual", eps=eps)


@criterion("update-variance")
def update_variance(stats: BlockStats) -> np.ndarray:
    """Variance of what a block adds to the residual."""
    return stats.variance("update")


@criterion("relative-update-variance")
def relative_update_variance(stats: BlockStats) -> np.ndarray:
    """Variance of the update over the variance of the residual after the block."""
    return stats.variance("update") / stats.variance("residual")


@criterion("bulk-relative-update")
def bulk_relative_update(stats: BlockStats, *, bulk_eps: float) -> np.ndarray:
    """Update's standard deviation x the residual's share of entries near zero, per unit of eps.

    At small eps the share is 2 eps x the density at zero, which falls as 1 / the scale of the bulk
    of entries and does not see a few massive ones: the printed ratio's two ingredients, arranged so
    that the scale of the residual cancels. This book's.
    """
    density = floored_sparsity(stats, "residual", eps=bulk_eps) / bulk_eps
    return np.sqrt(stats.variance("update")) * density


@criterion("relative-magnitude")
def relative_magnitude(stats: BlockStats) -> np.ndarray:
    """Mean over tokens of |update| / |residual after the block|: Samragh et al. 2023
    (arXiv 2312.09299), as ShortGPT compares with it.
    """
    return stats.relative_magnitude


@criterion("block-influence")
def block_influence(stats: BlockStats) -> np.ndarray:
    """Mean of 1 - cos(residual in, out): ShortGPT (arXiv 2403.03853), eq. 1."""
    return stats.influence


@criterion("angular-distance")
def angular_distance(stats: BlockStats) -> np.ndarray:
    """Mean arccos(cos(residual in, out)) / pi, one block at a time: arXiv 2403.17887, eq. 7."""
    return stats.angular_distance(1)


@criterion("leave-one-out")
def leave_one_out(stats: BlockStats, *, sensitivity: Sensitivity) -> np.ndarray:
    """Nats a token that removing the block alone adds to the loss of the calibration texts."""
    losses = sensitivity.losses.mean
    return losses[1:] - losses[0]


@criterion("leave-one-out-task")
def leave_one_out_task(stats: BlockStats, *, sensitivity: Sensitivity) -> np.ndarray:
    """Nats a question that removing the block alone adds to the loss of the right choice."""
    losses = sensitivity.task_losses.mean(1)
    return losses[1:] - losses[0]


@criterion("greedy")
def greedy(stats: BlockStats, *, sensitivity: Sensitivity) -> np.ndarray:
    """The step at which SLEB's search (arXiv 2402.09025) removes the block; the rest is on top."""
    chosen = sensitivity.greedy[sensitivity.greedy.chosen]
    scores = np.full(stats.n_blocks, float(sensitivity.n_greedy))
    scores[chosen.block.to_numpy()] = chosen.step.to_numpy()
    return scores


@criterion("taylor")
def taylor(stats: BlockStats, *, sensitivity: Sensitivity) -> np.ndarray:
    """Mean over texts of |d loss / d gate|, the loss's first-order change without the update.

    Molchanov et al. 2019 (arXiv 1906.10771), on a gate a block as in Shortened LLaMA
    (arXiv 2402.02834).
    """
    return np.abs(sensitivity.gradients).mean(0)


@criterion("taylor-protected")
def taylor_protected(stats: BlockStats, *, sensitivity: Sensitivity) -> np.ndarray:
    """The same with the first four and the last two blocks on top, as Shortened LLaMA does."""
    scores = taylor(stats, sensitivity=sensitivity)
    ends = [*range(min(4, len(scores))), *range(max(0, len(scores) - 2), len(scores))]
    scores[ends] += scores.max() + 1
    return scores


@criterion("weight-magnitude")
def weight_magnitude(stats: BlockStats, *, sensitivity: Sensitivity) -> np.ndarray:
    """Sum of the block's absolute weights: Li et al. 2017 (arXiv 1608.08710), for whole blocks."""
    return sensitivity.weight_magnitude


def _eavss_as(reading: str) -> Callable[..., np.ndarray]:
    return lambda stats, *, answers: answers[reading]


# how prone to falsehood a block is: the readings of EAVSS (arXiv 2411.10069), whose equation was
# never published; ``scores.contrasts`` says what each is
criterion("eavss")(_eavss_as("contrast"))
criterion("eavss-product")(_eavss_as("contrast-product"))
criterion("eavss-restricted")(_eavss_as("restricted"))
criterion("eavss-multiplied")(_eavss_as("multiplied"))


@criterion("random")
def random(stats: BlockStats, *, rng: np.random.Generator) -> np.ndarray:
    """A random order, the control that every criterion has to beat."""
    return rng.permutation(stats.n_blocks).astype(float)
