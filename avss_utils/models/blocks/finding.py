"""Where a causal language model keeps its decoder blocks and their projections, and what it takes.

It goes by the families' shared conventions: a list of blocks under the base model, and the usual
names of projections.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import transformers
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from avss_utils.errors import UsageError

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

# Beyond the last two a model chooses which tokens it attends to, by scores that padding can move.
CONTEXT_LIMITS = ("max_position_embeddings", "max_seq_len", "index_topk", "keep_window_size")
ATTENTION_OUT = ("o_proj", "out_proj", "c_proj", "dense")
MLP_DOWN = ("down_proj", "c_proj", "dense_4h_to_h", "fc_out", "fc2", "w2")


def unwrapped(model: nn.Module) -> nn.Module:
    """The causal language model inside torch's, peft's and torch.compile's wrappers.

    The same modules, adapters included: what is read off or frozen here is the wrapper's.
    """
    for name in ("module", "_orig_mod"):
        model = getattr(model, name, model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_body(model: "PreTrainedModel") -> nn.Module:
    """The base model to run for statistics: embeddings, blocks and final norm, but no head.

    Raises UsageError, naming the class, unless ``model`` is a decoder-only causal language model.
    """
    config: Any = getattr(model, "config", None)
    problem = None
    if not isinstance(model, transformers.PreTrainedModel) or not model.can_generate():
        problem = "has no causal language-model head"
    elif config.is_encoder_decoder or text_config(model).is_encoder_decoder:
        problem = "is an encoder-decoder"
    elif config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        problem = None if getattr(config, "is_decoder", False) else "is an encoder"
    if problem:
        kind = f"{type(model).__name__} (model type {getattr(config, 'model_type', None)})"
        raise UsageError(f"{kind} {problem}: load a decoder-only model with AutoModelForCausalLM")
    body = model.get_decoder()
    # Llama 4 does not say where its body is, and ModernBERT calls its last projection a decoder
    if body is model or not isinstance(body, transformers.PreTrainedModel):
        found = (m for m in model.children() if isinstance(m, transformers.PreTrainedModel))
        body = next(found, model)
    return body


def decoder_blocks(model: "PreTrainedModel") -> nn.ModuleList:
    """The decoder blocks of ``model`` in order: the model's own list, not a copy.

    Raises UsageError, naming the class, for an encoder, an encoder-decoder, or a model without a
    list of ``config.num_hidden_layers`` blocks.
    """
    body = decoder_body(model)
    n_blocks = getattr(text_config(model), "num_hidden_layers", None)
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return module
    name = type(model).__name__
    raise UsageError(f"{name} has no list of {n_blocks} decoder blocks: choose another model")


def check_separable(model: "PreTrainedModel") -> None:
    """Raise UsageError where blocks read what others computed, so that none can be taken out."""
    if n := getattr(text_config(model), "num_kv_shared_layers", None):
        raise UsageError(
            f"the last {n} blocks of {type(model).__name__} read the keys and values of earlier "
            "ones: its blocks can be scored, and none can be taken out or bypassed"
        )


def text_config(model: "PreTrainedModel") -> PreTrainedConfig:
    """The configuration of the part of the model that its decoder blocks belong to."""
    return model.config.get_text_config(decoder=True)


def positions(config: PreTrainedConfig) -> int | None:
    """Tokens that a model of this configuration has positions for; None where it sets no limit."""
    config = config.get_text_config(decoder=True)
    return min((n for name in CONTEXT_LIMITS if (n := getattr(config, name, None))), default=None)


def context_length(model: "PreTrainedModel") -> int | None:
    """Tokens that the model has positions for; None where its configuration sets no limit."""
    return positions(model.config)


def check_length(model: "PreTrainedModel", n_tokens: int) -> None:
    """Raise UsageError if a text of ``n_tokens`` is longer than the model's context."""
    limit = context_length(model)
    if limit is not None and n_tokens > limit:
        raise UsageError(
            f"a text of {n_tokens} tokens is longer than the {limit} that the model has positions "
            f"for: cut texts to {limit} tokens or fewer"
        )


def attention_module(block: nn.Module) -> nn.Module:
    """The attention's output projection: what it returns, (B, T, width), is the attention output.

    Not the module around it, which in BLOOM adds the residual. Raises UsageError, naming the block
    class, where there is not exactly one.
    """
    return _projection(block, ATTENTION_OUT, in_attention=True)


def mlp_down_projection(block: nn.Module) -> nn.Module:
    """The MLP's last projection: its input, (B, T, inner width), is the MLP's inner activation.

    OPT flattens that input to (B * T, inner width), row after row. Raises UsageError, naming the
    block class, where no single projection sees every token, as in a mixture of experts.
    """
    return _projection(block, MLP_DOWN, in_attention=False)


def _projection(block: nn.Module, names: tuple[str, ...], *, in_attention: bool) -> nn.Module:
    found = [
        module
        for path, module in block.named_modules()
        if path.split(".")[-1] in names and "expert" not in path and ("att" in path) == in_attention
    ]
    if len(found) != 1:
        site = "attention" if in_attention else "mlp"
        counted = f"{type(block).__name__} has {len(found)} projections"
        raise UsageError(f"{counted} that the {site} site could be, not one: leave that site out")
    return found[0]


def checked_numbers(drop: Iterable[int], n_blocks: int) -> list[int]:
    """``drop`` in ascending order; UsageError unless distinct, in range, and leaving a block."""
    drop = list(drop)
    valid = all(number in range(n_blocks) for number in drop) and len(set(drop)) == len(drop)
    if not valid or len(drop) >= n_blocks:
        wanted = f"distinct numbers from 0 to {n_blocks - 1} that leave at least one block"
        raise UsageError(f"blocks to drop must be {wanted}, not {drop}")
    return sorted(int(number) for number in drop)
