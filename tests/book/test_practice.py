"""The practitioner's page: its commands and its code do what it says, here on a tiny model."""

import csv
import re
import shlex
from pathlib import Path

import pytest
from tiny import FAMILIES, tiny_tokenizer

from avss_utils.commands import cli
from avss_utils.store import notebooks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "practice.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
SMALL = {
    "score": "--texts 4 --length 16",
    "prune": "--texts 4 --length 16",
    "evaluate": "--questions 4 --tokens 64 --context 32",
    "mitigate": "--steps 2",
    "run": "",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Deep enough for the blocks that the page names."""
    folder = tmp_path_factory.mktemp("practice") / "model"
    FAMILIES["llama"](16, vocab_size=300).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with the file that the page's commands name."""
    monkeypatch.chdir(tmp_path)
    with open("questions.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer", "distractors"])
        rows.writerows((f"Number {i}?", 2 * i, 2 * i + 1) for i in range(48))
    return tmp_path


def test_the_page_has_a_command_for_every_step():
    assert {shlex.split(command)[3] for command in COMMANDS} == SMALL.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_on_a_tiny_model(command, model, here, monkeypatch, capsys):
    executed = []
    monkeypatch.setattr(notebooks, "execute", lambda *a, **_: executed.append(a))
    if " run " in command:  # its notebook takes minutes: this is what it would be started with
        monkeypatch.chdir(ROOT)
    python, dash, module, name, *words = shlex.split(command)
    assert (python, dash, module) == ("python", "-m", "avss_utils")
    small = "--prompt plain" if "--questions" in words and name == "score" else SMALL[name]
    assert cli.main([name, *words, *small.split(), "--model", model]) == 0
    assert capsys.readouterr().out
    if "--out" in words:
        assert any((here / words[words.index("--out") + 1]).glob("*.safetensors"))
    assert [own[0] for own in executed] == ["04_pruning_thresholds"] * (name == "run")


def test_the_code_finds_the_auroc_of_a_probe_at_every_block(model, here, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(code.replace("smollm2-135m", model), {})
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["block", "auroc", "low", "high", "n", "set"]
    assert len(rows) == 17
