"""Other tools' own way of doing what is timed, where they are installed."""

from collections.abc import Callable
from importlib import metadata

import torch

from avss_utils import blocks as families

TOOLS = ("transformer-lens", "nnsight", "lm-eval")


def versions() -> dict:
    """The peers' versions, None for one that is not installed."""
    return {"peers": {name: _version(name) for name in TOOLS}}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def activation_readers(model, tokenizer, batches: list[dict]) -> dict[str, Callable]:
    """The state after every block of the same model and texts, read and dropped batch by batch."""
    readers = {"transformers, output_hidden_states": lambda: _hidden_states(model, batches)}
    return readers


def _hidden_states(model, batches: list[dict]) -> None:
    body = families.decoder_body(model)
    with torch.inference_mode():
        for batch in batches:
            inputs = families.forward_inputs(model, batch)
            body(**inputs, use_cache=False, output_hidden_states=True)


def choice_scorers(model, tokenizer, asked: list) -> dict[str, Callable]:
    """Scores of the same prompts and choices."""
    return {}
