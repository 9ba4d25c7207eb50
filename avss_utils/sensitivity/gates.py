"""The loss to first order: its slope in a gate on each block's update."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from avss_utils import blocks as families
from avss_utils.likelihood import in_batches, last_only, pad, within_logits
from avss_utils.progress import progress
from avss_utils.sensitivity.losses import Scored


def gate_gradients(model: nn.Module, rows: Sequence[Scored], *, batch_tokens: int) -> np.ndarray:
    """d loss / d gate at gate 1, (n_rows, n_blocks), where a gate multiplies a block's update.

    The loss is a row's nats a scored token. To first order, closing gate i (removing block i) adds
    minus this to the loss.
    """
    n_blocks = len(families.decoder_blocks(model))
    batch_tokens = within_logits(model, batch_tokens)
    gradients = np.zeros((len(rows), n_blocks))
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    parts = list(in_batches(order, [len(row.ids) for row in rows], batch_tokens))
    for part in progress(parts, "gradients"):
        gradients[part] = _batch_gradients(model, [rows[i] for i in part])
    return gradients


def _batch_gradients(model, rows) -> np.ndarray:
    ids, mask = pad([row.ids for row in rows], side="left")
    inputs = families.forward_inputs(model, {"input_ids": ids, "attention_mask": mask})
    last = max(row.n_scored for row in rows)
    n_scored = torch.tensor([[row.n_scored] for row in rows])
    own = ((last - n_scored <= torch.arange(last)) / n_scored).to(model.device)
    n_blocks = len(families.decoder_blocks(model))
    with torch.enable_grad(), _frozen(model):
        gates = torch.ones(n_blocks, len(rows), 1, 1, device=model.device, requires_grad=True)
        with _gated(model, gates):
            out = model(**inputs, use_cache=False, **last_only(model, last + 1))
        logits = out.logits[:, -last - 1 : -1].float()
        targets = inputs["input_ids"][:, -last:, None]
        scores = logits.gather(-1, targets)[..., 0] - logits.logsumexp(-1)
        (gradient,) = torch.autograd.grad(-(scores * own).sum(), gates)
    return gradient[..., 0, 0].T.double().cpu().numpy()


@contextmanager
def _gated(model: nn.Module, gates: torch.Tensor) -> Iterator[None]:
    """Every block's update multiplied by its gate, (n_blocks, B, 1, 1)."""

    def gate_of(number: int):
        def after_block(_, args, kwargs, output):
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple | list) else output
            gated = before + gates[number].to(before.dtype) * (after - before)
            is_sequence = isinstance(output, tuple | list)
            return type(output)((gated, *output[1:])) if is_sequence else gated

        return after_block

    blocks = families.decoder_blocks(model)
    handles = [
        block.register_forward_hook(gate_of(number), with_kwargs=True)
        for number, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
