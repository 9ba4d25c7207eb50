"""The ledger: models found, chapters missing, answers to open questions, its tables and figure."""

import json
import re
from itertools import combinations
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from test_dynamics import ARMS, outcome_rows
from test_thresholds import CURVE, PLANS, answer_rows

from avss_utils import claims
from avss_utils.chapters.architectures import effects
from avss_utils.chapters.architectures.family import read_family
from avss_utils.claims import ledger_figure, questions
from avss_utils.claims import ledger_tables as ledger
from avss_utils.claims.verdicts import Finding
from avss_utils.errors import UsageError
from avss_utils.show import tables as report
from avss_utils.stats.resampling import Estimate
from avss_utils.store.notebooks import execute, notebook_names
from avss_utils.store.run_folder import Run
from avss_utils.store.runs import open_run

ROOT = Path(__file__).resolve().parents[2]
PRUNING, LIMITS = "01_avss_pruning", "04_pruning_thresholds"
TUNING, SHAPES = "05_finetuning_dynamics", "06_architecture"
NOTEBOOKS = {*claims.FINDINGS, *questions.ANSWERS}
INF, NAN = np.inf, np.nan
FAMILY = ["tiny-2x48", "tiny-2x96", "tiny-4x48", "tiny-4x96", "tiny-8x48"]


@pytest.fixture(autouse=True)
def at_root(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def committed() -> dict[str, ledger.Judged]:
    return ledger.judge_records(ROOT / "results" / "full", primary="smollm2-135m")


def opened(folder: Path, model: str, notebook: str, tables: dict, parameters: dict) -> Run:
    """A run folder as a notebook leaves it in the middle: tables written, not yet finished."""
    identity = {"short": model, "name": model, "weights_sha256": "aa", "n_blocks": 8}
    run = open_run(
        notebook,
        parameters={"seed": 0, **parameters},
        profile=folder.name,
        results=folder.parent,
        model=identity,
        data=[],
        collect_version=1,
        device="cpu",
    )
    for name, table in tables.items():
        run.table(name, lambda table=table: table)
    return run


def tuned(folder: Path, model: str = "tiny", **losses: list[float]) -> Run:
    """Chapter 5 of a model in which the most moved third was needed more, unless told otherwise."""
    rows = outcome_rows(ARMS | {name.replace("_", " "): own for name, own in losses.items()})
    parameters = {"moved_by": "update variance"}
    return opened(folder, model, TUNING, {"frozen": rows}, parameters).finish()


def pruned_curve(folder: Path, curve: dict[str, str] = CURVE, **parameters) -> Run:
    """Chapter 4 of a model of 8 blocks: what it gets right of one task, without 0 to 4 blocks."""
    tables = {"plans": PLANS, "answers": answer_rows(curve, name="sciq")}
    return opened(folder, "tiny", LIMITS, tables, {"better": "a", **parameters}).finish()


def shapes(folder: Path, slope: float, names: list[str] = FAMILY) -> Run:
    """Chapter 6 of a family in which the outcome changes by ``slope`` a doubling of depth."""
    rng, parts = np.random.default_rng(0), []
    for row in effects.design(read_family(names)).itertuples(index=False):
        value = 0.5 + slope * row[1] + 1e-3 * rng.standard_normal()
        for taught, shown in ((0.5, value), (0.0, -9.0)):  # a control must not enter
            parts.append((row[0], 0, taught, "hallucination", "unknown held out", 0, shown, 20))
    names_of = ["architecture", "seed", "taught", "measure", "group", "at", "value", "n"]
    tables = {"members": pd.DataFrame(parts, columns=names_of)}
    return opened(folder, "tiny", SHAPES, tables, {"architectures": names}).finish()


# models and their records


def test_models_are_those_with_a_finished_record_in_order(tmp_path):
    root = tmp_path / "full"
    for model in ("b-model", "a-model"):
        tuned(root, model)
    opened(root, "c-model", TUNING, {"frozen": outcome_rows(ARMS)}, {})  # not finished
    (root / "d-model" / TUNING).mkdir(parents=True)  # without run.json
    (root / ".e-model" / TUNING).mkdir(parents=True)
    (root / ".e-model" / TUNING / "run.json").write_text("{}")
    (root / "f-model" / "42_mine").mkdir(parents=True)
    (root / "f-model" / "42_mine" / "run.json").write_text("{}")
    (root / "notes.txt").write_text("not a model")
    found = ledger.read_records(root, NOTEBOOKS, primary="b-model")
    assert [(model, list(runs)) for model, runs in found.items()] == [
        ("b-model", [TUNING]),
        ("a-model", [TUNING]),
    ]


def test_a_primary_model_without_any_record_is_refused_with_the_command(tmp_path):
    tuned(tmp_path / "quick", "other")
    command = (
        f"no chapter of 'tiny' has a record.*--notebook {PRUNING} --profile quick --model tiny"
    )
    for root in (tmp_path / "quick", tmp_path / "nowhere" / "quick"):
        with pytest.raises(UsageError, match=command):
            ledger.judge_records(root, primary="tiny")


def test_a_record_that_was_edited_is_refused(tmp_path):
    path = tuned(tmp_path / "full").folder / "frozen.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="not what the run wrote"):
        ledger.judge_records(tmp_path / "full", primary="tiny")


def test_what_has_no_record_is_not_yet_measured_and_not_linked(tmp_path):
    tuned(tmp_path / "full")
    tuned(tmp_path / "full", "other", most_moved=[1.0, 1.0])
    models = ledger.judge_records(tmp_path / "full", primary="tiny")
    table = ledger.by_model(models)
    assert table.columns.to_list() == ["claim or question", "tiny", "other"]
    of = table.set_index(table["claim or question"].str.partition(".")[0])
    assert of.index.to_list() == [*claims.CLAIMS, *questions.QUESTIONS]
    asked = questions.QUESTIONS["Q2"]
    assert of.loc["Q2", ["tiny", "other"]].to_list() == [asked.above, asked.below]
    assert set(of.drop(index="Q2")[["tiny", "other"]].to_numpy().ravel()) == {ledger.NOT_MEASURED}
    glued = dict(ledger.glued(models["tiny"]))
    names = [f"verdict_C{i}" for i in range(1, 12)] + [f"status_Q{i}" for i in (1, 2, 3)]
    assert list(glued) == names
    assert glued["verdict_C1"] == ledger.NOT_MEASURED
    assert glued["status_Q2"] == asked.above
    beside = ledger.beside_papers(models["tiny"])
    assert set(beside.verdict) == {ledger.NOT_MEASURED}
    assert set(beside.here) | set(beside[ledger.LINK]) == {""}
    answers = ledger.answers_table(models["tiny"])
    assert answers.status.to_list() == [ledger.NOT_MEASURED, "measured", ledger.NOT_MEASURED]
    assert answers[ledger.LINK].astype(bool).to_list() == [False, True, False]


def test_the_ledger_of_the_committed_records_measures_every_claim(committed):
    own = committed["smollm2-135m"]
    assert next(iter(committed)) == "smollm2-135m"
    assert set(own.primary) == set(claims.CLAIMS)
    beside = ledger.beside_papers(own)
    assert beside.verdict.to_list() == [own.primary[name].verdict for name in claims.CLAIMS]
    for found, here in zip(map(own.primary.get, claims.CLAIMS), beside.here, strict=True):
        assert report.interval(found.estimate) in here
        assert f"n\u00a0=\u00a0{found.estimate.n}" in here
    assert beside[ledger.LINK].str.match(r"\{doc\}`.*\{ref\}`").all()


def test_the_readme_states_the_verdicts_of_the_committed_records(committed):
    models = ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-1.5b"]
    found = {(model, name): "to come" for model in models for name in claims.CLAIMS}
    found |= {(m, c): f.verdict for m in models for c, f in committed[m].primary.items()}
    text = (ROOT / "README.md").read_text()
    assert f"| claim | | {' | '.join(models)} |" in text
    verdicts = r" ([a-z ]+) \|" * len(models)
    rows = re.findall(rf"^\| (C\d+) \|.*\|{verdicts}$", text, re.MULTILINE)
    stated = {(model, row[0]): row[i] for row in rows for i, model in enumerate(models, start=1)}
    assert stated == found


# what is declared


def test_every_claim_and_question_names_a_figure_of_its_chapter():
    for name, declared in {**claims.CLAIMS, **questions.QUESTIONS}.items():
        assert declared.notebook in notebook_names()
        cells = nbformat.read(ROOT / "notebooks" / f"{declared.notebook}.ipynb", 4).cells
        labels = [c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in cells]
        assert declared.figure in labels, name


def test_what_would_change_our_mind_is_one_sentence_each():
    table = ledger.turns()
    assert len(table) == len(claims.CLAIMS) + len(questions.QUESTIONS)
    for sentence in table["what would change our mind"]:
        assert re.fullmatch(r"[A-Z][^.]+\.", sentence), sentence


def test_the_papers_numbers_are_those_that_verdicts_are_measured_against(committed):
    reported = {name: claim.reported for name, claim in claims.CLAIMS.items()}
    numbers = {n: [float(x) / 100 for x in re.findall(r"[\d.]+", t)] for n, t in reported.items()}
    own = committed["smollm2-135m"].primary
    given = {name: own[name].threshold for name, found in numbers.items() if found}
    assert {name: numbers[name] for name in given} == {n: [x] for n, x in given.items()}
    assert set(given) == {"C1", "C2", "C3", "C9", "C10"}


# answers


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.26, 0.4, questions.ABOVE),
        (0.1, 0.24, questions.BELOW),
        (0.2, 0.3, questions.UNDECIDED),
        (0.25, 0.3, questions.UNDECIDED),  # at the reference is not above it
        (0.2, 0.25, questions.UNDECIDED),
        (0.25, 0.25, questions.UNDECIDED),
        (0.3, 0.3, questions.ABOVE),
        (-INF, INF, questions.UNTOLD),
        (0.3, INF, questions.UNTOLD),
        (-INF, 0.1, questions.UNTOLD),
        (NAN, NAN, questions.UNTOLD),
        (0.3, NAN, questions.UNTOLD),
    ],
)
def test_a_direction_is_that_of_the_whole_interval(low, high, expected):
    e = Estimate((low + high) / 2, low, high, 10)
    assert questions.direction(e, reference=0.25) == expected
    mirrored = Estimate(-e.value, -high, -low, 10)
    turned = {questions.ABOVE: questions.BELOW, questions.BELOW: questions.ABOVE}
    assert questions.direction(mirrored, reference=-0.25) == turned.get(expected, expected)


def test_nothing_is_told_without_rows_or_where_it_could_not_be():
    sure = Estimate(0.5, 0.4, 0.6, 10)
    assert questions.direction(sure, reference=0.0) == questions.ABOVE
    assert questions.direction(sure, reference=0.0, testable=False) == questions.UNTOLD
    assert questions.direction(Estimate(0.5, 0.4, 0.6, 0), reference=0.0) == questions.UNTOLD
    said = {questions.answer("Q3", sure, testable=t, note="").says for t in (True, False)}
    assert said == {questions.QUESTIONS["Q3"].above, "the measurement could not have told"}


def test_how_many_blocks_can_go_is_where_the_curve_leaves_the_level(tmp_path):
    found = questions.threshold_answer(pruned_curve(tmp_path / "full"))
    assert found.estimate.value == pytest.approx(1 / 8 + (1 - 0.9) / (1 - 0.75) / 8)
    assert found.estimate.n == 100
    assert found.estimate.low <= found.estimate.value <= found.estimate.high
    assert (found.direction, found.says) == (questions.BELOW, questions.QUESTIONS["Q1"].below)
    assert "one block is 0.125" in found.note
    assert "at least this" not in found.note


def test_a_level_that_is_never_left_is_said_to_be_a_least_value(tmp_path):
    flat = dict.fromkeys(CURVE, CURVE["full"])
    found = questions.threshold_answer(pruned_curve(tmp_path / "full", flat))
    assert (found.estimate.value, found.direction) == (0.5, questions.ABOVE)
    assert found.note.endswith("at least this")


def test_a_full_model_at_chance_cannot_tell_how_many_blocks_can_go(tmp_path):
    guessed = dict.fromkeys(CURVE, "x" * 25 + "." * 75)
    assert questions.threshold_answer(pruned_curve(tmp_path / "full", guessed)).direction == (
        questions.UNTOLD
    )


def test_a_run_without_the_score_does_not_answer(tmp_path):
    assert questions.threshold_answer(pruned_curve(tmp_path / "full", better="other")) is None


@pytest.mark.parametrize(("loss", "side"), [(2.0, "above"), (1.5, "undecided"), (1.2, "below")])
def test_need_is_the_loss_of_the_most_moved_third_less_that_of_the_least(tmp_path, loss, side):
    found = questions.movement_answer(tuned(tmp_path / "full", most_moved=[loss, loss]))
    assert found.estimate.value == pytest.approx(loss - 1.5)
    assert found.says == getattr(questions.QUESTIONS["Q2"], side)


@pytest.mark.parametrize(("slope", "side"), [(0.1, "above"), (0.0, "undecided"), (-0.1, "below")])
def test_a_planted_slope_of_hallucination_on_depth_is_told(tmp_path, slope, side):
    found = questions.architecture_answer(shapes(tmp_path / "full", slope))
    assert found.estimate.value == pytest.approx(slope, abs=0.005)
    assert found.estimate.n == len(FAMILY)
    assert found.says == getattr(questions.QUESTIONS["Q3"], side)


def test_a_question_asked_of_models_made_for_it_is_not_owed_by_the_others():
    slope = questions.answer("Q3", Estimate(0.1, 0.05, 0.15, 5), note="")
    asked, other = ledger.Judged({}, [], {"Q3": slope}), ledger.Judged({}, [], {})
    table = ledger.by_model({"a": asked, "b": other}).set_index("claim or question")
    (row,) = [own for name, own in table.iterrows() if name.startswith("Q3")]
    assert row.to_list() == [questions.QUESTIONS["Q3"].above, "asked of models made for it"]
    assert (table.b[:-1] == ledger.NOT_MEASURED).all()
    assert (ledger.by_model({"b": other}).b == ledger.NOT_MEASURED).all()


def test_a_family_that_cannot_tell_depth_from_width_does_not_answer(tmp_path):
    run = shapes(tmp_path / "full", 0.1, ["tiny-2x48", "tiny-4x96"])
    assert questions.architecture_answer(run) is None
    own = ledger.judge_records(tmp_path / "full", primary="tiny")["tiny"]
    assert dict(ledger.glued(own))["status_Q3"] == ledger.NOT_MEASURED


# tables as markdown, the figure, the notebook


def test_markdown_tables_hold_links_and_no_other_markup():
    cell = "a|b `c` {ref}`x` *d* <script>\nnext"
    table = pd.DataFrame(
        {"one": [cell, "2 [1, 3]"], "go": ["{doc}`x </y>`", ""], "x": [0.12345, 1]}
    )
    lines = report.as_markdown(table, links=["go"]).data.split("\n")
    assert lines[2:4] == ["| one | go | x |", "| --- | --- | --- |"]
    assert lines[4] == (
        r"| a\|b \`c\` \{ref\}\`x\` \*d\* \<script\> next | {doc}`x </y>` | 0\.123 |"
    )
    assert lines[5] == "| 2\u00a0\\[1\\,\u00a03\\] |  | 1\\.00 |"
    assert lines[-1] == ":::"


def judged(**models: tuple) -> dict[str, ledger.Judged]:
    """Models with one finding of C1 (above 0.9), C4 (below 0.05) or both: claim, low, high."""
    found = {}
    for name, rows in models.items():
        own = [
            Finding(
                claim,
                "m",
                Estimate((low + high) / 2, low, high, 9),
                threshold=0.05 if claim == "C4" else 0.9,
                below=claim == "C4",
                primary=True,
            )
            for claim, low, high in rows
        ]
        found[name] = ledger.Judged({}, own, {})
    return found


def test_distances_are_turned_so_that_a_claim_holds_above_zero():
    table = ledger.distances(
        judged(a=[("C1", 0.92, 0.98), ("C4", 0.01, 0.03)], b=[("C4", 0.2, 0.4)])
    )
    shown = table[table.model != ""].set_index(["claim", "model"])
    limits = shown[["value", "low", "high"]]
    assert limits.loc["C1", "a"].to_list() == pytest.approx([0.05, 0.02, 0.08])
    assert limits.loc["C4", "a"].to_list() == pytest.approx([0.03, 0.02, 0.04])
    assert limits.loc["C4", "b"].to_list() == pytest.approx([-0.25, -0.35, -0.15])
    assert shown.needed.to_list() == ["> 0.9", "< 0.05", "< 0.05"]
    assert list(dict.fromkeys(table.claim)) == list(claims.CLAIMS)
    assert (table[table.model == ""].verdict == ledger.NOT_MEASURED).all()


def drawn(models: dict[str, ledger.Judged]) -> plt.Axes:
    table = ledger.distances(models)
    _, ax = plt.subplots(figsize=(7, ledger_figure.figure_height(table)), layout="constrained")
    return ledger_figure.forest(ax, table)


def test_the_figure_shows_every_verdict_by_a_marker_and_a_colour_of_its_own():
    looks = list(ledger_figure.LOOKS.values())
    assert len({marker for marker, _, _ in looks}) == len(looks) == 4
    assert len({to_hex(colour) for _, colour, _ in looks}) == len(looks)
    rows = [("C1", 0.92, 0.98), ("C4", 0.2, 0.4)]
    ax = drawn(judged(a=rows, b=[("C1", 0.8, 0.95), ("C4", -INF, INF)]))
    points = [x for x in ax.lines if x.get_marker() in {m for m, _, _ in looks}]
    assert [x.get_marker() for x in points] == ["o", "D", "X"]  # none where there is no estimate
    heights = [x.get_ydata()[0] for x in points]
    assert heights == sorted(heights)
    assert len(set(heights)) == 3
    texts = [t.get_text() for t in ax.texts]
    assert texts.count("a") == texts.count("b") == 2
    assert texts.count(ledger.NOT_MEASURED) == len(claims.CLAIMS) - 2
    plt.close("all")


def test_no_text_of_the_figure_lies_on_another():
    rows = [("C1", -0.514, -0.0554), ("C4", 0.02345, 0.9234)]
    ax = drawn({name: judged(m=rows)["m"] for name in ("smollm2-135m", "qwen2.5-coder-1.5b")})
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    over = [
        (one.get_text(), two.get_text())
        for (one, a), (two, b) in combinations(zip(ax.texts, boxes, strict=True), 2)
        if a.overlaps(b)
    ]
    assert over == []
    assert max(box.x1 for box in boxes) <= ax.figure.bbox.x1
    plt.close("all")


def test_an_interval_beyond_the_scale_ends_in_an_arrow_and_one_model_needs_no_name():
    ax = drawn(judged(only=[("C1", -3.0, 0.5)]))
    assert [x.get_marker() for x in ax.lines if len(x.get_xdata()) == 1] == ["<"]
    (line,) = [x for x in ax.lines if len(x.get_xdata()) == 2]
    assert list(line.get_xdata()) == pytest.approx([-ledger_figure.REACH, 0.5 - 0.9])
    assert "only" not in [t.get_text() for t in ax.texts]
    plt.close("all")


def test_the_notebook_shows_a_single_chapter_and_links_no_other(tmp_path):
    tuned(tmp_path / "quick")
    path = execute(
        "07_claims",
        tmp_path / "out" / "07_claims.ipynb",
        {"model": "tiny", "results": str(tmp_path)},
        timeout=120,
    )
    text = json.dumps([c.get("outputs") for c in nbformat.read(path, 4).cells])
    assert set(re.findall(r"</notebooks/(\w+)>", text)) == {TUNING}
    assert text.count(ledger.NOT_MEASURED) > 20
    assert "preliminary" in text
