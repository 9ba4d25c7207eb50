"""Numbers of a saved model by plain passes of transformers: what the product has to give.

Each row alone, with no padding and no cache; a block is left out by replacing what it returns.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers as tf
import zoo
from tiny import tiny_tokenizer

from avss_utils.models.blocks import decoder_blocks, hidden_in, hidden_out, with_output

DROP = (1, 4)  # no pattern of two or three kinds of blocks stays a pattern without them
PROMPTS = ("Question: the fox\nAnswer:", "The lazy dog which is over the fox", "Dogs")
CHOICES = (
    (" the quick brown fox", " dog"),
    (" jumps", " and these are lazy"),
    (" bark", " are quick over the fox", "s"),
)
TOLERANCE = 2e-3  # of sums of log-probabilities and of logits


@contextlib.contextmanager
def left_out(model: torch.nn.Module, drop: Sequence[int]) -> Iterator[None]:
    """Blocks run, and what they return as their state is what they were handed."""

    def hand_on(block: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> object:
        return with_output(output, hidden_in(args, kwargs))

    blocks = decoder_blocks(model)
    with contextlib.ExitStack() as hooks:
        for number in drop:
            hook = blocks[number].register_forward_hook(hand_on, with_kwargs=True)
            hooks.enter_context(hook)
        yield


@torch.inference_mode()
def variances(model: torch.nn.Module, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Population variance of the state after each block and of its change, (2, n_blocks)."""
    blocks = decoder_blocks(model)
    states: list[list] = [[] for _ in blocks]
    with contextlib.ExitStack() as hooks:
        for block, own in zip(blocks, states, strict=True):

            def keep(_: object, args: tuple, kwargs: dict, output: object, own: list = own) -> None:
                before, after = hidden_in(args, kwargs), hidden_out(output)
                own.append((after.flatten().double(), (after - before).flatten().double()))

            hooks.enter_context(block.register_forward_hook(keep, with_kwargs=True))
        for row in rows:
            model(input_ids=torch.tensor([row]), use_cache=False)
    pairs = [[torch.cat(parts) for parts in zip(*own, strict=True)] for own in states]
    return np.array([[float(x.var(correction=0)) for x in own] for own in pairs]).T


@torch.inference_mode()
def is_causal(model: torch.nn.Module) -> bool:
    """Whether what comes later in a text changes nothing before it."""
    ids = torch.arange(3, 15)[None]
    other = ids.clone()
    other[0, 8:] += 40
    first, second = (model(input_ids=x, use_cache=False).logits[0, :8] for x in (ids, other))
    return bool((first - second).abs().max() < TOLERANCE)


def attempt(compute: Callable[[], object]) -> object:
    """What ``compute`` returns, or the error that it raises."""
    try:
        return compute()
    except Exception as error:  # the product may know better; else there is nothing to hold it to
        return error


def reference_of(folder: Path) -> SimpleNamespace:
    """A saved model's numbers by plain passes: scores of choices, logits, variances; the first two
    also without DROP. What cannot be computed is its error.
    """
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tiny_tokenizer()
    rows = tokenizer([p + c[0] for p, c in zip(PROMPTS, CHOICES, strict=True)])["input_ids"]

    def scores() -> list[np.ndarray]:
        return zoo.scored_alone(model, tokenizer, PROMPTS, CHOICES)

    def without(compute: Callable[[], object]) -> object:
        with left_out(model, DROP):
            return compute()

    logits = partial(zoo.logits_of, model)
    return SimpleNamespace(
        rows=rows,
        is_causal=is_causal(model),
        scores=scores(),
        logits=logits(),
        variances=attempt(lambda: list(variances(model, rows))),
        scores_without=attempt(lambda: without(scores)),
        logits_without=attempt(lambda: [without(logits)]),
    )
