"""Parameters of notebooks, profiles, and strict papermill execution."""

import ast
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from avss_utils.errors import UsageError, one_line
from avss_utils.store.files import MOST, decoded, plain_write_errors, project_root
from avss_utils.store.outputs import check_file, claimed_file, note_file

PROFILES = ("smoke", "quick", "full")
SHARES = ("drop_ratio",)
PARTS = ("asked", "fact_share", "keep", "rate_share", "taught_share")  # a whole one is a part too
LEAST = {"context": 2}  # a window of one token scores nothing
NOT_EMPTY = ("tasks", "text_sets")
# tokens of a text that the model reads at once
TEXT_LENGTHS = (
    *("calibration_length", "context", "heal_length"),
    *("loss_context", "stable_length", "text_length"),
)
# where things lie and how they are run: not part of a run's key
LOCATION = (
    *("model", "device", "profile", "results", "records", "checkpoint", "batch_tokens"),
    "verify",
)
INJECTED = "# Parameters\n"  # how papermill begins the cell in which it sets parameters


def notebook_names() -> list[str]:
    """Names of the project's notebooks, in order, without folder and suffix."""
    return sorted(p.stem for p in (project_root() / "notebooks").glob("[0-9]*.ipynb"))


def notebook_path(name: str) -> Path:
    """The notebook's file; UsageError names the ones there are."""
    path = project_root() / "notebooks" / f"{name}.ipynb"
    if not path.exists():
        raise UsageError(f"unknown notebook {name!r}: choose from {', '.join(notebook_names())}")
    return path


def default_parameters(path: Path) -> dict:
    """The literals of the cell tagged ``parameters``; anything else in it is refused."""
    try:  # as JSON: nbformat takes four seconds to import, in every notebook's kernel
        cells = decoded(path.read_text(encoding="utf-8"))["cells"]
        tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a notebook ({error}): restore it") from error
    if len(tagged) != 1:
        raise UsageError(f"{path.name} needs one cell tagged 'parameters', it has {len(tagged)}")
    defaults = {}
    line: Any
    for line in ast.parse("".join(tagged[0]["source"])).body:
        try:
            ((name,), value) = line.targets, ast.literal_eval(line.value)
            defaults[name.id] = value
        except (AttributeError, ValueError):
            raise UsageError(
                f"{path.name}: the parameters cell may hold name = literal lines only, not "
                f"{ast.unparse(line)!r}"
            ) from None
    return defaults


def read_profile(profile: str, notebook: str, model: str = "") -> dict:
    """Parameters of ``params/<profile>.yml`` for one notebook; a notebook not listed has none.

    Under ``models`` the file can give a model, by its short name, others than all have.
    """
    if profile not in PROFILES:
        raise UsageError(f"unknown profile {profile!r}: choose from {', '.join(PROFILES)}")
    path = project_root() / "params" / f"{profile}.yml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        own = (content.get("models") or {}).get(model) or {}
        return {**(content.get(notebook) or {}), **(own.get(notebook) or {})}
    except (yaml.YAMLError, AttributeError, RecursionError, TypeError, ValueError) as error:
        what = one_line(error)
        raise UsageError(f"{path} must give each notebook its parameters: {what}") from error


def check_parameters(path: Path, parameters: dict) -> dict:
    """The notebook's defaults overlaid with ``parameters``; a wrong name or type is refused.

    papermill only warns about an unknown parameter, which would silently run the default instead.
    """
    defaults = default_parameters(path)
    for name, value in parameters.items():
        if name not in defaults:
            raise UsageError(f"{path.stem} has no parameter {name!r}: it has {', '.join(defaults)}")
        if not _same_type(value, defaults[name]):
            kind = type(defaults[name]).__name__
            raise UsageError(f"parameter {name!r} of {path.stem} must be a {kind}, not {value!r}")
        if problem := _out_of_range(name, value, defaults[name]):
            raise UsageError(f"parameter {name!r} of {path.stem} must be {problem}, not {value!r}")
    return {**defaults, **parameters}


def given_parameters(notebook: str, namespace: Mapping[str, Any]) -> dict:
    """A notebook's parameters as they stand in its ``globals()``, checked.

    papermill only warns about a name that the notebook does not have: here it is refused.
    """
    path = notebook_path(notebook)
    injected: dict[str, Any] = {}
    for source in namespace.get("In", ()):
        if source.startswith(INJECTED):
            tree = ast.walk(ast.parse(source))
            names = [node for node in tree if isinstance(node, ast.Name)]
            stored = [name.id for name in names if isinstance(name.ctx, ast.Store)]
            injected |= {name: namespace.get(name) for name in stored}
    defaults = default_parameters(path)
    there = {name: namespace[name] for name in defaults if name in namespace}
    if lacking := defaults.keys() - there.keys():
        raise UsageError(f"{notebook} needs {', '.join(sorted(lacking))}: run its cells in order")
    return check_parameters(path, {**injected, **there})


def notebook_parameters(name: str, profile: str, given: dict, *, model: str = "") -> dict:
    """All parameters of a notebook: its defaults, the profile's for the model of this short name,
    then ``given``, checked.
    """
    path = notebook_path(name)
    return check_parameters(path, {**read_profile(profile, name, model), **given})


def within(parameters: dict, positions: Callable[[], int | None], given: dict) -> dict:
    """The parameters with texts no longer than a model has ``positions`` for, where not ``given``.

    A profile does not know the model. ``positions`` is asked only where a parameter is a length.
    """
    names = [name for name in TEXT_LENGTHS if name in parameters and name not in given]
    most = positions() if names else None
    shorter = {name: most for name in names if most is not None and parameters[name] > most}
    return {**parameters, **shorter}


def _same_type(value: object, default: object) -> bool:
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def _out_of_range(name: str, value: Any, default: Any) -> str | None:
    """What a value has to be and is not: a share, above 0, a count (0 only as a seed), texts."""
    if name == "device" and value == "spread":
        return "auto, cpu or cuda, one device for all of the notebook"
    if name in SHARES:
        return None if 0 < value < 1 else "above 0 and below 1"
    if name in PARTS:
        return None if 0 < value <= 1 else "above 0 and at most 1"
    if isinstance(default, float):
        return None if 0 < value <= sys.float_info.max else "a finite number above 0"
    if type(default) is int:
        least = LEAST.get(name, min(default, 1))
        if value > MOST:
            return f"{MOST} at most"
        return None if value >= least else f"{least} or more"
    if isinstance(default, list):
        return _wrong_list(name, value, default)
    return "a text of one line" if isinstance(value, str) and not value.isprintable() else None


def _wrong_list(name: str, value: list, default: list) -> str | None:
    """Every item has to be as a parameter of its own would."""
    example = default[0] if default else ""
    if not all(_same_type(item, example) for item in value):
        return f"a list of {type(example).__name__}"
    if problem := next((p for item in value if (p := _out_of_range("", item, example))), None):
        return f"a list in which each is {problem}"
    return "a list that is not empty" if name in NOT_EMPTY and not value else None


def execute(name: str, output: Path, parameters: dict, *, timeout: int) -> Path:
    """Run a notebook with papermill from the project's root; ``timeout`` in seconds a cell.

    ``output`` appears only when every cell succeeded. A failed run leaves ``<name>.failed.ipynb``
    beside it, with the error in its place, and raises UsageError with what went wrong. A run that
    was killed leaves a hidden file, which the next one replaces.
    """
    import papermill  # heavy, and not needed to read records

    path = notebook_path(name)
    check_parameters(path, parameters)
    failed = check_file(output.with_name(f"{output.stem}.failed.ipynb"))
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    with claimed_file(output) as output, plain_write_errors(output):
        output.unlink(missing_ok=True)
        running = output.with_name(f".{output.stem}.partial.ipynb")
        try:
            papermill.execute_notebook(
                path,
                running,
                parameters,
                kernel_name="python3",
                cwd=project_root(),
                execution_timeout=timeout,
                progress_bar=False,
                log_output=False,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # what ends it is said here
            )
            os.replace(running, output)
            note_file(output)
        except Exception as error:  # of the notebook's own code, in papermill's types
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise
            if running.exists():
                os.replace(running, failed)
                note_file(failed)
            raise UsageError(_failure(name, error, failed, timeout)) from error
        finally:
            running.unlink(missing_ok=True)
    return output


def _failure(name: str, error: Exception, failed: Path, timeout: int) -> str:
    """One sentence: a user's mistake in its own words, anything else with the place to look."""
    name_of_error, said = getattr(error, "ename", ""), getattr(error, "evalue", str(error))
    if name_of_error in ("UsageError", "WriteError"):
        return said
    kind = type(error).__name__
    if kind == "DeadKernelError":
        return (
            f"the kernel of {name} died, as it does when memory runs out or somebody ends it: what "
            "was finished is kept, run the same command again"
        )
    if kind == "CellTimeoutError":
        return f"a cell of {name} took longer than {timeout} s: give more with --timeout"
    what = one_line(f"{name_of_error or kind}: {said}")
    return f"{name} failed with {what}; the notebook with the error is {failed}"
