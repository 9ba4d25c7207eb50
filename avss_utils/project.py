"""Where the project lies, what made a result, and files that are written whole or not at all."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

import pandas as pd

from avss_utils import __version__

PACKAGES = ("torch", "transformers", "datasets", "numpy", "pandas", "scipy")


class UsageError(ValueError):
    """A mistake the user can mend; its message is one sentence saying how."""


def cache_dir() -> Path:
    """Folder for converted models: ``$AVSS_CACHE``, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avss_utils"
    return Path(os.environ.get("AVSS_CACHE", default))


def project_root() -> Path:
    """The nearest folder at or above the working directory that holds notebooks/ and params/."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def provenance(device: str) -> dict:
    """Versions, commit and machine kind; no user, path or variable but ``$AVSS_COMMIT`` is read."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": {"python": platform.python_version(), "avss_utils": __version__, **versions},
        "commit": _commit(),
        "device": device,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _commit() -> str | None:
    """HEAD, with "+changes" when tracked files differ from it.

    ``$AVSS_COMMIT`` stands in where the project was copied without its history; else None.
    """

    def git(*words: str) -> str:
        done = subprocess.run(("git", *words), cwd=project_root(), capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except OSError:
        head = changed = ""
    if not head:
        return os.environ.get("AVSS_COMMIT")
    return head + "+changes" * bool(changed)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that a reader sees the old or the new file, never a part."""
    _write_whole(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table whole or not at all; nine significant digits, missing numbers as "nan"."""
    _write_whole(path, table.to_csv(index=False, float_format="%.9g", na_rep="nan"))


def read_csv(path: Path) -> pd.DataFrame:
    """Read what ``write_csv`` wrote; empty text stays text."""
    return pd.read_csv(path, keep_default_na=False, na_values=["nan"])


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(text, newline="")
    os.replace(temporary, path)


def replace_folder(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``; an older folder of that name goes last."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)
