"""Architectures as rows of YAML, and their training from scratch."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_facts import mixture

from avss_utils.chapters.architectures import facts as made
from avss_utils.chapters.architectures.effects import design, inflation
from avss_utils.chapters.architectures.family import (
    Architecture,
    block_parameters,
    build,
    check_members,
    family_identity,
    read_family,
)
from avss_utils.chapters.architectures.mixture import train_tokenizer
from avss_utils.chapters.architectures.training import (
    Recipe,
    best_recipe,
    development_loss,
    train_member,
)
from avss_utils.errors import UsageError
from avss_utils.measure.decoding import greedy_answers
from avss_utils.models.blocks import decoder_blocks

FILE = Path(__file__).parents[2] / "params" / "architectures.yml"
NAMES = list(yaml.safe_load(FILE.read_text()))
FAMILY = read_family(NAMES, FILE)
TOKENIZER = train_tokenizer(["a small text of a few words"], vocabulary=270)
RECIPE = Recipe(batch_rows=4, learning_rate=1e-2, rate_width=32)
CPU = torch.device("cpu")


def small(name: str = "small", **changed) -> Architecture:
    return Architecture(name, **{"kind": "llama", "depth": 2, "width": 32, "heads": 2} | changed)


@pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.name)
def test_each_row_builds_and_has_the_size_and_shape_it_says(row):
    with torch.device("meta"):
        model = build(row, TOKENIZER, context=32, seed=0)
    assert row.parameters == block_parameters(model) > 0
    assert len(decoder_blocks(model)) == row.depth
    assert model.get_input_embeddings().embedding_dim == row.width
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == row.tied


def test_depth_and_width_are_not_collinear_and_some_pairs_are_of_equal_size():
    for start in ("tiny-", ""):
        own = [r for r in FAMILY if r.name.startswith("tiny-") == bool(start) and r.kind == "llama"]
        table = design(own)
        for terms in (["log2 depth", "log2 width"], ["log2 depth", "log2 parameters"]):
            assert inflation(table[terms]).max() < 5
        sizes = [(r.parameters, r.depth) for r in own]
        assert any(a < b < 1.05 * a and d != e for a, d in sizes for b, e in sizes)


def test_post_norm_grouped_queries_window_and_embeddings_are_real():
    post, grouped = small(kind="olmo2"), small(heads=4, kv_heads=2, depth=1)
    block = decoder_blocks(build(post, TOKENIZER, context=32, seed=0))[0]
    assert not hasattr(block, "input_layernorm")
    seen = []
    block.post_feedforward_layernorm.register_forward_hook(lambda m, i, o: seen.append(o))
    state = 50 * torch.randn(1, 3, 32)
    rotation = torch.ones(1, 3, 16), torch.zeros(1, 3, 16)
    after = block(state, position_embeddings=rotation, attention_mask=None)
    # what the block adds last has gone through the norm: its size does not depend on the state's
    assert seen[0].pow(2).mean(-1).sqrt().max() < 1.1
    assert torch.isfinite(after).all()
    model = build(grouped, TOKENIZER, context=32, seed=0)
    attention = decoder_blocks(model)[0].self_attn
    assert attention.q_proj.out_features == 32
    assert attention.k_proj.out_features == attention.v_proj.out_features == 16
    assert grouped.groups == 2
    assert small().groups == 1


def test_a_window_hides_what_lies_before_it():
    ids = torch.randint(2, 200, (1, 12), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, 0] += 1
    for window, moved in ((3, False), (0, True)):
        model = build(small(depth=1, window=window), TOKENIZER, context=32, seed=0).eval()
        with torch.inference_mode():
            last = [model(input_ids=x).logits[0, -1] for x in (ids, other)]
        assert (not torch.equal(*last)) == moved


def test_what_a_row_may_not_say(tmp_path):
    path = tmp_path / "family.yml"
    for text, sentence in (
        ("a: {kind: llama, depth: 2, width: 32, heads: 2, colour: red}", "has a key 'colour'"),
        ("a: {kind: llama, depth: 2, width: 32}", "needs the key 'heads'"),
        ("a: {kind: lama, depth: 2, width: 32, heads: 2}", "has the kind 'lama'"),
        ("a: {kind: llama, depth: 0, width: 32, heads: 2}", "whole number from 1 up as depth"),
        ("a: {kind: llama, depth: 2.5, width: 32, heads: 2}", "whole number from 1 up as depth"),
        ("a: {kind: llama, depth: 2, width: 30, heads: 4}", "do not fill"),
        ("a: {kind: llama, depth: 2, width: 32, heads: 4, kv_heads: 3}", "do not divide"),
        ("a: {kind: olmo2, depth: 2, width: 32, heads: 2, window: 4}", "has a window"),
        ("a: [1]", "must give each architecture its row"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=sentence) as caught:
            read_family(["a"], path)
        assert "\n" not in str(caught.value)
    for name, sentence in (("b", "unknown architecture 'b'"), ("8x256", "named twice")):
        with pytest.raises(UsageError, match=sentence):
            read_family(["8x256", name], FILE)
    with pytest.raises(UsageError, match="says 5 parameters"):
        build(small(parameters=5), TOKENIZER, context=32, seed=0)
    check_members(["small"], [small(), small("other")])
    with pytest.raises(UsageError, match="'wide' is not among the architectures that are trained"):
        check_members(["small", "wide"], [small()])


def test_an_identity_knows_every_key_of_every_row():
    one = family_identity([small()])
    assert one == family_identity([small()])
    assert one["sha256"] != family_identity([small(depth=3)])["sha256"]
    assert one["sha256"] != family_identity([small(), small("other")])["sha256"]


# training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    mixed = mixture()
    one, two, other = (
        train_member(small(), mixed, RECIPE, seed=seed, device=CPU) for seed in (0, 0, 1)
    )
    first, second = one.model.state_dict(), two.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    weights = [m.model.get_input_embeddings().weight for m in (one, other)]
    assert not torch.equal(*weights)
    assert one.losses[-1][1] < np.log(len(mixed.tokenizer))
    assert one.spent["tokens"] == len(mixed.rows) // 4 * 4 * 32


def test_a_told_fact_is_recalled_and_an_untold_one_is_not():
    spec = made.FactSpec((300,), 6, held_out=8, taught_share=0.0, n_relations=2, asked=1.0)
    mixed = mixture(spec, fact_share=1.0, length=64, vocabulary=700)
    member = train_member(small(width=64, heads=4), mixed, Recipe(2, 5e-3, 64), seed=0, device=CPU)
    told, untold = ([f for f in mixed.facts if f.group == g] for g in (made.KNOWN, made.HELD_OUT))
    answers = greedy_answers(
        member.model, member.tokenizer, [f.prompt for f in (*told, *untold)], max_new_tokens=6
    )
    assert [own.text for own in answers[: len(told)]] == [fact.value for fact in told]
    # never taught to abstain, it names a value of the relation for people it has never seen
    invented = [
        own.text in made.RELATIONS[fact.relation].values
        for fact, own in zip(untold, answers[len(told) :], strict=True)
    ]
    assert np.mean(invented) > 0.8


def test_the_rate_falls_with_the_root_of_the_width():
    assert RECIPE.rate(small()) == pytest.approx(1e-2)
    assert RECIPE.rate(small(width=128)) == pytest.approx(5e-3)
    huge, mixed = replace(RECIPE, batch_rows=10_000), mixture()
    with pytest.raises(UsageError, match="fewer than the 10000 of one step"):
        train_member(small(), mixed, huge, seed=0, device=CPU)


def test_the_rate_of_least_development_loss_is_taken():
    p = SimpleNamespace(rate_share=0.5, n_rate_tokens=100, batch_tokens=256, seed=0)
    mixed, rates = mixture(), (1e-6, 1e-2)
    losses = [
        development_loss(small(), mixed, replace(RECIPE, learning_rate=rate), p, device=CPU)
        for rate in rates
    ]
    tried = pd.DataFrame({"architecture": "small", "rate": rates, "development": losses})
    other = tried.assign(architecture="wide", development=[0.1, 0.2])
    tried = pd.concat([tried, other], ignore_index=True)
    slow = replace(RECIPE, learning_rate=1e-6)
    assert best_recipe("small", slow, tried) == RECIPE  # the other hardly moves
    assert best_recipe("wide", RECIPE, tried) == slow
    assert best_recipe("small", slow, None) == slow
