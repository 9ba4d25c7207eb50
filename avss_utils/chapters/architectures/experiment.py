"""Notebook 06, table by table: a family trained alike, and where scores of real models peak."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from avss_utils.chapters.architectures.effects import over_seeds, values_of
from avss_utils.chapters.architectures.facts import FactSpec, make_facts
from avss_utils.chapters.architectures.family import (
    Architecture,
    check_members,
    family_identity,
    read_family,
)
from avss_utils.chapters.architectures.measures import MEASURES, peak_table, score_profiles
from avss_utils.chapters.architectures.members import member_rows
from avss_utils.chapters.architectures.mixture import Mixture, first_available, make_mixture
from avss_utils.chapters.architectures.training import (
    Recipe,
    best_recipe,
    development_loss,
    train_member,
)
from avss_utils.chapters.opening import Load
from avss_utils.data.answer_sets import PLAIN, Events, set_events
from avss_utils.data.loading import check_open, check_set
from avss_utils.data.rows import Corpus
from avss_utils.measure.judging import device_name
from avss_utils.models.embedded import EMBEDDED, package_path
from avss_utils.models.load import LoadedModel, load_model, short_name
from avss_utils.scores.answer_study import SetStudy
from avss_utils.store.agreement import checked

Key = tuple[str, int, float]  # architecture, seed, taught share
# a training of seconds: few people, known and rare, few tokens, and as few questions
SMALL = dict(exposures=[12, 1], entities=2, held_out=2, n_relations=2, fact_share=0.9)
SMALL |= dict(vocabulary=300, length=32, batch_rows=8, n_rate_tokens=128, n_asked=4, n_contrast=2)
SMALL |= dict(n_shuffles=9, n_texts=2, n_loss_tokens=64, other_models=0)
FEW_QUESTIONS = dict(first_blocks=2, n_calibration=2, n_questions=2, n_shuffles=9, other_models=0)


class Architectures:
    """What notebook 06 computes from, and how; see ``opening.Inputs``."""

    def __init__(self, load: Load, p: SimpleNamespace) -> None:
        self.p, self.family = p, read_family(p.architectures)
        check_members([p.centre, *p.controls], self.family)
        people = (tuple(p.exposures), p.entities, p.held_out)
        self.specs = {
            share: FactSpec(*people, share, p.n_relations, p.asked)
            for share in ([p.taught_share, 0.0] if p.controls else [p.taught_share])
        }
        self.recipe = Recipe(p.batch_rows, p.rates[0], p.rate_width)
        check_open(p.questions)
        for name in p.stories:
            check_set(name, text=True)
        self.loaded = load()
        self.identity = self.loaded.identity
        self.where, self.device = self.loaded.model.device, device_name(self.loaded.model)

    @property
    def data(self) -> list[dict]:
        """Identities of stories, facts, family, questions, and of further real models."""
        mixtures = (mixture.identity for mixture in self.mixtures.values())
        data = [self.stories.identity, *mixtures, family_identity(self.family), self.asked[2]]
        return [*data, *(as_data(own.identity) for own in self.real[1:])]

    @cached_property
    def stories(self) -> Corpus:
        """The first text set that is available."""
        return first_available(self.p.stories)

    @cached_property
    def mixtures(self) -> dict[float, Mixture]:
        """What members are trained on, by the share of people taught as unknown."""
        p = self.p
        sizes = dict(fact_share=p.fact_share, vocabulary=p.vocabulary, length=p.length, seed=p.seed)
        return {
            share: make_mixture(self.stories, own, **sizes) for share, own in self.specs.items()
        }

    @cached_property
    def asked(self) -> tuple[Events, Events, dict]:
        """What real models are asked: calibration and evaluation questions, the set's identity."""
        ask = partial(set_events, self.p.questions, wording=PLAIN, seed=self.p.seed)
        before, identity = ask(part="calibration", n_questions=self.p.n_calibration)
        return before, ask(part="evaluation", n_questions=self.p.n_questions)[0], identity

    @cached_property
    def real(self) -> list[LoadedModel]:
        """The notebook's model, and the others that are on this machine."""
        others = dict.fromkeys(filter(is_here, self.p.other_models))
        others.pop(self.p.model, None)
        options = dict(dtype="float32", device=self.where)
        return [self.loaded, *(load_model(name, **options) for name in others)]

    @checked(
        values=False,
        sizes=SMALL,
        pick="first",
        key="architecture rate",
        form=lambda t: t.development >= 0,
    )
    def rates(self, key: tuple[str, float]) -> pd.DataFrame:
        """One row: architecture, rate (at the recipe's width), ``training.development_loss``."""
        p, (name, rate) = self.p, key
        mixture, recipe = self.mixtures[p.taught_share], replace(self.recipe, learning_rate=rate)
        loss = development_loss(self._row(name), mixture, recipe, p, device=self.where)
        return pd.DataFrame([{"architecture": name, "rate": rate, "development": loss}])

    @checked(by="fact_id")
    def facts(self) -> pd.DataFrame:
        """One row per fact: fact_id, entity, relation, value, exposures, group."""
        return pd.DataFrame(make_facts(self.specs[self.p.taught_share], seed=self.p.seed))

    @checked(
        values=False,
        sizes=SMALL,
        pick="first",
        key="architecture seed taught",
        form=lambda t: (t.n >= 0) & (~t.measure.isin(MEASURES) | t.value.between(0, 1)),
    )
    def members(self, key: Key, tried: pd.DataFrame | None) -> pd.DataFrame:
        """One member trained and measured: architecture, seed, taught, ``members.COLUMNS``.

        ``tried``: the table of ``rates``, None where there is one rate.
        """
        name, seed, taught = key
        mixture, recipe = self.mixtures[taught], best_recipe(name, self.recipe, tried)
        member = train_member(self._row(name), mixture, recipe, seed=seed, device=self.where)
        table = member_rows(member, mixture, self.p)
        names = dict(architecture=name, seed=seed, taught=taught)
        return table.assign(**names)[[*names, *table.columns]]

    @checked(
        values=False,
        sizes=FEW_QUESTIONS,
        pick="first",
        key="model",
        form=lambda t: t.value.between(0, 1) & t.p.between(0, 1) & (t.low <= t.high),
    )
    def real_peaks(self, short: str) -> pd.DataFrame:
        """``measures.peak_table`` of a real model, with its name and number of blocks before."""
        p, (before, after, _) = self.p, self.asked
        loaded = next(own for own in self.real if own.identity["short"] == short)
        options = dict(eps=p.eps, ratio=p.relative_eps, seed=p.seed, batch_tokens=p.batch_tokens)
        study = SetStudy(loaded, before, after, sites=("residual",), **options)
        table = peak_table(score_profiles(study, n_shuffles=p.n_shuffles))
        of_model = {"model": short, "n_blocks": loaded.identity["n_blocks"]}
        return table.assign(**of_model)[[*of_model, *table.columns]]

    def _row(self, name: str) -> Architecture:
        return next(row for row in self.family if row.name == name)


def to_train(p: Mapping) -> list[Key]:
    """(architecture, seed, taught share): all with the first seed, then all with the next one.

    Controls are there once more, never taught to abstain. ``p``: the notebook's parameters.
    """
    found: list[Key] = []
    for seed in range(p["n_seeds"]):
        found += [(name, seed, p["taught_share"]) for name in p["architectures"]]
        found += [(name, seed, 0.0) for name in p["architectures"] if name in p["controls"]]
    return list(dict.fromkeys(found))


def real_models(record: dict) -> list[str]:
    """Short names of the models of a run, its own and the others that its machine had."""
    others = set(map(short_name, record["parameters"]["other_models"]))
    found = (entry["name"] for entry in record["data"] if entry["name"] in others)
    return [record["model"]["short"], *found]


def is_here(name: str) -> bool:
    """Whether this machine can load a model without a network: an embedded one whose wheels are all
    installed, or a folder or GGUF file that exists.
    """
    if name in EMBEDDED:
        return all(package_path(file) for _, file in EMBEDDED[name].parts)
    return Path(name).expanduser().exists()


def as_data(identity: dict) -> dict:
    """A further model as a run records its data: name, source, sha256 (weights), n (blocks).

    Which models a machine has decides what a run shows, so they belong to its key.
    """
    return {
        "name": identity["short"],
        "source": identity["source"],
        "sha256": identity["weights_sha256"],
        "n": identity["n_blocks"],
    }


def family_table(
    family: Sequence[Architecture], rows: pd.DataFrame, tried: pd.DataFrame | None, p: Mapping
) -> pd.DataFrame:
    """What is trained: shape, learning rate, parameters and seconds, one row per architecture.

    ``rows``: of ``members``; ``tried``: as there; ``p``: the notebook's parameters.
    """
    recipe = Recipe(p["batch_rows"], p["rates"][0], p["rate_width"])
    chosen = {row.name: best_recipe(row.name, recipe, tried) for row in family}
    of_blocks, seconds = (
        over_seeds(values_of(rows, *measure)).set_index("architecture").value
        for measure in (("parameters", "blocks"), ("training", "seconds"))
    )
    return pd.DataFrame(
        {
            "architecture": row.name,
            "kind": row.kind,
            "blocks": row.depth,
            "width": row.width,
            "heads": row.heads,
            "keys and values": row.kv_heads or row.heads,
            "window": row.window or "all",
            "tied": "yes" if row.tied else "no",
            "rate": chosen[row.name].learning_rate,
            "highest rate": chosen[row.name].rate(row),
            "parameters in blocks": f"{of_blocks[row.name]:,.0f}",
            "seconds of training": seconds[row.name],
        }
        for row in family
    )
