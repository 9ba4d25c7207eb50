"""Outputs: what is checked before the work, one writer, and files that stay."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from avss_utils.errors import UsageError
from avss_utils.store.outputs import (
    LIST,
    check_file,
    check_folder,
    claimed,
    claimed_file,
    listed,
    note_file,
    whole_folder,
)

MARK = "made.json"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def fill(folder: Path | str = "out", **files: str) -> None:
    with whole_folder(folder, mark=MARK) as working:
        for name, text in {MARK.removesuffix(".json"): "{}", **files}.items():
            (working / f"{name}.json").write_text(text)


def names(folder: str = ".") -> list[str]:
    return sorted(os.listdir(folder))


# the place


def test_places_that_can_hold_nothing_are_refused_and_left_as_they_are(here):
    Path("file").write_text("mine")
    Path("loop").symlink_to("loop")
    (here / "inner" / "deep").mkdir(parents=True)
    for place, words in {
        "file": "is a file",
        "file/deeper": "can hold no folder",
        "loop": "is no path",
        "a\0b": "is no path",
        ".": "the folder that you work in",
        "..": "the folder that you work in",
        "/": "the folder that you work in",
        "~nobody-here/x": "home folder",
    }.items():
        with pytest.raises(UsageError, match=words) as caught, claimed(place, mark=MARK):
            raise AssertionError(place)
        assert "\n" not in str(caught.value)
    assert names() == ["file", "inner", "loop"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_may_not_be_written_is_refused(here):
    (here / "closed").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="may not be written"):
        check_folder("closed/out")


def test_a_place_that_the_system_says_is_closed_is_refused(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="may not be written"):
        check_folder("out")


def test_home_and_links_are_followed(here):
    fill("~/deep/out")
    assert names("home/deep/out") == [LIST, MARK]
    Path("link").symlink_to("home/deep/out")
    fill("link", more="1")
    assert Path("link").is_symlink()
    assert names("home/deep/out") == [LIST, MARK, "more.json"]
    assert names("home/deep") == ["out"]


def test_what_fails_leaves_neither_folder_nor_parents(here):
    Path("kept").mkdir()
    for place in ("a/b/out", "kept/b/out"):
        with pytest.raises(TypeError):
            fill(place, half=None)
    assert names() == ["kept"]
    assert names("kept") == []


# whose files


def test_what_the_tool_wrote_is_replaced_and_the_users_own_stays():
    fill(first="1", both="1")
    Path("out/notes").mkdir()
    Path("out/notes/thesis.tex").write_text("mine")
    Path("out/second.json").write_text("mine")
    fill(both="2", second="2")
    assert names("out") == [LIST, "both.json", MARK, "notes", "second.json", "second.json.kept"]
    assert Path("out/both.json").read_text() == Path("out/second.json").read_text() == "2"
    assert Path("out/second.json.kept").read_text() == "mine"
    assert Path("out/notes/thesis.tex").read_text() == "mine"
    assert "second.json.kept" not in listed(Path("out"))


@pytest.mark.parametrize("name", [MARK, "first.json"])
def test_a_file_that_the_user_changed_is_refused_at_once(name):
    fill(first="1")
    Path("out", name).write_text("changed")
    with pytest.raises(UsageError, match=name), claimed("out", mark=MARK):
        raise AssertionError
    Path("out", name).unlink()  # one that is gone is missed by nobody
    fill(first="2")


def test_a_file_that_is_changed_during_the_work_is_kept():
    fill(first="1")
    with claimed("out", mark=MARK):
        Path("out/first.json").write_text("mine")
        fill(first="2")
    assert Path("out/first.json").read_text() == "2"
    assert Path("out/first.json.kept").read_text() == "mine"


@pytest.mark.parametrize("content", [None, "", "5", "{}", '{"files": []}', '{"files": {"a": 1}}'])
def test_a_folder_without_a_list_of_ours_is_refused(content):
    Path("out").mkdir()
    Path("out", MARK).write_text("{}")
    if content is not None:
        Path("out", LIST).write_text(content)
    with pytest.raises(UsageError, match="holds other files"):
        fill()


def test_the_projects_scratch_folder_needs_no_list():
    Path("_build/out").mkdir(parents=True)
    Path("_build/out/older").write_text("x")
    fill("_build/out")
    assert names("_build/out") == [LIST, MARK]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_replacement_that_was_killed_loses_nothing(moment, monkeypatch):
    fill(first="1")
    Path("out/thesis.tex").write_text("mine")
    replace, calls = os.replace, []

    def killed(source, target):
        if Path(target).name in (".out.old", "out", "thesis.tex"):
            calls.append(target)
            if len(calls) == 1 + ["before", "between", "after"].index(moment):
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(first="2")
    fill(first="3")
    assert Path("out/thesis.tex").read_text() == "mine"
    assert Path("out/first.json").read_text() == "3"
    assert names() == ["out"]


# one writer


def test_the_second_writer_is_refused_at_once_and_a_dead_one_does_not_count(here):
    code = textwrap.dedent("""
        import time
        from avss_utils.store.outputs import claimed
        with claimed("out", mark="made.json"):
            print("open", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(UsageError, match="another run is writing"), claimed("out", mark=MARK):
            raise AssertionError
        other.kill()
    fill()
    assert names() == ["out"]


# single files


def test_a_file_of_the_users_own_is_not_replaced_and_one_of_ours_is():
    def write(text: str) -> None:
        with claimed_file("folder/page.ipynb") as path:
            path.write_text(text)
            note_file(path)

    write("1")
    write("2")
    Path("folder/page.ipynb").write_text("mine")
    write("3")
    assert Path("folder/page.ipynb").read_text() == "3"
    assert Path("folder/page.ipynb.kept").read_text() == "mine"
    assert names("folder") == [LIST, "page.ipynb", "page.ipynb.kept"]
    Path("folder/own.ipynb").write_text("mine")
    for place, words in {"folder/own.ipynb": "of your own", "folder": "is a folder"}.items():
        with pytest.raises(UsageError, match=words):
            check_file(place)
