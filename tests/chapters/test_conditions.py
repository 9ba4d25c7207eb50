"""Draws of a set's questions, and flagged blocks beside others that harm text as much."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from test_mitigation_study import study as trained_on
from tiny import tiny_loaded

from avss_utils.chapters.hallucination import Hallucination, bypassing
from avss_utils.claims.awaited import AWAITED
from avss_utils.claims.papers import ANSWERS, TRAINING
from avss_utils.data import answer_sets
from avss_utils.data.answer_sets import PAIRED, further_events
from avss_utils.data.token_rows import Scored
from avss_utils.data.windows import Window
from avss_utils.measure.drop_losses import drop_losses
from avss_utils.models.blocks import remove_blocks
from avss_utils.scores.answer_study import SetStudy
from avss_utils.store.notebooks import default_parameters, notebook_path, read_profile

WINDOWS = [Window("a", (5, 9, 7, 30), 8), Window("b", (6, 9, 31), 6)]


def asked_of_all(n: int = 12) -> dict:
    return dict(part="evaluation", n_questions=n, wording="plain", seed=0)


@pytest.fixture(scope="module")
def chapter() -> Hallucination:
    """The chapter on a tiny model and an embedded set, without what reads calibration texts."""
    own = object.__new__(Hallucination)
    own.loaded = own.judged = tiny_loaded()
    own.identity, own.n_drop = {"n_blocks": 4}, 2
    p = dict(sets=["sciq_open"], held_out=[], n_questions=12, wording="plain", seed=0)
    p |= dict(n_splits=4, n_resamples=12, n_causal=3, batch_tokens=256)
    p |= dict(eps=1e-3, relative_eps=0.05, n_drawn=60, calibration="c4", text_length=16)
    own.p = SimpleNamespace(**p, n_loss_tokens=24)
    before, _ = answer_sets.set_events("sciq_open", **(asked_of_all() | {"part": "calibration"}))
    after, _ = answer_sets.set_events("sciq_open", **asked_of_all())
    options = dict(sites=("residual", "update"), eps=1e-3, ratio=0.05, seed=0, batch_tokens=256)
    own.studies = {"sciq_open": SetStudy(own.loaded, before, after, keep_states=True, **options)}
    own.first = list(own.studies.values())
    return own


def row_ids(study: SetStudy) -> set[str]:
    return {question.row_id for question in study.evaluation.questions}


def test_draws_have_other_questions_of_the_part_as_long_as_there_are_any(chapter):
    studies = [chapter.drawn("sciq_open", draw) for draw in range(3)]
    assert studies[0] is chapter.studies["sciq_open"]
    assert len(set.union(*map(row_ids, studies))) == 36
    assert further_events("sciq_open", **asked_of_all(250), number=1).name == "sciq_open"
    assert further_events("sciq_open", **asked_of_all(250), number=2) is None  # of 586
    whole = SimpleNamespace(**{**vars(chapter.p), "n_questions": 301})
    own = object.__new__(Hallucination)
    own.p, own.studies = whole, chapter.studies
    assert own.drawn("sciq_open", 1) is chapter.studies["sciq_open"]


def test_another_draw_is_read_with_the_thresholds_and_counts_of_the_first(chapter):
    first = chapter.studies["sciq_open"]
    again = first.on(first.evaluation)
    assert again.sites == ("residual",)
    assert again.tokens.states is None
    one, two = (
        s.sums(s.tokens, s.evaluation, PAIRED, "matched", "residual", "relative")[0]
        for s in (first, again)
    )
    np.testing.assert_array_equal(one.zeros, two.zeros)
    np.testing.assert_allclose(one.second, two.second)
    assert first.tokens.states is not None  # the first is as it was


def test_draw_zero_is_what_the_summary_says_and_columns_are_those_awaited(chapter):
    table = chapter.half_draws(("sciq_open", 0))
    assert table.columns.to_list() == list(AWAITED[ANSWERS]["half_draws"])
    assert table["resample"].to_list() == list(range(-1, 12))
    sizes = dict(n_splits=4, n_resamples=12, top=2)
    summary = chapter.studies["sciq_open"].half_excess(**sizes).set_index("reading")
    assert table.excess[0] == pytest.approx(summary.value["contrast"])
    drawn = table.excess[1:]
    assert drawn.mean() == pytest.approx(table.excess[0])
    assert drawn.min() == pytest.approx(summary.low["contrast"])  # of 12 the outermost
    other = chapter.half_draws(("sciq_open", 1))
    assert (other.draw == 1).all()
    assert not np.allclose(other.excess, table.excess)


def test_draws_of_the_same_questions_have_the_same_resamples(chapter, monkeypatch):
    seen = []

    def remember(sums, pairs, *, counts, rng, **_):
        seen.append((counts, rng.random()))
        return {"contrast": np.zeros(1 + len(counts))}

    monkeypatch.setattr("avss_utils.scores.contrast_tests.half_draws", remember)
    study, sizes = chapter.studies["sciq_open"], dict(n_splits=4, top=2, n_resamples=12)
    for draw, resampled in ((0, 0), (1, 0), (1, 1)):
        study.half_draws(draw=draw, resampled=resampled, **sizes)
    same, split, other = seen
    np.testing.assert_array_equal(same[0], split[0])
    assert same[1] != split[1]
    assert (same[0] != other[0]).any()


def test_sets_are_drawn_in_batches_by_seed_alone():
    options = dict(n_blocks=12, size=3, seed=0)
    whole = [bypassing.drawn_sets(b, n=120, **options) for b in bypassing.batches(120)]
    assert [len(own) for own in whole] == [50, 50, 20]
    drawn = {arm: drop for own in whole for arm, drop in own.items()}
    assert list(drawn) == [f"random {i}" for i in range(120)]
    assert all(len(set(drop)) == 3 and drop == tuple(sorted(drop)) for drop in drawn.values())
    assert bypassing.drawn_sets(0, n=2, **options) == dict(list(drawn.items())[:2])
    assert np.bincount(np.concatenate(list(drawn.values())), minlength=12).min() > 10


def test_bits_are_those_that_a_smaller_model_adds():
    loaded = tiny_loaded()
    sets = {"flagged": (1,), "random 0": (0, 2), "random 1": (0, 3)}
    table = bypassing.added_bits(loaded, WINDOWS, sets, batch_tokens=64).set_index("arm")
    assert table["drop"].to_list() == ["1", "0 2", "0 3"]
    rows = [Scored.window(window) for window in WINDOWS]
    models = remove_blocks(loaded.model, (0, 2)), loaded.model
    nll = [drop_losses(model, rows, [()], batch_tokens=64).nll.sum() for model in models]
    assert table.added_bits["random 0"] == pytest.approx((nll[0] - nll[1]) / np.log(2) / 14)


def bits_of(flagged: float, drawn: list[tuple[str, float]]) -> pd.DataFrame:
    rows = [("flagged", "1 4", flagged)]
    rows += [(f"random {i}", drop, bits) for i, (drop, bits) in enumerate(drawn)]
    return pd.DataFrame(rows, columns=["arm", "drop", "added_bits"])


def test_matches_add_as_many_bits_within_a_quarter_either_way():
    drawn = [
        ("0 1", 0.79),
        ("0 2", 0.81),
        ("0 3", 1.24),
        ("0 4", 1.26),
        ("1 4", 1.0),
        ("0 2", 0.81),
    ]
    arms = bypassing.bypass_arms(bits_of(1.0, [*drawn, ("2 3", 1.0)]), n=10)
    assert arms == [
        ("full", (), 0.0),
        ("flagged", (1, 4), 1.0),
        ("matched 0", (0, 2), 0.81),
        ("matched 1", (0, 3), 1.24),
        ("matched 2", (2, 3), 1.0),
    ]
    assert len(bypassing.bypass_arms(bits_of(1.0, drawn), n=1)) == 3
    for bits in (0.0, -0.5, 50.0):  # what was not found is not made up
        assert len(bypassing.bypass_arms(bits_of(bits, drawn), n=10)) == 2


def test_flagged_and_matched_blocks_are_bypassed_and_asked_the_same(chapter):
    bits = pd.concat([chapter.set_bits(batch) for batch in bypassing.batches(60)])
    assert len(bits) == 61
    assert bits["drop"][bits.arm == "flagged"].item() == "{} {}".format(
        *chapter.prone.flagged(top=2)
    )
    arms = bypassing.bypass_arms(bits, n=2)
    table = pd.concat([chapter.bypassed(arm) for arm in arms])
    assert table.columns.to_list() == list(AWAITED[ANSWERS]["bypassed"])
    assert table.groupby("arm").row_id.apply(set).map(len).eq(3).all()
    shifts = bypassing.bypass_shifts(table)
    assert shifts.arm.to_list() == [arm for arm, *_ in arms[1:]]
    own = table.set_index("arm").correct
    expected = 100 * (own.loc["full"].mean() - own.loc["flagged"].mean())
    assert shifts.points[0] == pytest.approx(expected)
    assert chapter.bypassed(("a", (), 0.0)).correct.tolist() == own.loc["full"].tolist()


def test_the_choice_of_matches_sees_no_question(chapter):
    """A batch without the flagged blocks needs a model and text, and neither set nor label."""
    own = object.__new__(Hallucination)
    own.p, own.n_drop = chapter.p, chapter.n_drop
    own.loaded, own.judged, own.identity = chapter.loaded, chapter.judged, chapter.identity
    assert len(own.set_bits(1)) == 10


def test_flagged_blocks_are_those_that_training_chooses():
    """Of the same questions notebooks 02 and 03 choose the same blocks, each by its own code."""
    other = trained_on(
        arms=["eavss top", "uniform"],
        contrast="infonce",
        n_random=1,
        n_random_losses=0,
        n_pilot=0,
    )
    own = object.__new__(Hallucination)
    own.loaded, own.p = other.loaded, other.p
    own.first = [SimpleNamespace(calibration=events) for events in other.taught]
    for ratio in (0.25, 0.5, 0.75):
        other.p.drop_ratio = ratio
        arms = other.arms(other.rankings()).set_index("arm")
        trained = arms.trained["eavss top"]
        assert " ".join(map(str, own.prone.flagged(top=other.top))) == trained


def test_training_is_told_the_questions_by_which_blocks_are_flagged():
    """Published notebooks 02 and 03 flag on the same questions, by the same thresholds."""
    for model in ("", *yaml.safe_load(Path("params/full.yml").read_text())["models"]):
        two, three = (
            default_parameters(notebook_path(name)) | read_profile("full", name, model)
            for name in (ANSWERS, TRAINING)
        )
        assert two["n_calibration"] == three["n_train"]
        for name in ("sets", "wording", "seed", "eps", "relative_eps", "drop_ratio"):
            assert two[name] == three[name], name
