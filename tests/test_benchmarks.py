"""The benchmarks' own arithmetic, and that what is committed of them meets what they demand."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FAMILIES, save_tiny

from avss_utils.data.token_rows import Scored
from avss_utils.measure.drop_losses import greedy_path
from avss_utils.models.blocks import decoder_blocks
from avss_utils.store.tables import read_csv

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "benchmarks"


@pytest.fixture(autouse=True)
def path_to_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def agreement():
    return importlib.import_module("agreement")


@pytest.fixture
def detectors():
    return importlib.import_module("detectors")


@pytest.fixture
def speed():
    return importlib.import_module("speed")


@pytest.fixture
def loads():
    return importlib.import_module("loads")


@pytest.fixture
def search():
    return importlib.import_module("search")


@pytest.fixture
def permutations():
    return importlib.import_module("permutations")


@pytest.fixture
def side_by_side():
    return importlib.import_module("side_by_side")


def test_equal_scores_agree_and_a_planted_difference_is_found(agreement):
    theirs = [np.array([-1.0, -2.0, -3.0]), np.array([-5.0, -4.0])]
    same = agreement.compare_choices(theirs, theirs, [0, 0], tie=1e-3)
    assert (same["questions"], same["differing"], same["ties"]) == (2, 0, 0)
    assert (same["largest difference"], same["accuracy, ours"]) == (0, 0.5)
    ours = [np.array([-1.0, -0.5, -3.0]), theirs[1]]
    apart = agreement.compare_choices(theirs, ours, [0, 0], tie=1e-3)
    assert (apart["differing"], apart["ties"], apart["largest difference"]) == (1, 0, 1.5)


def test_a_tie_is_one_by_both_lists(agreement):
    theirs, close = [np.array([-1.0, -1.0004])], [np.array([-1.0003, -1.0])]
    assert agreement.compare_choices(theirs, close, [0], tie=1e-3)["ties"] == 1
    far = [np.array([-1.5, -1.0])]
    assert agreement.compare_choices(theirs, far, [0], tie=1e-3)["differing"] == 1


def tables_of(agreement) -> dict[str, pd.DataFrame]:
    return {
        name: read_csv(RECORDS / f"agreement_{name}.csv")
        for name in ("choices", "perplexity", "logits", "blocks")
    }


def test_the_committed_agreement_agrees_and_covers_what_is_claimed(agreement):
    tables = tables_of(agreement)
    assert agreement.disagreements(tables) == []
    assert {"sciq", "piqa", "arc_easy"} <= set(tables["choices"].task)
    assert (tables["choices"].questions >= 200).all()
    assert (tables["perplexity"].texts == agreement.FITTING).sum() == 3
    assert tables["choices"].model.nunique() == 2
    tools = " ".join(tables["logits"].tool)
    assert all(name in tools for name in ("lm-eval", "transformer-lens", "nnsight", "peft"))
    assert set(json.loads((RECORDS / "agreement.json").read_text())) >= {"commit", "versions"}


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("choices", "differing", 1),
        ("choices", "largest difference", 0.1),
        ("perplexity", "relative difference", 0.001),
        ("logits", "largest difference", 0.01),
        ("logits", "largest difference from the whole model", 0.0),
        ("blocks", "largest difference", 0.01),
    ],
)
def test_a_record_that_disagrees_would_be_noticed(agreement, table, column, value):
    tables = tables_of(agreement)
    tables[table][column] = tables[table][column].astype(float)  # zeros are read as integers
    tables[table].loc[0, column] = value
    assert len(agreement.disagreements(tables)) == 1
    assert agreement.disagreements({**tables, table: tables[table][:0]})


def test_sections_lose_their_last_paragraphs_until_they_fit(agreement):
    def words(text: str) -> int:
        return len(text.split())

    assert agreement.cut_to_fit("a b\nc d\ne", words, 5) == "a b\nc d\ne"
    assert agreement.cut_to_fit("a b\nc d\ne", words, 3) == "a b"
    assert agreement.cut_to_fit("a b\nc d\ne", words, 1) == ""
    assert agreement.take(["a b", "c", "d"], words, 3) == ["a b", "c"]


def test_pages_begin_at_titles_and_keep_the_upstream_lines(agreement, monkeypatch):
    rows = ["", " = One = \n", "", " First . \n", " Second . \n", "", " = = Part = = \n", ""]
    rows += [" = Two = \n", "", " Third . \n"]
    corpus = SimpleNamespace(rows=[SimpleNamespace(text="\n\n".join(rows))])
    monkeypatch.setattr(agreement, "load_texts", lambda name: corpus)
    first, second = agreement.pages()
    assert first == " = One = \n \n First . \n Second . \n \n = = Part = = \n \n"
    assert second.startswith(" = Two = \n \n Third . ")


def test_the_committed_detectors_agree_with_those_of_lm_polygraph(detectors):
    table = read_csv(RECORDS / "detectors.csv")
    assert detectors.disagreements(table) == []
    assert (table.questions >= 24).all()
    facts = json.loads((RECORDS / "detectors.json").read_text())
    assert {"lm-polygraph", "transformers", "torch"} <= set(facts["versions"])


@pytest.mark.parametrize("number", range(10))
def test_a_detector_that_disagrees_would_be_noticed(detectors, number):
    detector, handed = detectors.COMPARED[number]
    table = read_csv(RECORDS / "detectors.csv")
    own = (table.detector == detector) & (table["handed over"] == handed)
    own &= table[detectors.BOUND].notna()
    assert own.sum() == 1
    for column, value in ((detectors.DIFFERENCE, 0.01), ("smallest", float("inf"))):
        spoilt = table.astype({column: float})
        spoilt.loc[own, column] = value
        assert len(detectors.disagreements(spoilt)) == 1
    assert len(detectors.disagreements(table[~own])) == 1


def test_a_row_is_of_the_questions_that_both_have_a_value_of(detectors):
    nan = float("nan")
    row = detectors.row("a", "b", "c", [1.0, 2.0, nan, 4.0], [1.0, 2.5, 3.0, 4.0], 0.1)
    assert (row["questions"], row[detectors.DIFFERENCE], row["largest"]) == (3, 0.5, 4)
    assert row[detectors.RANKS] == pytest.approx(1)


def test_meanings_are_handed_over_as_classes(detectors):
    texts = ["Paris", "rome", "the Paris.", "x"]
    stats = detectors.Meanings([[SimpleNamespace(text=text) for text in texts]]).stats
    classes = stats["semantic_classes_entail"]
    assert classes["class_to_sample"] == {0: [[0, 2], [1], [3]]}
    assert classes["sample_to_class"] == {0: {0: 0, 1: 1, 2: 0, 3: 2}}


def test_answers_are_read_again_as_they_were_written(detectors):
    model = FAMILIES["llama"](3).eval()
    rows = [(7, 8), (), (9,)]
    answers = [SimpleNamespace(prefix=(3, 4, 5), ids=ids) for ids in rows]
    read = detectors.Reread(model, answers)
    for i, ids in enumerate(rows):
        with torch.no_grad():
            out = model(torch.tensor([[3, 4, 5, *ids]]), output_hidden_states=True)
        logs = out.logits[0].double().log_softmax(-1).numpy()
        wanted = [logs[2 + n, token] for n, token in enumerate(ids)]
        if ids:
            np.testing.assert_allclose(read.likelihoods(i), wanted, atol=1e-5)
        else:
            assert np.isnan(read.likelihoods(i)).all()
        np.testing.assert_allclose(read.log_probs[i], logs[2 : 2 + max(1, len(ids))], atol=1e-5)
        state = out.hidden_states[2][0, -1].numpy()  # behind block 1 of 0, 1, 2
        np.testing.assert_allclose(read.states[i], state, atol=1e-5)


def test_ratios_are_of_the_fastest_and_bounds_are_held(speed, monkeypatch):
    clock, slow = [0.0], iter([9, 9, 10, 10, 1, 3, 2, 1])  # a warm-up each, then rounds of two

    def work(seconds: float) -> None:
        clock[0] += seconds * next(slow)

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    ways = {"first": lambda: work(2.0), "twice": lambda: work(4.0)}
    table = speed.timed(ways, rounds=3, device=torch.device("cpu"))
    assert table.ratio.to_list() == [1.0, 2.0]  # whatever slowed some of the rounds
    assert table.seconds.to_list() == [2.0, 4.0]
    table = table.assign(part="loops", value=float("nan"))
    assert speed.broken_bounds(table, {("loops", "first"): 1.0}) == []
    assert "twice" in speed.broken_bounds(table, {("loops", "twice"): 1.5})[0]
    assert speed.broken_bounds(table, {("loops", "missing"): 1.5})  # nothing measured holds nothing


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_committed_figures_keep_the_bounds(speed, device):
    kept = {}
    for kind, column in (("speed", "ratio"), ("figures", "value")):
        for row in read_csv(RECORDS / f"{kind}_{device}.csv").itertuples():
            kept[row.what, row.how] = getattr(row, column)
    broken = {key for key, bound in speed.BOUNDS[device].items() if not kept[key] <= bound}
    assert not broken
    sizes = read_csv(RECORDS / f"sizes_{device}.csv")
    assert {"Qwen2.5-1.5B", "Llama-2-7B", "Llama-2-70B"} <= set(sizes["model shape"])
    assert sizes.source.str.startswith("extrapolated").any()


ROWS = [Scored(tuple(range(3 + n, 3 + 2 * n)), n - 1) for n in (5, 7, 9, 12)]


def test_the_plain_search_agrees_with_ours_and_costs_twice_the_blocks(search, speed):
    sizes = {"n_drop": 2, "batch_tokens": 24}
    table = search.compare(FAMILIES["llama"](30), ROWS, rounds=1, **sizes)
    assert speed.broken_bounds(table.assign(ratio=float("nan")), search.BOUNDS) == []
    values = table.set_index("way").value
    assert values[search.ONE_STEP] == pytest.approx(465 / 900)
    assert 0.5 < values[search.ALL_STEPS] < 0.6
    assert values[search.TIME] > 0


def test_the_counted_blocks_are_those_that_run(search):
    model, sizes = FAMILIES["llama"](6), {"n_drop": 2, "batch_tokens": 1000}
    greedy_path(model, ROWS, **sizes)  # a block class that is bypassed first runs once more
    ran = []
    for block in decoder_blocks(model):
        block.mlp.register_forward_hook(lambda *_: ran.append(1))
    steps = greedy_path(model, ROWS, **sizes).drop_duplicates("step")
    assert len(ran) == steps.n_steps.sum()
    ran.clear()
    search.plain_search(model, ROWS, **sizes)
    assert len(ran) == steps.n_steps_alone.sum() == 6 * 5 + 5 * 4


def test_searches_that_differ_are_noticed(search):
    plain = pd.DataFrame({"step": 0, "block": [0, 1], "nll": [2.0, 3.0], "chosen": [True, False]})
    assert set(search.differences(plain, plain).values()) == {0}
    ours = plain.assign(nll=[2.0, 1.5], chosen=[False, True])
    assert search.differences(ours, plain) == {search.DIFFERENCE: 1.5, search.OTHERS: 1}


def test_the_committed_search_keeps_the_bounds(search):
    kept = read_csv(RECORDS / "search_cpu.csv").set_index(["what", "how"]).value
    assert all(kept[key] <= bound for key, bound in search.BOUNDS.items())


def test_the_committed_kills_all_went_on_undisturbed():
    kills = read_csv(RECORDS / "kills.csv").set_index("ended by")
    assert kills.trials["SIGKILL"] >= 20
    for shown in kills["same tables afterwards"]:
        same, _, trials = shown.split()
        assert same == trials
    ended = kills["exit code"].astype(str)
    assert ended["kernel killed"] == "2"
    # 0: the run had come to its end before the moment that was drawn
    assert {"130"} <= set(ended["SIGINT"].split()) <= {"0", "130"}


def test_a_load_is_checked_unless_the_check_is_kept_or_left_out(loads, tmp_path, monkeypatch):
    checks: list = []
    monkeypatch.setattr("avss_utils.models.checked.check_model", checks.append)
    folder = save_tiny(tmp_path / "model")
    table = loads.compare(folder, tmp_path / "scratch", rounds=2)
    assert table.way.to_list() == [loads.NONE, loads.KEPT, loads.FIRST]
    assert len(checks) == 1 + 3  # of the kept one, and of each first one
    assert table.ratio[0] == 1


def test_the_committed_loads_keep_the_bounds(loads):
    kept = read_csv(RECORDS / "loads_cpu.csv").set_index(["what", "how"]).ratio
    assert all(kept[key] <= bound for key, bound in loads.BOUNDS.items())


def test_the_permutations_agree_with_a_loop_over_them(permutations, speed):
    table = permutations.compare(40, 30, 3, n_looped=5)
    assert speed.broken_bounds(table.assign(ratio=float("nan")), permutations.BOUNDS) == []
    assert (table.set_index("way").value >= 0).all()


def test_a_loop_over_other_labels_is_noticed(permutations):
    sums, pairs = permutations.random_sums(40, 3, seed=0)
    swapped = np.zeros((2, 20), dtype=int)
    same = permutations.one_after_another(sums, pairs, swapped)
    other = permutations.one_after_another(sums, pairs, 1 - swapped)
    np.testing.assert_allclose(same, -other)
    assert np.abs(same).min() > 1e-6


def test_the_committed_permutations_keep_the_bounds(permutations):
    kept = read_csv(RECORDS / "permutations_cpu.csv").set_index(["what", "how"]).value
    assert all(kept[key] <= bound for key, bound in permutations.BOUNDS.items())


def test_trainings_and_judging_are_timed_beside_one_at_a_time(side_by_side, monkeypatch):
    kind, *_, rest = side_by_side.SHAPES[side_by_side.SHAPE]
    tiny = (kind, 32, 32, 4, 2, 1, rest)
    monkeypatch.setitem(side_by_side.SHAPES, side_by_side.SHAPE, tiny)
    size = dict(together=(1, 3), steps=2, questions=2, judged=3, batch_tokens=256)
    table = side_by_side.compare(torch.device("cpu"), rounds=1, size=size)
    ways = [side_by_side.ALONE, "1 together", "3 together"]
    assert table.way.to_list() == ways * 2
    assert (table.seconds > 0).all()
    own = table[table.part == side_by_side.TRAINING]
    assert own.ratio.to_list() == pytest.approx((own.seconds / own.seconds.iloc[0]).to_list())


def test_the_committed_trainings_side_by_side_are_no_slower_on_a_cpu(side_by_side):
    kept = read_csv(RECORDS / "side_by_side_cpu.csv").set_index(["what", "how"]).ratio
    assert all(kept[key] <= bound for key, bound in side_by_side.BOUNDS["cpu"].items())


def test_what_the_start_up_imports_is_there(speed):
    for name in speed.FIRST_IMPORTS:
        importlib.import_module(f"avss_utils.{name}")
