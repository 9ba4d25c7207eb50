"""A tiny random model of every model type that transformers has a causal language model for.

Sizes are set by their names, from the type's own defaults: what a default leaves out stays out, and
lists of one entry a block are left to the type to make. A row of OVERRIDES says what that misses.
"""

import inspect

import torch
import transformers as tf
from tiny import HEADS, INNER, TOKENS, WIDTH, randomise
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

N_BLOCKS, VOCAB = 6, 300
HEAD = WIDTH // HEADS
ALL_TYPES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))

# size -> the names that configurations give it
_NAMES = {
    N_BLOCKS: """num_hidden_layers n_layer n_layers num_layers num_blocks decoder_layers
        encoder_layers num_decoder_layers num_encoder_layers""",
    WIDTH: """hidden_size d_model n_embd emb_dim embedding_dim embedding_size attention_hidden_size
        lru_width word_embed_proj_dim input_embedding_size output_embedding_size
        backbone_hidden_size""",
    HEADS: """num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads
        encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads
        swa_num_attention_heads linear_num_value_heads linear_num_heads linear_num_key_heads
        num_experts num_local_experts n_routed_experts moe_num_experts moe_num_primary_experts
        index_n_heads""",
    2: """num_key_value_heads num_kv_heads swa_num_key_value_heads kv_n_heads
        num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k
        zero_expert_num hc_mult hc_count o_groups""",
    1: """n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group
        num_expert_group first_k_dense_replace num_dense_layers mamba_n_groups mamba_ngroups
        n_groups""",
    HEAD: """head_dim kv_channels dim_head d_head attention_head_size swa_head_dim qk_nope_head_dim
        qk_rope_head_dim v_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim
        global_head_dim index_head_dim mamba_d_head mamba_d_state mamba_head_dim ssm_state_size
        state_size time_step_rank mamba_dt_rank laurel_rank adapter_rank gated_norm_rank
        hidden_size_per_layer_input mamba_chunk_size chunk_size
        sliding_window sliding_window_size attention_window_size window_size local_attention
        attention_chunk_size rotary_dim
        mamba_headdim""",
    16: """q_lora_rank kv_lora_rank o_lora_rank qk_head_dim moe_intermediate_size
        shared_expert_intermediate_size shared_experts_intermediate_size hc_lowrank
        moe_shared_expert_intermediate_size router_hidden_size d_rel""",
    INNER: """intermediate_size ffn_dim dff dim_ff n_inner d_inner ffn_hidden_size decoder_ffn_dim
        encoder_ffn_dim feed_forward_size intermediate_size_mlp dense_intermediate_size
        expert_ffn_hidden_size shared_intermediate_size""",
    256: """max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length
        original_max_position_embeddings max_target_positions""",
    # more than the texts here have tokens: where a model has to choose among more, texts are cut
    64: "index_topk keep_window_size",
    VOCAB: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
}
SIZES = {name: size for size, names in _NAMES.items() for name in names.split()}

KINDS = ["sliding_attention", "full_attention"] * (N_BLOCKS // 2)
MIXERS = ["linear_attention", "linear_attention", "hybrid"] * (N_BLOCKS // 3)
CONVOLUTIONS = {"layer_types": ["conv", "conv", "full_attention"] * (N_BLOCKS // 3)}
HEADED = {"head_dim": HEAD, "num_key_value_heads": 2}
MAMBA = {"mamba_n_heads": 8}  # of width 8, twice the model's
ROPE = {"rope_theta": 1e4, "rope_type": "default"}

# model type -> arguments of its configuration that go before the sizes by name
OVERRIDES: dict[str, dict] = {
    "bamba": MAMBA | {"attn_layer_indices": [2, 5]},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "blt_global_transformer": {"hidden_size": 2 * WIDTH},
    "blt_local_decoder": {"hidden_size_global": 2 * WIDTH},
    "blt_local_encoder": {"hidden_size_global": 2 * WIDTH},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": INNER, "moe_num_experts": HEADS, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": HEADS, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_audio_encoder": {"adapter_input_size": WIDTH, "adapter_out_dim": WIDTH},
    "dots3_note_text": {
        "sliding_window": HEAD,
        "swa_head_dim": 2 * HEAD,
        "swa_kv_lora_rank": 16,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 16,
        "swa_qk_nope_head_dim": HEAD,
        "swa_v_head_dim": HEAD,
    },
    "dots3_note_vision_encoder": {
        "adapter_in_dim": WIDTH,
        "adapter_out_dim": WIDTH,
        "per_layer_config": {},
    },
    "falcon_h1": MAMBA | {"mamba_d_ssm": 2 * WIDTH},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": KINDS},
    "gpt_neo": {"attention_types": [[["global", "local"], N_BLOCKS // 2]]},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "mamba", "attention"] * 2},
    "hunyuan_v1_dense": HEADED,
    "hunyuan_v1_moe": HEADED,
    "lfm2": CONVOLUTIONS,
    "lfm2_moe": CONVOLUTIONS,
    "mamba2": {"num_heads": 8},
    "ministral": HEADED,
    "nemotron": HEADED,
    "nemotron_h": {
        "layers_block_type": [*("linear_attention", "full_attention", "moe"), "mlp", *MIXERS[:2]]
    },
    "qwen4_exp_text": {
        "indexer_budget": HEAD,
        "indexer_compress_ratio": 2,
        "indexer_head_dim": HEAD,
        "indexer_kv_heads": 1,
        "indexer_n_heads": 2,
        "ngram_vocab_size_base": 50,
        "ple_embed_dim": HEAD,
        "split_ngram_parts": 2,
    },
    "reformer": {
        "axial_pos_embds_dim": (8, 24),
        "axial_pos_shape": (16, 16),
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
    },
    "roc_bert": {
        "pronunciation_embed_dim": HEAD,
        "pronunciation_vocab_size": VOCAB,
        "shape_embed_dim": HEAD,
        "shape_vocab_size": VOCAB,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": MIXERS},
    "zamba2": {"layers_block_type": MIXERS, "num_key_value_heads": HEADS},
    "zaya": {"num_experts_per_tok": 1},
}

# model type -> why no tiny model of it can be made from its configuration alone
NOT_BUILT = {
    "gemma3n": "its picture tower needs the package timm; gemma3n_text is its language model",
    "gemma4_assistant": "drafts for another model, whose keys and values it reads",
    "gemma4_unified_assistant": "drafts for another model, whose keys and values it reads",
    "musicgen": "transformers makes no causal language model of its whole configuration",
    "musicgen_melody": "transformers makes no causal language model of its whole configuration",
}


def _sized(config_class: type, **own: object) -> tf.PreTrainedConfig:
    """A configuration whose sizes are tiny wherever its default has one."""
    fields = {name: p.default for name, p in inspect.signature(config_class).parameters.items()}
    given = {
        name: SIZES[name]
        for name, default in fields.items()
        if name in SIZES and isinstance(default, int) and not isinstance(default, bool)
    }
    words = TOKENS | {"vocab_size": VOCAB}
    given |= {name: value for name, value in words.items() if name in fields}
    if "kv_lora_rank" in given and "num_key_value_heads" in fields:
        given["num_key_value_heads"] = HEADS  # latent attention has as many
    if "is_decoder" in fields:
        given["is_decoder"] = True  # encoders are causal on demand
    return config_class(**(given | _parts(config_class) | own))


def _parts(config_class: type) -> dict[str, tf.PreTrainedConfig]:
    """Configurations inside of one, each sized itself."""
    names = getattr(config_class, "sub_configs", {})
    default = config_class() if names else None
    parts = {name: getattr(default, name, None) for name in names}
    return {name: _of_class(type(part)) for name, part in parts.items() if part is not None}


def _of_class(config_class: type) -> tf.PreTrainedConfig:
    return _sized(config_class, **OVERRIDES.get(config_class.model_type, {}))


def tiny_config(model_type: str) -> tf.PreTrainedConfig:
    """The configuration of a model with 6 blocks of width 32 and the tiny tokenizer's words."""
    return _of_class(CONFIG_MAPPING[model_type])


def tiny_type(model_type: str, seed: int = 0) -> tf.PreTrainedModel:
    """A random float32 model of ``model_type`` in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_config(model_type)
        model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        randomise(model)
    return model.eval()
