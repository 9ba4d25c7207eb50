"""What a model holds of answers of its own: whether it calls them true, and its inner states."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.errors import UsageError
from avss_utils.measure.choices import score_choices
from avss_utils.measure.decoding import Generated
from avss_utils.measure.passes import in_batches
from avss_utils.models import blocks as families
from avss_utils.models.blocks.finding import text_config
from avss_utils.models.blocks.running import hidden_out
from avss_utils.store.progress import progress

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import Cache, PreTrainedModel

CALLED_TRUE = (" (A)", " (B)")  # as the prompt's last line goes on: true, false


def p_true_prompt(question: str, answer: str, ideas: Sequence[str] = ()) -> str:
    """The question whether an answer is true, beside ``ideas``, other answers drawn for it.

    Kadavath et al. 2022 (arXiv 2207.05221), sections 4.1 and 4.2.
    """
    shown = "\n".join(["Here are some brainstormed ideas:", *ideas, ""]) if ideas else ""
    return (
        f"Question: {question}\n{shown}Possible Answer: {answer}\n"
        "Is the possible answer:\n (A) True\n (B) False\nThe possible answer is:"
    )


def p_true(
    model: "PreTrainedModel",
    tokenizer: Tokenizer,
    asked: Sequence[tuple[str, str, Sequence[str]]],
    *,
    batch_tokens: int = 4096,
) -> np.ndarray:
    """The model's probability that each answer is true, of true and false: (n_answers,) in [0, 1].

    ``asked``: (question, answer, ideas) as ``p_true_prompt`` takes them.
    """
    prompts = [p_true_prompt(*own) for own in asked]
    choices = [CALLED_TRUE] * len(prompts)
    scores = score_choices(model, tokenizer, prompts, choices, batch_tokens=batch_tokens)
    true, false = np.array(scores, float).reshape(-1, 2).T
    return np.exp(true - np.logaddexp(true, false))


def answer_states(
    model: "PreTrainedModel",
    answers: Sequence[Generated],
    *,
    block: int | None = None,
    batch_tokens: int = 4096,
) -> np.ndarray:
    """The state after a block at each answer's last token, (n_answers, width) of float32.

    ``block``: its number, by default the middle one, (n_blocks + 1) // 2 - 1, as in INSIDE (Chen
    et al. 2024, arXiv 2402.03744). Of an empty answer it is the prompt's last token. Raises
    UsageError for a block that the model lacks.
    """
    modules = families.decoder_blocks(model)
    number = (len(modules) + 1) // 2 - 1 if block is None else block
    if number not in range(len(modules)):
        raise UsageError(f"there is no block {number}: choose one from 0 to {len(modules) - 1}")
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, own in enumerate(answers):
        groups.setdefault(own.prefix, []).append(i)
    states = np.empty((len(answers), text_config(model).hidden_size), np.float32)
    cached = families.shares_cache(model)
    prefixes = list(groups)
    sizes = [len(p) * (1 if cached else len(groups[p])) for p in prefixes]
    order = sorted(range(len(prefixes)), key=lambda i: -sizes[i])
    for part in progress(list(in_batches(order, sizes, batch_tokens, summed=True)), "states"):
        asked = [prefixes[n] for n in part]
        numbers = [(k, i) for k, prefix in enumerate(asked) for i in groups[prefix]]
        given = [answers[i] for _, i in numbers]
        # a prompt's last token begins what follows it, so that no answer is without a token
        shared = cached and min(map(len, asked)) > 1
        rows = [own.prefix[-1:] + own.ids if shared else own.prefix + own.ids for own in given]
        ids, mask = families.pad(rows, side="right")
        run: tuple = ({"input_ids": ids, "attention_mask": mask}, None, mask)
        if shared:
            prompts = families.PromptPass(model, [prefix[:-1] for prefix in asked], cached=True)
            run = prompts.followed_by(torch.tensor([k for k, _ in numbers]), ids, mask)
        states[[i for _, i in numbers]] = _last_states(model, modules[number], *run)
    return states


def _last_states(
    model: "PreTrainedModel",
    block: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    cache: "Cache | None",
    seen: torch.Tensor,
) -> np.ndarray:
    """The block's state at the last position ``seen`` of each row, (n_rows, width)."""
    caught: list[torch.Tensor] = []
    hook = block.register_forward_hook(
        lambda module, args, output: caught.append(hidden_out(output))
    )
    try:
        families.forward_logits(model, batch, last=1, past_key_values=cache)
    finally:
        hook.remove()
    own = caught.pop()
    last = (seen.shape[1] - 1 - seen.flip(1).argmax(1)).to(own.device)
    return own[torch.arange(len(own), device=own.device), last].float().cpu().numpy()
