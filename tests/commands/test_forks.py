"""CONTRIBUTING's recipes, done as a stranger would: nothing of the project is edited."""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tiny import save_tiny

ROOT = Path(__file__).parents[2]
RECIPES = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", RECIPES, re.S)


def installed_package(folder: Path) -> Path:
    """The recipe's criterion as a package with the entry point that the recipe shows."""
    (code,) = [b for b in blocks("python") if "@criterion" in b]
    (entry,) = [b for b in blocks("toml") if "entry-points" in b]
    group, module = re.search(r'entry-points\."(.*?)"\]\n\w+ = "(.*?)"', entry).groups()
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nmine = {module}\n")
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    return save_tiny(tmp_path / "a tiny model")


def command(
    *words: str, module: str = "avss_utils", path: Path | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess:
    search = os.pathsep.join(map(str, filter(None, (path, ROOT))))
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": search},
    )


def test_an_installed_package_adds_a_criterion(tmp_path, model):
    calibration = tmp_path / "own texts.txt"
    calibration.write_text("The quick brown fox.\n\nWhich of these is the answer?\n")
    words = ["score", "--model", str(model), "--calibration", str(calibration), "--texts", "2"]
    package = tmp_path / "package"
    package.mkdir()
    with_it = command(*words, "--criterion", "my-score", path=installed_package(package))
    assert with_it.returncode == 0, with_it.stderr
    lines = with_it.stdout.split()
    assert lines[0] == "criterion,block,score"
    assert [line.split(",")[:2] for line in lines[1:]] == [["my-score", str(n)] for n in range(4)]
    without = command(*words, "--criterion", "my-score")
    assert without.returncode == 2
    assert "unknown criterion 'my-score'" in without.stderr
    (package / "my_package.py").write_text("raise RuntimeError('broken inside')\n")
    broken = command(*words, "--criterion", "variance", path=package)
    assert broken.returncode == 0  # a package that fails takes nothing else with it
    assert "broken inside" in broken.stderr


@pytest.fixture
def fork(tmp_path, model) -> Path:
    """A project with the recipe's chapter, its notebook and a row of it in the smoke profile."""
    code = blocks("python")
    (experiment,) = [block for block in code if "class Depth" in block]
    settings, *sections = code[code.index(experiment) + 1 :]
    cells = [
        new_markdown_cell("# A new question"),
        new_code_cell(settings, metadata={"tags": ["parameters"]}),
        *(new_code_cell(s.replace("avss_utils.chapters.depth", "depth")) for s in sections),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name in ("notebooks", "params"):
        shutil.copytree(ROOT / name, tmp_path / "fork" / name)
    made = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(made, tmp_path / "fork" / "notebooks" / "08_depth.ipynb")
    with open(tmp_path / "fork" / "params" / "smoke.yml", "a") as file:
        file.write("08_depth: {n_texts: 2}\n")
    (tmp_path / "fork" / "book").symlink_to(ROOT / "book")
    (tmp_path / "depth.py").write_text(experiment)
    return tmp_path / "fork"


def test_the_recipes_chapter_runs_is_verified_and_enters_the_book(fork, model):
    words = ["--notebook", "08_depth", "--profile", "smoke", "--model", str(model)]
    ran = command("run", *words, path=fork.parent, cwd=fork)
    assert ran.returncode == 0, ran.stderr
    executed = Path(ran.stdout.split()[-1])
    (executed.parent / "07_claims.ipynb").write_bytes(executed.read_bytes())
    staged = stage(fork, executed.parent)
    (pattern,) = re.findall(r"glob: (\S+)", (staged / "_toc.yml").read_text())
    names = sorted(path.name for path in staged.glob(pattern))
    assert names == ["07_claims.ipynb", "08_depth.ipynb"]
    checked = command(
        *("verify", "--model", str(model), "--records", "results/smoke"), path=fork.parent, cwd=fork
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(r"08_depth +variances .* ok +computed again", checked.stdout)


def test_a_parameter_that_a_notebook_does_not_have_ends_it_under_papermill(fork, model):
    words = [
        "notebooks/08_depth.ipynb",
        "out.ipynb",
        "-p",
        "model",
        str(model),
        "-p",
        "n_text",
        "5",
    ]
    done = command(*words, module="papermill", path=fork.parent, cwd=fork)
    assert done.returncode == 1
    assert "08_depth has no parameter 'n_text': it has model, profile" in done.stderr


def test_a_further_models_chapters_come_after_under_names_of_their_own(tmp_path):
    (tmp_path / "book").symlink_to(ROOT / "book")
    for name in ("07_claims", "42_new"):
        figure = {"mystnb": {"figure": {"name": "fig-one"}}}
        text = "# A title\n\n$$\nx\n$$ (eq-own)\n\nIn {eq}`eq-own` as in {eq}`eq-avss`."
        cells = [new_markdown_cell(text), new_code_cell("1", metadata=figure)]
        for folder in ("notebooks", "run/main", "run/other"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            if (folder, name) != ("run/other", "07_claims"):
                nbformat.write(new_notebook(cells=cells), tmp_path / folder / f"{name}.ipynb")
    staged = stage(tmp_path, tmp_path / "run" / "main", [tmp_path / "run" / "other"])
    patterns = re.findall(r"glob: (\S+)", (staged / "_toc.yml").read_text())
    found = [sorted(path.name for path in staged.glob(pattern)) for pattern in patterns]
    assert found == [["07_claims.ipynb", "42_new.ipynb"], ["42_new.ipynb"]]
    theirs = nbformat.read(staged / "models" / "other" / "42_new.ipynb", as_version=4)
    assert theirs.cells[0].source == (
        "# A title (other)\n\n$$\nx\n$$ (other-eq-own)\n\n"
        "In {eq}`other-eq-own` as in {eq}`eq-avss`."
    )
    assert theirs.cells[1].metadata["mystnb"]["figure"]["name"] == "other-fig-one"
    ours = nbformat.read(staged / "notebooks" / "42_new.ipynb", as_version=4)
    assert ours.cells[0].source == text
    assert ours.cells[1].metadata["mystnb"]["figure"]["name"] == "fig-one"


def stage(project: Path, executed: Path, others: Sequence[Path] = ()) -> Path:
    """What ``book/build.py`` puts together for the builder."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    build.ROOT = project
    with contextlib.chdir(project):
        build.stage(executed, project / "stage", others)
    return project / "stage"
