"""Parameters of notebooks and profiles, the stored notebooks themselves, and strict execution."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from avss_utils.errors import UsageError
from avss_utils.models.embedded import EMBEDDED
from avss_utils.store import notebooks
from avss_utils.store.notebooks import (
    PROFILES,
    check_parameters,
    default_parameters,
    execute,
    notebook_names,
    notebook_parameters,
    notebook_path,
    read_profile,
    within,
)
from avss_utils.store.outputs import LIST

ROOT = Path(__file__).parents[2]
STORED = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMS = [ROOT / "params" / f"{profile}.yml" for profile in PROFILES]

DEFAULTS = """
# a comment
model = "tiny"
n_rows = 3
eps = 1e-5
shown = False
arms = ["a", "b"]
"""


KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def write(path: Path, *cells: str, parameters: str | None = DEFAULTS) -> Path:
    made = [new_markdown_cell("# A title")]
    if parameters is not None:
        made.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [new_code_cell(source) for source in cells]
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": KERNEL}), path)
    return path


@pytest.fixture
def with_notebook(project) -> Path:
    """A project with one notebook and three profiles, which is the working directory."""
    (project / "params" / "smoke.yml").write_text("01_tiny:\n  n_rows: 1\n")
    (project / "params" / "quick.yml").write_text("01_tiny: {}\n")
    (project / "params" / "full.yml").write_text("other:\n  n_rows: 9\n")
    write(project / "notebooks" / "01_tiny.ipynb", "print(n_rows * 1000 + 7)")
    return project


# the parameters cell


@pytest.mark.parametrize(
    "line",
    [
        "n_rows: int = 3",
        "n_rows, m_rows = 3, 4",
        "n_rows = 2 * 3",
        "n_rows = other",
        "import os",
        "settings.n_rows = 3",
        "def f():\n    pass",
    ],
)
def test_anything_but_plain_literals_is_refused(tmp_path, line):
    path = write(tmp_path / "a.ipynb", parameters=f"model = 'x'\n{line}")
    with pytest.raises(UsageError, match=r"a\.ipynb: the parameters cell may hold"):
        default_parameters(path)


def test_a_notebook_needs_exactly_one_parameters_cell(tmp_path):
    with pytest.raises(UsageError, match="it has 0"):
        default_parameters(write(tmp_path / "a.ipynb", parameters=None))
    twice = nbformat.read(write(tmp_path / "b.ipynb"), as_version=4)
    twice.cells.append(new_code_cell("x = 1", metadata={"tags": ["parameters"]}))
    nbformat.write(twice, tmp_path / "b.ipynb")
    with pytest.raises(UsageError, match="it has 2"):
        default_parameters(tmp_path / "b.ipynb")


# overlaying parameters


def test_given_parameters_overlay_the_defaults(tmp_path):
    path = write(tmp_path / "a.ipynb")
    given = {"n_rows": 5, "arms": [], "shown": True, "model": "x", "eps": 0.5}
    assert check_parameters(path, given) == given
    assert check_parameters(path, {"n_rows": 5}) == {**default_parameters(path), "n_rows": 5}
    assert check_parameters(path, {"eps": 1})["eps"] == 1
    assert check_parameters(path, {}) == {
        "model": "tiny",
        "n_rows": 3,
        "eps": 1e-5,
        "shown": False,
        "arms": ["a", "b"],
    }


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    path = write(tmp_path / "a.ipynb")
    with pytest.raises(UsageError, match="a has no parameter 'n_row': it has model, n_rows, eps"):
        check_parameters(path, {"n_row": 5})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_rows", True),
        ("n_rows", 3.0),
        ("eps", True),
        ("shown", 1),
        ("model", 3),
        ("arms", "a"),
        ("arms", ("a",)),
    ],
)
def test_a_wrong_type_is_refused(tmp_path, name, value):
    with pytest.raises(UsageError, match=f"parameter '{name}' of a must be a"):
        check_parameters(write(tmp_path / "a.ipynb"), {name: value})


def test_a_profile_overlays_the_defaults_and_is_overlaid(with_notebook):
    assert notebook_parameters("01_tiny", "quick", {})["n_rows"] == 3
    assert notebook_parameters("01_tiny", "smoke", {})["n_rows"] == 1
    assert notebook_parameters("01_tiny", "smoke", {"n_rows": 8})["n_rows"] == 8
    assert notebook_parameters("01_tiny", "full", {})["n_rows"] == 3  # not listed there


def test_a_profile_can_give_one_model_other_sizes(with_notebook):
    own = "models:\n  large:\n    01_tiny: {n_rows: 2}\n"
    (with_notebook / "params" / "smoke.yml").write_text("01_tiny: {n_rows: 1, eps: 0.5}\n" + own)
    assert read_profile("smoke", "01_tiny") == {"n_rows": 1, "eps": 0.5}
    assert read_profile("smoke", "01_tiny", "large") == {"n_rows": 2, "eps": 0.5}
    assert notebook_parameters("01_tiny", "smoke", {}, model="large")["n_rows"] == 2
    assert notebook_parameters("01_tiny", "smoke", {"n_rows": 8}, model="large")["n_rows"] == 8


@pytest.mark.parametrize("content", ["[1, 2", "- a\n- b\n", "01_tiny: 5\n", "01_tiny: [1]\n"])
def test_a_broken_profile_is_refused_by_its_file(with_notebook, content):
    (with_notebook / "params" / "smoke.yml").write_text(content)
    with pytest.raises(UsageError, match=r"smoke\.yml must give each notebook its param") as raised:
        read_profile("smoke", "01_tiny")
    assert "\n" not in str(raised.value)


def test_an_unknown_profile_or_notebook_is_refused_with_the_known_ones(with_notebook):
    with pytest.raises(UsageError, match="unknown profile 'fast': choose from smoke, quick, full"):
        read_profile("fast", "01_tiny")
    with pytest.raises(UsageError, match="unknown notebook '02_tiny': choose from 01_tiny"):
        notebook_path("02_tiny")
    with pytest.raises(UsageError, match="no parameter 'rows'"):
        notebook_parameters("01_tiny", "smoke", {"rows": 1})


def test_only_numbered_notebooks_are_the_projects(with_notebook):
    write(with_notebook / "notebooks" / "draft.ipynb")
    write(with_notebook / "notebooks" / "00_first.ipynb")
    assert notebook_names() == ["00_first", "01_tiny"]


# execution


def test_execution_uses_the_parameters_and_writes_the_finished_notebook(with_notebook):
    output = with_notebook / "_build" / "tiny" / "01_tiny.ipynb"
    assert execute("01_tiny", output, {"n_rows": 5}, timeout=60) == output
    cells = nbformat.read(output, as_version=4).cells
    assert cells[-1].outputs[0].text == "5007\n"
    assert [p.name for p in output.parent.iterdir()] == ["01_tiny.ipynb"]
    stored = nbformat.read(notebook_path("01_tiny"), as_version=4)
    assert stored.cells[-1].outputs == []


def test_a_failed_run_leaves_no_file_that_looks_finished(with_notebook):
    output = with_notebook / "_build" / "01_tiny.ipynb"
    output.parent.mkdir()
    output.write_text("of an earlier run")
    write(
        with_notebook / "notebooks" / "01_tiny.ipynb", "print('reached')\n1 / 0", "print('after')"
    )
    with pytest.raises(UsageError, match=r"ZeroDivisionError: division by zero; .*01_tiny\.failed"):
        execute("01_tiny", output, {}, timeout=60)
    assert [p.name for p in output.parent.iterdir()] == ["01_tiny.failed.ipynb"]
    text = (output.parent / "01_tiny.failed.ipynb").read_text()
    assert "reached" in text
    assert "ZeroDivisionError" in text


def test_a_killed_run_stands_in_the_way_of_no_later_one(with_notebook):
    output = with_notebook / "elsewhere" / "01_tiny.ipynb"  # not in _build, where all is ours
    write(with_notebook / "notebooks" / "01_tiny.ipynb", "import time", "time.sleep(60)")
    words = "import sys; from pathlib import Path; from avss_utils.store.notebooks import execute;"
    words += "execute('01_tiny', Path(sys.argv[1]), {}, timeout=90)"
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, "-c", words, output], env=paths, start_new_session=True)
    while not (output.parent.is_dir() and list(output.parent.glob("*.ipynb"))):
        assert run.poll() is None
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    write(with_notebook / "notebooks" / "01_tiny.ipynb", "print('done')")
    execute("01_tiny", output, {}, timeout=60)
    assert {p.name for p in output.parent.iterdir()} == {"01_tiny.ipynb", LIST}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import time\ntime.sleep(30)", "longer than 2 s: give more with --timeout"),
        ("from avss_utils.errors import UsageError\nraise UsageError('fix this')", "^fix this$"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "kernel of 01_tiny died"),
        ("raise OSError(28, 'No space left on device')", "No space left on device"),
    ],
)
def test_what_fails_inside_a_notebook_is_one_sentence_outside(with_notebook, code, sentence):
    write(with_notebook / "notebooks" / "01_tiny.ipynb", code)
    output = with_notebook / "_build" / "01_tiny.ipynb"
    with pytest.raises(UsageError, match=sentence) as raised:
        execute("01_tiny", output, {}, timeout=2 if "sleep" in code else 60)
    assert "\n" not in str(raised.value)
    assert not output.exists()


@pytest.mark.parametrize("parameters", [{"n_row": 5}, {"n_rows": "5"}])
def test_wrong_parameters_are_refused_before_the_start(with_notebook, monkeypatch, parameters):
    import papermill

    def started(*_, **__):
        raise AssertionError("papermill was started")

    monkeypatch.setattr(papermill, "execute_notebook", started)
    with pytest.raises(UsageError):
        execute("01_tiny", with_notebook / "_build" / "01_tiny.ipynb", parameters, timeout=60)
    assert not (with_notebook / "_build").exists()


# the notebooks and profiles of this project


@pytest.fixture
def at_root(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


def code(path: Path) -> list[str]:
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_a_stored_notebook_is_numbered_valid_and_in_python_without_outputs(path, at_root):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stem in notebook_names()
    # papermill refuses parameters for a notebook that does not name its language
    assert notebook.metadata.kernelspec.language == "python"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_a_stored_notebook_has_the_parameters_of_all_and_defines_no_function(path):
    assert {"model", "profile", "results", "records"} <= default_parameters(path).keys()
    nodes = [node for source in code(path) for node in ast.walk(ast.parse(source))]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert [node.name for node in nodes if isinstance(node, kinds)] == []


def test_a_figure_has_a_name_of_its_own_in_the_whole_book():
    cells = [cell for path in STORED for cell in nbformat.read(path, as_version=4).cells]
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in cells]
    names = [figure["name"] for figure in figures if figure]
    assert len(names) > 20
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_a_cell_that_draws_has_a_caption_and_says_in_words_what_it_shows(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "figures.panels(" in cell.source:
            about = cell.metadata.get("mystnb", {})
            assert about.get("figure", {}).get("caption"), cell.id
            assert about.get("image", {}).get("alt"), cell.id


def profile_parts(path: Path) -> list[tuple[str, str, dict]]:
    """(model, notebook, parameters) of a profile; the model is empty where they are for all."""
    content = yaml.safe_load(path.read_text())
    models = content.pop("models", {})
    assert set(models) <= set(EMBEDDED)
    sections = {"": content, **models}
    return [(model, *part) for model, own in sections.items() for part in own.items()]


@pytest.mark.parametrize("path", PARAMS, ids=lambda p: p.stem)
def test_a_profile_names_existing_notebooks_and_changes_only_what_it_must(path, at_root):
    for model, name, own in profile_parts(path):
        assert name in notebook_names()
        default = default_parameters(notebook_path(name))
        checked = notebook_parameters(name, path.stem, {}, model=model)
        assert checked.keys() == default.keys()
        without = default | (read_profile(path.stem, name) if model else {})
        # tokens of a batch are a matter of the profile's machine, the rest of the caller's
        assert set(own or {}) & (set(notebooks.LOCATION) - {"batch_tokens"}) == set()
        for parameter, value in (own or {}).items():
            assert checked[parameter] == value != without[parameter]
            if isinstance(value, list):
                kinds = {type(v) for v in default[parameter] or [""]}
                assert {type(v) for v in value} <= kinds, parameter


# a notebook that was opened alone, as on Colab

REPOSITORY = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())
REPOSITORY = REPOSITORY["parse"]["myst_substitutions"]["repository_url"]


def first_cell(path: Path = STORED[0]) -> str:
    return code(path)[0]


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_the_first_code_cell_is_the_same_everywhere_and_not_in_the_book(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert cells[0].source == first_cell()
    assert cells[0].metadata.tags == ["remove-cell"]
    assert "parameters" in cells[1].metadata.tags


@pytest.fixture
def commands(tmp_path, monkeypatch) -> list[str]:
    """What the shell is asked for; the project is there afterwards, in the working directory."""
    asked = []

    def run(command: str, *, shell: bool, check: bool) -> None:
        assert (shell, check) == (True, True)
        asked.append(command)
        (tmp_path / "avss-book").mkdir(exist_ok=True)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_first_cell_fetches_the_project_once_and_enters_it(commands, tmp_path, monkeypatch):
    assert first_cell().count("https:") == 1
    exec(first_cell(), {})  # the package is there
    assert commands == []
    assert list(tmp_path.iterdir()) == []
    assert Path.cwd() == tmp_path
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(first_cell(), {})
    (command,) = commands
    assert command.startswith(f"test -d avss-book || git clone --depth=1 {REPOSITORY} avss-book")
    assert command.endswith("&& bash avss-book/binder/postBuild")
    assert Path.cwd() == tmp_path / "avss-book"
    # after a restart of the session the package is there, and the project is entered again
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    exec(first_cell(), {})
    assert Path.cwd() == tmp_path / "avss-book"


def test_what_a_hosted_machine_runs_installs_the_package_and_its_assets(tmp_path, monkeypatch):
    """``binder/postBuild`` from anywhere, with a python that only says what it was asked."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PWD $@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    done = subprocess.run([script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"{ROOT} -m pip install --quiet .",
        f"{ROOT} -m pip install --quiet --no-deps --require-hashes -r assets.lock",
        f"{ROOT} -m avss_utils assets",
    ]


def test_binder_has_the_locked_set_and_the_environments_python():
    folder = ROOT / "binder"
    (lock,) = re.findall(r"^-r (.*)$", (folder / "requirements.txt").read_text(), re.MULTILINE)
    assert (folder / lock).resolve() == ROOT / "requirements.lock"
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    wanted = (folder / "runtime.txt").read_text().strip()
    assert wanted.replace("-", "=") in conda


def test_lengths_of_a_profile_fit_into_the_model_and_given_ones_stay():
    asked = {"context": 512, "calibration_length": 64, "length": 512, "arms": ["avss"]}
    assert within(asked, lambda: 128, {}) == {**asked, "context": 128}
    assert within(asked, lambda: 128, {"context": 512}) == asked
    assert within(asked, lambda: None, {}) == asked

    def never():
        raise AssertionError("there is no length to fit")

    assert within({"length": 512}, never, {}) == {"length": 512}


def test_every_length_that_a_model_reads_is_fitted():
    lengths = {
        name
        for path in STORED
        for name, value in default_parameters(path).items()
        if re.search("length|context", name) and type(value) is int
    }
    # the length of what is trained: 06's of models made for it, 05's within every model
    assert lengths - {"length"} == set(notebooks.TEXT_LENGTHS)


EVERY = {path.stem: default_parameters(path) for path in STORED}
WRONG = {
    int: [-5, True, 0.5, "3", None, float("nan"), 2**40],
    float: [-1, 0, True, "1", None, float("nan"), float("inf"), 10**400],
    str: [5, True, None, "two\nlines", "nothing\0"],
    list: ["text", None, [None], [True], [float("nan")], [["x"]]],
}


@pytest.mark.parametrize("notebook", EVERY)
def test_every_parameter_of_every_notebook_refuses_what_it_cannot_be(notebook):
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    for name, default in EVERY[notebook].items():
        for value in WRONG[type(default)]:
            with pytest.raises(UsageError, match=f"{name!r} of {notebook} must be "):
                check_parameters(path, {name: value})
        of_numbers = isinstance(default, list) and default and not isinstance(default[0], str)
        for value in (-1, 0, float("inf")) if of_numbers else ():
            with pytest.raises(UsageError, match=f"{name!r} of {notebook} must be "):
                check_parameters(path, {name: [value]})
        assert check_parameters(path, {name: default})[name] == default
