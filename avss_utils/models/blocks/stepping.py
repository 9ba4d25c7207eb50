"""Run the blocks of one forward pass one at a time, in whatever order is wanted."""

import contextlib
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from avss_utils.models.blocks.bypassing import handing_through
from avss_utils.models.blocks.calling import hidden_in, hidden_out, with_hidden
from avss_utils.models.blocks.finding import decoder_blocks, decoder_body, forward_inputs


class BlockSteps:
    """The forward pass of ``batch`` in steps: ``start``, ``step(number, hidden)``, ``logits``.

    What a block is handed beside the hidden state (masks, positions) does not depend on that state,
    so it is recorded once while every block hands its input through, and used again at each step.
    ``n_steps`` counts the blocks that have run, which is what a search over blocks costs. Call it
    inside ``torch.inference_mode``.
    """

    def __init__(self, model: PreTrainedModel, batch: dict) -> None:
        self.model, self.blocks = model, decoder_blocks(model)
        self.inputs, self.n_steps = forward_inputs(model, batch), 0
        self.calls: list[tuple[tuple, dict]] = []
        with handing_through(self.blocks), _before_each(self.blocks, self._record):
            decoder_body(model)(**self.inputs, use_cache=False)
        self.start = hidden_in(*self.calls[0])

    def _record(self, block, args: tuple, kwargs: dict) -> None:
        self.calls.append((args, kwargs))

    def step(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        """The state after block ``number``, (B, T, width), given the one before it."""
        self.n_steps += 1
        args, kwargs = with_hidden(*self.calls[number], hidden)
        return hidden_out(self.blocks[number](*args, **kwargs))

    def logits(self, hidden: list[torch.Tensor], **keywords) -> torch.Tensor:
        """Logits, (len(hidden), B, T, V), of states after the last block, in one pass of the head.

        ``keywords`` go to the model's forward (``logits_to_keep``).
        """
        states = torch.cat(hidden)

        def replace(block, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return with_hidden(args, kwargs, states)

        inputs = {name: torch.cat([x] * len(hidden)) for name, x in self.inputs.items()}
        with handing_through(self.blocks), _before_each(self.blocks[:1], replace):
            out = self.model(**inputs, use_cache=False, **keywords).logits
        return out.view(len(hidden), -1, *out.shape[1:])


@contextlib.contextmanager
def _before_each(blocks, hook) -> Iterator[None]:
    with contextlib.ExitStack() as hooks:
        for block in blocks:
            hooks.enter_context(block.register_forward_pre_hook(hook, with_kwargs=True))
        yield
