"""What a model computes is looked at; where it is no number, the block it came from is named."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from avss_utils.errors import UsageError
from avss_utils.models import blocks as families

EMBEDDING = -1
WHAT_TO_DO = "check the model's weights, or load the model in float32"


def check_finite(
    values: torch.Tensor, model: nn.Module, rows: Sequence[Sequence[int]], *, drop: Iterable = ()
) -> None:
    """Raise UsageError, naming the first block whose output is not finite, where a value is NaN.

    ``values``: (n_rows, ...), what came of ``rows`` of token ids with ``drop`` out of the model.
    Minus infinity passes: a model may rule a token out. Costs a look at ``values``; the first bad
    row goes through the model once more.
    """
    bad = values.isnan()
    if bad.any():
        row = int(bad.flatten(1).any(1).int().argmax() if bad.ndim > 1 else bad.int().argmax())
        raise UsageError(f"{_source(model, rows[row], drop)}: {WHAT_TO_DO}")


def check_sites_finite(sums: Mapping[str, np.ndarray]) -> None:
    """Raise UsageError, naming the first such block, unless the sums of every site are finite.

    ``sums`` by site, (rows, n_blocks) each. A block's error is seen at the sites of those behind it
    too, and not at all of its own.
    """
    bad = {site: ~np.isfinite(own).all(0) for site, own in sums.items()}
    first = {site: int(np.argmax(own)) for site, own in bad.items() if own.any()}
    if first:
        site = min(first, key=lambda name: first[name])
        said = f"block {first[site]} gave activations that are not finite at site {site!r}"
        raise UsageError(f"{said}: {WHAT_TO_DO}")


def _source(model: nn.Module, ids: Sequence[int], drop: Iterable) -> str:
    """In words, what is the first to be not finite in a pass over ``ids``."""
    base = families.unwrapped(model)
    inputs = families.forward_inputs(base, {"input_ids": [list(ids)]})
    with torch.inference_mode(), families.bypass_blocks(base, drop), _bad_blocks(base) as bad:
        base(**inputs, use_cache=False)
    if not bad:
        return "the model's logits are not finite, though what every block gives is"
    number = min(bad)
    what = "the embedding" if number == EMBEDDING else f"block {number}"
    return f"{what} gave activations that are not finite"


@contextmanager
def _bad_blocks(model: nn.Module) -> Iterator[set[int]]:
    """Numbers of the blocks that give what is not finite while the context is open."""
    blocks, bad = families.decoder_blocks(model), set[int]()

    def look(number: int, state: torch.Tensor) -> None:
        if not state.isfinite().all():
            bad.add(number)

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        look(EMBEDDING, families.hidden_in(args, kwargs))

    with ExitStack() as hooks:
        hooks.enter_context(blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        for number, block in enumerate(blocks):

            def after(_: nn.Module, args: tuple, output: Any, number: int = number) -> None:
                look(number, families.hidden_out(output))

            hooks.enter_context(block.register_forward_hook(after))
        yield bad
