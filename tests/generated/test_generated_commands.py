"""Parameters, records and command lines, spoilt: what they ask for is done, or one sentence."""

import io
import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hostile import (
    TEXTS,
    VALUES,
    as_bytes,
    command,
    examples,
    or_refused,
    spoilt,
    spoilt_bytes,
    spoilt_words,
)
from hypothesis import given
from hypothesis import strategies as st
from test_bad_input import by_hand
from tiny import tiny_run

from avss_utils.commands import cli, verify
from avss_utils.store import notebooks
from avss_utils.store.notebooks import default_parameters, notebook_parameters
from avss_utils.store.records import own_files, read_record

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "01_avss_pruning"
DEFAULTS = default_parameters(ROOT / "notebooks" / f"{NOTEBOOK}.ipynb")
SMOKE = yaml.safe_load((ROOT / "params" / "smoke.yml").read_text())


# parameters


@examples(200)
@given(data=st.data())
def test_a_parameter_set_by_hand_is_passed_on_or_refused(place, data):
    name = data.draw(st.sampled_from(sorted(DEFAULTS)) | TEXTS)
    near = [DEFAULTS.get(name), SMOKE[NOTEBOOK].get(name), [], "a", 3]
    value = data.draw(st.sampled_from(near) | VALUES)
    text = data.draw(spoilt_bytes(as_bytes(value), most=1)).decode("utf-8", "surrogateescape")
    passed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "execute", lambda *given, **_: passed.append(given))
        words = ["run", "--notebook", NOTEBOOK, "--profile", "smoke", "--model", "model"]
        said = command([*words, "--set", f"{name}={text}"], place=place)
    if said.code:
        whole = text.encode("utf-8", "surrogateescape") == as_bytes(value)
        assert (name, value) not in SMOKE[NOTEBOOK].items() or not whole
        return
    ((_, _, parameters),) = passed
    try:
        asked = json.loads(text)
    except ValueError:
        asked = text
    assert parameters[name.partition("=")[0]] == asked
    check_ranges(parameters)


def check_ranges(parameters: dict) -> None:
    """Every parameter has the type of its default; numbers are finite, texts can be written."""
    assert parameters.keys() == DEFAULTS.keys()
    for name, value in parameters.items():
        kinds = (int, float) if isinstance(DEFAULTS[name], float) else type(DEFAULTS[name])
        assert isinstance(value, kinds), name
        for item in value if isinstance(value, list) else [value]:
            assert not isinstance(item, float) or 0 < item < math.inf, name
            str(item).encode()


@pytest.fixture
def profile(tmp_path, monkeypatch) -> Path:
    """The file of a profile in a project of its own."""
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    (tmp_path / "params").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params" / "smoke.yml"


@examples(100)
@given(data=st.data())
def test_a_profile_is_what_it_says_or_refused(profile, data):
    good = {NOTEBOOK: SMOKE[NOTEBOOK], "models": {"tiny": {NOTEBOOK: {"seed": 7}}}}
    content = data.draw(spoilt(good))
    text = yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")
    text = data.draw(spoilt_bytes(text, most=1))
    profile.write_bytes(text)
    parameters = or_refused(notebook_parameters, NOTEBOOK, "smoke", {}, model="tiny")
    if parameters is None:
        assert content != good or text != yaml.safe_dump(good).encode()
        return
    said = yaml.safe_load(text) or {}
    own = ((said.get("models") or {}).get("tiny") or {}).get(NOTEBOOK) or {}
    assert parameters == DEFAULTS | (said.get(NOTEBOOK) or {}) | own
    check_ranges(parameters)


# records


@pytest.fixture(scope="module")
def run_folder(place) -> Path:
    """The folder of a finished run of one table."""
    run = tiny_run("results")
    run.table("numbers", lambda: pd.DataFrame({"x": [1, 2], "name": ["a", "nan"]}))
    return run.finish().folder


@examples(250)
@given(data=st.data())
def test_a_record_is_read_or_refused(place, run_folder, data):
    good = json.loads((run_folder / "run.json").read_text())
    record = data.draw(spoilt(good))
    content = data.draw(spoilt_bytes(as_bytes(record), most=data.draw(st.integers(0, 1))))
    other = place.here / "other"
    shutil.copytree(run_folder, other, dirs_exist_ok=True)
    (other / "run.json").write_bytes(content)
    found = or_refused(read_record, other)
    assert found is None or as_bytes(found) == as_bytes(json.loads(content.decode()))
    assert set(own_files(other)) <= {"run.json"} | {
        f"{name}{end}" for name in (found or {}).get("tables") or {} for end in (".csv", ".parquet")
    }
    said = command(["compare", str(run_folder), str(other)], place=place)
    assert said.code or found is not None
    if content == as_bytes(good):
        assert said.out.count("(nothing)") == 2


@examples(60)
@given(data=st.data())
def test_a_table_that_is_not_the_records_is_refused(place, run_folder, data):
    other = place.here / "other"
    shutil.copytree(run_folder, other, dirs_exist_ok=True)
    shutil.copy(run_folder / "run.json", other)
    good = (run_folder / "numbers.csv").read_bytes()
    content = data.draw(spoilt_bytes(good))
    (other / "numbers.csv").write_bytes(content)
    said = command(["compare", str(run_folder), str(other)], place=place)
    assert said.code == (0 if content == good else 2)


# command lines

LINES = ["The quick brown fox jumps.", "Dogs?", "Which of these is the answer?"]
COMMANDS = {
    "score": "score --model model --calibration texts.txt --texts 2 --length 64 --eps 1e-5",
    "evaluate": "evaluate --model model --tasks questions.csv --text-sets texts.txt --drop 1",
    "prune": "prune --model model --calibration texts.txt --texts 2 --drop-ratio 0.25 --out out",
    "answers": "score --model model --questions questions.csv --prompt plain --new-tokens 4",
    "run": f"run --notebook {NOTEBOOK} --profile smoke --model model --set seed=1 eps=0.1",
    "compare": "compare results/full/tiny/01_x results/full/tiny/01_x",
    "assets": "assets --model model --wheels",
    "verify": "verify --model other --records results/full --keys 2",
}
WORDS = st.sampled_from(
    [
        *("--model", "--texts", "--out", "--drop", "--tasks", "--device", "--seed", "--criterion"),
        *("--length", "--wording", "--answers", "--context", "--results", "--records", "--set"),
        *("--prompt", "--new-tokens", "few-shot", "chat"),
        *("cpu", "meta", "cuda:9", "spread", "plain", "tail", "eavss", "avss:contiguous", "random"),
        *("questions.csv", "texts.txt", "model", "model/config.json", "none.gguf", "own.txt"),
        *(
            ".",
            "..",
            "deep/er",
            "texts.txt/x",
            "-",
            "--",
            "1e-400",
            "1e400",
            "0 0",
            "0 1 2 3",
            "x=1",
        ),
        *("3", "64", "2147483647", "2147483648", "9" * 400, "a/b", "a/b@c", "taylor", "greedy"),
    ]
)
ARGUMENTS = WORDS | TEXTS.filter(lambda text: "\x00" not in text)  # no shell passes it


@pytest.fixture(scope="module")
def lines(place) -> Path:
    """Texts and questions in the working folder."""
    (place.here / "texts.txt").write_text("\n\n".join(LINES))
    rows = [f"What is {i}?,answer {i},wrong {i} | other {i}\n" for i in range(6)]
    (place.here / "questions.csv").write_text("question,answer,distractors\n" + "".join(rows))
    return place.here


def tidied(folder: Path, before: set[Path]) -> None:
    """Take away what a finished command has made."""
    for made in set(folder.iterdir()) - before:
        shutil.rmtree(made) if made.is_dir() else made.unlink()


def check_scores(words: list[str], out: str, model: Path) -> None:
    """What `score` has printed, where it was asked for AVSS of whole texts, is computed again."""
    asked = cli._parser().parse_args(words)
    own = (asked.criterion, asked.eps, asked.calibration) == ("avss", 1e-5, "texts.txt")
    if own and asked.questions is None and asked.length >= 64:
        scores = pd.read_csv(io.StringIO(out)).score.to_numpy()
        expected = by_hand(model, LINES[: asked.texts], False)["scores"]
        assert scores == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", list(COMMANDS))
@examples(40)
@given(data=st.data())
def test_a_command_line_is_done_or_refused(place, lines, run_folder, name, data):
    words = data.draw(spoilt_words(COMMANDS[name].split(), values=ARGUMENTS))
    before = set(lines.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "execute", lambda *given, **_: "executed")
        patch.setattr(verify, "execute", lambda *given, **_: pytest.fail("a notebook was run"))
        said = command(words, place=place)
    tidied(lines, before)
    if words[0] == "score" and said.code == 0 and "--help" not in words:
        check_scores(words, said.out, place.model)
