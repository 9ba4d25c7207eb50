"""What a model folder holds, from its JSON files and the headers of its weights alone.

Libraries act on what lies beside a model, and leave out what they have no place for. Whatever would
be taken along unasked is refused here, in one sentence and before anything is loaded.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from safetensors import safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from avss_utils.errors import UsageError, one_line

ADAPTER = "adapter_config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
FLOATS = ("F16", "BF16", "F32", "F64")
COUNTS = ("BOOL", "I64")  # of buffers: masks, positions
QUANTISED = ("quantization_config", "compression_config")
DEPTHS = re.compile(r"(n|num)_(hidden_|decoder_)?(layers?|blocks?)|(en|de)coder_layers")
WIDTHS = ("hidden_size", "d_model", "n_embd", "vocab_size")
# masks and positions that older checkpoints kept, and transformers now makes by itself
MADE = re.compile(r"(rotary_emb\.inv_freq|position_ids|att(entio)?n\.(masked_)?bias|causal_mask)$")

OTHER_SENSES = re.compile(r"vision|visual|audio|image|multi_modal")  # which a text model can lack


class Tensor(NamedTuple):
    """A stored tensor's type, in the words of safetensors, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def check_folder(folder: Path, *, trust_remote_code: bool) -> list[Path]:
    """The safetensors files that are loaded of a model folder, sorted by name.

    Raises UsageError for a folder that is not a whole, dense model: without config.json or
    safetensors (pickles are never loaded: they can run code), with an adapter beside, weights
    outside of it or quantised, or sizes that the weights cannot have; and for a model that needs
    code from elsewhere without leave to run it.
    """
    if (folder / ADAPTER).exists():
        raise UsageError(
            f"{folder} holds an adapter ({ADAPTER}), which is not applied: merge it into its model "
            "and save that, or move the adapter's files away"
        )
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder} has no config.json: pass the folder of a Hugging Face model")
    config = read_object(folder / "config.json")
    weights = _weights(folder)
    _check_config(folder, config)
    if _needs_own_code(config) and not trust_remote_code:
        raise own_code(folder)
    tensors = stored_tensors(weights)
    _check_dense(folder, tensors)
    _check_sizes(folder / "config.json", config, tensors)
    return weights


def read_object(path: Path) -> dict:
    """The JSON object in a file of a model; UsageError for whatever else is there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a JSON object: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a JSON object, but a {type(content).__name__}")
    return content


def own_code(folder: Path) -> UsageError:
    """What to raise of a model whose code lies in its folder or on the Hub."""
    return UsageError(
        f"{folder} needs Python code of its own to load, which no command and no notebook runs: "
        "pass a model of a family that transformers knows, or, in Python alone and for code that "
        "you have read, load_model's trust_remote_code"
    )


def stored_tensors(weights: Iterable[Path]) -> dict[str, Tensor]:
    """What the headers of safetensors files say of their tensors, by name.

    Raises UsageError for a file that is broken, and for a name that two files have.
    """
    found: dict[str, Tensor] = {}
    for path in weights:
        try:
            own = dict(_header(path))
        except Exception as error:  # a foreign file can break its parser in any way
            raise UsageError(f"{path} does not load ({one_line(error)}): fetch it anew") from error
        if twice := found.keys() & own.keys():
            raise UsageError(f"{path} holds {min(twice)}, as does another file of the same model")
        found |= own
    return found


def ignorable(name: str) -> bool:
    """Whether a stored tensor that a model has no place for changes nothing of its text."""
    return bool(MADE.search(name) or OTHER_SENSES.search(name))


def _header(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  it is no mapping
            tensor = file.get_slice(name)
            yield name, Tensor(tensor.get_dtype(), tuple(tensor.get_shape()))


def _weights(folder: Path) -> list[Path]:
    """The files that transformers reads: one, or else those of an index."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder / INDEX)
    if any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder} has neither {WEIGHTS} nor {INDEX}: give the weights that name")
    if any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise UsageError(
            f"{folder} has its weights only as pickle files, which can run code: "
            "save them as safetensors first"
        )
    raise UsageError(
        f"{folder} has a config.json but no *.safetensors weights: pass a folder that holds both"
    )


def _shards(index: Path) -> list[Path]:
    files = read_object(index).get("weight_map")
    names = set(map(str, files.values())) if isinstance(files, dict) else set()
    for name in names:
        if PurePath(name).name != name or not name.endswith(".safetensors"):
            raise UsageError(
                f"{index} names {name!r}, which is outside of its folder or no *.safetensors file: "
                "put all weights into one folder"
            )
        if not (index.parent / name).is_file():
            raise UsageError(f"{index} names {name!r}, which is not there: fetch the whole model")
    if not names:
        raise UsageError(f"{index} names no files of weights (as weight_map): fetch it anew")
    return [index.parent / name for name in sorted(names)]


def _parts(config: dict) -> list[dict]:
    """A configuration and, of a model of several senses, those of its parts."""
    return [config, *(part for part in config.values() if isinstance(part, dict))]


def _check_config(folder: Path, config: dict) -> None:
    for part in _parts(config):
        if any(part.get(name) for name in QUANTISED):
            raise quantised(folder)
        if part.get("transformers_weights"):
            raise UsageError(
                f"{folder / 'config.json'} names other weights ({part['transformers_weights']}): "
                f"take transformers_weights out of it and call them {WEIGHTS}"
            )


def quantised(folder: Path, what: str = "") -> UsageError:
    """What to raise of a model whose weights are not floating-point numbers of 16 bits or more."""
    return UsageError(
        f"the model in {folder} is quantised{what}: pass its dense version, "
        "or a GGUF file, which is dequantised"
    )


def _needs_own_code(config: dict) -> bool:
    """Whether the family is not transformers' own, or attention is to come from the Hub."""
    kernels = [
        value
        for part in _parts(config)
        for name, value in part.items()
        if name.endswith("_implementation")
    ]
    own = "auto_map" in config and str(config.get("model_type")) not in CONFIG_MAPPING
    return own or any("/" in str(value) for value in kernels)


def _check_dense(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        buffer = tensor.dtype in COUNTS and not name.endswith("weight")
        if tensor.dtype not in FLOATS and not buffer and not MADE.search(name):
            raise quantised(folder, f" ({name} is stored as {tensor.dtype})")


def _check_sizes(path: Path, config: dict, tensors: Mapping[str, Tensor]) -> None:
    """A block has a tensor at least, and a width is the length of some tensor.

    What is missing in detail is found out while loading; but a model of millions of blocks is never
    built, and one of endless width takes all memory.
    """
    largest = max((max(tensor.shape, default=1) for tensor in tensors.values()), default=0)
    for part in _parts(config):
        text = part is config or part is config.get("text_config")
        for name, size in part.items():
            depth = DEPTHS.fullmatch(name)
            most = len(tensors) if depth else largest
            bounded = depth or (text and name in WIDTHS)
            if bounded and isinstance(size, int | float) and size > most:
                what = f"{most} tensors in all" if depth else f"no tensor longer than {most}"
                raise UsageError(
                    f"{path} says {name} {size}, and the weights beside it hold {what}: "
                    "pass a configuration and weights of one model"
                )
