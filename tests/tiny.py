"""Tiny random models of many families, and a small real tokenizer, made in memory.

Weights are larger than a fresh model's and no bias or norm is at its neutral value, so that every
block changes the output clearly and a block that is lost, doubled or misplaced shows.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from avss_utils.models.load import LoadedModel
from avss_utils.store.run_folder import Run
from avss_utils.store.runs import open_run

VOCAB, WIDTH, INNER, HEADS = 96, 32, 48, 4
TOKENS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPE = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 256,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
HEAD_DIM = GROUPED | {"head_dim": WIDTH // HEADS}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
WINDOW = {"sliding_window": 4}  # below the tests' text lengths, so that the window matters


def _cycle(pattern: tuple, n_blocks: int) -> list:
    return [pattern[i % len(pattern)] for i in range(n_blocks)]


def _mixed(n_blocks: int) -> dict:
    pattern = ("sliding_attention", "sliding_attention", "full_attention")
    return WINDOW | {"layer_types": _cycle(pattern, n_blocks)}


def _qwen_windows(n_blocks: int) -> dict:
    return WINDOW | {"use_sliding_window": True, "max_window_layers": n_blocks // 2}


def _no_rope(n_blocks: int) -> dict:
    return WINDOW | {"use_sliding_window": True, "no_rope_layer_interval": 3}


def _llama4_layers(n_blocks: int) -> dict:
    kinds = _cycle(("chunked_attention", "full_attention"), n_blocks)
    chunk = {"attention_chunk_size": 4, "layer_types": kinds}
    return chunk | {"no_rope_layers": _cycle((1, 0), n_blocks), "moe_layers": [1, n_blocks - 1]}


def _local(n_blocks: int) -> dict:
    return {"attention_types": [[_cycle(("global", "local", "local"), n_blocks), 1]]}


GRANITE_SCALES = {
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.3,
    "logits_scaling": 0.5,
}
GPT = {"n_embd": WIDTH, "n_inner": INNER, "n_head": HEADS, "n_positions": 256}
FALCON = {"hidden_size": WIDTH, "num_attention_heads": HEADS}

# name -> configuration class, fixed arguments, arguments that depend on the number of blocks
CONFIGS = {
    "llama": (tf.LlamaConfig, GROUPED | {"tie_word_embeddings": True}, None),
    "gpt2": (tf.GPT2Config, GPT, None),
    "gpt_neox": (tf.GPTNeoXConfig, SHAPE, None),
    "gpt_neo": (
        tf.GPTNeoConfig,
        SHAPE | {"num_heads": HEADS, "window_size": 4},
        _local,
    ),
    "gptj": (tf.GPTJConfig, GPT | {"rotary_dim": 4}, None),
    "opt": (tf.OPTConfig, SHAPE | {"ffn_dim": INNER, "word_embed_proj_dim": WIDTH}, None),
    "bloom": (tf.BloomConfig, {"hidden_size": WIDTH, "n_head": HEADS}, None),
    "falcon": (tf.FalconConfig, FALCON, None),
    "falcon_alibi": (
        tf.FalconConfig,
        FALCON | {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
        None,
    ),
    "mpt": (
        tf.MptConfig,
        {"d_model": WIDTH, "n_heads": HEADS, "max_seq_len": 256, "expansion_ratio": 2},
        None,
    ),
    "phi": (tf.PhiConfig, SHAPE, None),
    "phi3": (tf.Phi3Config, GROUPED, None),
    "qwen2": (tf.Qwen2Config, GROUPED, _qwen_windows),
    "qwen3": (tf.Qwen3Config, HEAD_DIM, _qwen_windows),
    "mistral": (tf.MistralConfig, GROUPED | WINDOW, None),
    "mixtral": (tf.MixtralConfig, GROUPED | {"num_local_experts": 4}, None),
    "gemma2": (tf.Gemma2Config, HEAD_DIM | {"query_pre_attn_scalar": 8}, _mixed),
    "gemma3": (tf.Gemma3TextConfig, HEAD_DIM | {"query_pre_attn_scalar": 8}, _mixed),
    "stablelm": (tf.StableLmConfig, GROUPED, None),
    "olmo2": (tf.Olmo2Config, GROUPED, None),
    "granite": (tf.GraniteConfig, GROUPED | GRANITE_SCALES, None),
    "cohere2": (tf.Cohere2Config, HEAD_DIM | {"logit_scale": 1.0}, _mixed),
    "smollm3": (tf.SmolLM3Config, GROUPED, _no_rope),
    "olmoe": (tf.OlmoeConfig, GROUPED | EXPERTS, None),
    "glm": (tf.GlmConfig, HEAD_DIM, None),
    "qwen3_moe": (
        tf.Qwen3MoeConfig,
        HEAD_DIM | EXPERTS | {"moe_intermediate_size": 16, "mlp_only_layers": [1, 2]},
        None,
    ),
    "llama4": (
        tf.Llama4TextConfig,
        HEAD_DIM | {"num_local_experts": 4, "intermediate_size_mlp": INNER},
        _llama4_layers,
    ),
    "openai_gpt": (tf.OpenAIGPTConfig, {k: GPT[k] for k in GPT if k != "n_inner"}, None),
}


def tiny_model(name: str, n_blocks: int = 4, seed: int = 0, **overrides) -> tf.PreTrainedModel:
    """A random float32 model of family ``name`` in eval mode; ``overrides`` go to its config."""
    config_class, fixed, by_depth = CONFIGS[name]
    depth = {"num_hidden_layers": n_blocks} | (by_depth(n_blocks) if by_depth else {})
    config = config_class(**(TOKENS | fixed | depth | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        randomise(model)
    return model.eval()


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Matrices of unit gain, and a clear offset on every bias and norm, from the global seed."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.dim() < 2:
            parameter += 0.2 * noise
        else:
            scale = 0.5 if id(parameter) in embeddings else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * noise)


FAMILIES = {name: partial(tiny_model, name) for name in CONFIGS}


@cache
def _byte_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "Question: which of these is the answer? The quick brown fox jumps over the lazy dog."
    tokenizer.train_from_iterator([text] * 4, trainer)
    return tokenizer.to_str()


def tiny_tokenizer() -> tf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with 300 tokens at most; <pad> 0, <s> 1, </s> 2, no added BOS."""
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_tokenizer()),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def speaking(family: str, n_blocks: int = 4, **overrides):
    """A tiny model that has the tiny tokenizer's vocabulary, and that tokenizer."""
    tokenizer = tiny_tokenizer()
    return tiny_model(family, n_blocks, vocab_size=len(tokenizer), **overrides), tokenizer


def tiny_loaded(family: str = "llama") -> LoadedModel:
    """A tiny model with the tiny tokenizer."""
    tokenizer = tiny_tokenizer()
    return LoadedModel(tiny_model(family, vocab_size=len(tokenizer)), tokenizer, {})


def save_tiny(folder: Path) -> Path:
    """A tiny Llama with the tiny tokenizer in ``folder``, as a user's own model."""
    FAMILIES["llama"](vocab_size=300).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_run(results: str | Path = "results", notebook: str = "01_x", **given) -> Run:
    """A run to fill, of no real model and no data; ``given`` goes to ``open_run``."""
    settings = dict(parameters={"seed": 0}, profile="full", data=[], collect_version=1)
    settings |= dict(model={"short": "tiny", "weights_sha256": "aa"}, device="cpu")
    return open_run(notebook, results=results, **settings | given)


def fill_run(results: str | Path, part: Callable[[int], pd.DataFrame], *, n_keys: int) -> None:
    """A tiny run to its end: two tables built key by key, and between them one built at once."""
    run = tiny_run(results)
    run.rows("first", range(n_keys), part)
    run.table("second", lambda: part(99))
    run.rows("third", range(n_keys), part)
    run.finish()
