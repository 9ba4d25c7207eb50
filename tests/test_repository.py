"""The house rules that a file can break without breaking the code."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from avss_utils.commands.cli import main
from avss_utils.commands.rooms import drawn, imports, purposes

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "avss_utils").rglob("*.py"))

# A room imports from itself and from the rooms named; everything but stats may show things.
BASE = {"errors", "stats", "store"}
LINE = ["models", "data", "measure", "scores", "chapters", "claims", "commands"]
ARROWS = {"errors": set(), "stats": {"errors"}, "store": {"errors"}, "show": BASE, "models": BASE}
ARROWS |= {room: {*BASE, "show", *LINE[:number]} for number, room in enumerate(LINE) if number}


def _room(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT / "avss_utils").with_suffix("").parts


def _imports(path: Path) -> set[tuple[str, ...]]:
    """Modules of the project that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avss_utils"):
            parts = tuple(node.module.split(".")[1:])
            found |= {(*parts, alias.name) for alias in node.names}
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith("avss_utils.")]
            found |= {tuple(name.split(".")[1:]) for name in names}
    return {parts for parts in found if parts != ("__version__",)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_go_one_way(path):
    room, *rest = _room(path)
    if room.startswith("__"):
        return
    upward = {parts for parts in _imports(path) if parts[0] not in ARROWS[room] | {room}}
    assert not upward, f"{room} may import {sorted(ARROWS[room])} alone, not {upward}"
    if room == "chapters" and len(rest) > 1:
        others = {p for p in _imports(path) if p[0] == room and p[1] not in (rest[0], "opening")}
        assert not others, f"a chapter imports another: {others}; what two need moves down"


def test_who_reads_a_record_waits_for_no_class_of_models():
    """transformers' take three seconds to import, in the kernel of every notebook of the book."""
    rooms = "avss_utils.claims, avss_utils.chapters.pruning, avss_utils.chapters.hallucination"
    code = f"import sys, {rooms}; print('transformers.modeling_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_map_shows_what_the_code_imports():
    assert f"```mermaid\n{drawn()}\n```" in (ROOT / "CONTRIBUTING.md").read_text()
    assert {(a, b) for a, b in imports() if b not in ARROWS[a]} == set()


def test_help_says_what_each_room_is_for(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for room, text in purposes().items():
        assert f"{room:<9} {text}" in shown


def test_there_are_no_more_rooms_than_arrows():
    rooms = {_room(path)[0] for path in MODULES}
    assert {room for room in rooms if not room.startswith("__")} == set(ARROWS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_functions_are_short_and_public_ones_documented(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 50, f"{node.name} has {length} lines"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _all_dependencies() -> list[str]:
    project = _project()
    extras = project["optional-dependencies"].values()
    return project["dependencies"] + [d for extra in extras for d in extra]


def test_environment_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert sorted(pip) == sorted(_all_dependencies())


def test_lock_pins_every_dependency_inside_its_range():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    normal = {re.sub(r"[-_.]+", "-", name): version for name, version in pins.items()}
    for text in _all_dependencies():
        requirement = Requirement(text)
        version = normal[re.sub(r"[-_.]+", "-", requirement.name.lower())]
        assert requirement.specifier.contains(version), text
    assert not re.search(r"[+@]", "".join(pins.values())), "no build tags or addresses in the lock"


def test_make_help_names_every_target():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"\.PHONY: (.*)", text).group(1).split()
    documented = re.findall(r"^([a-z]+):.*## ", text, flags=re.M)
    assert sorted(phony) == sorted(documented)


WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}


def _steps() -> list[dict]:
    jobs = [job for workflow in WORKFLOWS.values() for job in workflow["jobs"].values()]
    return [step for job in jobs for step in job["steps"]]


def test_workflows_run_the_readmes_commands():
    readme = (ROOT / "README.md").read_text()
    for command in (step["run"] for step in _steps() if "run" in step):
        assert command in readme, f"the README does not name {command!r}"


def test_workflows_may_do_no_more_than_they_need():
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] == {"contents": "read"}
    jobs = {f"{w}.{name}": j for w, own in WORKFLOWS.items() for name, j in own["jobs"].items()}
    raised = {name: job["permissions"] for name, job in jobs.items() if "permissions" in job}
    assert raised == {"book.deploy": {"pages": "write", "id-token": "write"}}
    assert all("timeout-minutes" in job for job in jobs.values())
    checkouts = [s for s in _steps() if s.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == 2
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_the_book_is_published_from_main_alone():
    book = WORKFLOWS["book"]
    triggers = book[True]  # YAML 1.1 reads "on" as a truth value
    assert triggers["push"] == {"branches": ["main"]}
    assert set(triggers) == {"push", "workflow_dispatch"}
    assert book["jobs"]["build"]["if"] == "github.ref == 'refs/heads/main'"
    assert book["jobs"]["deploy"]["needs"] == "build"


def test_an_action_has_one_version_everywhere():
    used = {step["uses"] for step in _steps() if "uses" in step}
    names = [name.partition("@")[0] for name in used]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in used)
