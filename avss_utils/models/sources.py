"""Where the files of a model are: of an embedded name, a GGUF file, a local folder, a Hub id."""

import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from avss_utils.errors import UsageError
from avss_utils.models.embedded import EMBEDDED, prepare_gguf, prepare_model

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Origin:
    """A folder of dense weights, where they came from, and what identifies them there."""

    folder: Path
    source: str
    weights_sha256: str | None = None
    revision: str | None = None


def locate(name: str, trust_remote_code: bool) -> Origin:
    """Where ``name`` is, made ready: a GGUF converted, a Hub snapshot fetched.

    An embedded name, a folder, a file and a Hub id are looked up in this order; UsageError where it
    is none of them.
    """
    if name in EMBEDDED:
        return Origin(prepare_model(name), "embedded", EMBEDDED[name].sha256)
    path = Path(name).expanduser()
    if path.is_dir():
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
