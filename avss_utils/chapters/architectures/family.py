"""The architectures that are compared: one row of YAML each, and the model that it stands for."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from avss_utils.errors import UsageError, one_line
from avss_utils.models.blocks import decoder_blocks
from avss_utils.store.files import project_root

LLAMA, OLMO2, GPT2 = "llama", "olmo2", "gpt2"
KINDS = (LLAMA, OLMO2, GPT2)


@dataclass(frozen=True)
class Architecture:
    """One row of the family.

    ``kind``: llama (norm before attention and MLP), olmo2 (norm after each of them, and of queries
    and keys), gpt2 (learned positions, LayerNorm, GELU). ``heads`` share ``kv_heads`` keys and
    values, as many as heads if 0; ``inner``: width of the MLP, 8/3 of the width in multiples of 16
    if 0 (gpt2: 4), so that a block has about 12 width^2 parameters; ``tied``: one matrix embeds and
    predicts tokens; ``window``: tokens that attention looks back on, all if 0. ``parameters``:
    of the blocks, which building the model checks unless 0.
    """

    name: str
    kind: str
    depth: int
    width: int
    heads: int
    kv_heads: int = 0
    inner: int = 0
    tied: bool = True
    window: int = 0
    parameters: int = 0

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise UsageError(f"architecture {self.name!r} {problem}: fix its row")

    @property
    def inner_width(self) -> int:
        """The width of the MLP as it is built."""
        if self.inner:
            return self.inner
        return 4 * self.width if self.kind == GPT2 else 16 * round(8 * self.width / 48)

    @property
    def groups(self) -> int:
        """Heads that share one set of keys and values; 1 without grouped queries."""
        return self.heads // (self.kv_heads or self.heads)


def _problem(row: Architecture) -> str | None:
    if row.kind not in KINDS:
        return f"has the kind {row.kind!r}, which is not one of {', '.join(KINDS)}"
    whole = {f.name: getattr(row, f.name) for f in fields(row) if f.type in (int, "int")}
    needed = ("depth", "width", "heads")
    for name, value in whole.items():
        if type(value) is not int or value < (name in needed):
            return f"needs a whole number from {int(name in needed)} up as {name}, not {value!r}"
    if row.width % row.heads or (row.width // row.heads) % 2:
        return f"has a width of {row.width}, which {row.heads} heads of even width do not fill"
    if row.heads % (row.kv_heads or row.heads):
        return f"has {row.heads} heads, which {row.kv_heads} keys and values do not divide"
    if row.window and row.kind != LLAMA:
        return f"has a window, which only the kind {LLAMA} takes"
    if row.kv_heads and row.kind == GPT2:
        return f"has kv_heads, which the kind {GPT2} does not take"
    return None


def read_family(names: Sequence[str], path: Path | None = None) -> list[Architecture]:
    """The named rows of ``params/architectures.yml`` (or another file), in the order of ``names``.

    Raises UsageError for an unknown or repeated name, an unknown or missing key, or an impossible
    architecture.
    """
    path = path or project_root() / "params" / "architectures.yml"
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = {name: dict(row) for name, row in rows.items()}
    except (
        OSError,
        yaml.YAMLError,
        AttributeError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        what = one_line(error)
        raise UsageError(f"{path} must give each architecture its row of keys: {what}") from error
    if unknown := [name for name in names if name not in rows]:
        raise UsageError(f"unknown architecture {unknown[0]!r}: choose from {', '.join(rows)}")
    if len(set(names)) < len(names):
        raise UsageError("an architecture is named twice: name each once")
    return [_architecture(name, rows[name]) for name in names]


def _architecture(name: str, row: dict) -> Architecture:
    keys = {f.name: f.default is MISSING for f in fields(Architecture)[1:]}
    if unknown := [key for key in row if key not in keys]:
        allowed = ", ".join(keys)
        raise UsageError(f"architecture {name!r} has a key {unknown[0]!r}: allowed are {allowed}")
    if missing := [key for key, needed in keys.items() if needed and key not in row]:
        raise UsageError(f"architecture {name!r} needs the key {missing[0]!r}: add it to its row")
    return Architecture(name, **row)


def check_members(names: Iterable[str], family: Iterable[Architecture]) -> None:
    """Raise UsageError unless all names are those of rows of the family."""
    known = [row.name for row in family]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"{unknown[0]!r} is not among the architectures that are trained: {', '.join(known)}"
        )


def build(row: Architecture, tokenizer: Any, *, context: int, seed: int) -> nn.Module:
    """A new model in float32 on the CPU, its weights drawn by ``seed``.

    ``context``: tokens that it has positions for. Raises UsageError where its blocks have another
    number of parameters than the row says.
    """
    from transformers import AutoModelForCausalLM  # seconds to import

    config = _config(row, tokenizer, context)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change GPUs' as well
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    size = block_parameters(model)
    if row.parameters not in (0, size):
        raise UsageError(
            f"architecture {row.name!r} says {row.parameters} parameters and its blocks have "
            f"{size}: correct the row"
        )
    return model


def block_parameters(model: nn.Module) -> int:
    """Number of parameters in the decoder blocks, without embeddings, head and last norm."""
    return sum(p.numel() for p in decoder_blocks(model).parameters())


def _config(row: Architecture, tokenizer: Any, context: int) -> Any:
    import transformers as tf

    common: dict[str, Any] = dict(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=row.tied,
    )
    if row.kind == GPT2:
        sizes = dict(n_embd=row.width, n_layer=row.depth, n_head=row.heads, n_positions=context)
        quiet = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        return tf.GPT2Config(n_inner=row.inner_width, **sizes, **quiet, **common)
    common |= dict(
        hidden_size=row.width,
        intermediate_size=row.inner_width,
        num_hidden_layers=row.depth,
        num_attention_heads=row.heads,
        num_key_value_heads=row.kv_heads or row.heads,
        max_position_embeddings=context,
    )
    if row.window:  # Mistral's blocks are Llama's, with a window that attention looks back on
        return tf.MistralConfig(sliding_window=row.window, **common)
    return (tf.Olmo2Config if row.kind == OLMO2 else tf.LlamaConfig)(**common)


def family_identity(family: Sequence[Architecture]) -> dict:
    """The rows as a run records its data: name, sha256, n."""
    content = hashlib.sha256("\n".join(map(repr, family)).encode()).hexdigest()
    return {"name": "family", "source": "params", "sha256": content, "n": len(family)}
