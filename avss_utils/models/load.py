"""Embedded name, GGUF file, local folder or Hub id -> model, tokenizer, identity.

Only safetensors and GGUF are loaded, and no remote code unless asked for by name. The identity is
what a result needs to be repeated: which weights, and what the tokenizer adds to a text.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import torch
from transformers import PreTrainedTokenizerBase

from avss_utils.errors import UsageError
from avss_utils.models.blocks import decoder_blocks, positions
from avss_utils.models.checked import check_once
from avss_utils.models.devices import as_device, as_dtype, settle_attention
from avss_utils.models.embedded import EMBEDDED, prepare_gguf, prepare_model, safe_name
from avss_utils.models.hf_loading import load_dense, read_config
from avss_utils.models.memory import check_memory, stored_parameters
from avss_utils.models.model_folder import check_folder
from avss_utils.store.files import at_home, file_sha256

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

SPREAD = "spread"  # the device that stands for all GPUs and the machine's memory
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Origin:
    """A folder of dense weights, where they came from, and what identifies them there."""

    folder: Path
    source: str
    weights_sha256: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A dense causal language model in evaluation mode, its tokenizer, and what they are.

    ``identity`` is JSON-able: name (as asked, of a path its last part), short (a folder name),
    source (embedded, gguf, folder, hub), revision (Hub commit or None), weights_sha256,
    architecture, n_blocks, n_parameters, bos and pad policy, chat_template (sha256 or None),
    licence and note (embedded models, else None).
    """

    model: "PreTrainedModel"
    tokenizer: PreTrainedTokenizerBase
    identity: dict


def load_model(
    name: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load ``name``: an embedded model, a GGUF file, a model folder or a Hub id ("org/model",
    with "@revision" if wanted), looked up in this order.

    ``dtype``: a torch dtype or its name, "auto" for ``auto_dtype(device)``. ``device``: default
    CUDA if there is one; "spread" is accelerate's ``device_map="auto"``: blocks on all GPUs in
    turn, and what is too much for them in the machine's memory, then on its disk. The first load of
    a GGUF converts it into the cache; a Hub id downloads.
    Raises UsageError for whatever cannot be loaded, among it encoders, quantised weights, adapters,
    weights of another model than the configuration's, what does not fit into free memory
    (memory.check_memory says how to try all the same), and a model whose numbers are not what every
    score assumes (blocks.check_model).
    """
    spread = device == SPREAD
    device = as_device(None if spread else device)
    dtype = as_dtype(dtype, device)
    origin = locate(str(name), trust_remote_code)
    weights = check_folder(origin.folder, trust_remote_code=trust_remote_code)
    if not spread:
        check_memory(str(name), stored_parameters(weights), dtype, device)
    where = "auto" if spread else None
    model, tokenizer = load_dense(
        origin.folder, dtype=dtype, trust_remote_code=trust_remote_code, device_map=where
    )
    identity = _identity(str(name), origin, weights, model, tokenizer)
    if not spread:
        model.to(device)
    elif model.device.type == "meta":  # where inputs would go
        raise UsageError(f"{name}: the first GPU has no room for the embeddings: pass 'cpu'")
    settle_attention(model)
    check_once(model.eval(), identity["weights_sha256"])
    return LoadedModel(model, tokenizer, identity)


def locate(name: str, trust_remote_code: bool) -> Origin:
    """Where ``name`` is, made ready: a GGUF converted, a Hub snapshot fetched.

    An embedded name, a folder, a file and a Hub id are looked up in this order; UsageError where it
    is none of them.
    """
    if name in EMBEDDED:
        return Origin(prepare_model(name), "embedded", EMBEDDED[name].sha256)
    path = at_home(name)
    if name and path.is_dir():
        return Origin(path, "folder")
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise UsageError(f"{path} is not a GGUF file: pass one, or the folder of a model")
        folder, sha256 = prepare_gguf(path)
        return Origin(folder, "gguf", sha256)
    if path.suffix == ".gguf" or not HUB_ID.fullmatch(name):
        raise UsageError(
            f"there is no model {name!r}: pass an embedded name "
            f"({', '.join(EMBEDDED)}), a folder, a GGUF file or a Hub id"
        )
    return _fetch(name, trust_remote_code)


def _fetch(name: str, trust_remote_code: bool) -> Origin:
    """A Hub snapshot: downloaded, or the local copy of one when the Hub is out of reach."""
    repository, _, revision = name.partition("@")
    files = HUB_FILES + ["*.py"] * trust_remote_code
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=files,
                ignore_patterns=["*/*", "consolidated*"],
            )
        )
    except Exception as error:  # of huggingface_hub, its HTTP library or the disk
        why = {
            "RepositoryNotFoundError": "has no model of this name open to you",
            "GatedRepoError": "asks you to accept the model's terms and log in first",
            "RevisionNotFoundError": "has no such revision of it",
        }
        raise UsageError(
            f"{name!r} is no embedded model ({', '.join(EMBEDDED)}), file or folder, and the Hub "
            + why.get(type(error).__name__, "cannot be reached, nor is there a local copy")
            + ": correct the name or fix the access"
        ) from error
    return Origin(folder, "hub", revision=folder.name)


def positions_of(name: str | Path) -> int | None:
    """Tokens that ``load_model(name)`` has positions for, None without a limit; loads no weights.

    Fetches and converts as ``load_model`` does, and raises UsageError likewise.
    """
    folder = locate(str(name), False).folder
    check_folder(folder, trust_remote_code=False)
    return positions(read_config(folder))


def short_name(name: str | Path) -> str:
    """The folder name for results of the model that ``load_model(name)`` gives; loads nothing.

    An embedded name as it is, a path's last part, "org--model" for a Hub id.
    """
    if name in EMBEDDED:
        return str(name)
    path = at_home(name)
    if path.is_dir():
        return safe_name(path.resolve().name)
    if path.is_file() or path.suffix == ".gguf":
        return safe_name(path.stem)
    return safe_name(str(name).partition("@")[0].replace("/", "--"))


def _identity(
    name: str,
    origin: Origin,
    weights: list[Path],
    model: "PreTrainedModel",
    tokenizer: PreTrainedTokenizerBase,
) -> dict:
    row = EMBEDDED[name] if origin.source == "embedded" else None
    return {
        # of what lies on this machine the name alone, for records are published
        "name": name if origin.source in ("embedded", "hub") else at_home(name).resolve().name,
        "short": short_name(name),
        "source": origin.source,
        "revision": origin.revision,
        "weights_sha256": origin.weights_sha256 or _combined_sha256(weights),
        "architecture": type(model).__name__,
        "n_blocks": len(decoder_blocks(model)),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "bos": _bos_policy(tokenizer),
        "pad": _settle_pad_token(tokenizer),
        "chat_template": _template_sha256(tokenizer),
        "licence": row and row.licence,
        "note": row and row.note,
    }


def _combined_sha256(weights: list[Path]) -> str:
    lines = "".join(f"{file_sha256(path)}  {path.name}\n" for path in weights)
    return hashlib.sha256(lines.encode()).hexdigest()


def _bos_policy(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokenizer puts before a text, found by encoding one."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    if full == bare:
        return "none"
    if full == [tokenizer.bos_token_id, *bare]:
        return "added by the tokenizer"
    return "added by the tokenizer with others: " + " ".join(tokenizer.convert_ids_to_tokens(full))


def _settle_pad_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give the loaded tokenizer a pad token if it has none; say which and whose it is."""
    if tokenizer.pad_token_id is not None:
        return f"{tokenizer.pad_token} (its own)"
    others = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token)
    tokenizer.pad_token = next((token for token in others if token), None)
    if not tokenizer.pad_token:
        raise UsageError(
            "the model's tokenizer has no pad, end, start or unknown token to fill short texts "
            "with: name one as eos_token in its tokenizer_config.json"
        )
    return f"{tokenizer.pad_token} (borrowed)"


def _template_sha256(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
