"""A local folder, or a GGUF file, -> a dense model and its tokenizer, or one clear sentence."""

import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from avss_utils.errors import UsageError
from avss_utils.models.blocks import decoder_blocks
from avss_utils.models.tokenizers import automatic_bos

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
N_WORDS = 50  # of a vocabulary, that its tokenizer must know


def check_folder(folder: Path, *, trust_remote_code: bool) -> list[Path]:
    """The safetensors files of a model folder, sorted by name.

    Raises UsageError for a folder without config.json, without safetensors (pickles are never
    loaded: they can run code), or whose model needs code from the folder without leave to run it.
    """
    config = folder / "config.json"
    if not config.exists():
        raise UsageError(f"{folder} has no config.json: pass the folder of a Hugging Face model")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise UsageError(
            f"{folder} has its weights only as pickle files, which can run code: "
            "save them as safetensors first"
        )
    if not weights:
        raise UsageError(
            f"{folder} has a config.json but no *.safetensors weights: "
            "pass a folder that holds both"
        )
    if _needs_own_code(config) and not trust_remote_code:
        raise UsageError(
            f"{folder} needs Python code of its own to load: read that code, then "
            "pass trust_remote_code=True if you trust it"
        )
    return weights


def _needs_own_code(config: Path) -> bool:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        return "auto_map" in content and content.get("model_type") not in CONFIG_MAPPING
    except (ValueError, TypeError) as error:
        raise UsageError(f"{config} is not a JSON object: {error}") from error


def load_dense(
    folder: Path,
    *,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    device_map: str | dict | None = None,
    **options: Any,
) -> tuple["PreTrainedModel", PreTrainedTokenizerBase]:
    """(model, tokenizer) from local files, every weight found and in floating point.

    On the CPU, or spread as ``device_map`` says: "auto", or accelerate's map of modules to devices.
    ``options`` go to transformers; with ``gguf_file`` the weights are dequantised. Raises
    UsageError when files are broken, tensors are missing (transformers would fill them with random
    numbers), the weights stay quantised, or the model is not decoder-only.
    """
    common = {"trust_remote_code": trust_remote_code, **options}
    try:
        with _without_progress_bars():
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                device_map=device_map,
                **common,
                **_dequantise(options),
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)
    except Exception as error:  # a foreign file can break its parser in any way
        what = str(error).strip().split("\n")[0] or type(error).__name__
        raise UsageError(
            f"{folder / options.get('gguf_file', '')} does not load as a causal "
            f"language model with its tokenizer: {what}"
        ) from error
    decoder_blocks(model)  # refuses what is not a decoder, in its own words
    if "gguf_file" in options:
        _check_gguf_tokenizer(folder / options["gguf_file"], tokenizer)
    _check_complete(folder, model, report["missing_keys"])
    return model, tokenizer


def _dequantise(options: dict) -> dict:
    """Newer transformers keep GGUF weights packed unless told; older ones always dequantise."""
    config_class = getattr(transformers, "GgufConfig", None)
    if config_class is None or "gguf_file" not in options:
        return {}
    return {"quantization_config": config_class(dequantize=True)}


def _check_gguf_tokenizer(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compare the tokenizer with what the file says of it: its BOS rule and its own words.

    Some releases of transformers rebuild the tokenizer of some models so that it spells words out
    letter by letter, without BOS; such a model loads, and its every number is wrong.
    """
    from gguf import GGUFReader  # takes a while, and only a conversion needs it

    fields = GGUFReader(path).fields
    wanted = fields.get("tokenizer.ggml.add_bos_token")
    lacks_bos = wanted and wanted.contents() and not automatic_bos(tokenizer)
    words = list(islice(_words(fields.get("tokenizer.ggml.tokens")), N_WORDS))
    found = [tokenizer(f"a {word}", add_special_tokens=False)["input_ids"] for word in words]
    if lacks_bos or sum(len(ids) > 2 for ids in found) > len(words) / 2:
        what = "adds no BOS, as its file demands" if lacks_bos else "splits the words it knows"
        raise UsageError(
            f"transformers {transformers.__version__} makes of {path} a tokenizer that {what}: use "
            "a newer transformers, or the model's Hugging Face folder"
        )


def _words(tokens: Any) -> Iterator[str]:
    """English words among the tokens of a GGUF field, read one by one, for there are many."""
    for part in tokens.data if tokens else ():
        token = bytes(tokens.parts[part]).decode(errors="replace")
        word = token[1:]
        if token[:1] in ("▁", "Ġ") and len(word) > 3 and word.isascii() and word.isalpha():
            yield word


def _check_complete(folder: Path, model: nn.Module, missing: set[str]) -> None:
    if missing:
        raise UsageError(
            f"the weights in {folder} lack {len(missing)} tensors of their "
            f"configuration, {min(missing)} for one: pass a complete model"
        )
    dense = all(p.is_floating_point() and p.element_size() > 1 for p in model.parameters())
    if not dense or getattr(model, "is_quantized", False):
        raise UsageError(
            f"the model in {folder} is quantised: pass its dense version, "
            "or a GGUF file, which is dequantised"
        )


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keeps the loader's bars out of executed notebooks; the user's setting comes back."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
