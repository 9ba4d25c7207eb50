"""The tensors of one batch -> sums by block and text.

Sums are taken around a per-block shift in float32 within a token and in float64 across tokens, so
that a large common offset or one massive activation does not wash out the variance.
"""

from collections import deque

import numpy as np
import torch

from avss_utils.block_stats import N_BINS, BlockStats, Moments
from avss_utils.runs import UsageError


class Reducer:
    """Turns the tensors of one batch into sums, (B,) float64 for each block, kept on the device."""

    def __init__(self, n_blocks, eps, pooled, histogram, spans):
        self.n_blocks, self.eps, self.pooled = n_blocks, eps, pooled
        self.histogram, self.spans = histogram, spans
        self.shift: dict[tuple[str, int], torch.Tensor] = {}
        self.width: dict[str, np.ndarray] = {}

    def start(self, mask: torch.Tensor) -> None:
        self.mask, self.weight = mask, mask.double()
        self.sums: dict[tuple, dict[int, torch.Tensor]] = {}
        self.inputs: deque = deque(maxlen=max(self.spans, default=1))

    def _keep(self, key: tuple, number: int, values: torch.Tensor) -> None:
        self.sums.setdefault(key, {})[number] = values

    def _masked_sum(self, per_token: torch.Tensor) -> torch.Tensor:
        # where, not a product: a masked position may hold NaN
        return torch.where(self.mask, per_token.double(), 0.0).sum(-1)

    def block(self, number: int, before: torch.Tensor, after: torch.Tensor, sites) -> None:
        if "residual" in sites:
            self.site("residual", number, after)
        if "update" in sites:
            self.site("update", number, after - before)
        cosine = _cosine(before, after)
        self._keep(("influence",), number, self._masked_sum(1 - cosine))
        self.inputs.append(before)
        for span in self.spans:
            if number + 1 >= span:
                angle = torch.arccos(_cosine(self.inputs[-span], after)) / torch.pi
                self._keep(("angle", span), number + 1 - span, self._masked_sum(angle))

    def site(self, site: str, number: int, x: torch.Tensor) -> None:
        self.width.setdefault(site, np.zeros(self.n_blocks, dtype=np.int64))[number] = x.shape[-1]
        shift = self.shift.get((site, number))
        if shift is None:
            mean = self._masked_sum(x.mean(-1)).sum() / self.weight.sum().clamp(min=1)
            shift = self.shift[site, number] = mean.float()
        centred = x - shift
        self._keep(("first", site), number, self._masked_sum(centred.sum(-1)))
        self._keep(("second", site), number, self._masked_sum(centred.square().sum(-1)))
        magnitude = x.abs()
        for eps in self.eps:
            below = (magnitude < eps).sum(-1)
            self._keep(("zeros", site, eps), number, torch.where(self.mask, below, 0).sum(-1))
        if self.pooled:
            self._keep(("pooled", site), number, self._pooled_variance(x))
        if self.histogram:
            self._keep(("histogram", site), number, _magnitude_bins(magnitude[self.mask]))

    def _pooled_variance(self, x: torch.Tensor) -> torch.Tensor:
        kept = torch.where(self.mask[..., None], x, 0.0)
        mean = kept.sum(1, dtype=torch.float64) / self.weight.sum(1, keepdim=True).clamp(min=1)
        return mean.var(-1, correction=1)

    def finish(self) -> BlockStats:
        """The batch's BlockStats with one row a text."""
        arrays = {key: self._stack(values) for key, values in self.sums.items()}
        sites = [key[1] for key in arrays if key[0] == "first"]
        n_tokens = self.mask.sum(-1).cpu().numpy()
        moments = {site: self._moments(site, n_tokens, arrays) for site in sites}
        apart = ("first", "second", "histogram")
        return BlockStats(
            n_tokens,
            (n_tokens > 0).astype(np.int64),
            moments,
            {key: a for key, a in arrays.items() if key[0] not in apart},
            {key[1]: a.T for key, a in arrays.items() if key[0] == "histogram"},
        )

    def _stack(self, values: dict[int, torch.Tensor]) -> np.ndarray:
        return torch.stack([values[i] for i in sorted(values)], dim=-1).cpu().numpy()

    def _moments(self, site: str, n_tokens: np.ndarray, arrays: dict) -> Moments:
        if arrays["first", site].shape[1] < self.n_blocks:
            raise UsageError(
                f"a bypassed block has no activations at site {site!r}: collect residual and "
                "update only while blocks are bypassed"
            )
        n = n_tokens[:, None] * self.width[site][None]
        first, second = arrays["first", site], arrays["second", site]
        bad = ~np.isfinite(first + second).all(0)
        if bad.any():
            raise UsageError(
                f"block {int(np.argmax(bad))} gave activations that are not finite at site "
                f"{site!r}: check the weights, or load the model in float32"
            )
        shift = np.array([self.shift[site, i].item() for i in range(self.n_blocks)])
        return Moments.from_sums(n, first, second, shift)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # rounding can lift a cosine above 1, which arccos would turn into NaN
    return torch.cosine_similarity(a, b, dim=-1).clamp(-1.0, 1.0)


def _magnitude_bins(magnitude: torch.Tensor) -> torch.Tensor:
    """Counts by exponent and first three mantissa bits: eight bins an octave, no logarithm."""
    bins = magnitude.flatten().view(torch.int32) >> 20
    return torch.bincount(bins, minlength=N_BINS)[:N_BINS]
