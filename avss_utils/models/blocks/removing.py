"""Take blocks out of a model for good, so that the result saves and loads like any checkpoint.

It goes by the families' shared conventions (``layer_idx`` on submodules, per-block lists in the
configuration) and checks the result, so that a family with another convention is refused instead of
being saved wrongly.
"""

import contextlib
import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedConfig

from avss_utils.errors import UsageError, one_line
from avss_utils.models.blocks.consistency import (
    check_close,
    check_removed,
    evaluating,
    row_logits,
    sample_rows,
)
from avss_utils.models.blocks.finding import (
    check_separable,
    checked_numbers,
    decoder_blocks,
    text_config,
)
from avss_utils.models.blocks.running import PassThrough

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_number", "layer_index", "block_idx")
BLOCK_NUMBERS = ("moe_layers", "mlp_only_layers", "attn_layer_indices")
NOT_PER_BLOCK = ("architectures", "_token_id")
LEADING_BLOCK_COUNTS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")


def remove_blocks(
    model: "PreTrainedModel", drop: Iterable[int], *, share_weights: bool = False
) -> "PreTrainedModel":
    """A new, smaller model of the same class without the blocks in ``drop``; the original stays.

    Kept blocks are renumbered and the configuration is cut to them, so that the result generates
    with a cache, saves and loads like any checkpoint. ``share_weights``: only the structure is new,
    the weights are the original's and not copied; ``check_reload`` before such a model is saved.
    Raises UsageError as ``bypass_blocks`` does, where the result has other logits than the model
    with these blocks bypassed, and, unless weights are shared, as ``check_reload`` does.
    """
    blocks = decoder_blocks(model)
    dropped = checked_numbers(drop, len(blocks))
    if any(isinstance(vars(block).get("forward"), PassThrough) for block in blocks):
        raise UsageError("some blocks are bypassed: leave bypass_blocks before removing blocks")
    if dropped:
        check_separable(model)
    keep = [number for number in range(len(blocks)) if number not in dropped]
    memo = {id(blocks[number]): nn.Identity() for number in dropped}  # not worth copying
    if share_weights:
        shared = (*model.parameters(), *model.buffers(), *_waiting_weights(model))
        memo |= {id(one): one for one in shared}
    pruned = copy.deepcopy(model, memo)
    kept = decoder_blocks(pruned)
    for number in reversed(dropped):
        del kept[number]
    for new, old in enumerate(keep):
        _renumber(kept[new], new - old)
    _cut_config(text_config(pruned), keep)
    if dropped:
        check_removed(model, pruned, dropped)
    if not share_weights:
        check_reload(model, pruned, keep)
    return pruned


def _waiting_weights(model: nn.Module) -> list:
    """What accelerate reads the weights of a spread model from that lie on no device."""
    maps = [getattr(getattr(m, "_hf_hook", None), "weights_map", None) for m in model.modules()]
    return [getattr(weights, "dataset", weights) for weights in maps]


def _renumber(block: nn.Module, shift: int) -> None:
    for module in block.modules():
        for name in INDEX_ATTRIBUTES:
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, getattr(module, name) + shift)


def _cut_config(config: PreTrainedConfig, keep: list[int]) -> None:
    by_block = config.to_dict().get("per_layer_config")  # Gemma 4's, keyed by number
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
    with contextlib.suppress(AttributeError):  # some count the list that was just cut
        config.num_hidden_layers = len(keep)
    if by_block:
        own = {int(number): value for number, value in by_block.items()}
        config.per_layer_config = {i: own[n] for i, n in enumerate(keep) if n in own}


def check_reload(model: "PreTrainedModel", pruned: "PreTrainedModel", keep: Sequence[int]) -> None:
    """Raise UsageError unless ``pruned``, the blocks ``keep`` of ``model``, can be loaded again.

    What the two configurations build is compared, since only they and the weights are saved. A
    block that comes out different at its new position (GPT-2 can scale its attention by the block's
    number) would be another block once reloaded. Then the one that is built of the pruned
    configuration is given the pruned weights, and has to have the pruned model's logits.
    """
    reason = "its configuration builds them differently at their new positions"
    try:
        rebuilt = _rebuilt(pruned)
        (*before, rest), (*after, new_rest) = _blueprint(_rebuilt(model)), _blueprint(rebuilt)
        if [before[number] for number in keep] == after and rest == new_rest:
            return _check_logits(pruned, rebuilt)
    except Exception as error:  # each family has its own way to refuse a configuration
        reason = one_line(error)
    raise UsageError(
        f"{type(model).__name__} without these blocks could not be loaded again ({reason}): "
        "choose other blocks, or only evaluate the model without them"
    )


def _rebuilt(model: "PreTrainedModel") -> "PreTrainedModel":
    """What the configuration alone builds, its parameters without memory."""
    import accelerate  # takes a while, and most models are not saved

    config = type(model.config).from_dict(model.config.to_dict())
    with accelerate.init_empty_weights():
        return type(model)(config).eval()


def _check_logits(pruned: "PreTrainedModel", rebuilt: "PreTrainedModel") -> None:
    """Lend the rebuilt model the pruned one's weights, and hold their logits against each other."""
    weights = pruned.state_dict()
    if any(tensor.is_meta for tensor in weights.values()):  # they wait on the disk
        return
    rebuilt.load_state_dict(weights, assign=True)
    rebuilt.to(pruned.device)
    row = sample_rows(pruned)[0]
    with evaluating(pruned):
        check_close(pruned, {"once loaded": (row_logits(rebuilt, row), row_logits(pruned, row))})


def _blueprint(fresh: "PreTrainedModel") -> list[dict]:
    """Each block's modules, then the shapes of the rest."""
    blocks = decoder_blocks(fresh)
    inside = {id(tensor) for tensor in blocks.parameters()}
    found = [{path: _describe(m) for path, m in block.named_modules()} for block in blocks]
    rest = {name: p.shape for name, p in fresh.named_parameters() if id(p) not in inside}
    return [*found, rest]


def _describe(module: nn.Module) -> tuple:
    return type(module), {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and name not in INDEX_ATTRIBUTES
    }
