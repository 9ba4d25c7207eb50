"""The loss to first order: its slope in a gate on each block's update."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from avss_utils.data.token_rows import Scored
from avss_utils.measure.passes import last_only, left_padded, log_probabilities, longest_first
from avss_utils.models import blocks as families
from avss_utils.store.progress import progress


def gate_gradients(model: nn.Module, rows: Sequence[Scored], *, batch_tokens: int) -> np.ndarray:
    """d loss / d gate at gate 1, (n_rows, n_blocks), where a gate multiplies a block's update.

    The loss is a row's nats a scored token. To first order, closing gate i (removing block i) adds
    minus this to the loss.
    """
    gradients = np.zeros((len(rows), len(families.decoder_blocks(model))))
    parts = longest_first(model, [len(row.ids) for row in rows], batch_tokens)
    for part in progress(parts, "gradients"):
        gradients[part] = _batch_gradients(model, [rows[i] for i in part])
    return gradients


def _batch_gradients(model, rows) -> np.ndarray:
    batch, targets, own = left_padded(rows)
    inputs, last = families.forward_inputs(model, batch), targets.shape[1]
    n_blocks = len(families.decoder_blocks(model))
    with torch.enable_grad(), _frozen(model):
        gates = torch.ones(n_blocks, len(rows), 1, 1, device=model.device, requires_grad=True)
        with _gated(model, gates):
            out = model(**inputs, use_cache=False, **last_only(model, last + 1))
        scores = log_probabilities(out.logits[:, -last - 1 : -1], targets)
        losses = -(scores * own).sum(-1) / own.sum(-1)
        (gradient,) = torch.autograd.grad(losses.sum(), gates)
    return gradient[..., 0, 0].T.double().cpu().numpy()


@contextmanager
def _gated(model: nn.Module, gates: torch.Tensor) -> Iterator[None]:
    """Every block's update multiplied by its gate, (n_blocks, B, 1, 1)."""

    def gate_of(number: int):
        def after_block(_, args, kwargs, output):
            before, after = families.hidden_in(args, kwargs), families.hidden_out(output)
            gated = before + gates[number].to(before.dtype) * (after - before)
            return families.with_output(output, gated)

        return after_block

    with ExitStack() as hooks:
        for number, block in enumerate(families.decoder_blocks(model)):
            hooks.enter_context(block.register_forward_hook(gate_of(number), with_kwargs=True))
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradient for the weights, which would keep every activation alive."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
