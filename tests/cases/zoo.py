"""Tiny random models of the families that edition 1.0.0 got wrong, and right numbers of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from tiny import (
    FAMILIES,
    GROUPED,
    HEAD_DIM,
    INNER,
    TOKENS,
    WIDTH,
    WINDOW,
    randomise,
    tiny_tokenizer,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from avss_utils.models.blocks import bypass_blocks, remove_blocks

N_BLOCKS = 6
SIZES = TOKENS | {"vocab_size": 300, "num_hidden_layers": N_BLOCKS}
KINDS = ["sliding_attention", "full_attention"] * (N_BLOCKS // 2)
FEW_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROUTED = FEW_EXPERTS | {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MIXED = HEAD_DIM | WINDOW | {"layer_types": KINDS}
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300}
TWO_SIDED = {
    "d_model": WIDTH,
    "encoder_layers": N_BLOCKS,
    "decoder_layers": N_BLOCKS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER,
    "max_position_embeddings": 256,
}
ZAMBA2 = {
    "layers_block_type": ["linear_attention", "hybrid"] * (N_BLOCKS // 2),
    "hybrid_layer_ids": list(range(1, N_BLOCKS, 2)),
    "attention_hidden_size": 2 * WIDTH,
    "attention_head_dim": 16,
    "num_key_value_heads": 4,
    "num_mem_blocks": 1,
    "mamba_headdim": 16,
    "n_mamba_heads": 4,
    "mamba_ngroups": 1,
    "mamba_d_state": 8,
    "adapter_rank": 4,
    "chunk_size": 8,
}
FALCON_H1 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_d_ssm": 64,
    "mamba_chunk_size": 8,
}
DEEPSEEK_V4 = {
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "q_lora_rank": 16,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "hc_mult": 2,
    "o_groups": 2,
    "o_lora_rank": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 4,
    "sliding_window": 8,
    "max_position_embeddings": 256,
}
RWKV = {"hidden_size": WIDTH, "attention_hidden_size": WIDTH, "context_length": 256}

# name -> model type, arguments of its configuration
ZOO = {
    "deepseek_v3": ("deepseek_v3", GROUPED | LATENT | ROUTED | {"first_k_dense_replace": 2}),
    "glm4_moe": ("glm4_moe", HEAD_DIM | ROUTED | {"first_k_dense_replace": 1}),
    "qwen3_next": (
        "qwen3_next",
        HEAD_DIM | LINEAR | FEW_EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16},
    ),
    "gpt_oss": ("gpt_oss", HEAD_DIM | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "lfm2": ("lfm2", GROUPED | {"layer_types": ["conv", "conv", "full_attention"] * 2}),
    "mamba": ("mamba", {"hidden_size": WIDTH, "state_size": 8, "time_step_rank": 4}),
    "falcon_h1": ("falcon_h1", GROUPED | FALCON_H1),
    "zamba2": ("zamba2", GROUPED | ZAMBA2),
    "deepseek_v4": ("deepseek_v4", DEEPSEEK_V4),
    "gemma3n": (
        "gemma3n_text",
        MIXED
        | PER_LAYER
        | {
            "num_kv_shared_layers": 2,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.0] * N_BLOCKS,
        },
    ),
    "gemma4_e": (
        "gemma4_text",
        MIXED | PER_LAYER | {"global_head_dim": 8, "num_kv_shared_layers": 2},
    ),
    "gemma4_dense": (
        "gemma4_text",
        MIXED
        | {"global_head_dim": 16, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
    ),
    "modernbert_decoder": ("modernbert-decoder", GROUPED),
    "roberta": ("roberta", GROUPED | {"is_decoder": True}),
    "roformer": ("roformer", GROUPED | {"is_decoder": True}),
    "bart": ("bart", TWO_SIDED),
    "pegasus": ("pegasus", TWO_SIDED),
    "trocr": ("trocr", TWO_SIDED),
    "rwkv": ("rwkv", RWKV),
    "recurrent_gemma": ("recurrent_gemma", HEAD_DIM | {"lru_width": WIDTH}),
}


def make(name: str, seed: int = 0) -> tf.PreTrainedModel:
    """A random float32 model of the zoo, or of the tiny families, in evaluation mode."""
    if name in FAMILIES:
        return FAMILIES[name](n_blocks=N_BLOCKS, seed=seed, vocab_size=SIZES["vocab_size"])
    kind, arguments = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CONFIG_MAPPING[kind](**(SIZES | arguments))
        model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        randomise(model)
    return model.eval()


def save(name: str, folder: Path) -> Path:
    """A model of the zoo with the tiny tokenizer in ``folder``, as a user's own."""
    make(name).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@torch.inference_mode()
def scored_alone(model, tokenizer, prompts: Sequence[str], choices: Sequence) -> list[np.ndarray]:
    """What ``score_choices`` has to give: every choice behind its prompt, with no padding."""
    scores = []
    for prompt, own in zip(prompts, choices, strict=True):
        first, row = len(tokenizer(prompt)["input_ids"]), []
        for choice in own:
            ids = torch.tensor([tokenizer(prompt + choice)["input_ids"]], device=model.device)
            log_p = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            row.append(float(log_p.gather(-1, ids[0, 1:, None])[first - 1 :].sum()))
        scores.append(np.array(row))
    return scores


@torch.inference_mode()
def logits_of(model) -> torch.Tensor:
    """Logits of a short text without padding."""
    ids = torch.randint(3, 90, (2, 11), generator=torch.Generator().manual_seed(1))
    return model(input_ids=ids, use_cache=False).logits


@torch.inference_mode()
def removal_error(model, drop: Sequence[int], folder: Path | None = None) -> float:
    """How far the logits of bypassed blocks are from those of removed ones, and of the model
    reloaded from ``folder``, where one is given to save it in.
    """
    with bypass_blocks(model, drop):
        wanted = logits_of(model)
    others = [remove_blocks(model, drop, share_weights=folder is None)]
    if folder is not None:
        others[0].save_pretrained(folder)
        reloaded = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        others.append(reloaded.eval())
    return max(float((wanted - logits_of(other)).abs().max()) for other in others)
