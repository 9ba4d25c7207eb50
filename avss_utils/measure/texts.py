"""Token log-likelihoods and perplexity of texts."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.rows import Text
from avss_utils.data.windows import Window, text_windows
from avss_utils.measure.passes import longest_first, row_scores
from avss_utils.models import blocks as families
from avss_utils.store.progress import progress


def window_likelihoods(
    model: nn.Module, windows: Sequence[Window], *, batch_tokens: int
) -> pd.DataFrame:
    """Score windows: one row per window with row_id, window, nll (nats), n_tokens, n_bytes.

    ``batch_tokens`` bounds tokens (padding included) of one forward pass. Raises UsageError for
    windows longer than the model's context, and for logits that are not finite.
    """
    families.check_length(model, max((len(w.ids) for w in windows), default=0))
    nll = np.zeros(len(windows))
    parts = longest_first(model, [len(w.ids) for w in windows], batch_tokens)
    for part in progress(parts, "texts"):
        ids, mask = families.pad([windows[i].ids for i in part], side="right")
        logits = families.forward_logits(model, {"input_ids": ids, "attention_mask": mask})
        rows = [windows[i].ids for i in part]
        scores = row_scores(logits[:, :-1], ids[:, 1:], mask[:, 1:], model=model, rows=rows)
        nll[part] = -scores.numpy()
    table = [
        (w.row_id, k, x, len(w.ids) - 1, w.n_bytes)
        for k, (w, x) in enumerate(zip(windows, nll, strict=True))
    ]
    return pd.DataFrame(table, columns=["row_id", "window", "nll", "n_tokens", "n_bytes"])


def perplexity(
    model: nn.Module,
    tokenizer: Tokenizer,
    texts: Iterable[Text],
    *,
    context: int,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
) -> float:
    """exp(mean negative log-likelihood a token) over texts, in windows of ``context`` tokens."""
    windows = text_windows(tokenizer, texts, context=context, max_tokens=max_tokens)
    table = window_likelihoods(model, windows, batch_tokens=batch_tokens)
    return float(np.exp(table.nll.sum() / table.n_tokens.sum()))
