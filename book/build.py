"""Stage the pages with executed notebooks, so that names equal source paths, and build the book.

``python book/build.py --profile quick --model smollm2-135m``
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import nbformat
import pandas as pd
import yaml
from status_tables import finished_runs, grade_table, model_table, model_types, run_table

from avss_utils.errors import UsageError
from avss_utils.models.load import short_name
from avss_utils.show.tables import plain
from avss_utils.store.files import at_home
from avss_utils.store.notebooks import notebook_names, notebook_path
from avss_utils.store.outputs import claimed, whole_folder

ROOT = Path(__file__).resolve().parent.parent
FIRST_PAGE = "_build/html/index.html"
SHOWN = re.compile(r"/((?:notebooks|models)/[\w./-]+\.ipynb)(?:::|$)", re.MULTILINE)
ROW = re.compile(r"\| \{glue:text\}`/notebooks/[\w.]+::model_name:s` \|")
REFERENCE = re.compile(r"\{(?:doc|eq|ref|numref)\}`(?:([^`<]+?)\s*<([^`>]+)>|([^`<]+))`")
LABEL = re.compile(r"(?<=^\$\$ \()[\w-]+(?=\))|(?<=^\()[\w-]+(?=\)=)", re.MULTILINE)


def stage(executed: Path, folder: Path, others: Sequence[Path] = ()) -> None:
    """Fill ``folder`` with the book's sources and the notebooks found in ``executed``.

    The table of contents takes the notebooks that were run; without the ledger, whose verdicts the
    introduction shows, there is no book. ``others`` are the folders of further models' executed
    notebooks, whose chapters come after, as models/NAME/NOTEBOOK; a row of a page's table that
    begins with the model's name is repeated for each. A paragraph of a page that shows a value of a
    notebook that is not among them is left out, and a link to one is plain words.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("*.py[c]"))
    shutil.copy(ROOT / "book" / "_config.yml", folder)
    measured = ROOT / "results" / "benchmarks"  # tables that pages include by their path
    if measured.is_dir():
        shutil.copytree(measured, folder / "results" / "benchmarks")
    runs = finished_runs(ROOT / "results" / "full")
    types = model_types(ROOT / "results" / "model_types.csv")
    for name, table in {
        "status_models": model_table(runs),
        "status_runs": run_table(runs),
        "model_grades": grade_table(types),
        "model_types": types.drop(columns="transformers"),
    }.items():
        _write_table(table, folder / "book" / f"{name}.csv")
        _write_table(table.map(plain), folder / "book" / f"{name}_shown.csv")
    found = _executed(executed)
    if not any(name.startswith("07_") for name in found):
        raise UsageError(f"no executed ledger in {executed}: run `python -m avss_utils run` first")
    absent = _targets(set(notebook_names()) - set(found))
    (folder / "notebooks").mkdir()
    for name in found:
        notebook = _chapter(executed / f"{name}.ipynb", absent)
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    for other in others:
        own = folder / "models" / other.name
        own.mkdir(parents=True)
        for name in _executed(other):
            notebook = _chapter(other / f"{name}.ipynb", absent, model=other.name)
            nbformat.write(notebook, own / f"{name}.ipynb")
    for page in (folder / "book").glob("*.md"):
        text = _with_others(page.read_text(), folder, [other.name for other in others])
        shown = "\n\n".join(part for part in text.split("\n\n") if _was_run(part, folder))
        page.write_text(_unlinked(shown, absent))
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    if others:
        part = {"caption": "Other models", "chapters": [{"glob": "models/*/[0-9]*"}]}
        toc["parts"].insert(2, part)
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc))


def _executed(folder: Path) -> list[str]:
    return [name for name in notebook_names() if (folder / f"{name}.ipynb").exists()]


def _targets(names: Iterable[str]) -> dict[str, str]:
    """What these notebooks of the project hold that a page can refer to: target -> their title."""
    titles: dict[str, str] = {}
    for name in names:
        cells = nbformat.read(notebook_path(name), as_version=4).cells
        title = cells[0].source.partition("\n")[0].lstrip("# ")
        titles |= dict.fromkeys([f"/notebooks/{name}", *_labels(cells)], title)
    return titles


def _labels(cells: Iterable[nbformat.NotebookNode]) -> list[str]:
    """Names of the equations, places and figures of a notebook."""
    labels = [match[0] for cell in cells for match in LABEL.finditer(cell.source)]
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in cells]
    return [*labels, *filter(None, figures)]


def _unlinked(text: str, absent: dict[str, str]) -> str:
    """The text with its own words, or the title, where it refers to a notebook that is absent."""

    def words(match: re.Match) -> str:
        own, target = match[1], match[2] or match[3]
        return own or f"*{absent[target]}*" if target in absent else match[0]

    return REFERENCE.sub(words, text)


def _chapter(path: Path, absent: dict[str, str], *, model: str = "") -> nbformat.NotebookNode:
    """An executed notebook as a page; of a further model with its name in title and labels."""
    notebook = nbformat.read(path, as_version=4)
    own = _labels(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _unlinked(cell.source, absent)
            if model:
                cell.source = _renamed(cell.source, own, model)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-input")
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if model and figure:
            figure["name"] = f"{model}-{figure['name']}"
    if model:
        title, _, rest = notebook.cells[0].source.partition("\n")
        notebook.cells[0].source = f"{title} ({model})\n{rest}"
    return notebook


def _renamed(text: str, labels: Iterable[str], model: str) -> str:
    """The text with ``model`` before its own labels, where they are set and where referred to."""

    def longer(match: re.Match) -> str:
        group = 2 if match[2] else 3
        before, after = match[0][: (at := match.start(group) - match.start())], match[0][at:]
        return f"{before}{model}-{after}" if match[group] in labels else match[0]

    return LABEL.sub(rf"{model}-\g<0>", REFERENCE.sub(longer, text))


def _write_table(table: pd.DataFrame, path: Path) -> None:
    """A file for a page's table, which may not be empty: without rows, one says so.

    The pages read cells as MyST: the file that they show has them escaped, the one that is saved
    as they are.
    """
    if table.empty:
        table.loc[0] = ["none yet", *[""] * (table.shape[1] - 1)]
    table.to_csv(path, index=False)


def _with_others(page: str, folder: Path, others: Iterable[str]) -> str:
    """The page with each row of a table that begins with the model's name repeated for others."""
    lines = []
    for line in page.split("\n"):
        lines.append(line)
        if ROW.match(line):
            rows = [line.replace("/notebooks/", f"/models/{other}/") for other in others]
            lines += [row for row in rows if _was_run(row, folder)]
    return "\n".join(lines)


def _was_run(text: str, folder: Path) -> bool:
    """Whether every notebook of which the text shows a value is in the folder."""
    return all((folder / name).exists() for name in SHOWN.findall(text))


def build(folder: Path, out: Path) -> int:
    """Run jupyter-book with warnings as errors; returns its exit code."""
    program = Path(sys.executable).with_name("jupyter-book")
    options: list[str | Path] = [
        "-W",
        "-n",
        "--keep-going",
        "--all",
        "--quiet",
        "--path-output",
        out,
    ]
    return subprocess.call([program, "build", folder, *options])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--executed", type=at_home, help="folder of executed notebooks")
    parser.add_argument(
        "--others", type=at_home, nargs="*", default=[], help="further models' folders"
    )
    parser.add_argument("--out", type=at_home, default=ROOT / "_build" / "book")
    arguments = parser.parse_args()
    short = short_name(arguments.model)
    executed = arguments.executed or ROOT / "_build" / "executed" / arguments.profile / short
    staged = ROOT / "_build" / "stage"
    try:
        with claimed(arguments.out, mark=FIRST_PAGE):
            stage(executed, staged, arguments.others)
            with whole_folder(arguments.out, mark=FIRST_PAGE) as working:
                if code := build(staged, working):
                    raise SystemExit(code)
    except UsageError as error:
        print(f"book: {error}", file=sys.stderr)
        return 2
    print(f"The book: {arguments.out / FIRST_PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
