"""Many answers token by token: one pass of their prompts, then a pass a token behind its cache."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from avss_utils.measure.passes import few_rows, log_probabilities
from avss_utils.models import blocks as families

# (logits (R, V), numbers of their rows, number of the step) -> the next token of each, (R,)
Choose = Callable[[torch.Tensor, np.ndarray, int], torch.Tensor]
# (numbers of rows, their tokens so far (R, step + 1)) -> which of them are at their end, (R,)
HasEnded = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Steps(NamedTuple):
    """What was chosen, (n_rows, n_new) each: token ids, -1 after a row's end; log-probability of
    each in the model's own distribution and the entropy of that, in nats, NaN after the end.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    entropies: np.ndarray


def token_steps(
    model: nn.Module,
    prefixes: Sequence[Sequence[int]],
    choose: Choose,
    has_ended: HasEnded,
    *,
    n_samples: int = 1,
    n_new: int,
) -> Steps:
    """At most ``n_new`` tokens after each prompt; row i is sample i % n_samples of its prompt.

    The samples of a prompt share its pass. Rows that have ended leave the batch once they are half
    of it; the others are the same whatever stands beside them, up to float rounding.
    """
    n_rows = len(prefixes) * n_samples
    tokens = np.full((n_rows, n_new), -1)
    sureness = np.full((2, n_rows, n_new), np.nan)
    batch = _Rows(model, prefixes, n_samples)
    numbers, live = np.arange(n_rows), np.ones(n_rows, bool)
    for step in range(n_new):
        chosen = choose(batch.logits, numbers, step)
        own = numbers[live]
        tokens[own, step] = chosen.cpu().numpy()[live]
        sureness[:, own, step] = _sureness(batch.logits, chosen)[:, live]
        live[live] = ~has_ended(own, tokens[own, : step + 1])
        if not live.any() or step == n_new - 1:
            break
        if 2 * live.sum() <= len(live):
            kept = np.flatnonzero(live)
            numbers, live, chosen = numbers[kept], live[kept], chosen[torch.as_tensor(kept)]
            batch.keep(torch.as_tensor(kept))
        batch.add(chosen)
    return Steps(tokens, *sureness)


def likeliest(logits: torch.Tensor, numbers: np.ndarray, step: int) -> torch.Tensor:
    """Greedy decoding's choice: the highest logit, the first of equals."""
    return logits.argmax(-1)


def drawn(uniform: np.ndarray, temperature: float) -> Choose:
    """A choice by chance: token k where ``uniform`` falls into its share of the distribution.

    ``uniform``, (n_rows, n_new) in [0, 1): a number a token is all the noise that the inverse of a
    distribution function needs, whatever the vocabulary's size, and what a row draws depends on no
    other row. The sums are float64: float32 would move a vocabulary's later tokens by 1e-6.
    """

    def choose(logits: torch.Tensor, numbers: np.ndarray, step: int) -> torch.Tensor:
        below_one = np.minimum(uniform[numbers, step], 1 - 2**-40)  # stays below the sum
        points = torch.as_tensor(below_one).to(logits.device)
        found = []
        for own, point in few_rows(logits, points):
            sums = (own.float() / temperature).softmax(-1).double().cumsum(-1)
            at = torch.searchsorted(sums, point[:, None] * sums[:, -1:], right=True)
            found.append(at[:, 0].clamp(max=logits.shape[-1] - 1))
        return torch.cat(found)

    return choose


def _sureness(logits: torch.Tensor, chosen: torch.Tensor) -> np.ndarray:
    """Log-probability of the chosen tokens, and entropy of what they are of: (2, R), nats."""
    picked = log_probabilities(logits[:, None], chosen[:, None])[:, 0]
    entropies = [torch.special.entr(own.float().softmax(-1)).sum(-1) for (own,) in few_rows(logits)]
    return np.stack([picked.numpy(), torch.cat(entropies).double().cpu().numpy()])


class _Rows:
    """Rows of one batch, and the ``logits`` (R, V) of what comes next.

    A model whose cache cannot be shared (``families.shares_cache``) reads whole rows anew: slower.
    """

    def __init__(self, model: nn.Module, prefixes: Sequence[Sequence[int]], n_samples: int) -> None:
        self.model = model
        self.ids, self.mask = families.pad(prefixes, side="left")
        inputs = families.forward_inputs(
            model, {"input_ids": self.ids, "attention_mask": self.mask}
        )
        cached = families.shares_cache(model)
        with torch.inference_mode():
            out = model(**inputs, use_cache=cached, **families.last_only(model, 1))
        self.cache = out.past_key_values if cached else None
        self.logits = out.logits[:, -1]
        if n_samples > 1:
            self.keep(torch.arange(len(prefixes)).repeat_interleave(n_samples))
            self.logits = self.logits.repeat_interleave(n_samples, 0)

    def keep(self, which: torch.Tensor) -> None:
        """Go on with these rows, some of them perhaps more than once."""
        self.ids, self.mask = self.ids[which], self.mask[which]
        if self.cache is not None:
            self.cache.reorder_cache(which)

    def add(self, chosen: torch.Tensor) -> None:
        """One more token of each row."""
        new = chosen.cpu()[:, None]
        self.ids = torch.cat([self.ids, new], 1)
        self.mask = torch.cat([self.mask, torch.ones_like(new)], 1)
        ids = self.ids if self.cache is None else new
        batch = {"input_ids": ids, "attention_mask": self.mask}
        logits = families.forward_logits(self.model, batch, last=1, past_key_values=self.cache)
        self.logits = logits[:, -1]
