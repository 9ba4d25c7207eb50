"""Where a causal language model keeps its decoder blocks; bypass some, remove some.

The only place that knows model families.
"""

from avss_utils.models.blocks.consistency import check_model, shares_cache
from avss_utils.models.blocks.finding import (
    attention_module,
    check_length,
    checked_numbers,
    context_length,
    decoder_blocks,
    decoder_body,
    mlp_down_projection,
    positions,
    unwrapped,
)
from avss_utils.models.blocks.passing import (
    PromptPass,
    forward_inputs,
    forward_logits,
    last_only,
    logits_at,
    pad,
)
from avss_utils.models.blocks.removing import check_reload, remove_blocks
from avss_utils.models.blocks.running import (
    BlockSteps,
    bypass_blocks,
    hidden_in,
    hidden_out,
    with_output,
)

__all__ = [
    "BlockSteps",
    "PromptPass",
    "attention_module",
    "bypass_blocks",
    "check_length",
    "check_model",
    "check_reload",
    "checked_numbers",
    "context_length",
    "decoder_blocks",
    "decoder_body",
    "forward_inputs",
    "forward_logits",
    "hidden_in",
    "hidden_out",
    "last_only",
    "logits_at",
    "mlp_down_projection",
    "pad",
    "positions",
    "remove_blocks",
    "shares_cache",
    "unwrapped",
    "with_output",
]
