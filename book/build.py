"""Stage the pages with executed notebooks, so that names equal source paths, and build the book.

``python book/build.py --profile quick --model smollm2-135m``
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from avss_utils.models import short_name
from avss_utils.notebooks import notebook_names
from avss_utils.runs import UsageError

ROOT = Path(__file__).resolve().parent.parent


def stage(executed: Path, folder: Path) -> None:
    """Fill ``folder`` with the book's sources and the notebooks found in ``executed``.

    The table of contents takes the notebooks that were run; without the ledger, whose verdicts the
    introduction shows, there is no book.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("*.py[c]"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / "book" / name, folder)
    measured = ROOT / "results" / "benchmarks"  # tables that pages include by their path
    if measured.is_dir():
        shutil.copytree(measured, folder / "results" / "benchmarks")
    (folder / "notebooks").mkdir()
    found = [name for name in notebook_names() if (executed / f"{name}.ipynb").exists()]
    if not any(name.startswith("07_") for name in found):
        raise UsageError(f"no executed ledger in {executed}: run `python -m avss_utils run` first")
    for name in found:
        notebook = nbformat.read(executed / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell.metadata.tags.append("hide-input")
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")


def build(folder: Path, out: Path) -> int:
    """Run jupyter-book with warnings as errors; returns its exit code."""
    program = Path(sys.executable).with_name("jupyter-book")
    options = ["-W", "-n", "--keep-going", "--all", "--quiet", "--path-output", out]
    return subprocess.call([program, "build", folder, *options])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--executed", type=Path, help="folder of executed notebooks")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "book")
    arguments = parser.parse_args()
    short = short_name(arguments.model)
    executed = arguments.executed or ROOT / "_build" / "executed" / arguments.profile / short
    try:
        stage(executed, ROOT / "_build" / "stage")
    except UsageError as error:
        print(f"book: {error}", file=sys.stderr)
        return 2
    shutil.rmtree(arguments.out, ignore_errors=True)
    code = build(ROOT / "_build" / "stage", arguments.out)
    if code == 0:
        print(f"The book: {arguments.out / '_build' / 'html' / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
