"""Take blocks out of the computation for a while, by their forward alone."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import Cache, PreTrainedModel

from avss_utils.models.blocks.calling import hidden_in
from avss_utils.models.blocks.finding import checked_numbers, decoder_blocks

# What a block class returns: None for a tensor, else its sequence type and length.
_output_form: dict[type, tuple[type, int] | None] = {}


@contextlib.contextmanager
def bypass_blocks(model: PreTrainedModel, drop: Iterable[int]) -> Iterator[None]:
    """Inside this context the blocks numbered in ``drop`` hand their input through.

    Numbers are the model's own, from 0, inside the context too; contexts of disjoint blocks nest. A
    bypassed block does not run, with two exceptions: with a cache in use it does, to keep the cache
    consistent, and once a process per block class, to learn whether it returns a tensor or a tuple.
    Raises UsageError for numbers out of range or repeated, or when no block would stay.
    """
    blocks = decoder_blocks(model)
    with handing_through([blocks[number] for number in checked_numbers(drop, len(blocks))]):
        yield


@contextlib.contextmanager
def handing_through(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside this context these blocks, which may be all of a model, hand their input through."""
    patched = []
    try:
        for block in blocks:
            patched.append((block, vars(block).get("forward")))  # accelerate puts its own there
            block.forward = PassThrough(block)
        yield
    finally:
        for block, own_forward in patched:
            del block.forward
            if own_forward is not None:
                block.forward = own_forward


class PassThrough:
    """Stands in for a block's forward and returns the block's input in the family's own form."""

    def __init__(self, block: nn.Module):
        self.forward, self.kind = block.forward, type(block)

    def __call__(self, *args, **kwargs):
        hidden = hidden_in(args, kwargs)
        caching = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
        if caching or self.kind not in _output_form:
            # neither the gradients nor the random numbers of the caller may notice
            with torch.no_grad(), torch.random.fork_rng([hidden.device] if hidden.is_cuda else []):
                out = self.forward(*args, **kwargs)
            is_sequence = isinstance(out, tuple | list)
            _output_form[self.kind] = (type(out), len(out)) if is_sequence else None
        if _output_form[self.kind] is None:
            return hidden
        sequence, length = _output_form[self.kind]
        return sequence((hidden, *[None] * (length - 1)))
