"""Texts -> windows of tokens to score, each token once."""

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.data.rows import Text
from avss_utils.errors import UsageError
from avss_utils.models.tokenizers import automatic_bos


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of one text; all but the first are scored, ``n_bytes`` of UTF-8 text."""

    row_id: str
    ids: tuple[int, ...]
    n_bytes: int


def text_windows(
    tokenizer: Tokenizer, texts: Iterable[Text], *, context: int, max_tokens: int | None = None
) -> list[Window]:
    """Cut texts into windows of at most ``context`` tokens.

    Windows do not overlap, and the last ``ids`` of one is the first of the next, so that every
    token but a text's first is scored exactly once. Where the tokenizer adds a BOS token, each
    window starts with it instead and every token is scored. At most ``max_tokens`` are scored.
    """
    if context < 2:
        raise UsageError(f"context must be 2 tokens or more, not {context}: one predicts the next")
    windows, left = [], max_tokens if max_tokens is not None else float("inf")
    bos = automatic_bos(tokenizer)
    for row in texts:
        if left <= 0:
            break
        encoded = tokenizer(row.text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = encoded["input_ids"], encoded["offset_mapping"]
        start = 0 if bos else 1
        while start < len(ids) and left > 0:
            stop = int(min(start + context - 1, len(ids), start + left))
            head = bos or [ids[start - 1]]
            n_bytes = len(row.text[spans[start][0] : spans[stop - 1][1]].encode())
            windows.append(Window(row.row_id, (*head, *ids[start:stop]), n_bytes))
            left -= stop - start
            start = stop
    if not windows:
        raise UsageError("no text long enough to score was given: pass texts of two tokens or more")
    return windows
