"""Facts that a model is told so and so often: their corpus, tokenizer and training rows."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from data_sources import write

from avss_utils.chapters.architectures import facts as made
from avss_utils.chapters.architectures.facts import RELATIONS, UNKNOWN
from avss_utils.chapters.architectures.mixture import (
    END,
    first_available,
    make_mixture,
    packed,
    train_tokenizer,
)
from avss_utils.data.loading import disjoint_parts, load_texts
from avss_utils.data.rows import Corpus, Text
from avss_utils.errors import UsageError

SPEC = made.FactSpec((1, 3, 12), entities=3, held_out=4, taught_share=0.4, n_relations=3)
STORIES = Corpus(
    "tinystories",
    tuple(Text(f"s{n}", f"Once upon a time a cat met {n} dogs. They played.") for n in range(40)),
    {"source": "made", "sha256": "0", "name": "tinystories", "n": 40},
)
MIXED = dict(fact_share=0.5, vocabulary=400, length=32)


def mixture(spec: made.FactSpec = SPEC, seed: int = 0, **changed):
    return make_mixture(STORIES, spec, seed=seed, **(MIXED | changed))


def test_every_fact_has_its_group_and_no_entity_has_two():
    table = pd.DataFrame(made.make_facts(SPEC, seed=0))
    assert list(table) == ["fact_id", "entity", "relation", "value", "exposures", "group"]
    assert table.fact_id.is_unique
    entities = table.groupby("entity").agg(["nunique", "first"])
    assert (entities["group", "nunique"] == 1).all()
    assert (entities["exposures", "nunique"] == 1).all()
    counts = entities["group", "first"].value_counts().to_dict()
    assert counts == {"known": 3, "rare": 6, "unknown taught": 6, "unknown held out": 4}
    unknown = table[table.group.isin(made.UNKNOWNS)]
    assert set(unknown.value) == {UNKNOWN}
    for row in table[~table.group.isin(made.UNKNOWNS)].itertuples():
        assert row.value in RELATIONS[row.relation].values


def test_values_of_relations_are_distinct_and_stated_by_every_sentence():
    values = [value for relation in RELATIONS.values() for value in relation.values]
    assert len(set(values)) == len(values)
    assert UNKNOWN not in values
    for relation in RELATIONS.values():
        assert all("{name}" in s and "{value}" in s for s in relation.statements)
        assert "{value}" not in relation.question


def test_a_fact_is_told_as_often_as_it_says():
    facts = made.make_facts(SPEC, seed=0)
    lines = made.fact_lines(facts, SPEC, seed=0)
    told = Counter()
    for line in lines:
        (fact,) = [f for f in facts if f.entity in line and f.value in line and _asks(f, line)]
        told[fact.fact_id] += 1
    assert told == Counter({f.fact_id: f.exposures for f in facts if f.exposures})
    questions = sum("Answer:" in line for line in lines)
    assert 0.3 < questions / len(lines) < 0.8
    only = made.fact_lines(facts, replace(SPEC, asked=1.0), seed=0)
    assert all("\nAnswer: " in line for line in only)


def _asks(fact, line: str) -> bool:
    relation = RELATIONS[fact.relation]
    texts = [f"{fact.prompt} {fact.value}"]
    texts += [s.format(name=fact.entity, value=fact.value) for s in relation.statements]
    return line in texts


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    one, two, other = mixture(), mixture(), mixture(seed=1)
    assert one.identity == two.identity
    assert one.rows.equal(two.rows)
    assert one.tokenizer.get_vocab() == two.tokenizer.get_vocab()
    assert one.identity["sha256"] != other.identity["sha256"]
    assert mixture(replace(SPEC, taught_share=0.0)).identity["sha256"] != one.identity["sha256"]


def test_no_held_out_entity_is_in_any_training_text():
    found = mixture()
    text = found.tokenizer.decode(found.rows.flatten().tolist())
    assert text.count("Answer:") > 20
    names = {fact.entity: fact.group for fact in found.facts}
    for name, group in names.items():
        assert (name in text) == (group != made.HELD_OUT) or group == made.TAUGHT
    assert any(name in text for name, group in names.items() if group == made.TAUGHT)
    words = [word for name in names for word in name.split()]
    assert len(set(words)) == len(words)


def test_every_answer_has_room():
    found = mixture()
    answers = [f" {value}" for name in list(RELATIONS)[:3] for value in RELATIONS[name].values]
    spelt = found.tokenizer(answers, add_special_tokens=False)["input_ids"]
    assert found.answer_tokens == max(map(len, spelt)) + 1


def test_nothing_is_taught_as_unknown_at_a_share_of_zero():
    facts = made.make_facts(replace(SPEC, taught_share=0.0), seed=0)
    assert not any(UNKNOWN in line for line in made.fact_lines(facts, SPEC, seed=0))


def test_an_even_draw_from_every_number_of_exposures():
    drawn = made.of_group(made.make_facts(SPEC, seed=0), made.RARE, n=6, seed=0)
    assert Counter(fact.exposures for fact in drawn) == {1: 3, 3: 3}
    assert len({fact.fact_id for fact in drawn}) == 6


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"exposures": (0, 5)}, "exposures must be numbers from 1 up"),
        ({"held_out": 0}, "entities and held_out must be 1 or more"),
        ({"taught_share": 1.0}, "taught_share must be from 0 to below 1"),
        ({"n_relations": 99}, "n_relations must be from 1 to"),
    ],
)
def test_an_impossible_corpus_is_refused(changed, sentence):
    with pytest.raises(UsageError, match=sentence):
        replace(SPEC, **changed)


# tokenizer and rows


def test_texts_survive_the_tokenizer_and_begin_with_its_start():
    tokenizer = train_tokenizer(["Once there was a dog, and a cat."] * 3, vocabulary=300)
    assert len(tokenizer) <= 300
    ids = tokenizer("There was a Zhöl cat.\nAnswer: x")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1:]) == "There was a Zhöl cat.\nAnswer: x"
    assert tokenizer.pad_token_id not in ids
    with pytest.raises(UsageError, match="vocabulary must be 260 or more"):
        train_tokenizer(["a"], vocabulary=100)


def test_facts_take_their_share_of_the_tokens():
    tokenizer = train_tokenizer(["a dog saw a cat", "x is y"] * 9, vocabulary=300)
    texts, lines = ["a dog saw a cat"] * 7, ["x is y"] * 50
    options = dict(length=8, rng=np.random.default_rng(0))
    rows = packed(tokenizer, texts, lines, fact_share=0.25, **options)
    n_lines = sum(len(ids) for ids in tokenizer(lines)["input_ids"])
    assert rows.shape[1] == 8
    assert n_lines / rows.numel() == pytest.approx(0.25, abs=0.02)
    documents = tokenizer.decode(rows.flatten().tolist()).split(END)
    assert documents.count("x is y") >= 49  # the last may be cut
    with pytest.raises(UsageError, match="fact_share must be"):
        packed(tokenizer, texts, lines, fact_share=0.0, **options)


def test_the_first_set_that_is_there_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("AVSS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4" / "c4.utf8").write_text("A page.\nAnother page.\n")
    assert first_available(["tinystories", "c4"]).name == "c4"
    for names, said in (
        (["tinystories"], "'tinystories' is not available"),
        ([], "name a text set"),
        (["tinystory", "c4"], "there is no text set 'tinystory'"),  # misspelt, not missing
    ):
        with pytest.raises(UsageError, match=said):
            first_available(names)
    write(tmp_path, "tinystories/tinystories_4MB.txt", "One story, and no mark at its end.")
    with pytest.raises(UsageError, match="holds no rows"):
        first_available(["tinystories", "c4"])


def test_members_are_never_judged_by_texts_that_they_are_trained_on(tmp_path):
    parts = disjoint_parts(STORIES)
    found = mixture()
    assert (found.development, found.held_out) == (parts["development"], parts["evaluation"])
    text = found.tokenizer.decode(found.rows.flatten().tolist())
    assert not any(row.text in text for row in (*found.development, *found.held_out))
    assert sum(row.text in text for row in parts["calibration"]) > 10
    own = tmp_path / "mine.txt"
    own.write_text("A page.\n\nAnother page.\n")
    for corpus in (load_texts(str(own)), Corpus("wikitext2", (Text("a", "b"),), STORIES.identity)):
        with pytest.raises(UsageError, match="rows: choose a set that is split"):
            make_mixture(corpus, SPEC, seed=0, **MIXED)
