"""Linear probes by block on made-up states of which the truth is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avss_utils.scores.probes import probe_agreement, probe_auroc

WIDTH, N_BLOCKS = 24, 4


def made_states(seed: int, *, n_questions: int = 200, planted: int | None = None, gap: float = 2.5):
    """Gaussian states of a true and a false answer a question, apart at one block."""
    rng = np.random.default_rng(seed)
    labels = np.tile([False, True], n_questions)
    states = rng.standard_normal((len(labels), N_BLOCKS, WIDTH))
    if planted is not None:
        direction = rng.standard_normal(WIDTH)
        states[labels, planted] += gap * direction / np.linalg.norm(direction)
    return states.astype(np.float16), labels, np.repeat(np.arange(n_questions), 2)


def test_the_planted_block_is_found_and_no_other():
    made = made_states(0, planted=2)
    table = probe_auroc(*made, n_folds=5, seed=0)
    assert table.block.to_list() == [0, 1, 2, 3]
    assert (table.n == 400).all()
    assert table.auroc[2] > 0.9
    assert (table.low <= table.auroc).all()
    assert (table.auroc <= table.high).all()
    assert (np.abs(table.auroc.drop(2) - 0.5) < 0.1).all()


def test_scale_and_offset_of_a_unit_do_not_matter():
    states, labels, groups = made_states(1, planted=1)
    units = np.linspace(0.1, 50, WIDTH)
    plain, moved = (
        probe_auroc(s, labels, groups, n_folds=4, seed=0).auroc
        for s in (states, states.astype(np.float32) * units + 7)
    )
    np.testing.assert_allclose(plain, moved, atol=1e-3)


def test_what_tells_a_question_apart_does_not_leak_into_its_own_fold():
    # four answers a question of one label, at one place that is the question's own: whoever has
    # seen one of them knows the others
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(100), 4)
    labels = np.repeat(rng.permutation(np.arange(100) % 2 == 0), 4)
    place = rng.standard_normal((100, 1, 200))
    states = place[groups] + 0.1 * rng.standard_normal((400, 1, 200))
    whole = probe_auroc(states, labels, groups, n_folds=5, seed=0)
    torn = probe_auroc(states, labels, np.arange(400), n_folds=5, seed=0)
    assert torn.auroc[0] > 0.9
    assert abs(whole.auroc[0] - 0.5) < 0.15


def test_few_answers_of_unequal_labels_are_not_below_chance():
    # a fold with more false answers leaves fewer to its probe, which then calls all of them true:
    # scores pooled over folds would be ranked the wrong way round
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        states, labels = rng.standard_normal((60, 1, 2)), rng.random(60) < 0.3
        found.append(probe_auroc(states, labels, np.arange(60), n_folds=4, seed=seed).auroc[0])
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_the_probe_is_as_good_as_logistic_regression():
    states, labels, groups = made_states(4, planted=0, gap=1.2)
    found = probe_auroc(states, labels, groups, n_folds=5, seed=0).auroc[0]
    x, half = states[:, 0].astype(float), groups < 100
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(x[half], labels[half])
    other = roc_auc_score(labels[~half], model.decision_function(x[~half]))
    assert found == pytest.approx(other, abs=0.05)


def test_the_seed_decides_and_the_blocks_share_their_folds():
    states, labels, groups = made_states(5)
    states[:, 1] = states[:, 0]
    first, again, other = (
        probe_auroc(states, labels, groups, n_folds=5, seed=seed) for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert not first.equals(other)
    assert first.iloc[0, 1:].equals(first.iloc[1, 1:])


def test_folds_that_cannot_be_made_are_refused():
    states, labels, groups = made_states(6, n_questions=4)
    with pytest.raises(ValueError, match="4 questions make no 5 folds"):
        probe_auroc(states, labels, groups, n_folds=5, seed=0)
    with pytest.raises(ValueError, match="lacks false or true"):
        probe_auroc(states, np.arange(8) == 0, groups, n_folds=4, seed=0)
    with pytest.raises(ValueError, match="7 states, 8 labels and 8 groups"):
        probe_auroc(states[1:], labels, groups, n_folds=2, seed=0)
    with pytest.raises(ValueError, match="infinity"):
        probe_auroc(np.full_like(states, np.inf), labels, groups, n_folds=2, seed=0)


def test_agreement_of_profiles():
    rng = np.random.default_rng(7)
    area = rng.permutation(np.linspace(0.5, 0.9, 24))
    table = probe_agreement(area, {"same": area**3, "none": rng.random(24)}, seed=0)
    assert table.columns.to_list() == ["score", "rho", "p_shift", "p_ar", "n"]
    same, none = table.itertuples()
    assert same.rho == pytest.approx(1)
    assert same.p_shift == pytest.approx(1 / 24)
    assert same.p_ar == pytest.approx(1 / 2001)
    assert none.p_shift > 0.05
    assert none.p_ar > 0.05
    assert (table.n == 24).all()
