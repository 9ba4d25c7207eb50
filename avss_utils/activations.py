"""One masked streaming pass over a model: activation statistics for each block and site.

Nothing but sums leaves the pass, so its memory does not grow with the number of texts. Sums are
taken around a per-block shift in float32 within a token and in float64 across tokens, so that a
large common offset or one massive activation does not wash out the variance.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from avss_utils import blocks as families
from avss_utils.block_stats import N_BINS, BlockStats, Moments
from avss_utils.runs import UsageError

COLLECT_VERSION = 1
SITES = ("residual", "update", "mlp", "attention")
TokenMask = Callable[[dict], torch.Tensor] | Sequence[torch.Tensor]


def collect_block_stats(
    model: nn.Module,
    batches: Iterable[dict],
    *,
    sites: Sequence[str] = ("residual", "update"),
    eps: Sequence[float] = (1e-5,),
    token_mask: TokenMask | None = None,
    skip_first_token: bool = False,
    per_sequence: bool = False,
    pooled: bool = False,
    histogram: bool = False,
    spans: Sequence[int] = (1,),
) -> BlockStats:
    """Run ``model`` over ``batches`` once and return the statistics of every block.

    ``batches``: tokenizer outputs with ``input_ids`` and ``attention_mask``, each (B, T), left- or
    right-padded. Padding never counts; ``token_mask`` (a function of the batch, or one (B, T) mask
    a batch) narrows it further, ``skip_first_token`` leaves out the first real token of each text,
    where massive activations sit. ``sites``: residual (state after the block), update (state after
    minus state before), mlp (input of the MLP's last projection), attention (its output). ``eps``:
    absolute thresholds, counted exactly, strictly below. ``per_sequence`` keeps a row per text;
    ``pooled`` adds the authors' released reduction, ``histogram`` the magnitudes that a relative
    eps needs, ``spans`` the angular distance across that many blocks.

    Raises UsageError for an unknown site, an empty selection, or non-finite activations, naming
    the block.
    """
    check_sites(sites)
    n_blocks = len(families.decoder_blocks(model))
    if any(not 1 <= s <= n_blocks for s in spans):
        raise UsageError(f"spans must lie between 1 and the model's {n_blocks} blocks: {spans}")
    reducer = _Reducer(n_blocks, tuple(eps), pooled, histogram, tuple(spans))
    body, total = families.decoder_body(model), None
    with torch.inference_mode(), _hooks(model, sites, reducer):
        for number, batch in enumerate(batches):
            inputs = families.forward_inputs(model, batch)
            reducer.start(_token_mask(batch, inputs, token_mask, number, skip_first_token))
            body(**inputs, use_cache=False)
            part = reducer.finish()
            part = part if per_sequence else part.merged()
            total = part if total is None else total + part
    if total is None or total.n_tokens.sum() == 0:
        raise UsageError("no token was left to take statistics from: the texts or masks are empty")
    return total


def check_sites(sites: Sequence[str]) -> None:
    """Raise UsageError unless every site is one of SITES."""
    for site in sites:
        if site not in SITES:
            raise UsageError(f"unknown site {site!r}: choose from {', '.join(SITES)}")


def available_sites(model: nn.Module) -> tuple[str, ...]:
    """The sites this model's blocks have; fused experts, for one, show no inner activation."""
    block, found = families.decoder_blocks(model)[0], []
    for site, finder in (
        ("attention", families.attention_module),
        ("mlp", families.mlp_down_projection),
    ):
        with contextlib.suppress(UsageError):
            finder(block)
            found.append(site)
    return tuple(site for site in SITES if site in ("residual", "update", *found))


def text_batches(tokenizer, texts: Iterable, *, length: int, batch_size: int) -> list[dict]:
    """Texts (with ``text``) as padded batches of at most ``length`` tokens each."""
    rows = [row.text for row in texts]
    return [
        dict(
            tokenizer(
                rows[i : i + batch_size],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=length,
            )
        )
        for i in range(0, len(rows), batch_size)
    ]


def _token_mask(batch, inputs, token_mask, number: int, skip_first_token: bool) -> torch.Tensor:
    mask = inputs["attention_mask"].bool()
    if skip_first_token:
        mask = mask & (mask.cumsum(-1) > 1)
    if token_mask is None:
        return mask
    extra = token_mask(batch) if callable(token_mask) else token_mask[number]
    return mask & extra.to(mask.device).bool()


@contextlib.contextmanager
def _hooks(model: nn.Module, sites: Sequence[str], reducer: "_Reducer") -> Iterator[None]:
    """Read every block while the context is open; the hooks go even when the model raises."""
    handles = []
    try:
        for number, block in enumerate(families.decoder_blocks(model)):
            handles += _block_hooks(number, block, sites, reducer)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _block_hooks(number: int, block: nn.Module, sites, reducer: "_Reducer") -> list:
    def after_block(_, args, kwargs, output):
        before = args[0] if args else kwargs["hidden_states"]
        reducer.block(number, before.float(), _tensor(output).float(), sites)

    def after_attention(_, args, output):
        reducer.site("attention", number, _tensor(output).float())

    def before_projection(_, args):
        reducer.site("mlp", number, args[0].float())

    handles = [block.register_forward_hook(after_block, with_kwargs=True)]
    if "attention" in sites:
        handles.append(families.attention_module(block).register_forward_hook(after_attention))
    if "mlp" in sites:
        down = families.mlp_down_projection(block)
        handles.append(down.register_forward_pre_hook(before_projection))
    return handles


def _tensor(output) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


class _Reducer:
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
