"""Outputs: checked before the work, one writer at a time, and nobody's files lost.

What a command wrote into a folder is listed there, in LIST, with sha256. Only what is on the list
and as it was written is replaced. Anything else stays: a user's own file under its name, a file of
ours that was changed since as NAME.kept.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from avss_utils.errors import UsageError
from avss_utils.store.files import (
    at_home,
    file_sha256,
    plain_write_errors,
    project_root,
    read_json,
    removed_on_failure,
    write_json,
)

LIST = ".avss-files.json"
WAIT = 60.0  # seconds for another process to end its writing, where the work is done already
Own = Callable[[Path], Mapping[str, str]]  # folder -> what is ours in it: name -> sha256


def check_place(path: str | Path) -> Path:
    """The whole path, links followed, if something can lie there; UsageError otherwise."""
    try:
        whole = at_home(path).resolve()
    except UsageError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{str(path)!r} is no path ({error}): choose another place") from error
    for parent in whole.parents:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"{parent} is a file and can hold no folder: choose another place")
    there = next(own for own in (whole, *whole.parents) if own.exists())
    if not os.access(there, os.W_OK):
        raise UsageError(f"{there} may not be written by you: choose another place")
    return whole


def check_folder(folder: str | Path) -> Path:
    """``check_place`` of a folder that is replaced as a whole."""
    whole = check_place(folder)
    if whole.exists() and not whole.is_dir():
        raise UsageError(f"{whole} is a file: choose an empty or a new folder")
    if whole in (Path.cwd(), *Path.cwd().parents) or os.path.ismount(whole):
        raise UsageError(
            f"{whole} is the folder that you work in, or holds it, and cannot be replaced: name a "
            f"new folder, such as {Path.cwd() / 'out'}"
        )
    return whole


def check_content(folder: Path, mark: str) -> None:
    """Raise UsageError unless the folder is new, empty, or an earlier output that nobody changed.

    ``mark``: the file by which an output of this kind is known.
    """
    if not folder.exists() or not any(folder.iterdir()) or _is_scratch(folder):
        return
    ours = listed(folder)
    if mark not in ours:
        raise UsageError(
            f"{folder} holds other files, or no list of those that an earlier command wrote: "
            "choose an empty or a new folder"
        )
    for name, sha256 in ours.items():
        if os.path.lexists(folder / name) and not _is_same(folder / name, sha256):
            raise UsageError(
                f"{folder / name} is not what the earlier command wrote and would be lost: move it "
                "away, or choose another folder"
            )


@contextlib.contextmanager
def claimed(folder: str | Path, *, mark: str, wait: float = 0.0) -> Iterator[Path]:
    """The folder's whole path, checked, with this process as its only writer meanwhile.

    The process may claim it again inside. Raises UsageError where another one has it for longer
    than ``wait`` seconds, or where ``check_folder`` or ``check_content`` do.
    """
    folder = check_folder(folder)
    new = [parent for parent in folder.parents if not parent.exists()]
    try:
        with plain_write_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder.with_name(f".{folder.name}.lock"), folder, wait=wait) as first:
            if first:
                recover(folder, listed)
                check_content(folder, mark)
            yield folder
    finally:
        for parent in new:  # those in which nothing came to lie
            with contextlib.suppress(OSError):
                parent.rmdir()


@contextlib.contextmanager
def whole_folder(folder: str | Path, *, mark: str) -> Iterator[Path]:
    """A folder to write in, which takes the place of ``folder`` once all went well: ``claimed``."""
    with claimed(folder, mark=mark, wait=WAIT) as target:
        working = target.with_name(f".{target.name}.partial")
        shutil.rmtree(working, ignore_errors=True)
        with removed_on_failure(working), plain_write_errors(target):
            working.mkdir()
            yield working
            ours = {name: file_sha256(working / name) for name in files_in(working)}
            write_json(working / LIST, {"files": ours})
            replace_folder(working, target, listed)


@contextlib.contextmanager
def claimed_file(path: str | Path) -> Iterator[Path]:
    """The file's whole path, with this process as its only writer meanwhile.

    A file of the user's own is refused; of ours, one that was changed since is kept as NAME.kept.
    """
    path = check_file(path)
    with plain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f".{path.name}.lock"), path, wait=0.0):
        ours = listed(path.parent).get(path.name)
        if ours and os.path.lexists(path) and not _is_same(path, ours):
            _keep(path, path)
        yield path


def check_file(path: str | Path) -> Path:
    """``check_place`` of a file that a command replaces; UsageError for one of the user's own."""
    whole = check_place(path)
    if whole.is_dir():
        raise UsageError(f"{whole} is a folder: choose another place")
    known = whole.name in listed(whole.parent) or _is_scratch(whole)
    if whole.exists() and not known:
        raise UsageError(f"{whole} is a file of your own: move it, or choose another folder")
    return whole


def note_file(path: Path) -> None:
    """Put a written file on its folder's list."""
    if _is_scratch(path):
        return
    with held(path.with_name(f"{LIST}.lock"), path.parent, wait=WAIT):
        ours = {**listed(path.parent), path.name: file_sha256(path)}
        write_json(path.with_name(LIST), {"files": ours})


@contextlib.contextmanager
def held(file: Path, what: Path, *, wait: float) -> Iterator[bool]:
    """Hold the lock ``file`` of ``what``, which ends with its process; whether it was free before.

    False where this process has it already. Raises UsageError where another one does.
    """
    lock = acquired(file, what, wait=wait)
    try:
        yield lock.lock_counter == 1
    finally:
        if lock.lock_counter == 1:
            file.unlink(missing_ok=True)
        lock.release()


def acquired(file: Path, what: Path, *, wait: float) -> FileLock:
    """The lock ``file`` of ``what``, for the caller to release; UsageError as ``held``."""
    lock = FileLock(file, is_singleton=True)
    with plain_write_errors(what):
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise UsageError(
                f"another run is writing {what}: wait until it has ended, or choose another folder"
            ) from None
    return lock


def replace_folder(source: Path, target: Path, own: Own) -> None:
    """Give ``source`` the name ``target``; of an older folder what is not ours moves into it."""
    recover(target, own)
    old = _older(target)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    recover(target, own)


def recover(target: Path, own: Own) -> None:
    """End a replacement, also one that was killed: no file but ours is lost with the older folder.

    To be called by the one writer.
    """
    old = _older(target)
    if not old.exists():
        return
    if not target.exists():
        os.replace(old, target)
        return
    ours = own(old)
    if ours or not _is_scratch(target):
        for name in files_in(old):
            if name not in ours:
                _keep(old / name, target / name)
            elif not _is_same(old / name, ours[name]):
                _keep(old / name, target / f"{name}.kept")
    shutil.rmtree(old, ignore_errors=True)


def listed(folder: Path) -> dict[str, str]:
    """What a command wrote into the folder: name -> sha256; nothing where there is no list."""
    files = read_json(folder / LIST)
    files = files.get("files") if isinstance(files, dict) else None
    return {k: v for k, v in files.items() if isinstance(v, str)} if isinstance(files, dict) else {}


def files_in(folder: Path) -> list[str]:
    """Names of all files and links in a folder and those inside it, but for its list and locks."""
    found = [
        Path(place, name).relative_to(folder).as_posix()
        for place, inner, files in os.walk(folder)
        for name in (*files, *(one for one in inner if Path(place, one).is_symlink()))
    ]
    return sorted(set(found) - {LIST, ".lock"})


def _older(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _keep(path: Path, wanted: Path) -> None:
    """Move a file to ``wanted``, or beside it where something is there, as NAME.kept."""
    names = [wanted, *(wanted.with_name(f"{wanted.name}.kept{n}") for n in ("", *range(2, 1000)))]
    free = next(name for name in names if not os.path.lexists(name))
    free.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, free)


def _is_same(path: Path, sha256: str) -> bool:
    try:
        return file_sha256(path) == sha256
    except OSError:  # a folder or a broken link now
        return False


def _is_scratch(path: Path) -> bool:
    """Whether it lies in the project's _build, of which `make clean` takes away everything."""
    return (project_root() / "_build").resolve() in path.parents
