"""Correlations over blocks, the papers' figure, and the cubic law, on planted profiles."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import FAMILIES

from avss_utils.chapters.thresholds import keep_curves, loss_correlations, paper_figure
from avss_utils.data.token_rows import Scored
from avss_utils.measure.drop_losses import DropLosses, drop_losses
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.stats.block_profiles import partial_rank

N = 20


def losses_of(rise: np.ndarray, n_texts: int = 30, noise: float = 0.05) -> DropLosses:
    rng = np.random.default_rng(0)
    base = rng.normal(3, 0.5, n_texts)
    rows = base + np.concatenate([[0.0], rise])[:, None] + rng.normal(0, noise, (N + 1, n_texts))
    n_scored = np.full(n_texts, 10)
    return DropLosses(rows * n_scored, n_scored, 1, 1)


def scores_of(**columns) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"criterion": name.replace("_", "-"), "block": range(N), "score": values})
        for name, values in columns.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_a_planted_criterion_is_found_and_depth_alone_is_not():
    rng = np.random.default_rng(1)
    rise = rng.permutation(N) * 0.1
    depth = np.arange(N, dtype=float)
    table = loss_correlations.loss_table(SimpleNamespace(losses=losses_of(rise)))
    found = loss_correlations.correlations(
        scores_of(planted=rise, depth=depth, flat=np.ones(N), leave_one_out=rise), table, seed=0
    ).set_index("criterion")
    assert "leave-one-out" not in found.index
    assert found.value["planted"] > 0.95
    assert found.low["planted"] > 0.8
    assert found.p_shift["planted"] == pytest.approx(1 / N)
    assert found.partial["planted"] > 0.95
    assert found.depth["depth"] == pytest.approx(1.0)
    assert found.partial["depth"] == 0.0  # nothing of depth is left once depth is given
    assert found.low["depth"] < 0 < found.high["depth"]
    assert np.isnan(found.value["flat"])
    assert found.high["flat"] == np.inf


def test_rises_are_the_losses_less_the_whole_models():
    losses = losses_of(np.arange(N) * 1.0, noise=0.0)
    table = loss_correlations.loss_table(SimpleNamespace(losses=losses))
    rise, n_scored = loss_correlations.rises(table)
    assert rise.sum(1) / n_scored.sum() == pytest.approx(np.arange(N))
    assert table.block.min() == -1


def test_partial_rank_equals_the_textbook_formula():
    rng = np.random.default_rng(3)
    x, y, z = rng.normal(size=(3, 30))
    y, x = y + z, x + z
    rho = pd.DataFrame({"x": x, "y": y, "z": z}).corr("spearman")
    xy, xz, yz = rho.loc["x", "y"], rho.loc["x", "z"], rho.loc["y", "z"]
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_rank(x, y, z).rho == pytest.approx(expected)


def test_the_pair_gap_names_the_best_and_greedys_place():
    pairs = pd.DataFrame(list(combinations(range(4), 2)), columns=["first", "second"])
    pairs = pairs.assign(nll=[3.0, 2.0, 5.0, 1.0, 4.0, 6.0])
    path = pd.DataFrame({"step": [0, 1], "block": [2, 0], "chosen": True})
    gap = loss_correlations.pair_gap(pairs, path)
    assert (gap["best"], gap["greedy"], gap["greedy_rank"]) == ((1, 2), (0, 2), 2)
    assert gap["greedy_nll"] - gap["best_nll"] == 1.0


def test_development_losses_are_of_every_set_and_their_mean():
    model = FAMILIES["llama"](4)
    rows = {"s": [Scored((5, 6, 7, 8), 3)], "t": [Scored((9, 8, 7), 2)]}
    table = keep_curves.development_loss(model, rows, ("a", (1, 2)), batch_tokens=64)
    losses = [drop_losses(model, own, [(1, 2)], batch_tokens=64).mean[0] for own in rows.values()]
    assert table.iloc[0].tolist() == ["a", "1 2", *losses, np.mean(losses)]


def test_effort_counts_block_evaluations():
    model = FAMILIES["llama"](4)
    probe = Sensitivity(model, [Scored((5, 6, 7, 8), 3)], n_greedy=2, batch_tokens=64)
    batch = {"input_ids": np.array([[5, 6, 7, 8]])}
    collect = SimpleNamespace(model=model, batches=[batch], eps=(1e-3,))
    _ = probe.losses, probe.greedy, probe.gradients
    asked = []
    effort = keep_curves.effort_table(collect, probe, lambda: asked.append(1))
    effort = effort.set_index("criterion")
    assert asked == [1]
    assert effort.passes["leave-one-out"] == (4 + 6) / 4
    assert effort.passes["greedy"] == pytest.approx(
        probe.greedy.drop_duplicates("step").n_steps.sum() / 4
    )
    assert effort.passes["statistics"] == 1
    assert (effort.seconds > 0).all()


def test_the_figure_follows_the_product_and_not_the_ratio():
    figure = paper_figure.figure_one()
    fits = paper_figure.figure_fits(figure).set_index(["formula", "shift"]).pearson
    assert fits["product", 1] == pytest.approx(0.97, abs=0.005)
    assert fits["ratio"].max() < 0.1
    assert fits.idxmax() == ("product", 1)
    facts = paper_figure.figure_facts(figure)
    assert facts["lowest_quarter"] == tuple(range(8))
    assert (facts["n_as_released"], facts["n_layers"]) == (27, 32)
    assert facts["sum_plotted"] < 0.2
    assert figure.ratio.sum() == pytest.approx(1.0)


def test_the_cubic_law_is_seen_where_only_the_scale_differs():
    rng, blocks, eps = np.random.default_rng(4), np.arange(6), 1e-2
    scale = 2.0**blocks
    x = rng.normal(size=(6, 400_000)) * scale[:, None]
    zeros = (np.abs(x) < eps).sum(1)
    table = pd.DataFrame(
        {
            "dtype": "float32",
            "tokens": "all",
            "site": "residual",
            "eps": eps,
            "block": blocks,
            "std": x.std(1),
            "zeros": zeros,
            "n_entries": x.shape[1],
            "avss": x.var(1) / (zeros / x.shape[1]),
        }
    )
    law = paper_figure.scale_law(table).iloc[0]
    assert law.slope == pytest.approx(3.0, abs=0.1)
    assert law.r2 > 0.99
    assert law.floored == 0


def test_a_scale_table_holds_every_site_and_eps_with_and_without_the_first_token():
    model, batches = FAMILIES["llama"](3), [{"input_ids": np.array([[5, 6, 7, 8, 9]])}]
    whole, rest = (
        paper_figure.scale_table(model, batches, eps=[1e-3, 1e-1], tokens=tokens)
        for tokens in ("all", "skip-first")
    )
    groups = whole.groupby(["tokens", "site", "eps"]).size()
    assert (len(groups), set(groups)) == (4 * 2, {3})
    assert (rest.n_entries == whole.n_entries * 4 / 5).all()
