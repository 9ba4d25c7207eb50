"""Markup in a model's name or in its answers is shown, not obeyed."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml
from conftest import serving, window
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from avss_utils.store.notebooks import execute

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m"
HOSTILE = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
PWNED = "window.pwned"
# every way in which a notebook shows text
SHOWN = f"""
import pandas as pd
from IPython.display import display
from avss_utils.show import tables
answer = {HOSTILE!r}
table = pd.DataFrame({{"answer": [answer], answer: [1.0]}})
tables.glue(an_answer=answer, a_table=table)
display(tables.as_html(table, caption=answer))
print(answer)
display(answer)
"""
PAGE = """# Answers

An answer reads {glue:text}`an_answer:s`.

```{glue:} a_table
```
"""


def build_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def records_of_a_hostile_model(folder: Path) -> Path:
    """The committed records, as if the model had been named by someone who means harm."""
    shutil.copytree(ROOT / "results" / "full" / MODEL, folder / MODEL)
    for path in folder.rglob("run.json"):
        record = json.loads(path.read_text())
        record["model"]["name"] = HOSTILE
        path.write_text(json.dumps(record))
    return folder


def answers() -> nbformat.NotebookNode:
    """An executed notebook that shows a hostile answer in every way."""
    code = new_code_cell(SHOWN, metadata={"tags": ["remove-input"]})
    notebook = new_notebook(cells=[new_markdown_cell(PAGE), code])
    return NotebookClient(notebook, kernel_name="python3").execute()


@pytest.fixture(scope="module")
def hostile_book(browser, tmp_path_factory) -> Iterator[str]:
    """A book of two pages, by the book's own configuration and build."""
    folder, build = tmp_path_factory.mktemp("hostile"), build_module()
    records = records_of_a_hostile_model(folder / "full")
    execute(
        "07_claims", folder / "executed" / "07_claims.ipynb", {"records": str(records)}, timeout=120
    )
    build.stage(folder / "executed", folder / "stage")
    nbformat.write(answers(), folder / "stage" / "notebooks" / "answers.ipynb")
    contents = {"root": "notebooks/07_claims", "chapters": [{"file": "notebooks/answers"}]}
    (folder / "stage" / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", **contents}))
    build.build(folder / "stage", folder / "out")  # it warns of pages that were left out
    with serving(folder / "out" / "_build" / "html") as base:
        yield base


@pytest.mark.parametrize(("page", "times"), [("07_claims", 1), ("answers", 8)])
def test_markup_in_a_name_or_an_answer_is_shown_as_text(browser, hostile_book, page, times):
    with window(browser, hostile_book) as show:
        view = show(f"notebooks/{page}.html")
        assert view.page.locator("main article").inner_text().count(HOSTILE) >= times
        assert view.page.evaluate(PWNED) is None
        assert view.heard == []


def test_markup_that_is_obeyed_would_be_seen(opened):
    view = opened(f"<body><main>{HOSTILE}</main></body>")
    view.page.wait_for_function(PWNED)
