"""One masked streaming pass over a model, which leaves sums alone, by block and site."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from avss_utils.errors import UsageError
from avss_utils.measure.block_stats import BlockStats
from avss_utils.measure.reducer import Reducer
from avss_utils.models import blocks as families
from avss_utils.store.processes import merged_over_processes, own_share
from avss_utils.store.progress import progress

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
    in_processes: bool = False,
) -> BlockStats:
    """Run ``model`` over ``batches`` once and return the statistics of every block.

    ``batches``: tokenizer outputs with ``input_ids`` and ``attention_mask``, each (B, T), left- or
    right-padded. Padding never counts; ``token_mask`` (a function of the batch, or one (B, T) mask
    for each) narrows it further, ``skip_first_token`` leaves out the first real token of a text,
    where massive activations sit. ``sites``: residual (state after the block), update (state after
    minus state before), mlp (input of the MLP's last projection), attention (its output). ``eps``:
    absolute thresholds, counted exactly, strictly below. ``per_sequence`` keeps a row per text;
    ``pooled`` adds the authors' released reduction, ``histogram`` the magnitudes that a relative
    eps needs, ``spans`` the angular distance across that many blocks. ``in_processes``: those of
    torchrun share the batches, and each gets the statistics of all.

    Raises UsageError for an unknown site, an empty selection, or a block that is not finite.
    """
    check_sites(sites)
    n_blocks = len(families.decoder_blocks(model))
    if any(not 1 <= s <= n_blocks for s in spans):
        raise UsageError(f"spans must lie between 1 and the model's {n_blocks} blocks: {spans}")
    reducer = Reducer(n_blocks, tuple(eps), pooled, histogram, tuple(spans))
    body, total = families.decoder_body(model), None
    if in_processes:
        batches, token_mask = own_share(list(batches)), own_share(token_mask)
    with torch.inference_mode(), site_hooks(model, sites, reducer):
        for number, batch in enumerate(progress(batches, "statistics")):
            inputs = families.forward_inputs(model, batch)
            families.check_length(model, inputs["input_ids"].shape[1])
            real = inputs["attention_mask"]
            reducer.start(_mask(batch, real, token_mask, number, skip_first_token))
            body(**inputs, use_cache=False)
            part = reducer.finish()
            part = part if per_sequence else part.merged()
            total = part if total is None else total + part
    total = merged_over_processes(total) if in_processes else total
    if total is None or total.n_tokens.sum() == 0:
        raise UsageError("no token was left to take statistics from: the texts or masks are empty")
    return total


def _mask(
    batch: dict, real: torch.Tensor, token_mask: TokenMask | None, number: int, skip_first: bool
) -> torch.Tensor:
    mask = real.bool()
    if skip_first:
        mask = mask & (mask.cumsum(-1) > 1)
    if token_mask is None:
        return mask
    extra = token_mask(batch) if callable(token_mask) else token_mask[number]
    return mask & extra.to(mask.device).bool()


def check_sites(sites: Sequence[str]) -> None:
    """Raise UsageError unless every site is one of SITES."""
    for site in sites:
        if site not in SITES:
            raise UsageError(f"unknown site {site!r}: choose from {', '.join(SITES)}")


def available_sites(model: nn.Module) -> tuple[str, ...]:
    """The sites that all blocks have; fused experts, for one, show no inner activation."""
    found = ["residual", "update"]
    finders = {"mlp": families.mlp_down_projection, "attention": families.attention_module}
    for site, finder in finders.items():
        with contextlib.suppress(UsageError):
            list(map(finder, families.decoder_blocks(model)))
            found.append(site)
    return tuple(found)


@contextlib.contextmanager
def site_hooks(model: nn.Module, sites: Sequence[str], reducer: Any) -> Iterator[None]:
    """Read every block while the context is open; the hooks go even when the model raises.

    ``reducer`` has the mask of counted positions, (B, T), a method ``block(number, before, after,
    sites)`` for residual and update, and one ``site(site, number, x)`` for the others. It is handed
    float32 on the mask's device, wherever the blocks of a spread model lie.
    """
    with contextlib.ExitStack() as hooks:
        for number, block in enumerate(families.decoder_blocks(model)):
            for handle in _block_hooks(number, block, sites, reducer):
                hooks.enter_context(handle)
        yield


def _block_hooks(
    number: int, block: nn.Module, sites: Sequence[str], reducer: Any
) -> Iterator[AbstractContextManager]:
    """Registers hooks one by one, so that none is left behind where a site is not found."""

    def brought(x: torch.Tensor) -> torch.Tensor:
        return x.to(reducer.mask.device, torch.float32)

    def after_block(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        before, after = families.hidden_in(args, kwargs), families.hidden_out(output)
        reducer.block(number, brought(before), brought(after), sites)

    def after_attention(_: nn.Module, args: tuple, output: Any) -> None:
        reducer.site("attention", number, brought(families.hidden_out(output)))

    def before_projection(_: nn.Module, args: tuple) -> None:
        # OPT hands its projection the tokens of all texts in one row
        inner = args[0].reshape(*reducer.mask.shape, -1)
        reducer.site("mlp", number, brought(inner))

    yield block.register_forward_hook(after_block, with_kwargs=True)
    if "attention" in sites:
        yield families.attention_module(block).register_forward_hook(after_attention)
    if "mlp" in sites:
        yield families.mlp_down_projection(block).register_forward_pre_hook(before_projection)
