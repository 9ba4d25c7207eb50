"""One pass over padded token rows: its inputs, its logits, and a prompt that several rows share."""

import copy
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers import Cache

from avss_utils.errors import UsageError
from avss_utils.models.blocks.finding import decoder_body, unwrapped


def pad(rows: Sequence[Sequence[int]], *, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows as one (B, T) tensor, and the mask of what is not padding."""
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    longest = int(lengths.max())
    fill = [0] * longest
    if side == "right":
        filled = [[*row, *fill[len(row) :]] for row in rows]
        mask = torch.arange(longest) < lengths
    else:
        filled = [[*fill[len(row) :], *row] for row in rows]
        mask = torch.arange(longest) >= longest - lengths
    return torch.tensor(filled, dtype=torch.long), mask.long()


def forward_inputs(model: nn.Module, batch: Mapping) -> dict[str, torch.Tensor]:
    """The inputs of one forward pass, on the model's device, from a tokenizer output.

    ``batch``: ``input_ids`` (B, T) and optionally ``attention_mask`` (all ones if absent), left- or
    right-padded, and longer than T where a cache holds the tokens before; anything else is left
    out. Where the model takes ``position_ids`` they count real tokens, so that absolute positions
    do not depend on the side of the padding. Raises UsageError for tokens that the model has no
    embedding of.
    """
    ids = torch.as_tensor(batch["input_ids"])
    check_tokens(model, ids)
    ids = ids.to(model.device)
    mask = batch.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask, device=model.device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in signature(decoder_body(model).forward).parameters:
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        inputs["position_ids"] = positions[:, -ids.shape[1] :]
    return inputs


def check_tokens(model: nn.Module, ids: torch.Tensor) -> None:
    """Raise UsageError where the model's embedding has no row for one of these tokens.

    On a GPU it would end the process: there the tokens are looked at before they get there.
    """
    if ids.device.type != "cpu" or not ids.numel():
        return
    size, largest = model.get_input_embeddings().num_embeddings, int(ids.max())
    if largest >= size:
        raise UsageError(
            f"the tokenizer makes token {largest} of a text, and the model has embeddings of "
            f"{size} tokens alone: pass the tokenizer that belongs to these weights"
        )


def last_only(model: nn.Module, n: int) -> dict[str, int]:
    """The keyword that spares logits of all but the last ``n`` positions, where there is one."""
    return {"logits_to_keep": n} if "logits_to_keep" in signature(model.forward).parameters else {}


def forward_logits(
    model: nn.Module, batch: dict, *, last: int | None = None, past_key_values: Cache | None = None
) -> torch.Tensor:
    """Logits of one pass over ``batch``, (B, T, V); of the ``last`` positions only where given."""
    inputs: dict[str, Any] = forward_inputs(model, batch)
    if past_key_values is not None:
        inputs["past_key_values"] = past_key_values
    keep = {} if last is None else last_only(model, last)
    with torch.inference_mode():
        out = model(**inputs, use_cache=past_key_values is not None, **keep)
    return out.logits if last is None else out.logits[:, -last:]


def logits_at(model: nn.Module, inputs: dict, where: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) of the N positions that ``where`` (B, T) marks, row by row; gradients are kept.

    No others are made where the model's head is a layer of its own: with a vocabulary of 262,144
    a batch's take gigabytes, and few positions are scored. ``inputs``: of ``forward_inputs``.
    """
    head = unwrapped(model).get_output_embeddings()

    def pick(layer: nn.Module, args: tuple) -> tuple | None:
        states = args[0]
        return (states[where][None], *args[1:]) if states.shape[:-1] == where.shape else None

    handle = None if head is None else head.register_forward_pre_hook(pick)
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        if handle is not None:
            handle.remove()
    return logits[where] if logits.shape[:-1] == where.shape else logits[0]


class PromptPass:
    """One pass over prompts, of which every continuation starts.

    ``logits``: (n_prompts, 1, V), those of each prompt's last token. With ``cached`` continuations
    go on from the prompts' cache, else they run behind their prompts as whole rows: the same
    numbers, for models whose cache cannot be shared.
    """

    def __init__(
        self, model: nn.Module, prefixes: Sequence[Sequence[int]], *, cached: bool
    ) -> None:
        self.ids, self.mask = pad(prefixes, side="left")
        inputs = forward_inputs(model, {"input_ids": self.ids, "attention_mask": self.mask})
        with torch.inference_mode():
            out = model(**inputs, use_cache=cached, **last_only(model, 1))
        self.logits = out.logits[:, -1:]
        self._cache = out.past_key_values if cached else None
        # over several devices each layer's cache lies where its block does: all take CPU indices
        is_spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
        self._device = torch.device("cpu") if is_spread else inputs["input_ids"].device

    def followed_by(
        self, which: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], Cache | None, torch.Tensor]:
        """(batch, cache, seen) of tokens (B, T), right-padded, row i after prompt ``which[i]``.

        ``seen``: which of the positions that the blocks will see are these tokens: ``mask``, with
        the prompts' positions before it where no cache holds them. The cache is a copy: the
        prompts' own serves again.
        """
        before = self.mask[which]
        full = torch.cat([before, mask], dim=1)
        if self._cache is None:
            whole = torch.cat([self.ids[which], ids], dim=1)
            seen = torch.cat([torch.zeros_like(before), mask], dim=1)
            return {"input_ids": whole, "attention_mask": full}, None, seen
        cache = copy.deepcopy(self._cache)
        cache.batch_select_indices(which.to(self._device))
        return {"input_ids": ids, "attention_mask": full}, cache, mask
