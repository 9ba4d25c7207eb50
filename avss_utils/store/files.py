"""Where the project lies, what made a result, and files that are written whole or not at all."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from avss_utils import __version__
from avss_utils.errors import UsageError, WriteError

MOST = 2**31 - 1  # of whole numbers: seeds have 32 bits, and some are made of others by adding
PACKAGES = ("torch", "transformers", "datasets", "numpy", "pandas", "scipy")


def cache_dir() -> Path:
    """Folder for converted models and logs: ``$AVSS_CACHE``, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avss_utils"
    return at_home(os.environ.get("AVSS_CACHE", default))


def at_home(path: str | Path) -> Path:
    """The path with "~" as the user's home folder, as a shell has it; of a file name it is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"the home folder in {str(path)!r} is unknown: write it out") from error


def project_root() -> Path:
    """The nearest folder at or above the working directory that holds notebooks/ and params/."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def provenance(device: str) -> dict:
    """Versions, commit and machine kind; no user, path or variable but ``$AVSS_COMMIT`` is read."""
    own = {"python": platform.python_version(), "avss_utils": __version__}
    return {
        "versions": own | {name: metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "device": device,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _commit() -> str | None:
    """HEAD, with "+changes" when tracked files other than results differ from it.

    ``$AVSS_COMMIT`` stands in where the project was copied without its history; else None.
    """

    def git(*words: str) -> str:
        done = subprocess.run(("git", *words), cwd=project_root(), capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    except OSError:
        head = changed = ""
    if not head:
        return os.environ.get("AVSS_COMMIT")
    return head + "+changes" * bool(changed)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decoded(text: str) -> Any:
    """What a JSON text says; ValueError also where it is nested too deep, names a key twice or
    holds half a surrogate pair, which no file and no tokenizer takes.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once)
        if "\\ud" in text.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair, which is no letter") from None
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r} is there twice")
    return found


def read_json(path: Path) -> Any:
    """What a JSON file of ours says; None where it is not there or not whole."""
    try:
        return decoded(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that a reader sees the old or the new file, never a part."""
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    put_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))


def put_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file under another name, which then takes the place of ``path``."""
    temporary = path.with_name(path.name + ".writing")
    with removed_on_failure(temporary), plain_write_errors(path):
        write(temporary)
        os.replace(temporary, path)


@contextlib.contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    """Remove a half-written file or folder whatever ends the block early, Ctrl-C included."""
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink()
        raise


@contextlib.contextmanager
def plain_write_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong on the disk into a WriteError that names ``path`` and the way out."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        # safetensors and tokenizers raise types of their own, with the system's words inside
        if not isinstance(error, OSError) and "(os error " not in str(error):
            raise
        raise WriteError(f"{path} cannot be written {disk_reason(error)}") from error


def disk_reason(error: Exception) -> str:
    """The system's reason in brackets, and what to do about it."""
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
    way_out = "choose another place or fix this one"
    if "No space left" in reason or "quota" in reason:
        way_out = "make room or choose another disk"
    return f"({reason[0].lower()}{reason[1:]}): {way_out}, then run the same command again"
