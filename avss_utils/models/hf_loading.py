"""A local folder, or a GGUF file, -> a dense model and its tokenizer, or one clear sentence."""

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from avss_utils.errors import UsageError, one_line
from avss_utils.models.blocks import decoder_blocks
from avss_utils.models.model_folder import check_folder, ignorable, own_code, quantised
from avss_utils.models.tokenizers import automatic_bos

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

N_WORDS = 50  # of a vocabulary, that its tokenizer must know


def load_dense(
    folder: Path,
    *,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    device_map: str | dict | None = None,
    named: Path | None = None,
    **options: Any,
) -> tuple["PreTrainedModel", PreTrainedTokenizerBase]:
    """(model, tokenizer) from local files, every weight found, used and in floating point.

    On the CPU, or spread as ``device_map`` says: "auto", or accelerate's map of modules to devices.
    ``named``: what messages call it, where that is not ``folder``. ``options`` go to transformers;
    with ``gguf_file`` the weights are dequantised. Raises UsageError when files are broken, tensors
    are missing (transformers would fill them with random numbers), left over or of other sizes than
    the configuration's, the weights stay quantised, or the model is not decoder-only.
    """
    named = named or folder / options.get("gguf_file", "")
    common = {"trust_remote_code": trust_remote_code, **options}
    local = not trust_remote_code  # trusted code may lie on the Hub
    try:
        model, report = _from_pretrained(
            folder,
            dtype=dtype,
            device_map=device_map,
            local_files_only=local,
            **common,
            **_dequantise(options),
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)
        tokenizer("a")  # some of its settings are looked at in use alone
    except Exception as error:  # a foreign file can break its parser in any way
        if not trust_remote_code and "trust_remote_code" in str(error):  # of a tokenizer, too
            raise own_code(named) from error
        raise UsageError(
            f"{named} does not load as a causal language model with its tokenizer: "
            f"{one_line(error)}"
        ) from error
    decoder_blocks(model)  # refuses what is not a decoder, in its own words
    if "gguf_file" in options:
        _check_gguf_tokenizer(named, tokenizer)
    _check_complete(named, report)
    _check_dense(named, model)
    _check_vocabulary(named, model, tokenizer)
    return model, tokenizer


def check_saved(folder: Path, *, named: Path, trust_remote_code: bool = False) -> None:
    """Raise UsageError unless the model just saved in ``folder`` is whole and could be loaded.

    Its structure is built and held against the headers of the weights, none of which is read.
    ``named``: what messages call it.
    """
    try:
        check_folder(folder, trust_remote_code=trust_remote_code)
        _, report = _from_pretrained(
            folder, dtype="auto", device_map="meta", trust_remote_code=trust_remote_code
        )
        _check_complete(folder, report)
        if not (folder / "tokenizer_config.json").exists():
            raise UsageError("its tokenizer was not saved")
    except Exception as error:  # each family has its own way to fail
        raise UsageError(
            f"what was written for {named} does not load again, and is removed: "
            f"{one_line(error).replace(str(folder), str(named))}"
        ) from error


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a model folder; UsageError, with the reason, where it is refused."""
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a foreign file can break its parser in any way
        raise UsageError(f"{folder / 'config.json'} cannot be used: {one_line(error)}") from error


def _from_pretrained(folder: Path, **options: Any) -> tuple["PreTrainedModel", dict]:
    """The model, and what transformers reports of its tensors, wrong sizes among it."""
    with without_progress_bars():
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused in _check_complete
            **options,
        )


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


def _check_complete(named: Path, report: dict) -> None:
    if missing := report["missing_keys"]:
        raise UsageError(
            f"the weights in {named} lack {len(missing)} tensors of their "
            f"configuration, {min(missing)} for one: pass a complete model"
        )
    if sizes := report["mismatched_keys"]:
        name, stored, asked = min(sizes)
        raise UsageError(
            f"{len(sizes)} of the weights in {named} have other sizes than their configuration "
            f"says, {name} for one ({tuple(stored)}, not {tuple(asked)}): pass the two of one model"
        )
    left_over = [name for name in report["unexpected_keys"] if not ignorable(name)]
    if left_over:
        raise UsageError(
            f"the configuration of {named} has no place for {len(left_over)} of its weights, "
            f"{min(left_over)} for one, which would be left out: pass the two of one model"
        )


def _check_dense(named: Path, model: nn.Module) -> None:
    dense = all(p.is_floating_point() and p.element_size() > 1 for p in model.parameters())
    if not dense or getattr(model, "is_quantized", False):
        raise quantised(named)


def _check_vocabulary(
    named: Path, model: "PreTrainedModel", tokenizer: PreTrainedTokenizerBase
) -> None:
    """Added tokens may lie beyond the embedding, as Gemma's for images do, and are met later."""
    size = model.get_input_embeddings().num_embeddings
    if tokenizer.vocab_size > size:
        raise UsageError(
            f"the tokenizer of {named} has {tokenizer.vocab_size} tokens and the model has "
            f"embeddings of {size}: pass the tokenizer that belongs to these weights"
        )


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keeps the loader's bars out of executed notebooks; the user's setting comes back."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
