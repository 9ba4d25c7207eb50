"""Run folders: key, atomicity, resume, rereading, and what they refuse."""

import getpass
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_run

from avss_utils.commands import cli
from avss_utils.errors import UsageError
from avss_utils.store import run_folder, runs
from avss_utils.store.files import cache_dir, file_sha256, project_root, provenance
from avss_utils.store.records import renew_command, run_key
from avss_utils.store.run_folder import Run
from avss_utils.store.runs import open_record, read_run

NOTEBOOK = "01_avss_pruning"
MODEL = {"short": "tiny", "name": "Tiny", "weights_sha256": "aa", "bos": None, "chat_template": "b"}
DATA = [{"name": "sciq", "sha256": "11"}, {"name": "c4", "sha256": "22"}]
PARAMETERS = {"seed": 0, "eps": 1e-5, "tasks": ["sciq"]}
pytestmark = pytest.mark.usefixtures("project")
COMMAND = f"python -m avss_utils run --notebook {NOTEBOOK} --profile full --model tiny"


def opened(parameters: dict = PARAMETERS, **other) -> Run:
    own = dict(parameters=parameters, model=MODEL, data=DATA, device="cpu, float32")
    return tiny_run(notebook=NOTEBOOK, **own | other)


def recorded(parameters: dict | None = None, **other) -> Run:
    return open_record(
        NOTEBOOK, records="results/full", model="tiny", parameters=parameters, **other
    )


def small_table(factor: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame({"block": [0, 1, 2], "score": np.array([0.1, 0.2, 1 / 3]) * factor})


def finished(**other) -> Run:
    run = opened(**other)
    run.table("scores", small_table)
    return run.finish()


def never() -> pd.DataFrame:
    raise AssertionError("a finished table was computed again")


def interrupted(*_):
    raise KeyboardInterrupt


def folder_of(project: Path) -> Path:
    return project / "results" / "full" / "tiny" / NOTEBOOK


def siblings(project: Path) -> list[str]:
    return sorted(p.name for p in folder_of(project).parent.iterdir())


# key

KEY = run_key(PARAMETERS, MODEL, DATA, 1)


@pytest.mark.parametrize(
    "changed",
    [
        ({**PARAMETERS, "seed": 1}, MODEL, DATA, 1),
        ({**PARAMETERS, "tasks": ["piqa"]}, MODEL, DATA, 1),
        ({**PARAMETERS, "more": 0}, MODEL, DATA, 1),
        (PARAMETERS, {**MODEL, "weights_sha256": "bb"}, DATA, 1),
        (PARAMETERS, {**MODEL, "bos": "added"}, DATA, 1),
        (PARAMETERS, {**MODEL, "chat_template": None}, DATA, 1),
        (PARAMETERS, MODEL, [{"name": "sciq", "sha256": "12"}, DATA[1]], 1),
        (PARAMETERS, MODEL, DATA[:1], 1),
        (PARAMETERS, MODEL, DATA, 2),
    ],
)
def test_whatever_decides_the_numbers_changes_the_key(changed):
    assert run_key(*changed) != KEY


def test_what_decides_no_number_leaves_the_key_alone():
    turned = dict(reversed(PARAMETERS.items()))
    assert run_key(turned, MODEL, DATA, 1) == KEY
    assert run_key({**PARAMETERS, "tasks": ("sciq",)}, MODEL, DATA, 1) == KEY
    assert run_key(PARAMETERS, {**MODEL, "name": "renamed"}, DATA, 1) == KEY
    assert run_key(PARAMETERS, MODEL, [{**d, "source": "hub"} for d in DATA[::-1]], 1) == KEY
    assert len(KEY) == 64


def test_device_commit_and_versions_are_recorded_but_not_keyed():
    first, second = opened().record, opened(device="cuda, bfloat16").record
    assert first["key"] == second["key"] == KEY
    assert (first["device"], second["device"]) == ("cpu, float32", "cuda, bfloat16")


# the folder


def test_the_record_says_what_ran():
    record = json.loads((finished().folder / "run.json").read_text())
    assert record["parameters"] == PARAMETERS
    assert record["model"] == MODEL
    assert record["data"] == DATA
    assert (record["notebook"], record["profile"]) == (NOTEBOOK, "full")
    assert (record["key"], record["collect_version"]) == (KEY, 1)
    assert record["device"] == "cpu, float32"
    assert record["versions"]["numpy"] == np.__version__
    assert record["seconds"].keys() == {"scores"}
    assert record["seconds"]["scores"] >= 0
    noted = record["tables"]["scores"]
    assert siblings(Path.cwd()) == [NOTEBOOK]
    assert noted == {"rows": 3, "sha256": file_sha256(folder_of(Path.cwd()) / "scores.csv")}


def test_the_record_holds_nothing_of_the_machine_or_its_user(project, monkeypatch):
    secrets = {
        "HF_TOKEN": "value-of-a-token",
        "AVSS_DATA_DIR": str(project / "private-data"),
        "AVSS_CACHE": str(project / "private-cache"),
        "USER": "user-name-here",
        "LOGNAME": "user-name-here",
        "HOSTNAME": "host-name-here",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    text = (finished().folder / "run.json").read_text()
    paths = [str(project), str(Path.home()), sys.prefix, str(Path(runs.__file__).parents[2])]
    for value in [*secrets.values(), *secrets, getpass.getuser(), *paths]:
        assert value not in text, value
    assert os.sep + project.name not in text


def test_nothing_stands_under_the_final_name_before_the_end(project):
    run = opened()
    run.table("scores", small_table)
    assert not folder_of(project).exists()
    assert not run.finished
    with pytest.raises(UsageError, match="no record"):
        recorded()
    run.finish()
    assert run.finished
    assert recorded().record["key"] == KEY


def test_a_table_that_fails_leaves_no_finished_looking_file(project):
    run = opened()
    with pytest.raises(ZeroDivisionError):
        run.table("scores", lambda: 1 / 0)
    assert not folder_of(project).exists()
    assert not list(project.rglob("*.csv"))
    with pytest.raises(UsageError, match="no table 'scores'"):
        run.read("scores")


def test_an_interrupted_end_keeps_the_older_run_and_can_be_repeated(project, monkeypatch):
    finished()
    newer = opened({**PARAMETERS, "seed": 1})
    newer.table("scores", lambda: small_table(2.0))

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "replace_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            newer.finish()
    assert recorded(PARAMETERS, collect_version=1).record["parameters"]["seed"] == 0
    again = opened({**PARAMETERS, "seed": 1})
    again.table("scores", never)
    again.finish()
    assert recorded().record["parameters"]["seed"] == 1


def test_a_newer_run_replaces_the_older_one_and_what_an_interrupted_replacement_left(project):
    older = opened()
    older.table("only_older", small_table)
    leftover = older.finish().folder.with_name(f".{NOTEBOOK}.old")
    shutil.copytree(older.folder, leftover)
    newer = finished(parameters={**PARAMETERS, "seed": 1})
    assert sorted(p.name for p in newer.folder.iterdir()) == ["run.json", "scores.csv"]
    assert siblings(project) == [NOTEBOOK]
    assert recorded().record["parameters"]["seed"] == 1


def test_other_profiles_and_models_lie_side_by_side(project):
    finished()
    finished(profile="smoke")
    finished(model={**MODEL, "short": "other"})
    found = sorted(str(p.relative_to(project)) for p in project.rglob("run.json"))
    assert found == [
        f"results/{place}/{NOTEBOOK}/run.json"
        for place in ("full/other", "full/tiny", "smoke/tiny")
    ]


def test_finishing_twice_does_nothing_more(project):
    run = finished()
    before = (run.folder / "run.json").read_bytes()
    assert run.finish() is run
    assert (run.folder / "run.json").read_bytes() == before


# reuse and resume


def test_a_run_of_an_equal_key_is_reused_without_computing_and_of_another_is_not():
    before = (finished().folder / "run.json").read_bytes()
    again = opened()
    assert again.finished
    assert again.table("scores", never).block.tolist() == [0, 1, 2]
    assert again.rows("scores", [1, 2], lambda key: never()).block.tolist() == [0, 1, 2]
    assert (again.finish().folder / "run.json").read_bytes() == before
    assert not opened({**PARAMETERS, "seed": 1}).finished
    assert not opened(collect_version=2).finished
    assert not opened(model={**MODEL, "weights_sha256": "bb"}).finished


def test_a_table_is_computed_once_even_before_the_end():
    opened().table("scores", small_table)
    assert opened().table("scores", never).score.tolist() == [0.1, 0.2, 0.333333333]


def judged(key: str) -> pd.DataFrame:
    return pd.DataFrame({"arm": key, "row_id": [0, 1], "nll": [len(key) / 3, np.nan]})


def interrupted_at(stop: str, asked: list):
    def compute(key):
        asked.append(key)
        if key == stop:
            raise KeyboardInterrupt
        return judged(key)

    return compute


def test_rows_resume_after_the_last_finished_key():
    keys, asked = ["a", "bb", "ccc", "dddd"], []
    with pytest.raises(KeyboardInterrupt):
        opened().rows("answers", keys, interrupted_at("ccc", asked))
    run = opened()
    resumed = run.rows("answers", keys, interrupted_at("", asked))
    assert asked == ["a", "bb", "ccc", "ccc", "dddd"]
    whole = opened({**PARAMETERS, "seed": 1}).rows("answers", keys, interrupted_at("", asked))
    assert asked[5:] == keys  # another run does not go on with the rows of this one
    pd.testing.assert_frame_equal(resumed, whole)
    assert resumed.arm.tolist() == ["a", "a", "bb", "bb", "ccc", "ccc", "dddd", "dddd"]
    run.finish()
    assert sorted(p.name for p in run.folder.iterdir()) == ["answers.parquet", "run.json"]


def test_tables_of_the_same_keys_are_made_key_by_key_together():
    asked = []

    def trained(key):
        asked.append(key)
        if key == "bb" and asked.count("bb") == 1:
            raise KeyboardInterrupt
        return {"costs": pd.DataFrame({"arm": [key], "cost": [len(key)]}), "answers": judged(key)}

    both = ["answers", "costs"]
    with pytest.raises(KeyboardInterrupt):
        opened().rows_together(both, ["a", "bb", "ccc"], trained)
    run = opened()
    found = run.rows_together(both, ["a", "bb", "ccc"], trained)
    assert asked == ["a", "bb", "bb", "ccc"]  # only the key that was not finished is made again
    assert found["costs"].cost.tolist() == [1, 2, 3]
    assert found["answers"].arm.tolist() == ["a", "a", "bb", "bb", "ccc", "ccc"]
    run.finish()
    assert recorded().record["tables"].keys() == {"answers", "costs"}


def test_keys_that_go_together_are_made_in_groups_and_resumed_one_by_one():
    asked = []

    def trained(keys):
        asked.append(list(keys))
        for key in keys:
            if key == "d" and len(asked) == 2:
                raise KeyboardInterrupt
            yield {"costs": pd.DataFrame({"arm": [key]}), "answers": judged(key)}

    both, keys = ["answers", "costs"], list("abcde")
    with pytest.raises(KeyboardInterrupt):
        opened().rows_together(both, keys, trained, at_once=2)
    run = opened()
    found = run.rows_together(both, keys, trained, at_once=3)
    assert asked == [["a", "b"], ["c", "d"], ["d", "e"]]
    assert found["costs"].arm.tolist() == keys
    assert found["answers"].arm.unique().tolist() == keys


def test_seconds_of_resumed_rows_are_those_of_every_stretch(monkeypatch):
    clock = iter(range(1000))
    # a second a part
    monkeypatch.setattr(run_folder.time, "perf_counter", lambda: float(next(clock)))
    with pytest.raises(KeyboardInterrupt):
        opened().rows("answers", ["a", "bb", "ccc"], interrupted_at("ccc", []))
    run = opened()
    run.rows("answers", ["a", "bb", "ccc"], judged)
    run.table("scores", small_table)
    run.finish()
    assert run.record["seconds"] == {"answers": 3.0, "scores": 1.0}


def test_a_run_that_goes_on_elsewhere_names_every_device():
    opened(device="one card").table("scores", small_table)
    opened(device="one card").table("more", small_table)
    run = opened(device="another").finish()
    assert run.record["device"] == "one card, then another"


def test_more_than_ten_keys_keep_their_order():
    keys = [f"arm{i}" for i in range(12)]
    assert opened().rows("answers", keys, judged).arm.unique().tolist() == keys


# a first run and a reread give the same numbers


def awkward() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "number": [1 / 3, 1e-300, -2.5e17],
            "missing": [1.5, np.nan, np.inf],
            "whole": [1, 2, 3],
            "whole_float": [1.0, 2.0, 3.0],
            "flag": [True, False, True],
            "text": ["a, b", "", "NA"],
            "quoted": ['"x"', "line\nbreak", "null"],
            "drop": ["3 4 17", "-", "5"],
        }
    )


def test_first_read_unfinished_reread_and_record_are_the_same_table():
    run = opened()
    first = run.table("t", awkward)
    reread = [run.read("t"), opened().table("t", never)]
    run.finish()
    reread += [run.read("t"), opened().table("t", never), recorded().read("t")]
    for table in reread:
        pd.testing.assert_frame_equal(first, table)


def test_text_survives_and_numbers_keep_nine_digits():
    given, table = awkward(), opened().table("t", awkward)
    for column in ("text", "quoted", "drop"):
        assert table[column].tolist() == given[column].tolist()
    np.testing.assert_allclose(table.number, given.number, rtol=1e-8)
    np.testing.assert_array_equal(table.missing, given.missing)
    assert table.flag.tolist() == [True, False, True]


@pytest.mark.parametrize("make", [small_table, lambda: large_table()])
def test_the_same_run_writes_the_same_bytes(make):
    written = []
    for profile in ("full", "smoke"):
        run = opened(profile=profile)
        run.table("answers", make)
        written.append(run.finish().record["tables"])
    assert written[0] == written[1]


# records


def test_a_record_of_the_same_parameters_is_read_without_model_or_data():
    finished()
    run = recorded(dict(reversed(PARAMETERS.items())), collect_version=1)
    assert run.finished
    assert run.read("scores").block.tolist() == [0, 1, 2]


def edit(name: str, change) -> None:
    path = finished().folder / name
    path.write_bytes(change(path.read_bytes()))


def of_first_edition(content: bytes) -> bytes:
    record = json.loads(content)
    del record["format"]
    record["versions"]["avss_utils"] = "1.0.0"
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("make", "parameters", "version", "match"),
    [
        (lambda: None, None, 0, "there is no record"),
        (finished, {**PARAMETERS, "seed": 1}, 1, "of other parameters"),
        (finished, {"seed": 0}, 1, "of other parameters"),
        (finished, PARAMETERS, 2, "of other parameters"),
        (
            lambda: edit("scores.csv", lambda own: own.replace(b"0.1", b"0.9")),
            *(PARAMETERS, 1, r"scores\.csv is not what the run wrote"),
        ),
        (lambda: (finished().folder / "scores.csv").unlink(), None, 0, "scores is not what the"),
        (
            lambda: edit("run.json", of_first_edition),
            *(PARAMETERS, 1, r"by avss_utils 1\.0\.0, whose tables this version does not read"),
        ),
        *(
            (lambda n=n: cut_short(n), None, 0, r"answers\.parquet is not what the run wrote")
            for n in (0, 100, -1)
        ),
    ],
)
def test_a_record_that_will_not_do_is_refused_with_the_renewing_command(
    make, parameters, version, match
):
    make()
    with pytest.raises(UsageError, match=match) as error:
        recorded(parameters, collect_version=version)
    assert COMMAND in str(error.value)


def test_running_again_really_renews_an_edited_table():
    edit("scores.csv", lambda own: own.replace(b"0.1", b"0.9"))
    with pytest.raises(UsageError, match="is not what the run wrote"):
        recorded()
    again = opened()
    assert not again.finished
    again.table("scores", small_table)
    again.finish()
    assert recorded().read("scores").score[0] == 0.1


def large_table() -> pd.DataFrame:
    return pd.DataFrame({"score": np.random.default_rng(0).random(40_000)})


def cut_short(n: int) -> None:
    run = opened()
    run.table("answers", large_table)
    path = run.finish().folder / "answers.parquet"
    path.write_bytes(path.read_bytes()[:n])


def test_a_large_table_is_parquet_and_reads_bit_by_bit():
    run = opened()
    run.table("answers", large_table)
    run.table("scores", small_table)
    folder = run.finish().folder
    assert sorted(p.name for p in folder.iterdir()) == ["answers.parquet", "run.json", "scores.csv"]
    pd.testing.assert_frame_equal(recorded().read("answers"), large_table(), check_exact=True)
    assert opened().finished


def test_a_record_of_the_first_edition_is_neither_read_nor_reused(project):
    edit("run.json", of_first_edition)
    with pytest.raises(UsageError, match=r"was written by avss_utils 1\.0\.0"):
        read_run(folder_of(project))
    assert not opened().finished


def test_a_table_that_a_record_lacks_is_refused_with_the_renewing_command():
    with pytest.raises(UsageError, match="no table 'nothing'") as error:
        finished().read("nothing")
    assert COMMAND in str(error.value)


def test_the_renewing_command_is_one_the_command_line_understands():
    clause = renew_command({"notebook": NOTEBOOK, "profile": "full", "model": {"short": "tiny"}})
    words = shlex.split(clause.split("`")[1])
    assert words[:3] == ["python", "-m", "avss_utils"]
    parsed = cli._parser().parse_args(words[3:])
    assert (parsed.notebook, parsed.profile, parsed.model) == ([NOTEBOOK], "full", "tiny")


# where things are


def test_the_project_is_the_nearest_folder_with_notebooks_and_params_or_else_this_one(
    project, monkeypatch
):
    deep = project / "notebooks" / "deeper"
    deep.mkdir()
    monkeypatch.chdir(deep)
    assert project_root() == project
    finished()
    assert (folder_of(project) / "run.json").exists()
    monkeypatch.chdir("/")
    assert project_root() == Path("/")


def test_cache_dir_follows_the_environment(project, monkeypatch):
    monkeypatch.setenv("AVSS_CACHE", str(project / "own"))
    assert cache_dir() == project / "own"
    monkeypatch.delenv("AVSS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / "xdg"))
    assert cache_dir() == project / "xdg" / "avss_utils"


def git(*words: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *settings, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_recorded_and_says_when_files_differ_from_it(project, monkeypatch):
    assert provenance("cpu")["commit"] is None
    git("init", "-q")
    (project / "a.txt").write_text("one")
    (project / "results").mkdir(exist_ok=True)
    (project / "results" / "record.csv").write_text("1")
    git("add", "a.txt", "results/record.csv")
    assert provenance("cpu")["commit"] is None
    monkeypatch.setenv("AVSS_COMMIT", "abc123")  # a copy without its history can be told
    assert provenance("cpu")["commit"] == "abc123"
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert provenance("cpu")["commit"] == head
    (project / "untracked.txt").write_text("no matter")
    assert provenance("cpu")["commit"] == head
    (project / "results" / "record.csv").unlink()
    assert provenance("cpu")["commit"] == head
    (project / "a.txt").write_text("two")
    assert provenance("cpu")["commit"] == head + "+changes"
