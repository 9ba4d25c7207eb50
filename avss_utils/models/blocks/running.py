"""Run a model's blocks otherwise than in a row: hand some of them through, or step one by one.

By family a block returns a tensor or a tuple, and is handed the hidden state by position or by
name; ``args`` and ``kwargs`` are what it is called with.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache

from avss_utils.models.blocks.finding import (
    check_separable,
    checked_numbers,
    decoder_blocks,
    decoder_body,
)
from avss_utils.models.blocks.passing import forward_inputs

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

# What a block class returns: None for a tensor, else its sequence type and length.
_output_form: dict[type, tuple[type, int] | None] = {}


def hidden_in(args: tuple, kwargs: dict) -> torch.Tensor:
    """The state that a block is handed, (B, T, width)."""
    return args[0] if args else kwargs["hidden_states"]


def with_hidden(args: tuple, kwargs: dict, hidden: torch.Tensor) -> tuple[tuple, dict]:
    """The same call with another state."""
    return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})


def hidden_out(output: Any) -> torch.Tensor:
    """The state that a block returns, (B, T, width)."""
    return output[0] if isinstance(output, tuple | list) else output


def with_output(output: Any, hidden: torch.Tensor) -> Any:
    """The same output with another state."""
    return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden


@contextlib.contextmanager
def bypass_blocks(model: "PreTrainedModel", drop: Iterable[int]) -> Iterator[None]:
    """Inside this context the blocks numbered in ``drop`` hand their input through.

    Numbers are the model's own, from 0, inside the context too; contexts of disjoint blocks nest. A
    bypassed block does not run, with two exceptions: with a cache in use it does, to keep the cache
    consistent, and once a process per block class, to learn whether it returns a tensor or a tuple.
    Raises UsageError for numbers out of range or repeated, when no block would stay, and for models
    whose blocks read what others computed.
    """
    blocks = decoder_blocks(model)
    numbers = checked_numbers(drop, len(blocks))
    if numbers:
        check_separable(model)
    with handing_through([blocks[number] for number in numbers]):
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

    def __init__(self, block: nn.Module) -> None:
        self.forward, self.kind = block.forward, type(block)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hidden = hidden_in(args, kwargs)
        caching = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
        if caching or self.kind not in _output_form:
            # neither the gradients nor the random numbers of the caller may notice
            with torch.no_grad(), torch.random.fork_rng([hidden.device] if hidden.is_cuda else []):
                out = self.forward(*args, **kwargs)
            is_sequence = isinstance(out, tuple | list)
            _output_form[self.kind] = (type(out), len(out)) if is_sequence else None
        if (form := _output_form[self.kind]) is None:
            return hidden
        sequence, length = form
        return sequence((hidden, *[None] * (length - 1)))


class BlockSteps:
    """The forward pass of ``batch`` in steps: ``start``, ``step(number, hidden)``, ``logits``.

    What a block is handed beside the hidden state (masks, positions) does not depend on that state,
    so it is recorded once while every block hands its input through, and used again at each step.
    ``n_steps`` counts the blocks that have run, which is what a search over blocks costs. Call it
    inside ``torch.inference_mode``.
    """

    def __init__(self, model: "PreTrainedModel", batch: dict) -> None:
        check_separable(model)
        self.model, self.blocks = model, decoder_blocks(model)
        self.inputs, self.n_steps = forward_inputs(model, batch), 0
        self.calls: list[tuple[tuple, dict]] = []
        with handing_through(self.blocks), _before_each(self.blocks, self._record):
            decoder_body(model)(**self.inputs, use_cache=False)
        self.start = hidden_in(*self.calls[0])

    def _record(self, block: nn.Module, args: tuple, kwargs: dict) -> None:
        self.calls.append((args, kwargs))

    def step(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        """The state after block ``number``, (B, T, width), given the one before it."""
        self.n_steps += 1
        args, kwargs = with_hidden(*self.calls[number], hidden)
        return hidden_out(self.blocks[number](*args, **kwargs))

    def logits(self, hidden: list[torch.Tensor], **keywords: Any) -> torch.Tensor:
        """Logits, (len(hidden), B, T, V), of states after the last block, in one pass of the head.

        ``keywords`` go to the model's forward (``logits_to_keep``).
        """
        states = torch.cat(hidden)

        def replace(block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return with_hidden(args, kwargs, states)

        inputs = {name: torch.cat([x] * len(hidden)) for name, x in self.inputs.items()}
        with handing_through(self.blocks), _before_each(self.blocks[:1], replace):
            out = self.model(**inputs, use_cache=False, **keywords).logits
        return out.view(len(hidden), -1, *out.shape[1:])


@contextlib.contextmanager
def _before_each(blocks: Iterable[nn.Module], hook: Callable) -> Iterator[None]:
    with contextlib.ExitStack() as hooks:
        for block in blocks:
            hooks.enter_context(block.register_forward_pre_hook(hook, with_kwargs=True))
        yield
