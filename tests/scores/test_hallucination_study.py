"""A study of one set on a tiny model: its events, and tables that say what they are made of."""

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

from avss_utils.data.answer_sets import FALSE_FALSE, IRRELEVANT, PAIRED, events_of, set_events
from avss_utils.data.rows import OpenQuestion, normalised
from avss_utils.models.load import LoadedModel
from avss_utils.scores.answer_study import PRIMARY, RELATIVE, SetStudy
from avss_utils.scores.contrasts import READINGS, group_stats, hsav, hss_intervals
from avss_utils.scores.eavss import ProneScores

ANIMALS = ("dog", "cat", "owl", "red fox", "cow", "old grey horse", "hen", "pig", "goat", "bee")


def rows(n: int = 10) -> list[OpenQuestion]:
    return [
        OpenQuestion(str(i), f"Which animal is number {i}?", (ANIMALS[i], f"the {ANIMALS[i]}"), ())
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def study() -> SetStudy:
    tokenizer = tiny_tokenizer()
    loaded = LoadedModel(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer, {})
    events = events_of(rows(), "nq_open", wording="plain", seed=0)
    before = events_of(rows(6), "nq_open", wording="plain", seed=0)
    options = dict(sites=("residual", "update"), eps=1e-3, ratio=0.01, seed=0, batch_tokens=256)
    return SetStudy(loaded, before, events, **options)


def test_events_hold_a_true_a_false_two_placebo_and_an_irrelevant_answer():
    events = events_of(rows(), "nq_open", wording="plain", seed=0)
    assert len(events.asked) == 10
    for row, (prompt, answers) in zip(rows(), events.asked, strict=True):
        assert row.question in prompt
        true, false, one, other, irrelevant = map(normalised, answers)
        assert true == row.answers[0]
        assert true not in (false, one, other, irrelevant)
        assert one != other
    assert set(events.origin) == {"borrowed"}


@pytest.mark.parametrize(("kind", "places"), [(PAIRED, (0, 1)), (FALSE_FALSE, (2, 3))])
def test_pairs_name_answers_in_their_order(kind, places):
    events = events_of(rows(4), "nq_open", wording="plain", seed=0)
    pairs = events.pairs(kind, only=np.array([1, 3]))
    assert pairs.true.tolist() == [5 + places[0], 15 + places[0]]
    assert pairs.false.tolist() == [5 + places[1], 15 + places[1]]
    assert pairs.n_answers == 20


def test_set_events_come_from_one_part_alone():
    made = {
        part: set_events("sciq_open", part=part, n_questions=30, wording="plain", seed=0)[0]
        for part in ("calibration", "evaluation")
    }
    names = [{row.row_id for row in events.questions} for events in made.values()]
    assert len(names[0] | names[1]) == 60
    assert set(made["evaluation"].origin) == {"published"}


def test_contrasts_hold_every_variant_and_both_placebos(study):
    table = study.contrasts(n_permutations=20, n_resamples=20)
    kinds = table.drop_duplicates(["kind", "tokens", "site", "limit"]).kind.value_counts()
    assert kinds.to_dict() == {PAIRED: 16, FALSE_FALSE: 1, IRRELEVANT: 1}
    assert len(table) == 18 * 2 * 4
    assert table.notna().drop(columns="effect").all(axis=None)
    own = table[(table.kind == PAIRED) & (table.score == "HSAV")]
    own = own[(own.tokens == "matched") & (own.site == "residual") & (own.limit == RELATIVE)]
    sums, pairs = study.sums(study.tokens, study.evaluation, PAIRED, *PRIMARY)
    false, true = (group_stats(sums, weights) for weights in pairs.weights())
    np.testing.assert_allclose(own.value, hsav(false, true)[0])


def test_matched_answers_have_equally_many_tokens(study):
    sums, pairs = study.sums(study.tokens, study.evaluation, PAIRED, "matched", "update", RELATIVE)
    np.testing.assert_array_equal(sums.n[pairs.true], sums.n[pairs.false])
    lengths = study.tokens.lengths
    assert (lengths[pairs.true] != lengths[pairs.false]).any()


def test_the_cross_fit_effect_is_signed_by_the_calibration_rows(study):
    table = study.cross_fit(n_resamples=50).set_index("kind")
    assert list(table.index) == [PAIRED, FALSE_FALSE, IRRELEVANT]
    first = study._differences(study.before, study.calibration, PAIRED)
    block = int(np.abs(first.mean(0) / first.std(0)).argmax())
    second = study._differences(study.tokens, study.evaluation, PAIRED)[:, block]
    effect = np.sign(first[:, block].mean()) * second.mean() / second.std()
    assert table.block[PAIRED] == block
    assert table.value[PAIRED] == pytest.approx(effect)
    assert table.low[PAIRED] <= effect <= table.high[PAIRED]


def test_scores_are_normalised_and_shuffled_ones_differ(study):
    table = study.scores(n_shuffles=2)
    assert set(table.reading) == set(READINGS)
    assert np.allclose(table.groupby(["reading", "draw"]).score.sum(), 1)
    own = table[table.reading == "contrast"].pivot(index="draw", columns="block", values="score")
    assert not np.allclose(own.loc[-1], own.loc[0])


def test_halves_and_counts_have_a_row_for_each(study):
    halves = study.halves(n_seeds=2, top=1)
    assert len(halves) == len(READINGS) * 2 * 2
    counts = study.counts()
    assert len(counts) == 8
    own = study.tokens.zeros["residual", "absolute"]
    true = study.evaluation.pairs(PAIRED).true
    expected = own[np.isin(study.tokens.answer, true)].sum(0)
    np.testing.assert_array_equal(counts[counts.label == "true answers"].zeros, expected)
    found = hss_intervals(counts)
    np.testing.assert_array_equal(found.true, expected)
    assert (found.low <= 0).all()  # a handful of zeros tells nothing
    assert found.high[0] > found.value[0]


def test_prone_scores_are_the_mean_over_sets_of_what_a_study_finds(study):
    sets = [
        events_of(rows(), "nq_open", wording="plain", seed=0),
        events_of(rows(6), "trivia_qa", wording="plain", seed=1),
    ]
    found = ProneScores(study.loaded, sets, eps=1e-3, ratio=0.01, batch_tokens=256)
    assert set(found) == set(READINGS)
    alone = [
        ProneScores(study.loaded, [own], eps=1e-3, ratio=0.01, batch_tokens=256) for own in sets
    ]
    for reading in READINGS:
        mean = (alone[0][reading] + alone[1][reading]) / 2
        np.testing.assert_allclose(found[reading], mean, rtol=1e-9)
        assert found[reading].sum() == pytest.approx(1)
    with pytest.raises(KeyError):
        found["no such reading"]
    options = dict(sites=("residual",), eps=1e-3, ratio=0.01, seed=0, batch_tokens=256)
    table = SetStudy(study.loaded, sets[0], sets[0], **options).scores(n_shuffles=0)
    own = table[table.reading == "contrast"].score
    np.testing.assert_allclose(alone[0]["contrast"], own)
