"""Texts -> windows of tokens to score, each token once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from avss_utils.errors import UsageError
from avss_utils.models.tokenizers import automatic_bos


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of one text; all but the first are scored, ``n_bytes`` of UTF-8 text."""

    row_id: str
    ids: tuple[int, ...]
    n_bytes: int


def text_windows(
    tokenizer, texts: Iterable, *, context: int, max_tokens: int | None = None
) -> list[Window]:
    """Cut texts (with ``row_id`` and ``text``) into windows of at most ``context`` tokens.

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
        for window in _cut(row, encoded, context, bos, left):
            windows.append(window)
            left -= len(window.ids) - 1
    if not windows:
        raise UsageError("no text long enough to score was given: pass texts of two tokens or more")
    return windows


def _cut(row, encoded, context: int, bos: list[int], left: float) -> Iterator[Window]:
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    start = 0 if bos else 1
    while start < len(ids) and left > 0:
        stop = int(min(start + context - 1, len(ids), start + left))
        head = bos or [ids[start - 1]]
        covered = row.text[spans[start][0] : spans[stop - 1][1]]
        yield Window(row.row_id, (*head, *ids[start:stop]), len(covered.encode()))
        left -= stop - start
        start = stop
