"""Where a causal language model keeps its decoder blocks; bypass some, remove some.

The only file that knows model families. It goes by their shared conventions (a list of blocks under
the base model, ``layer_idx`` on submodules, per-block lists in the configuration) and checks the
result, so that a family with another convention is refused instead of being saved wrongly.
"""

import contextlib
import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from avss_utils.runs import UsageError

INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_number", "layer_index", "block_idx")
BLOCK_NUMBERS = ("moe_layers", "mlp_only_layers")
NOT_PER_BLOCK = ("architectures", "_token_id")
LEADING_BLOCK_COUNTS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
CONTEXT_LIMITS = ("max_position_embeddings", "max_seq_len")
ATTENTION_OUT = ("o_proj", "out_proj", "c_proj", "dense")
MLP_DOWN = ("down_proj", "c_proj", "dense_4h_to_h", "fc_out", "fc2", "w2")

# What a block class returns: None for a tensor, else its sequence type and length.
_output_form: dict[type, tuple[type, int] | None] = {}


def decoder_body(model: PreTrainedModel) -> nn.Module:
    """The base model to run for statistics: embeddings, blocks and final norm, but no head.

    Raises UsageError, naming the class, unless ``model`` is a decoder-only causal language model.
    """
    config, problem = getattr(model, "config", None), None
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        problem = "has no causal language-model head"
    elif config.is_encoder_decoder or _text_config(model).is_encoder_decoder:
        problem = "is an encoder-decoder"
    elif config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        problem = None if getattr(config, "is_decoder", False) else "is an encoder"
    if problem:
        kind = f"{type(model).__name__} (model type {getattr(config, 'model_type', None)})"
        raise UsageError(f"{kind} {problem}: load a decoder-only model with AutoModelForCausalLM")
    body = model.get_decoder()
    if body is model:  # Llama 4 does not say where its body is
        body = next((m for m in model.children() if isinstance(m, PreTrainedModel)), model)
    return body


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks of ``model`` in order: the model's own list, not a copy.

    Raises UsageError, naming the class, for an encoder, an encoder-decoder, or a model without a
    list of ``config.num_hidden_layers`` blocks.
    """
    body = decoder_body(model)
    n_blocks = getattr(_text_config(model), "num_hidden_layers", None)
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return module
    name = type(model).__name__
    raise UsageError(f"{name} has no list of {n_blocks} decoder blocks: choose another model")


def _text_config(model: PreTrainedModel) -> PreTrainedConfig:
    return model.config.get_text_config(decoder=True)


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens that the model has positions for; None where its configuration sets no limit."""
    config = _text_config(model)
    return next((n for name in CONTEXT_LIMITS if (n := getattr(config, name, None))), None)


def check_length(model: PreTrainedModel, n_tokens: int) -> None:
    """Raise UsageError if a text of ``n_tokens`` is longer than the model's context."""
    limit = context_length(model)
    if limit is not None and n_tokens > limit:
        raise UsageError(
            f"a text of {n_tokens} tokens is longer than the {limit} that the model has positions "
            f"for: cut texts to {limit} tokens or fewer"
        )


def forward_inputs(model: PreTrainedModel, batch: Mapping) -> dict[str, torch.Tensor]:
    """The inputs of one forward pass, on the model's device, from a tokenizer output.

    ``batch``: ``input_ids`` (B, T) and optionally ``attention_mask`` (all ones if absent), left- or
    right-padded, and longer than T where a cache holds the tokens before; anything else is left
    out. Where the model takes ``position_ids`` they count real tokens, so that absolute positions
    do not depend on the side of the padding.
    """
    ids = torch.as_tensor(batch["input_ids"], device=model.device)
    mask = batch.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask, device=model.device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(decoder_body(model).forward).parameters:
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        inputs["position_ids"] = positions[:, -ids.shape[1] :]
    return inputs


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


@contextlib.contextmanager
def bypass_blocks(model: PreTrainedModel, drop: Iterable[int]) -> Iterator[None]:
    """Inside this context the blocks numbered in ``drop`` hand their input through.

    Numbers are the model's own, from 0, inside the context too; contexts of disjoint blocks nest. A
    bypassed block does not run, with two exceptions: with a cache in use it does, to keep the cache
    consistent, and once a process per block class, to learn whether it returns a tensor or a tuple.
    Raises UsageError for numbers out of range or repeated, or when no block would stay.
    """
    blocks = decoder_blocks(model)
    patched = []
    try:
        for block in (blocks[number] for number in _checked(drop, len(blocks))):
            patched.append((block, vars(block).get("forward")))  # accelerate puts its own there
            block.forward = _PassThrough(block)
        yield
    finally:
        for block, own_forward in patched:
            del block.forward
            if own_forward is not None:
                block.forward = own_forward


class _PassThrough:
    """Stands in for a block's forward and returns the block's input in the family's own form."""

    def __init__(self, block: nn.Module):
        self.forward, self.kind = block.forward, type(block)

    def __call__(self, *args, **kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        caching = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
        if caching or self.kind not in _output_form:
            # neither the gradients nor the random numbers of the caller may notice
            with torch.no_grad(), torch.random.fork_rng([hidden.device] if hidden.is_cuda else []):
                out = self.forward(*args, **kwargs)
            is_sequence = isinstance(out, tuple | list)
            _output_form[self.kind] = (type(out), len(out)) if is_sequence else None
        if _output_form[self.kind] is None:
            return hidden
        sequence, length = _output_form[self.kind]
        return sequence((hidden, *[None] * (length - 1)))


def remove_blocks(
    model: PreTrainedModel, drop: Iterable[int], *, share_weights: bool = False
) -> PreTrainedModel:
    """A new, smaller model of the same class without the blocks in ``drop``; the original stays.

    Kept blocks are renumbered and the configuration is cut to them, so that the result generates
    with a cache, saves and loads like any checkpoint. ``share_weights``: only the structure is new,
    parameters and buffers are the original's, for quick evaluation. Raises UsageError as
    ``bypass_blocks`` does and, unless weights are shared, where the family makes a block depend on
    its position in a way the configuration cannot express.
    """
    blocks = decoder_blocks(model)
    dropped = _checked(drop, len(blocks))
    if any(isinstance(vars(block).get("forward"), _PassThrough) for block in blocks):
        raise UsageError("some blocks are bypassed: leave bypass_blocks before removing blocks")
    keep = [number for number in range(len(blocks)) if number not in dropped]
    memo = {id(blocks[number]): nn.Identity() for number in dropped}  # not worth copying
    if share_weights:
        memo |= {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    pruned = copy.deepcopy(model, memo)
    kept = decoder_blocks(pruned)
    for number in reversed(dropped):
        del kept[number]
    for new, old in enumerate(keep):
        _renumber(kept[new], new - old)
    _cut_config(_text_config(pruned), keep)
    if not share_weights:
        _check_reload(model, pruned, keep)
    return pruned


def _checked(drop: Iterable[int], n_blocks: int) -> list[int]:
    drop = list(drop)
    valid = all(number in range(n_blocks) for number in drop) and len(set(drop)) == len(drop)
    if not valid or len(drop) >= n_blocks:
        wanted = f"distinct numbers from 0 to {n_blocks - 1} that leave at least one block"
        raise UsageError(f"blocks to drop must be {wanted}, not {drop}")
    return sorted(int(number) for number in drop)


def _renumber(block: nn.Module, shift: int) -> None:
    for module in block.modules():
        for name in INDEX_ATTRIBUTES:
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, getattr(module, name) + shift)


def _cut_config(config: PreTrainedConfig, keep: list[int]) -> None:
    for name, value in list(vars(config).items()):
        if not isinstance(value, list | tuple) or name.endswith(NOT_PER_BLOCK):
            continue
        if name in BLOCK_NUMBERS:
            setattr(config, name, [keep.index(number) for number in value if number in keep])
        elif len(value) == config.num_hidden_layers:
            setattr(config, name, type(value)(value[number] for number in keep))
    for name in LEADING_BLOCK_COUNTS:
        if isinstance(count := getattr(config, name, None), int):
            setattr(config, name, sum(number < count for number in keep))
    if hasattr(config, "attention_types"):  # GPT-Neo expands this pattern into attention_layers
        config.attention_types = [[list(config.attention_layers), 1]]
    config.num_hidden_layers = len(keep)


def _check_reload(model: PreTrainedModel, pruned: PreTrainedModel, keep: list[int]) -> None:
    """Compare what the two configurations build, since only they and the weights are saved.

    A block that comes out different at its new position (GPT-2 can scale its attention by the
    block's number) would be another block once reloaded.
    """
    reason = "its configuration builds them differently at their new positions"
    try:
        (*before, rest), (*after, new_rest) = _blueprint(model), _blueprint(pruned)
        if [before[number] for number in keep] == after and rest == new_rest:
            return
    except Exception as error:  # each family has its own way to refuse a configuration
        reason = str(error).replace("\n", " ")
    raise UsageError(
        f"{type(model).__name__} without these blocks could not be loaded again ({reason}): use "
        "bypass_blocks, or share_weights=True for a model that is not saved"
    )


def _blueprint(model: PreTrainedModel) -> list[dict]:
    """What the configuration alone builds: each block's modules, then the shapes of the rest."""
    config = type(model.config).from_dict(model.config.to_dict())
    with torch.device("meta"):
        fresh = type(model)(config)
    blocks = decoder_blocks(fresh)
    found = [{path: _describe(m) for path, m in block.named_modules()} for block in blocks]
    del blocks[:]
    return [*found, {name: tensor.shape for name, tensor in fresh.named_parameters()}]


def _describe(module: nn.Module) -> tuple:
    return type(module), {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and name not in INDEX_ATTRIBUTES
    }
