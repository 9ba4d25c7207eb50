"""What a model holds of answers of its own: whether it calls them true, and its inner states."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from avss_utils.errors import UsageError
from avss_utils.measure.choices import score_choices
from avss_utils.measure.decoding import Generated
from avss_utils.measure.passes import longest_first
from avss_utils.models import blocks as families
from avss_utils.models.blocks import pad
from avss_utils.models.blocks.running import hidden_out
from avss_utils.store.progress import progress

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
    model: PreTrainedModel,
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
    model: PreTrainedModel,
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
    rows, states = [(*own.prefix, *own.ids) for own in answers], dict[int, np.ndarray]()
    caught: list[torch.Tensor] = []
    hook = modules[number].register_forward_hook(
        lambda module, args, output: caught.append(hidden_out(output)[:, -1].float().cpu())
    )
    try:
        for part in progress(longest_first(model, list(map(len, rows)), batch_tokens), "states"):
            ids, mask = pad([rows[i] for i in part], side="left")
            inputs = families.forward_inputs(model, {"input_ids": ids, "attention_mask": mask})
            with torch.inference_mode():
                families.decoder_body(model)(**inputs, use_cache=False)
            states |= zip(part, caught.pop().numpy(), strict=True)
    finally:
        hook.remove()
    return np.array([states[i] for i in range(len(rows))])
