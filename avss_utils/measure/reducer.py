"""The tensors of one batch -> sums by block and text.

Sums are taken around a per-block shift in float32 within a token and in float64 across tokens, so
that a large common offset or one massive activation does not wash out the variance.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from avss_utils.errors import UsageError
from avss_utils.measure.block_stats import N_BINS, BlockStats, Moments
from avss_utils.measure.finite import check_sites_finite


class Reducer:
    """Turns the tensors of one batch into sums, (B,) float64 for each block.

    A block costs only what reads all its entries, a dozen passes into (B, T) numbers a token, in
    buffers that the blocks share; whatever works on those numbers waits for ``finish`` and then
    handles all blocks at once.
    """

    def __init__(
        self,
        n_blocks: int,
        eps: Sequence[float],
        pooled: bool,
        histogram: bool,
        spans: Sequence[int],
    ) -> None:
        self.n_blocks, self.eps, self.pooled = n_blocks, eps, pooled
        self.histogram, self.spans = histogram, spans
        self.shift: dict[tuple[str, int], float] = {}
        self.width: dict[str, np.ndarray] = {}
        self.buffers: dict[tuple, torch.Tensor] = {}

    def start(self, mask: torch.Tensor) -> None:
        self.mask, self.weight = mask, mask.double()
        self.per_token: dict[tuple, dict[int, torch.Tensor]] = {}
        self.sides: dict[int, dict[int, tuple]] = {}  # of the triangle of states, by span
        self.per_text: dict[tuple, dict[int, torch.Tensor]] = {}
        self.bins: dict[str, dict[int, torch.Tensor]] = {}
        self.inputs: deque = deque(maxlen=max(self.spans, default=1))
        self.last: tuple = (None, None)

    def block(
        self, number: int, before: torch.Tensor, after: torch.Tensor, sites: Sequence[str]
    ) -> None:
        # the input is as a rule the very tensor that the block before gave
        start = self.last[1] if before is self.last[0] else _length(before)
        update = torch.sub(after, before, out=self._buffer("update", after))
        step = self.site("update", number, update) if "update" in sites else _length(update)
        end = self.site("residual", number, after) if "residual" in sites else _length(after)
        self._keep(self.sides, 1, number, (start, end, step))
        self.inputs.append((before, start))
        self.last = (after, end)
        for span in self.spans:
            if 1 < span <= number + 1:
                state, start = self.inputs[-span]
                step = _length(torch.sub(after, state, out=self._buffer("update", after)))
                self._keep(self.sides, span, number + 1 - span, (start, end, step))

    def site(self, site: str, number: int, x: torch.Tensor) -> torch.Tensor:
        """Take the statistics of ``x``, (B, T, width); returns its length a token, (B, T)."""
        self.width.setdefault(site, np.zeros(self.n_blocks, dtype=np.int64))[number] = x.shape[-1]
        magnitude = torch.abs(x, out=self._buffer("magnitude", x))
        # counted in bytes on a GPU; on a CPU in float32, where a bool costs five times that and
        # which is exact up to a width of 2^24
        ones = torch.bool if x.device.type == "cuda" else torch.float32
        for eps in self.eps:
            below = torch.lt(magnitude, eps, out=self._buffer("below", x, ones))
            self._keep(self.per_token, ("zeros", site, eps), number, below.sum(-1))
        if self.histogram:
            # by exponent and three mantissa bits: eight bins an octave, no logarithm
            bins = magnitude[self.mask].flatten().view(torch.int32) >> 20
            self._keep(self.bins, site, number, torch.bincount(bins, minlength=N_BINS)[:N_BINS])
        if self.pooled:
            self._keep(self.per_text, ("pooled", site), number, self._pooled_variance(x))
        first, length = x.sum(-1), _length(x)
        if (site, number) not in self.shift:
            self.shift[site, number] = self._shift(first, length, x.shape[-1])
        around = length
        if shift := self.shift[site, number]:
            centred = torch.sub(x, shift, out=magnitude)
            first, around = centred.sum(-1), _length(centred)
        self._keep(self.per_token, ("first", site), number, first)
        self._keep(self.per_token, ("length", site), number, around)
        return length

    def _shift(self, first: torch.Tensor, length: torch.Tensor, width: int) -> float:
        """The first batch's mean where it is large beside the spread; else 0, which costs no pass.

        From the sums of all tokens as they are, (B, T): the spread is rough where the mean is
        large, and need not be better.
        """
        n = self.weight.sum().clamp(min=1) * width
        mean = torch.where(self.mask, first.double(), 0.0).sum() / n
        square = torch.where(self.mask, length.double().square(), 0.0).sum() / n
        return mean.float().item() if mean.square() > square / 2 else 0.0

    def _pooled_variance(self, x: torch.Tensor) -> torch.Tensor:
        kept = torch.where(self.mask[..., None], x, 0.0)
        mean = kept.sum(1, dtype=torch.float64) / self.weight.sum(1, keepdim=True).clamp(min=1)
        return mean.var(-1, correction=1)

    def _buffer(
        self, name: str, like: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Memory of this shape that every block writes anew: fresh pages cost more than sums."""
        key = (name, like.shape[-1])  # of one size a site, so that no buffer grows by turns
        size = like.numel()
        if key not in self.buffers or self.buffers[key].numel() < size:
            self.buffers[key] = torch.empty(size, dtype=dtype, device=like.device)
        return self.buffers[key][:size].view(like.shape)

    @staticmethod
    def _keep(where: dict, key: object, number: int, values: object) -> None:
        where.setdefault(key, {})[number] = values

    def finish(self) -> BlockStats:
        """The batch's BlockStats with one row per text."""
        # where, not a product: a masked position may hold NaN
        sums = {
            key: torch.where(self.mask, values, 0.0).sum(-1).T for key, values in self._numbers()
        }
        sums |= {key: _stack(values).T for key, values in self.per_text.items()}
        arrays = _on_cpu(sums)
        sites = [key[1] for key in arrays if key[0] == "first"]
        check_sites_finite({site: arrays["first", site] + arrays["second", site] for site in sites})
        n_tokens = self.mask.sum(-1).cpu().numpy()
        moments = {site: self._moments(site, n_tokens, arrays) for site in sites}
        return BlockStats(
            n_tokens,
            (n_tokens > 0).astype(np.int64),
            moments,
            {key: a for key, a in arrays.items() if key[0] not in ("first", "second")},
            {site: _stack(values).cpu().numpy() for site, values in self.bins.items()},
        )

    def _numbers(self) -> Iterator[tuple[tuple, torch.Tensor]]:
        """What is summed over tokens, by its name in BlockStats: (blocks, B, T) each."""
        for key, values in self.per_token.items():
            if key[0] == "length":
                yield ("second", key[1]), _stack(values).double().square()
            else:
                yield key, _stack(values).double()
        for span, sides in self.sides.items():
            triangle = torch.stack([torch.stack(sides[i]) for i in sorted(sides)], dim=1)
            turn = _turn(*triangle)
            if span == 1:
                yield ("influence",), turn
                step, end = triangle[2].double(), triangle[1].double()
                yield ("magnitude",), torch.where(step > 0, step / end, 0.0)
            if span in self.spans:
                yield ("angle", span), torch.arccos(1 - turn) / torch.pi

    def _moments(self, site: str, n_tokens: np.ndarray, arrays: dict) -> Moments:
        if arrays["first", site].shape[1] < self.n_blocks:
            raise UsageError(
                f"a bypassed block has no activations at site {site!r}: collect residual and "
                "update only while blocks are bypassed"
            )
        n = n_tokens[:, None] * self.width[site][None]
        first, second = arrays["first", site], arrays["second", site]
        shift = np.array([self.shift[site, i] for i in range(self.n_blocks)])
        return Moments.from_sums(n, first, second, shift)


def _stack(values: dict[int, torch.Tensor]) -> torch.Tensor:
    return torch.stack([values[i] for i in sorted(values)])


def _on_cpu(sums: dict[tuple, torch.Tensor]) -> dict[tuple, np.ndarray]:
    """The same arrays on the CPU in one transfer, each of which would wait for the GPU."""
    flat = torch.cat([a.reshape(-1) for a in sums.values()]).cpu()
    parts = flat.split([a.numel() for a in sums.values()])
    arrays = {k: p.view(a.shape).numpy() for (k, a), p in zip(sums.items(), parts, strict=True)}
    return {k: a.astype(np.int64) if k[0] == "zeros" else a for k, a in arrays.items()}


def _length(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _turn(start: torch.Tensor, end: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """1 - cos of the angle between two vectors, from their lengths and that of their difference.

    The law of cosines, arranged so that a small angle keeps its digits: the cosine itself, close to
    1, would lose them. Within [0, 2] whatever the rounding; 1 where a vector is zero.
    """
    start, end, step = start.double(), end.double(), step.double()
    product = start * end
    turn = (step - (end - start)) * (step + (end - start)) / (2 * product)
    return torch.where(product > 0, turn, 1.0).clamp(0.0, 2.0)
