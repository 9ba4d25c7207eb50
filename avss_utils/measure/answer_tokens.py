"""One pass over answers: what every block holds at every one of their tokens.

All that is judged later, be it the whole answer, its last token or a permutation of labels, adds up
rows of this table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.token_rows import ChoiceUnit, choice_units
from avss_utils.measure.activations import check_sites, site_hooks
from avss_utils.measure.block_stats import Moments
from avss_utils.measure.choices import alike, group_batches, grouped
from avss_utils.measure.finite import check_finite, check_sites_finite
from avss_utils.measure.passes import few_rows, log_probabilities
from avss_utils.models.blocks import PromptPass, decoder_blocks, forward_logits, pad, shares_cache
from avss_utils.store.progress import progress

Limits = dict[str, dict[str, np.ndarray]]  # name -> site -> (n_blocks,)


@dataclass(frozen=True)
class AnswerTokens:
    """One row per token of an answer, answer by answer, in the order of the text.

    ``answer``: number of the token's answer, over all questions in their order; ``position``: from
    0; ``log_probability`` and ``entropy`` (nats): of the token, and of the distribution that the
    model had before it; each (n_tokens,). ``mean`` and ``m2`` (summed squared deviation from it):
    by site, (n_tokens, n_blocks); ``zeros``: by (site, limit), entries whose size is below the
    limit; ``width``: entries of a token by site, (n_blocks,). Where states were kept, ``states``:
    residual of each answer's last token, (n_answers, n_blocks, width) in float16; ``spread``: how
    far its tokens' residuals span the space, (n_answers, n_blocks), see ``log_spread``.
    """

    answer: np.ndarray
    position: np.ndarray
    log_probability: np.ndarray
    entropy: np.ndarray
    mean: dict[str, np.ndarray]
    m2: dict[str, np.ndarray]
    zeros: dict[tuple[str, str], np.ndarray]
    width: dict[str, np.ndarray]
    states: np.ndarray | None = None
    spread: np.ndarray | None = None

    @property
    def n_answers(self) -> int:
        return int(self.answer.max()) + 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each answer, (n_answers,)."""
        return np.bincount(self.answer, minlength=self.n_answers)


def collect_answers(
    model: nn.Module,
    tokenizer: Tokenizer,
    asked: Sequence[tuple[str, Sequence[str]]],
    *,
    sites: Sequence[str] = ("residual", "update"),
    limits: Limits,
    keep_states: bool = False,
    batch_tokens: int = 4096,
) -> AnswerTokens:
    """Read every block at the tokens of every answer: ``asked`` are (prompt, answers).

    ``limits``: named thresholds by site and block, below which an entry counts as zero. The
    statistics are those of the answers' own positions, the prompt before them and nothing after.
    Raises UsageError for an unknown site, an empty prompt or an answer without text, and for
    activations or logits that are not finite.
    """
    check_sites(sites)
    units = choice_units(model, tokenizer, [a[0] for a in asked], [a[1] for a in asked])
    number = {id(unit): i for i, unit in enumerate(units)}
    reducer = _TokenReducer(len(decoder_blocks(model)), limits, keep_states)
    parts: list[dict] = []
    cached = shares_cache(model)
    batches = group_batches(model, grouped(units), batch_tokens, whole=not cached)
    for groups in progress(batches, "answers"):
        prompts = PromptPass(model, [g[0].prefix for g in groups], cached=cached)
        group_of = torch.tensor([i for i, g in enumerate(groups) for _ in g])
        own = [u for g in groups for u in g]
        for part in alike(model, range(len(own)), [len(u.ids) for u in own]):
            asked_now = [own[i] for i in part]
            found = _read(model, prompts, group_of[part], asked_now, reducer, sites)
            found["last"] = [number[id(unit)] for unit in asked_now]
            found["answer"] = np.repeat(found["last"], [len(unit.ids) for unit in asked_now])
            parts.append(found)
    return _joined(parts, reducer)


def absolute_limits(eps: float, sites: Sequence[str], n_blocks: int) -> dict[str, np.ndarray]:
    """The same threshold everywhere: AVSS's epsilon."""
    return {site: np.full(n_blocks, eps) for site in sites}


def relative_limits(tokens: AnswerTokens, ratio: float) -> dict[str, np.ndarray]:
    """``ratio`` times each block's standard deviation over the tokens given, by site.

    Taken on other questions than those judged, they do not depend on the labels.
    """
    found: dict[str, np.ndarray] = {}
    for site, mean in tokens.mean.items():
        n = np.broadcast_to(tokens.width[site], mean.shape)
        total = Moments(n, mean, tokens.m2[site]).merged()
        found[site] = ratio * np.sqrt(total.m2 / total.n)[0]
    return found


def log_spread(states: torch.Tensor, mask: torch.Tensor, *, ridge: float = 1e-3) -> torch.Tensor:
    """Mean log eigenvalue of the Gram matrix of a text's tokens: (B,) of float32.

    ``states``: (B, T, width); ``mask``: (B, T). Each state is centred over its units and ``ridge``
    added to the diagonal: LLM-Check's hidden score (Sriramanan et al. 2024).
    """
    x = states.double()
    x = (x - x.mean(-1, keepdim=True)) * mask[..., None]
    gram = x @ x.transpose(1, 2)
    # a padded position gets the eigenvalue 1, whose logarithm adds nothing
    diagonal = torch.where(mask, ridge, 1.0).to(gram)
    total = torch.linalg.slogdet(gram + torch.diag_embed(diagonal)).logabsdet
    return (total / mask.sum(-1)).float()


def _read(
    model: nn.Module,
    prompts: PromptPass,
    which: torch.Tensor,
    units: Sequence[ChoiceUnit],
    reducer: "_TokenReducer",
    sites: Sequence[str],
) -> dict:
    """One padded batch of answers after their prompts: the numbers of its tokens, row by row."""
    ids, mask = pad([unit.ids for unit in units], side="right")
    batch, cache, seen = prompts.followed_by(which, ids, mask)
    reducer.start(seen.bool().to(model.device))
    with torch.inference_mode(), site_hooks(model, sites, reducer):
        logits = forward_logits(model, batch, last=ids.shape[1], past_key_values=cache)
    first = prompts.logits[which.to(prompts.logits.device)]
    log_probability, entropy = [], []
    for own, before, wanted in few_rows(logits, first, ids):
        before = torch.cat([before, own[:, :-1].to(before.device)], dim=1)
        log_probability.append(log_probabilities(before, wanted))
        # a token that is ruled out adds nothing, and nothing times infinity is no number
        before = before.float().clamp(min=torch.finfo(torch.float32).min)
        total = before.logsumexp(-1)
        entropy.append((total - (before.softmax(-1) * before).sum(-1)).double().cpu())
    real, scores = mask.bool(), torch.cat(log_probability)
    seen = [unit.prefix + unit.ids for unit in units]
    check_finite(torch.where(real, scores, 0.0), model, seen)
    return {
        "position": np.concatenate([np.arange(len(unit.ids)) for unit in units]),
        "log_probability": scores[real].numpy(),
        "entropy": torch.cat(entropy)[real].numpy(),
        "reduced": reducer.finish(),
    }


class _TokenReducer:
    """What ``site_hooks`` hands over, as sums per token and block."""

    def __init__(self, n_blocks: int, limits: Limits, keep_states: bool) -> None:
        self.n_blocks, self.limits, self.keep_states = n_blocks, limits, keep_states
        self.width: dict[str, np.ndarray] = {}
        self.found: dict[tuple, list] = {}

    def start(self, mask: torch.Tensor) -> None:
        self.mask, self.last = mask, mask.shape[1] - 1 - mask.flip(1).int().argmax(-1)
        self.found = {}

    def block(
        self, number: int, before: torch.Tensor, after: torch.Tensor, sites: Sequence[str]
    ) -> None:
        if "residual" in sites:
            self.site("residual", number, after)
        if "update" in sites:
            self.site("update", number, after - before)
        if self.keep_states:
            rows = torch.arange(len(after), device=after.device)
            self._keep(("states",), number, after[rows, self.last.to(after.device)].half())
            self._keep(("spread",), number, log_spread(after, self.mask.to(after.device)))

    def site(self, site: str, number: int, x: torch.Tensor) -> None:
        x = x[self.mask.to(x.device)].float()
        self.width.setdefault(site, np.zeros(self.n_blocks, dtype=np.int64))[number] = x.shape[-1]
        mean = x.mean(-1, keepdim=True)
        self._keep(("mean", site), number, mean[:, 0].double())
        self._keep(("m2", site), number, (x - mean).square().sum(-1).double())
        size = x.abs()
        for name, by_site in self.limits.items():
            if site in by_site:
                zeros = (size < float(by_site[site][number])).sum(-1)
                self._keep(("zeros", site, name), number, zeros)

    def _keep(self, key: tuple, number: int, values: torch.Tensor) -> None:
        self.found.setdefault(key, [None] * self.n_blocks)[number] = values

    def finish(self) -> dict[tuple, np.ndarray]:
        """(rows, n_blocks, ...) by key."""
        found = {key: torch.stack(own, 1).cpu().numpy() for key, own in self.found.items()}
        check_sites_finite({key[1]: own for key, own in found.items() if key[0] == "m2"})
        return found


def _joined(parts: list[dict], reducer: _TokenReducer) -> AnswerTokens:
    """All batches in the order of answers and positions."""
    names = ("answer", "position", "log_probability", "entropy", "last")
    tokens = {name: np.concatenate([part[name] for part in parts]) for name in names}
    answers = np.argsort(tokens.pop("last"))
    order = np.lexsort((tokens["position"], tokens["answer"]))
    by_answer = [key for key in parts[0]["reduced"] if key in (("states",), ("spread",))]
    keys = [key for key in parts[0]["reduced"] if key not in by_answer]
    reduced = {k: np.concatenate([p["reduced"][k] for p in parts])[order] for k in keys}
    kept = {k[0]: np.concatenate([p["reduced"][k] for p in parts])[answers] for k in by_answer}
    return AnswerTokens(
        **{name: values[order] for name, values in tokens.items()},
        mean={key[1]: a for key, a in reduced.items() if key[0] == "mean"},
        m2={key[1]: a for key, a in reduced.items() if key[0] == "m2"},
        zeros={key[1:]: a for key, a in reduced.items() if key[0] == "zeros"},
        width=reducer.width,
        **kept,
    )
