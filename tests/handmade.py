"""BlockStats from arrays or from wished-for numbers, by plain numpy and without a model."""

import numpy as np

from avss_utils.measure.block_stats import N_BINS, BlockStats, Moments

EPS = 1e-5


def random_states(seed: int, *, n_texts=6, n_blocks=5, n_tokens=4, width=8) -> np.ndarray:
    """States between blocks, (texts, n_blocks + 1, tokens, width); number 0 is the first input.

    A few entries are zero, and scale grows with depth as in a pre-norm transformer.
    """
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(n_texts, n_blocks + 1, n_tokens, width)) + 0.3
    states = np.cumsum(steps, axis=1).astype(np.float32).astype(np.float64)
    states[rng.random(states.shape) < 0.1] = 0.0
    return states


def angles(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Cosine over the last axis, clamped; 0 where a vector is zero."""
    dot = (before * after).sum(-1)
    norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return np.clip(dot / np.maximum(norms, 1e-8), -1, 1)


def stats_of(states: np.ndarray, *, eps=(EPS,), spans=(1,), histogram=True) -> BlockStats:
    """One row a text, at every site: "mlp" and "attention" repeat half of what a block adds."""
    n_texts, n_states, n_tokens, _ = states.shape
    before, after = states[:, :-1], states[:, 1:]
    half = (after - before) / 2
    entries = {"residual": after, "update": after - before, "mlp": half, "attention": half}
    lengths = np.linalg.norm(after - before, axis=-1), np.linalg.norm(after, axis=-1)
    sums = {
        ("influence",): (1 - angles(before, after)).sum(-1),
        ("magnitude",): (lengths[0] / np.where(lengths[1] > 0, lengths[1], np.inf)).sum(-1),
    }
    for span in spans:
        cosine = angles(states[:, : n_states - span], states[:, span:])
        sums["angle", span] = (np.arccos(cosine) / np.pi).sum(-1)
    for site, x in entries.items():
        sums["pooled", site] = x.mean(-2).var(-1, ddof=1)
        for e in eps:
            sums["zeros", site, e] = (np.abs(x) < e).sum((-1, -2))
    return BlockStats(
        np.full(n_texts, n_tokens),
        np.ones(n_texts, dtype=np.int64),
        {site: moments_of(x) for site, x in entries.items()},
        sums,
        {site: magnitudes(x) for site, x in entries.items()} if histogram else {},
    )


def moments_of(x: np.ndarray) -> Moments:
    """Moments over the last two axes, taken around a shift as the streaming pass takes them."""
    shift = np.round(x[0].mean((-1, -2)))
    centred = x - shift[:, None, None]
    n = np.full(x.shape[:2], x.shape[-1] * x.shape[-2])
    return Moments.from_sums(n, centred.sum((-1, -2)), (centred**2).sum((-1, -2)), shift)


def magnitudes(x: np.ndarray) -> np.ndarray:
    """Counts by exponent and three mantissa bits of abs(x) in float32, (n_blocks, N_BINS)."""
    bins = np.abs(x).astype(np.float32).view(np.int32) >> 20
    return np.stack([np.bincount(b.ravel(), minlength=N_BINS) for b in np.moveaxis(bins, 1, 0)])


def stats_with(variance, sparsity, *, n=10_000_000) -> BlockStats:
    """Merged statistics whose residual has these variances and shares of entries below EPS."""
    variance, zeros = np.asarray(variance, float), np.round(np.asarray(sparsity) * n)
    moments = Moments(
        np.full((1, len(variance)), n), np.zeros((1, len(variance))), n * variance[None]
    )
    sums = {
        ("influence",): np.ones((1, len(variance))),
        ("zeros", "residual", EPS): zeros[None].astype(np.int64),
    }
    return BlockStats(np.ones(1), np.ones(1), {"residual": moments}, sums, is_merged=True)


def flat(states: np.ndarray) -> np.ndarray:
    """All entries of each block's residual, (n_blocks, entries)."""
    return np.moveaxis(states[:, 1:], 1, 0).reshape(states.shape[1] - 1, -1)


def updates(states: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.diff(states, axis=1), 1, 0).reshape(states.shape[1] - 1, -1)
