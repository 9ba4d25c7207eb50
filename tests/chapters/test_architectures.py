"""What members of a family are measured by, where scores peak, and what it depends on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_facts import SPEC, mixture
from test_family import CPU, RECIPE, small
from tiny import FAMILIES, save_tiny

from avss_utils.chapters.architectures import depth_profiles, effects, measures
from avss_utils.chapters.architectures import experiment as study
from avss_utils.chapters.architectures import facts as made
from avss_utils.chapters.architectures import members as of_member
from avss_utils.chapters.architectures.facts import RELATIONS
from avss_utils.chapters.architectures.family import build
from avss_utils.chapters.architectures.training import train_member
from avss_utils.data.answer_sets import PAIRED
from avss_utils.data.token_rows import Scored, text_batches
from avss_utils.errors import UsageError
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.models.blocks import decoder_blocks
from avss_utils.models.load import LoadedModel, load_model
from avss_utils.stats.resampling import Estimate

SIZES = SimpleNamespace(
    n_asked=6,
    n_contrast=3,
    n_shuffles=9,
    n_texts=3,
    n_loss_tokens=60,
    eps=1e-3,
    relative_eps=0.05,
    batch_tokens=512,
    keep=0.9,
    seed=0,
)
EVENTS = [f for f in made.make_facts(SPEC, seed=0) if f.group == made.KNOWN]


def member_rows() -> pd.DataFrame:
    """One member trained and measured, as a unit of the study."""
    mixed = mixture()
    member = train_member(small(depth=3), mixed, RECIPE, seed=1, device=CPU)
    table = of_member.member_rows(member, mixed, SIZES)
    return table.assign(architecture="small", seed=1)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return member_rows()


# labels and rates


def test_unknown_entities_have_no_right_answer_and_known_ones_one():
    known = made.make_facts(SPEC, seed=0)[0]
    unknown = replace(known, value="unknown", group=made.HELD_OUT, exposures=0)
    other = next(v for v in RELATIONS[known.relation].values if v != known.value)
    said = (f" {known.value}.", other, "unknown")
    assert [measures.label_of(s, known) for s in said] == ["right", "wrong", "abstained"]
    said = ("unknown", "", known.value)
    assert [measures.label_of(s, unknown) for s in said] == ["abstained", "abstained", "wrong"]


def test_rates_by_group_and_exposures_add_up():
    kinds = [("known", 10)] * 3 + [("known", 12), ("rare", 1)]
    facts = [SimpleNamespace(group=group, exposures=n) for group, n in kinds]
    labels = ["right", "wrong", "right", "abstained", "wrong"]
    found = {row[:3]: row[3:] for row in measures.answer_rates(facts, labels)}
    assert found["recall", "known", 10] == (2 / 3, 3)
    assert found["hallucination", "known", 10] == (1 / 3, 3)
    assert found["abstention", "known", 12] == (1.0, 1)
    assert found["hallucination", "rare", 1] == (1.0, 1)
    assert len(found) == 9


# peaks


def test_places_of_made_profiles():
    one = np.array([[0.0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [2, 0, 0, 1]])
    found = measures.places(one)
    np.testing.assert_allclose(measures.relative_depth(4), [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(found["centre"], [0.875, 0.5, 0.5, 0.375])
    np.testing.assert_allclose(found["highest"], [0.875, 0.125, 0.125, 0.125])


def test_a_planted_peak_is_beyond_shuffled_labels_and_an_even_profile_is_not():
    rng = np.random.default_rng(0)
    noise = rng.random((200, 8))
    planted = noise.copy()
    planted[0] = [0, 0, 0, 0, 0, 0, 9, 0]
    table = measures.peak_table({"EAVSS": planted, "HSS": noise}).set_index(["score", "place"])
    assert table.value["EAVSS", "highest"] == 6.5 / 8
    assert table.p["EAVSS", "centre"] < 0.02
    assert 0.02 < table.p["HSS", "centre"] <= 1
    assert table.low["EAVSS", "centre"] < 0.5 < table.high["EAVSS", "centre"]
    assert (table.n == 199).all()


def test_facts_become_questions_with_another_value_as_the_false_answer():
    events = measures.fact_events(EVENTS, seed=0)
    assert len(events.asked) == len(EVENTS) > 3
    for fact, (prompt, answers) in zip(EVENTS, events.asked, strict=True):
        true, false = answers[:2]
        assert prompt == fact.prompt
        assert true == f" {fact.value}"
        assert false.strip() in RELATIONS[fact.relation].values
        assert false != true
    assert set(events.origin) == {"published"}
    assert len(events.pairs(PAIRED).true) == len(EVENTS)


def test_a_real_model_has_its_peaks_and_a_run_says_which_models_it_had(tmp_path):
    events, folder = measures.fact_events(EVENTS, seed=0), save_tiny(tmp_path / "tiny")
    asked = [str(folder), str(tmp_path / "no"), "org/model"]
    assert list(filter(study.is_here, asked)) == [str(folder)]
    loaded = load_model(folder, device="cpu")
    own = SimpleNamespace(p=SIZES, asked=(events, events, {}), real=[loaded])
    table = study.Architectures.real_peaks(own, "tiny")
    assert set(table.model) == {"tiny"}
    assert len(table) == len(measures.SCORES) * len(measures.PLACES)
    assert table.value.between(0, 1).all()
    further = {"short": "m", "source": "hub", "weights_sha256": "0f", "n_blocks": 4}
    as_data = study.as_data(further)
    assert as_data == {"name": "m", "source": "hub", "sha256": "0f", "n": 4}
    record = {"model": {"short": "tiny"}, "data": [{"name": "c4"}, as_data]}
    record["parameters"] = {"other_models": ["gone", "m"]}
    assert study.real_models(record) == ["tiny", "m"]


# a unit of the study


def test_a_unit_gives_every_measure(rows):
    assert list(rows) == [*of_member.COLUMNS, "architecture", "seed"]
    rates = rows[rows.measure.isin(measures.MEASURES)]
    assert set(rates.group) == set(made.GROUPS)
    np.testing.assert_allclose(rates.groupby(["group", "at"]).value.sum(), 1)
    for measure in (*measures.SCORES, *of_member.CRITERIA):
        own = rows[(rows.measure == measure) & (rows.group != "shuffled")]
        assert own["at"].to_list() == [0, 1, 2]
    for group in ("true", "shuffled"):
        own = rows[(rows.measure == "EAVSS") & (rows.group == group)]
        assert own.value.sum() == pytest.approx(1)
    places = rows[rows.measure.isin([f"{s} {p}" for s in measures.SCORES for p in measures.PLACES])]
    assert len(places) == 4 * len(measures.SCORES) * len(measures.PLACES)
    wide = places.pivot(index="measure", columns="group", values="value")
    np.testing.assert_allclose(wide.excess, wide.value - wide.shuffled)
    kept = rows[rows.measure.str.startswith("removable")]
    assert set(kept.group) == {"recall", "bits per byte"}
    assert kept.value.dropna().between(0, 2 / 3).all()


def test_blocks_are_ranked_on_other_stories_than_those_that_judge_the_ranking(monkeypatch):
    seen: dict[str, list] = {"ranked": [], "judged": []}

    def ranked(model, rows, **options):
        seen["ranked"] += [row.ids for row in rows]
        return Sensitivity(model, rows, **options)

    def judged(model, rows, order, **_) -> int:
        seen["judged"] += [row.ids for row in rows]
        return 0

    def statistics(tokenizer, texts, **options):
        seen["texts"] = list(texts)
        return text_batches(tokenizer, texts, **options)

    monkeypatch.setattr(of_member, "Sensitivity", ranked)
    monkeypatch.setattr(of_member, "text_drops", judged)
    monkeypatch.setattr(of_member, "text_batches", statistics)
    member_rows()
    assert seen["ranked"]
    assert seen["judged"]
    assert not set(seen["ranked"]) & set(seen["judged"])
    assert set(seen["texts"]) <= set(mixture().development)


def test_the_same_unit_gives_the_same_rows(rows):
    again = member_rows()
    timed = rows.group.isin(["seconds", "tokens a second"])
    pd.testing.assert_frame_equal(rows[~timed], again[~timed], check_exact=True)


def test_seeds_come_one_after_another_with_controls_never_taught_to_abstain():
    p = dict(architectures=["a", "b"], controls=["b"], taught_share=0.4, n_seeds=2)
    assert study.to_train(p) == [
        *(("a", 0, 0.4), ("b", 0, 0.4), ("b", 0, 0.0)),
        *(("a", 1, 0.4), ("b", 1, 0.4), ("b", 1, 0.0)),
    ]
    assert len(study.to_train(p | dict(controls=["a", "b"], taught_share=0.0, n_seeds=1))) == 2


def test_bits_per_byte_are_kept_without_a_block_that_does_nothing():
    mixed = mixture()
    model = build(small(depth=3), mixed.tokenizer, context=64, seed=0).eval()
    idle = decoder_blocks(model)[1]
    with torch.no_grad():
        idle.self_attn.o_proj.weight.zero_()
        idle.mlp.down_proj.weight.zero_()
    rows = [Scored(tuple(row), len(row) - 1) for row in mixed.rows[:3].tolist()]
    sizes = dict(batch_tokens=256)
    assert measures.text_drops(model, rows, (1, 0, 2), share=1 - 1e-9, **sizes) >= 1
    probe = Sensitivity(model, rows, n_greedy=2, **sizes)
    order = measures.greedy_order(probe)
    assert sorted(order) == [0, 1, 2]
    facts = [f for f in mixed.facts if f.group == made.KNOWN][:2]
    member = SimpleNamespace(model=model, tokenizer=mixed.tokenizer)
    given = dict(max_new_tokens=3, batch_tokens=256)
    assert np.isnan(measures.recall_drops(member, facts, order, 0.9, **given))  # knows nothing


# effects


def planted(family, *, noise: float, seed: int, n_seeds: int = 3) -> pd.DataFrame:
    """0.3 a doubling of depth, -0.2 one of width, 0.5 of post-norm; architectures vary as well."""
    rng = np.random.default_rng(seed)
    table = effects.design(family)
    values = 0.3 * table["log2 depth"] - 0.2 * table["log2 width"] + 0.5 * table["post-norm"]
    parts = []
    for name, value in zip(table.architecture, values, strict=True):
        value += noise * rng.standard_normal()
        parts += [(name, s, value + noise * rng.standard_normal()) for s in range(n_seeds)]
    return pd.DataFrame(parts, columns=["architecture", "seed", "value"])


def grid() -> list:
    cells = [(d, w) for d in (2, 4, 8) for w in (32, 64, 128)]
    family = [small(f"{d}x{w}", depth=d, width=w, heads=w // 16) for d, w in cells]
    return [*family, small("post", depth=4, width=64, heads=4, kind="olmo2")]


def test_planted_slopes_are_recovered():
    family = grid()
    table = effects.slopes(planted(family, noise=0.0, seed=0), family, effects.WIDTH)
    found = table.set_index("term")
    wanted = {"log2 depth": 0.3, "log2 width": -0.2, "post-norm": 0.5}
    assert found.value.to_dict() == pytest.approx(wanted)
    assert (found.n == len(family)).all()
    # at a fixed size a doubling of depth goes with a width smaller by the root of two
    sized = effects.slopes(planted(family, noise=0.0, seed=0), family, effects.SIZE)
    sized = sized.set_index("term").value
    assert sized["log2 depth"] == pytest.approx(0.3 + 0.1, abs=0.01)
    assert sized["log2 parameters"] == pytest.approx(-0.1, abs=0.01)


def test_intervals_hold_their_level_though_seeds_of_one_architecture_are_alike():
    family = grid()
    inside = []
    for seed in range(200):
        table = effects.slopes(planted(family, noise=0.1, seed=seed), family, effects.WIDTH)
        row = table[table.term == "log2 depth"].iloc[0]
        inside.append(row.low <= 0.3 <= row.high)
    assert 0.90 <= np.mean(inside) <= 0.99


def test_a_collinear_family_is_refused_and_one_too_small():
    diagonal = [small(f"a{d}", depth=d, width=8 * d, heads=d) for d in (2, 4, 8, 16)]
    with pytest.raises(UsageError, match="cannot be told apart from the other terms"):
        effects.slopes(planted(diagonal, noise=0.1, seed=0), diagonal, effects.WIDTH)
    with pytest.raises(UsageError, match="2 architectures cannot tell 2 terms apart"):
        effects.slopes(planted(grid()[:2], noise=0.1, seed=0), grid()[:2], effects.WIDTH)
    three = [grid()[i] for i in (0, 1, 3)]
    table = effects.slopes(planted(three, noise=0.1, seed=0), three, effects.WIDTH)
    assert np.isinf(table.high).all()  # three architectures, three coefficients: nothing is left


def test_inflation_by_hand():
    x = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [1.0, -1, -1, 1]})  # uncorrelated
    np.testing.assert_allclose(effects.inflation(x), 1)
    near = x.assign(b=x.a + 0.1 * x.b)  # R^2 = 5 / 5.04
    np.testing.assert_allclose(effects.inflation(near), 5.04 / 0.04)
    for other in (2 * x.a, 0 * x.a + 0.1):
        assert np.isinf(effects.inflation(x.assign(b=other))).all()


def test_differences_are_paired_by_seed():
    names, seeds, numbers = ["a"] * 3 + ["b"] * 3, [0, 1, 2] * 2, [0.0, 10, 20, 1, 11, 21]
    values = pd.DataFrame({"architecture": names, "seed": seeds, "value": numbers})
    table = effects.differences(values, "a")
    assert table.arm.to_list() == ["b"]
    assert table[["value", "low", "high", "n"]].iloc[0].to_list() == [1, 1, 1, 3]
    single = effects.differences(values[values.seed == 0], "a")
    assert np.isinf(single.high.iloc[0])
    with pytest.raises(UsageError, match="'c' is not among the architectures"):
        effects.differences(values, "c")


def test_variance_between_architectures_by_hand_and_by_chance():
    values = pd.DataFrame(
        [(a, s, 10 * a + e) for a in range(5) for s, e in enumerate((-1, 0, 1))],
        columns=["architecture", "seed", "value"],
    )
    options = dict(n_permutations=99, rng=np.random.default_rng(0))
    found = depth_profiles.between_share(values, **options)
    assert found["within"] == pytest.approx(1)
    assert found["between"] == pytest.approx((250 - 1 / 3) ** 0.5)  # 10^2 x 2.5, less seeds' part
    assert found["share"] > 0.99
    assert found["p"] == pytest.approx(0.01)
    noise = values.assign(value=np.random.default_rng(1).standard_normal(15))
    assert depth_profiles.between_share(noise, **options)["p"] > 0.05
    assert np.isnan(depth_profiles.between_share(values[values.seed == 0], **options)["p"])


# reading rows


def test_outcomes_are_means_over_exposures_by_their_numbers():
    rows = pd.DataFrame(
        [
            ("a", 0, "recall", "known", 10, 0.0, 30),
            ("a", 0, "recall", "known", 100, 1.0, 10),
            ("a", 0, "recall", "rare", 1, 0.7, 10),
            ("a", 1, "recall", "known", 10, 0.5, 40),
            ("b", 0, "removable, greedy", "recall", 0, np.nan, 40),
        ],
        columns=["architecture", "seed", "measure", "group", "at", "value", "n"],
    )
    found = effects.outcome(rows, "recall, known")
    assert found.value.to_list() == [0.25, 0.5]
    spread = effects.over_seeds(found)
    assert spread[["value", "low", "high", "n"]].iloc[0].to_list() == [0.375, 0.25, 0.5, 2]
    assert effects.outcome(rows, "removable, recall").empty


def test_every_outcome_and_place_is_in_the_rows_of_a_unit(rows):
    for name, (measure, group) in effects.OUTCOMES.items():
        assert ((rows.measure == measure) & (rows.group == group)).any(), name
    found = depth_profiles.profile_places(rows, "leave-one-out")
    assert set(found.place) == set(measures.PLACES)
    assert found.value.between(0, 1).all()
    shares = depth_profiles.peak_shares(rows, n_permutations=9, seed=0)
    assert len(shares) == 2 * len(measures.SCORES) * len(measures.PLACES)
    assert shares.beyond.isin([0, 1]).all()


def test_slopes_of_several_outcomes_leave_out_what_is_not_there_for_all():
    family = grid()
    parts = [
        planted(family, noise=0.0, seed=0).assign(measure=m, group=g, at=0, n=1)
        for m, g in (("recall", "known"), ("bits per byte", "stories"))
    ]
    parts[1] = parts[1][parts[1].architecture != "post"]
    table = effects.slope_table(
        pd.concat(parts), family, ["recall, known", "bits per byte"], effects.WIDTH
    )
    assert set(table.outcome) == {"recall, known"}
    slope = effects.slope_of(table, effects.DEPTH, "recall, known")
    assert slope.value == pytest.approx(0.3)
    found, refused = effects.slopes_beside(rows_of_all := pd.concat(parts), family)
    assert not refused
    others = effects.exploratory(found)
    assert len(others) == 2 * 3  # recall is not the primary outcome
    assert (others.adjusted >= others.p).all()
    two = rows_of_all[rows_of_all.architecture.isin([row.name for row in family[:2]])]
    few, why = effects.slopes_beside(two, family[:2])
    assert not few
    assert "cannot tell" in why[effects.WIDTH]
    assert effects.exploratory(few).empty
    for low, high, said in ((0.1, 0.2, "rises"), (-0.2, -0.1, "falls"), (-1, 1, "undecided")):
        assert effects.direction(Estimate((low + high) / 2, low, high, 9)) == said


def test_the_grid_is_what_differs_in_nothing_but_its_size():
    family = [*grid(), small("heads", depth=4, width=64, heads=2)]
    assert [row.name for row in effects.plain(family)] == [row.name for row in grid()[:-1]]
    table = effects.grid(planted(family, noise=0.0, seed=0), family)
    assert table.arm.drop_duplicates().to_list() == ["width 32", "width 64", "width 128"]
    assert table.depth.to_list() == [2, 4, 8] * 3
    assert (table.n == 3).all()


def test_recall_counts_blocks_until_too_little_is_kept(monkeypatch):
    by_depth = {5: 0.5, 4: 0.5, 3: 0.46, 2: 0.1, 1: 0.5}
    monkeypatch.setattr(
        measures, "recall", lambda own, facts, **_: by_depth[len(decoder_blocks(own.model))]
    )
    loaded = LoadedModel(FAMILIES["llama"](n_blocks=5), None, {})
    assert measures.recall_drops(loaded, [], (2, 0, 1, 3, 4), 0.9) == 2


def test_a_mean_profile_weighs_all_members_alike_and_leaves_out_empty_ones():
    rows = pd.DataFrame(
        [
            (name, 0, "avss", "", at, value)
            for name, own in (("a", (1.0, 3.0)), ("b", (30.0, 10.0)), ("c", (-1.0, 0.0)))
            for at, value in enumerate(own)
        ],
        columns=["architecture", "seed", "measure", "group", "at", "value"],
    )
    for names, wanted in (("a", [0.5, 1.5]), ("abc", [1.0, 1.0]), ("c", [np.nan, np.nan])):
        found = depth_profiles.mean_profile(rows, "avss", "", list(names))
        np.testing.assert_allclose(found, wanted)
