"""What can be held about the book without building it."""

import importlib
import importlib.util
import re
import shutil
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from status_tables import grade_table, model_types, run_table

from avss_utils.scores.criteria import CRITERIA
from avss_utils.scores.plans import plan_as_released, plan_lowest
from avss_utils.show.tables import plain

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
CONFIG = yaml.safe_load((BOOK / "_config.yml").read_text())
SPHINX = CONFIG["sphinx"]["config"]
PAGES = sorted(BOOK.glob("*.md"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
ELSEWHERE = re.compile(
    r"<(script|link|iframe)\b|src\s*=\s*[\"']?https?:|@import|url\(\s*[\"']?(https?:)?//"
)


def prose() -> dict[str, str]:
    """Markdown of every page and of every notebook, by file name."""
    texts = {p.name: p.read_text() for p in PAGES}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts[path.name] = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    return texts


def toc_files() -> list[str]:
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    files = [toc["root"]]
    for chapter in (chapter for part in toc["parts"] for chapter in part["chapters"]):
        if "glob" in chapter:
            files += [f"notebooks/{p.stem}" for p in sorted(ROOT.glob(chapter["glob"]))]
        else:
            files.append(chapter["file"])
    return files


def found(pattern: str) -> set[str]:
    return {match for text in prose().values() for match in re.findall(pattern, text)}


def test_the_contents_are_every_page_and_notebook():
    written = {f"book/{p.stem}" for p in PAGES}
    written |= {f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert set(toc_files()) == written


def test_every_page_opens_with_a_title_and_a_question():
    for page in PAGES:
        title, opening = page.read_text().split("\n\n", 2)[:2]
        assert title.startswith("# "), page.name
        assert "?" in title + opening, page.name


def test_cited_works_are_in_the_bibliography_once():
    keys = re.findall(r"^@\w+\{(\S+),", (BOOK / "references.bib").read_text(), re.MULTILINE)
    cited = {
        key.strip() for group in found(r"\{cite(?::\w+)?\}`([^`]+)`") for key in group.split(",")
    }
    assert len(keys) == len(set(keys))
    assert cited
    assert cited - set(keys) == set()


def test_equations_and_terms_that_are_referred_to_exist():
    equations = found(r"\{eq\}`([^`]+)`")
    assert equations
    assert equations - found(r"\$\$ \(([\w-]+)\)") == set()
    glossary = (BOOK / "glossary.md").read_text().lower()
    targets = {
        re.sub(r".*<(.+)>", r"\1", t, flags=re.DOTALL).lower() for t in found(r"\{term\}`([^`]+)`")
    }
    entries = set(re.findall(r"^(\S.*)$", glossary.split(":::{glossary}")[1], re.MULTILINE))
    assert targets
    assert targets - entries == set()


def test_functions_named_in_the_text_exist():
    paths = [path.relative_to(ROOT) for path in (ROOT / "avss_utils").rglob("*.py")]
    modules = [path.parent if path.stem == "__init__" else path.with_suffix("") for path in paths]
    texts = [page.read_text() for page in PAGES]
    named = {pair for text in texts for pair in re.findall(r"`(\w+)\.([\w.]+)`", text)}
    own = {(name, what) for name, what in named if name in {m.stem for m in modules}}
    own -= {(name, what) for name, what in own if what in ("csv", "py")}
    assert len(own) > 20
    for name, what in own:
        things = [importlib.import_module(".".join(m.parts)) for m in modules if m.stem == name]
        for part in what.split("."):
            things = [getattr(thing, part) for thing in things if hasattr(thing, part)]
        assert things, f"{name}.{what}"


def test_every_criterion_is_defined_in_the_background():
    background = (BOOK / "background.md").read_text()
    assert [name for name in CRITERIA if f"`{name}`" not in background] == []


def test_nothing_is_loaded_from_elsewhere():
    texts = prose() | {
        p.name: p.read_text() for s in ("css", "js", "py") for p in BOOK.rglob(f"*.{s}")
    }
    assert [name for name, text in texts.items() if ELSEWHERE.search(text)] == []
    assert "sphinx_thebe" not in SPHINX["extensions"]
    assert SPHINX["nb_ipywidgets_js"] == {}
    assert "mathjax_path" not in SPHINX
    assert CONFIG["execute"]["execute_notebooks"] == "off"


def test_the_repository_is_addressed_alike_everywhere():
    address = SPHINX["html_theme_options"]["repository_url"]
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert CONFIG["parse"]["myst_substitutions"]["repository_url"] == address
    assert package["project"]["urls"]["Repository"] == address
    assert CITATION["repository-code"] == address
    assert (BOOK / "_config.yml").read_text().count(address) == 1
    assert [name for name, text in prose().items() if address in text] == []


def test_static_files_named_in_the_configuration_exist():
    (folder,) = SPHINX["html_static_path"]
    named = SPHINX["html_css_files"] + SPHINX["html_js_files"]
    assert sorted(named) == sorted(p.name for p in (ROOT / folder).iterdir())


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mathematics_is_typeset_by_a_file_of_the_book_or_the_build_stops(tmp_path, monkeypatch):
    extension, events = module_of(BOOK / "_ext" / "local_mathjax.py"), []
    app = SimpleNamespace(
        config=SimpleNamespace(),
        outdir=tmp_path,
        builder=SimpleNamespace(format="html"),
        connect=lambda *event: events.append(event),
    )
    extension.setup(app)
    ((_, copy),) = events
    copy(app)
    assert "MathJax" in (tmp_path / "_static" / app.config.mathjax_path).read_text()
    monkeypatch.setattr(extension, "PACKAGE", "no-such-package")
    with pytest.raises(extension.ExtensionError, match="pip install no-such-package"):
        extension.copy_component(app)


def figure_one() -> tuple[np.ndarray, np.ndarray, float]:
    """Variance, sparsity and the highest plotted score that the background reads off Figure 1."""
    rows = re.findall(
        r"^\| (\d+)(?:–(\d+))? \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$",
        (BOOK / "background.md").read_text(),
        re.MULTILINE,
    )
    variance, sparsity, plotted = [], [], []
    for first, last, v, s, score in rows:
        n = int(last or first) - int(first) + 1
        numbers = [float(x) for x in v.replace("to", " ").split()]
        variance += numbers if len(numbers) == n else list(np.linspace(numbers[0], numbers[-1], n))
        sparsity += [float(x) * 1e-6 for x in s.split()]
        plotted += [float(x) * 1e-3 for x in re.findall(r"\d+\.\d", score)]
    return np.array(variance), np.array(sparsity), max(plotted)


def test_what_the_background_says_about_figure_one_follows_from_its_values():
    variance, sparsity, highest = figure_one()
    assert len(variance) == len(sparsity) == 32
    ratio = variance / sparsity
    product = (
        (variance - variance.min())
        / np.ptp(variance)
        * (sparsity - sparsity.min())
        / np.ptp(sparsity)
    )
    assert plan_lowest(ratio, n_drop=8).drop == tuple(range(8))
    assert len(plan_as_released(ratio, ratio=0.25).drop) == 27
    assert ratio.argmax() >= 30
    assert 14 <= product.argmax() <= 18
    assert product[31] == 0
    assert f"none exceeds\n{highest:.4f}, so 32 of them" in (BOOK / "background.md").read_text()
    assert 32 * highest < 1


def test_the_citation_file_names_the_licence_and_both_papers():
    papers = [r["identifiers"][0]["value"] for r in CITATION["references"]]
    assert papers == ["arXiv:2411.02117", "arXiv:2411.10069"]
    assert CITATION["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert CITATION["version"] == importlib.import_module("avss_utils").__version__
    released = f"## {CITATION['version']}, {CITATION['date-released']}"
    assert released in (ROOT / "CHANGELOG.md").read_text().splitlines()
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert package["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "avss_utils.__version__"


def test_the_citation_file_has_fields_of_cff_1_2_0_alone():
    required = {"cff-version", "message", "title", "authors"}
    optional = {"abstract", "type", "version", "license", "keywords", "references"}
    optional |= {"repository-code", "date-released"}
    assert required <= CITATION.keys() <= required | optional
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] in ("software", "dataset")
    assert len(set(CITATION["keywords"])) == len(CITATION["keywords"])
    for work in CITATION["references"]:
        assert {"type", "title", "authors"} <= work.keys()
        assert work.keys() <= {"type", "title", "authors", "year", "identifiers"}


def staged_of(folder: Path, *names: str, **others: tuple[str, ...]) -> Path:
    """The sources of a book of which these notebooks were run, and those of ``others`` by model."""
    for model, own in {"main": names, **others}.items():
        (folder / model).mkdir()
        for name in own:
            shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder / model)
    build = module_of(BOOK / "build.py")
    build.stage(folder / "main", folder / "stage", [folder / model for model in others])
    return folder / "stage"


def tables_of(staged: Path) -> list[str]:
    """Rows of the tables of the page for practice that show values."""
    page = (staged / "book" / "practice.md").read_text()
    tables = re.findall(r"^\|.+\n\|[-|]+\n((?:\|.+\n)*)", page, re.MULTILINE)
    measured = [rows for rows in tables if "{glue" in rows]
    assert len(tables) == len(measured) + 1  # the advice, in words
    return measured


@pytest.fixture
def staged(tmp_path) -> Path:
    """The sources of a book of which nothing but the ledger was run."""
    return staged_of(tmp_path, "07_claims")


def test_a_page_shows_values_of_nothing_but_what_was_run(staged):
    def shown(text: str) -> set[str]:
        return set(re.findall(r"/((?:notebooks|models)/[^`\s:]+\.ipynb)", text))

    ledger = {"notebooks/07_claims.ipynb"}
    for page in PAGES:
        before, after = page.read_text(), (staged / "book" / page.name).read_text()
        assert shown(after) <= ledger, page.name
        assert (len(after.split("\n\n")) == len(before.split("\n\n"))) == (shown(before) <= ledger)
    advice = (staged / "book" / "practice.md").read_text()
    assert "## The commands\n\n`--model` takes" in advice


def test_a_table_has_a_row_of_the_model_that_was_run_and_is_left_out_without_one(tmp_path):
    measured = tables_of(staged_of(tmp_path, "04_pruning_thresholds", "07_claims"))
    assert len(measured) > 2
    for rows in measured:
        assert rows.count("\n") == 1
        assert rows.startswith("| {glue:text}`/notebooks/04_pruning_thresholds.ipynb::")


def test_a_table_has_a_row_for_every_further_model_that_was_run(tmp_path):
    own = ("01_avss_pruning", "04_pruning_thresholds", "07_claims")
    measured = tables_of(staged_of(tmp_path, *own, one=own[:2], other=own[1:2]))
    found = [
        re.findall(r"^\| {glue:text}`/(\S+)/(\d\d)\w+\.ipynb::", t, re.MULTILINE) for t in measured
    ]
    assert {rows[0] for rows in found} == {("notebooks", "01"), ("notebooks", "04")}
    for (_, chapter), *further in found:
        models = ["models/one", "models/other"] if chapter == "04" else ["models/one"]
        assert further == [(model, chapter) for model in models]


def test_a_page_links_to_nothing_that_was_not_run(staged):
    text = {page.name: (staged / "book" / page.name).read_text() for page in PAGES}
    for page, own in text.items():
        for name in re.findall(r"</(notebooks/\w+)>|`/(notebooks/\w+)`", own):
            assert "".join(name) == "notebooks/07_claims", page
    assert "| 3 | Does training the flagged blocks help? | C9–C11 |" in text["intro.md"]
    assert "{doc}`Which claims hold? </notebooks/07_claims>`" in text["intro.md"]
    assert "*Does training the flagged blocks help?*" in text["deviations.md"]  # its equation
    assert "eq-infonce" in (BOOK / "deviations.md").read_text()
    assert "eq-infonce" not in text["deviations.md"]
    assert "{eq}`eq-avss`" in text["background.md"] + text["deviations.md"]


def test_the_status_page_has_a_row_for_every_record_and_one_where_there_is_none(staged):
    runs = pd.read_csv(staged / "book" / "status_runs.csv")
    assert len(runs) == len(list(ROOT.glob("results/full/*/[0-9]*/run.json")))
    models = pd.read_csv(staged / "book" / "status_models.csv")
    assert set(models.model) == set(runs.model)
    module_of(BOOK / "build.py")._write_table(run_table([]), staged / "empty.csv")
    (row,) = pd.read_csv(staged / "empty.csv", keep_default_na=False).to_dict("records")
    assert (row["notebook"], row["MB"]) == ("none yet", "")


def test_a_fork_without_the_table_of_types_has_a_row_that_says_so(tmp_path):
    types = model_types(tmp_path / "model_types.csv")
    for table in (types, grade_table(types)):
        module_of(BOOK / "build.py")._write_table(table, tmp_path / "one.csv")
        (row,) = pd.read_csv(tmp_path / "one.csv", keep_default_na=False).to_dict("records")
        assert set(row.values()) == {"none yet", ""}


def test_buttons_of_a_further_models_chapter_lead_to_the_stored_notebook():
    page, stored = "models/gemma3-270m/01_avss_pruning", "notebooks/01_avss_pruning"
    site = "https://example.org/x"
    kept = [f"../../_sources/{page}.ipynb", f"{site}/issues/new?title=on%20%2F{page}.html&b", site]
    files = [f"{site}/blob/main/%s.ipynb?plain=1", f"{site}/main?urlpath=lab/tree/%s.ipynb"]

    def buttons(name: str) -> list[dict]:
        group = {"buttons": [{"url": file % name} for file in files], "tooltip": "x"}
        return [group, *({"url": url} for url in kept), {"javascript": "f()"}]

    extension = module_of(BOOK / "_ext" / "stored_notebooks.py")
    for name, wanted in ((page, stored), (stored, stored), ("book/intro", "book/intro")):
        context = {"header_buttons": buttons(name)}
        extension.point_to_stored(None, name, "page.html", context, None)
        assert context["header_buttons"] == buttons(wanted), name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_table_from_a_file_can_be_downloaded(page):
    shown = set(re.findall(r"^:file: (.+)$", page.read_text(), re.MULTILINE))
    as_it_is = {name.replace("_shown.csv", ".csv") for name in shown}  # without escapes
    assert as_it_is == set(re.findall(r"\{download\}`[^<`]+<([^>]+)>`", page.read_text()))


def test_the_page_of_model_types_shows_all_of_them(staged):
    types = pd.read_csv(ROOT / "results" / "model_types.csv", keep_default_na=False)
    saved, shown = (
        pd.read_csv(staged / "book" / name, keep_default_na=False)
        for name in ("model_types.csv", "model_types_shown.csv")
    )
    assert saved.equals(types.drop(columns="transformers"))
    assert shown.equals(saved.map(plain))
    grades = pd.read_csv(staged / "book" / "model_grades.csv").set_index("grade").iloc[:, -1]
    assert grades.to_dict() == types.grade.value_counts().to_dict()
