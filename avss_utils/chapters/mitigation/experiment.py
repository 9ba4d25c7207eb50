"""Notebook 03, table by table: which blocks are trained, what that changes, what it costs."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from avss_utils.chapters.mitigation.adapter_training import (
    Asked,
    Lessons,
    Trained,
    arms_at_once,
    frozen,
    merged,
    step_row,
    train,
)
from avss_utils.chapters.mitigation.arms import (
    GUIDED,
    PILOT,
    RANDOM,
    Arm,
    Recipe,
    arm_of,
    arm_table,
    budget,
    check_arms,
    check_sizes,
    chosen_arms,
    drawn_arms,
    is_pilot,
    loss_name,
)
from avss_utils.chapters.mitigation.contrastive_losses import lessons_of
from avss_utils.chapters.mitigation.training_effects import UNTRAINED
from avss_utils.chapters.mitigation.trial_outcomes import (
    Bench,
    choice_scores,
    cost_rows,
    divergence_rows,
    judged_choices,
    judged_outcomes,
    likelier_true,
)
from avss_utils.chapters.opening import Load
from avss_utils.data import suites
from avss_utils.data.answer_sets import CHAT, Events, check_prompts, prompted, set_events
from avss_utils.data.loading import check_open
from avss_utils.data.wordings import check_wording
from avss_utils.measure.judging import device_name, for_evaluation
from avss_utils.measure.side_by_side import Adapter, side_by_side
from avss_utils.models.devices import as_dtype
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import n_to_drop
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.eavss import ProneScores
from avss_utils.scores.probes import probe_table
from avss_utils.store.agreement import checked

# One set that is learned from: others borrow false answers from all questions that are read.
FEW = dict(sets=1, n_questions=3, n_development=3, n_train=8, n_asked=1, n_task_questions=1)
FEW |= dict(n_text_tokens=511, cost_repeats=1)
FEW |= dict(rates=2, steps=1, evaluate_every=1, questions_a_step=2)
Key = tuple[str, int, float]  # arm, seed and learning rate of one training


class Mitigation:
    """What notebook 03 computes from, and how; see ``opening.Inputs``."""

    def __init__(self, load: Load, p: SimpleNamespace) -> None:
        names = [*p.sets, *p.held_out]
        check_arms(p.arms, contrast=p.contrast)
        check_sizes(p)
        as_dtype(p.eval_dtype, torch.device("cpu"))
        texts = list(dict.fromkeys([*p.text_sets, p.pilot_text]))
        suites.check_names(tasks=p.tasks, text_sets=texts)
        check_wording(p.wording, names)
        for name in names:
            check_open(name)
        if p.asked_prompt != CHAT:  # for which the tokenizer has to be asked
            check_prompts([p.asked_prompt], None)
        self.p, self.loaded = p, load()
        check_prompts([p.asked_prompt], self.loaded.tokenizer)
        self.identity = self.loaded.identity
        self.judged = for_evaluation(self.loaded, p.eval_dtype)
        self.device = device_name(self.judged.model)
        suite, suite_data = suites.build_suite(
            self.loaded.tokenizer,
            tasks=p.tasks,
            text_sets=texts,
            n_questions=p.n_task_questions,
            n_tokens=p.n_text_tokens,
            context=p.context,
            batch_tokens=p.batch_tokens,
        )
        learned, set_data = self._part(names, "calibration", p.n_train)
        stopped, _ = self._part(names, "development", p.n_development)
        held, _ = self._part(p.sets, "evaluation", p.n_questions)
        if p.held_out:
            held += self._part(p.held_out, "evaluation", p.n_held_out)[0]
        self.data = [*set_data, *suite_data]
        self.taught, self.stopped = learned[: len(p.sets)], stopped[: len(p.sets)]
        tokenizer = self.loaded.tokenizer
        asked = [
            prompted(own.first(p.n_asked), tokenizer, p.asked_prompt, shown)
            for own, shown in zip(held, learned, strict=True)
        ]
        self.bench = Bench(held, asked, suite, p.wording, p.max_new_tokens)

    def _part(self, names: Sequence[str], part: str, n: int) -> tuple[list[Events], list[dict]]:
        """The first ``n`` questions of a part of every set, and the sets' identities."""
        options = dict(part=part, n_questions=n, wording=self.p.wording, seed=self.p.seed)
        events, data = zip(*(set_events(name, **options) for name in names), strict=True)
        return list(events), list(data)

    @property
    def top(self) -> int:
        """How many blocks are flagged."""
        return n_to_drop(self.identity["n_blocks"], ratio=self.p.drop_ratio)

    @property
    def recipe(self) -> Recipe:
        """How every arm is trained."""
        p = self.p
        ranks = budget([self.top, self.identity["n_blocks"]], least=p.least_rank)
        return Recipe(ranks, p.steps, p.questions_a_step, p.evaluate_every)

    @cached_property
    def base(self) -> torch.nn.Module:
        """What adapters are laid beside and trained."""
        return frozen(self.loaded)

    @cached_property
    def untouched(self) -> LoadedModel:
        """The judged model without any adapter, which divergences are from."""
        return replace(self.judged, model=copy.deepcopy(self.judged.model))

    @cached_property
    def lessons(self) -> Lessons:
        """Questions of the sets that are learned from, in tokens."""
        parts = (self.taught, self.stopped)
        return Lessons(
            *([own for one in sets for own in lessons_of(self.loaded, one)] for sets in parts)
        )

    @checked(form=lambda t: t.score >= 0)
    def rankings(self) -> pd.DataFrame:
        """What arms choose blocks by, on the questions that they learn from: ranking, block, score.

        eavss: read as a contrast, the mean over sets; probe: AUROC for a false answer, likewise.
        High is prone.
        """
        p = self.p
        sizes = dict(eps=p.eps, ratio=p.relative_eps, batch_tokens=p.batch_tokens)
        eavss = ProneScores(self.loaded, self.taught, **sizes)["contrast"]
        options = dict(sites=("residual",), seed=p.seed, keep_states=True, **sizes)
        probes = [
            probe_table(SetStudy(self.loaded, own, own, **options), n_folds=p.n_folds).auroc
            for own in self.taught
        ]
        parts = [
            pd.DataFrame({"ranking": name, "block": np.arange(len(score)), "score": score})
            for name, score in (("eavss", eavss), ("probe", np.mean(probes, axis=0)))
        ]
        return pd.concat(parts, ignore_index=True)

    @checked(by="arm", sizes=FEW)
    def arms(self, rankings: pd.DataFrame) -> pd.DataFrame:
        """``arms.arm_table`` of the named arms, the random sets and the pilots."""
        p, top = self.p, self.top
        scores = {name: own.score.to_numpy() for name, own in rankings.groupby("ranking")}
        named = chosen_arms(p.arms, scores, top=top, contrast=p.contrast)
        drawn = drawn_arms(
            self.identity["n_blocks"],
            top=top,
            n_random=p.n_random,
            n_random_losses=p.n_random_losses,
            n_pilot=p.n_pilot,
            named=named,
            seed=p.seed,
        )
        return arm_table([*named, *drawn], self.recipe.ranks)

    @checked(
        table="rates",
        sizes=FEW,
        pick="first",
        values=False,
        key="arm rate",
        form=lambda t: t.development >= 0,
    )
    @checked(table="rate_costs", sizes=FEW, pick="first", values=False, key="arm rate")
    def rates(
        self, keys: Sequence[tuple[str, float]], arms: pd.DataFrame
    ) -> Iterator[dict[str, pd.DataFrame]]:
        """What each (arm, learning rate) of ``rate_keys`` comes to.

        "rates": arm, rate, step, development: by look at the development loss, infinite where a
        training has failed; "rate_costs": arm, rate, divergence: of the trained model from the
        untrained one on the pilot text, nats a token.
        """
        asked = [Asked(arm_of(arms, name), pilot_seed(name), rate) for name, rate in keys]
        windows = self.bench.suite.windows[self.p.pilot_text]
        tokens = self.bench.suite.batch_tokens // 4
        for (name, rate), own in zip(keys, self._trained(asked), strict=True):
            with self._with_adapter(own) as after:
                models = (self.untouched.model, after.model)
                kl = divergence_rows(*models, windows, batch_tokens=tokens)
            history = own.history[["step", "development"]].assign(arm=name, rate=rate)
            history = history.assign(development=np.inf) if own.failed else history
            cost = pd.DataFrame({"divergence": [kl.kl.sum() / kl.n_tokens.sum()]})
            yield {
                "rates": history[["arm", "rate", "step", "development"]],
                "rate_costs": cost.assign(arm=name, rate=rate)[["arm", "rate", "divergence"]],
            }

    @checked(table="trials", sizes=FEW, pick=lambda keys: keys[1:2], values=False)
    @checked(
        table="trials",
        by="arm seed set wording row_id",
        sizes=FEW,
        pick="first",  # the untrained model
        numbers="JUDGED",
        but=dict(correct="DECISION"),
        key="arm seed",
        form=lambda t: (
            t.groupby(["arm", "seed"]).row_id.transform("size") == (t.arm == UNTRAINED).sum()
        ),
    )
    @checked(
        table="trial_costs",
        sizes=FEW,
        pick="first",
        values=False,
        key="arm seed",
        form=lambda t: t.value >= 0,
    )
    def trials(self, keys: Sequence[Key], arms: pd.DataFrame) -> Iterator[dict[str, pd.DataFrame]]:
        """Train each (arm, seed, learning rate) together, or UNTRAINED not at all, and judge it.

        "trials": arm, seed, and the columns of ``trial_outcomes.judged_outcomes``; "trial_costs":
        arm, seed, set, measure, value: bits per byte and divergence of each text set, of the
        training ("") those of ``_facts``. An arm that has failed is judged untrained.
        """
        given = [key for key in keys if key[0] != UNTRAINED]
        if len(given) < len(keys):
            (choices,) = judged_choices(self.judged, self.bench)
            yield _named(self._judged(self.judged, choices, {"parameters": 0}), UNTRAINED, 0)
        found = self._trained([Asked(arm_of(arms, name), s, rate) for name, s, rate in given])
        chosen = self._side_by_side(
            found, lambda model, adapters: judged_choices(model, self.bench, adapters)
        )
        for (name, seed, _), own, choices in zip(given, found, chosen, strict=True):
            with self._with_adapter(own) as after:
                yield _named(self._judged(after, choices, _facts(own)), name, seed)

    @checked(table="set_trials", sizes=FEW, pick="first", values=False, key="arm seed")
    @checked(
        table="set_trainings",
        sizes=FEW,
        pick="first",
        values=False,
        key="arm seed",
        form=lambda t: t.value >= 0,
    )
    def set_trials(
        self, keys: Sequence[Key], arms: pd.DataFrame
    ) -> Iterator[dict[str, pd.DataFrame]]:
        """Train random sets together, and judge by MC1 alone, on the sets that are learned from.

        "set_trials": arm, seed, set, row_id, correct; "set_trainings": arm, seed, measure, value.
        """
        names = [events.name for events in self.taught]
        found = self._trained([Asked(arm_of(arms, name), s, rate) for name, s, rate in keys])
        judged = self._side_by_side(
            found, lambda model, adapters: likelier_true(model, self.bench, names, adapters)
        )
        for (name, seed, _), own, table in zip(keys, found, judged, strict=True):
            facts = pd.DataFrame(_facts(own).items(), columns=["measure", "value"])
            yield _named({"set_trials": table, "set_trainings": facts}, name, seed)

    def arms_at_once(self) -> int:
        """How many trainings go through one batch here."""
        some = tuple(range(self.top))
        arm = Arm("some blocks", some, some, self.p.contrast)
        return arms_at_once(self.base, self.lessons, arm, self.recipe)

    def _trained(self, asked: Sequence[Asked]) -> list[Trained]:
        return train(self.base, self.lessons, asked, self.recipe) if asked else []

    def _side_by_side(
        self,
        found: Sequence[Trained],
        judge: Callable[[LoadedModel, Sequence[Adapter]], list[pd.DataFrame]],
    ) -> list[pd.DataFrame]:
        """What ``judge`` gives of every adapter, of all together where the model allows it."""
        adapters = [own.adapter for own in found]
        if not adapters or adapters[0].wrapped is None:
            return judge(self.judged, adapters) if adapters else []
        parts = []
        for own in found:
            with self._with_adapter(own) as after:
                parts += judge(after, ())
        return parts

    @contextmanager
    def _with_adapter(self, trained: Trained) -> Iterator[LoadedModel]:
        """The judged model, and inside it the adapter: beside it, or merged into a copy."""
        _ = self.untouched  # copied before an adapter is there, which a copy would have too
        if trained.adapter.wrapped is not None:
            after = merged(self.loaded, self.base, trained)
            yield for_evaluation(after, self.p.eval_dtype)
            return
        with side_by_side(self.judged.model, [trained.adapter]):
            yield self.judged

    def _judged(
        self, after: LoadedModel, choices: pd.DataFrame, facts: Mapping[str, float]
    ) -> dict[str, pd.DataFrame]:
        """The tables of ``trials``, of one model; ``facts``: of its training, by measure."""
        rows = [("", measure, float(value)) for measure, value in facts.items()]
        training = pd.DataFrame(rows, columns=["set", "measure", "value"])
        costs = pd.concat([cost_rows(self.untouched, after, self.bench.suite), training])
        return dict(trials=judged_outcomes(after, self.bench, choices), trial_costs=costs)

    @checked(by="set row_id choice", sizes=FEW, pick="first", numbers="NATS", key="set")
    def development_choices(self, name: str) -> pd.DataFrame:
        """``choice_scores`` of the untrained model on a set's development questions."""
        return self._scored(name, self.stopped)

    @checked(by="set row_id choice", sizes=FEW, numbers="NATS", key="set")
    def untrained_choices(self, name: str) -> pd.DataFrame:
        """The same on held-out questions, of which one temperature is judged."""
        return self._scored(name, self.bench.choices)

    def _scored(self, name: str, sets: Sequence[Events]) -> pd.DataFrame:
        events = next(own for own in sets if own.name == name)
        options = dict(wording=self.p.wording, batch_tokens=self.p.batch_tokens)
        return choice_scores(self.judged, events, **options).round({"score": 3})

    @checked(sizes=FEW, pick="first", values=False, key="arm")
    def step_seconds(self, name: str, arms: pd.DataFrame) -> pd.DataFrame:
        """``adapter_training.step_row`` of one arm."""
        lessons, arm = self.lessons.training, arm_of(arms, name)
        return step_row(self.base, lessons, arm, self.recipe, repeats=self.p.cost_repeats)


def rate_keys(arms: pd.DataFrame, rates: Sequence[float]) -> list[tuple[str, float]]:
    """(arm, learning rate): every pilot of an ``arm_table``, or every arm where it has none.

    None where one rate leaves nothing to choose.
    """
    pilots = [name for name in arms.arm if is_pilot(name)]
    return [(name, rate) for name in pilots or arms.arm for rate in rates if len(rates) > 1]


def pilot_seed(name: str) -> int:
    """The seed of a pilot: 1,000 and its number, which no arm that is judged has; else 0."""
    if not is_pilot(name):
        return 0
    return 1000 + int(name.removeprefix(PILOT).split(",")[0].split()[-1])


def pilot_table(tried: pd.DataFrame, costs: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """The means over pilots, of the tables of ``Mitigation.rates``: blocks, loss, rate, n,
    development (its least), divergence.

    ``blocks``: how many an arm trains; ``loss``: ``loss_name``.
    """
    best = tried.groupby(["arm", "rate"], as_index=False, sort=False).development.min()
    best = best.merge(costs, on=["arm", "rate"])
    kinds = [_kind(arm_of(arms, name)) for name in best.arm]
    best["blocks"], best["loss"] = [n for n, _ in kinds], [loss for _, loss in kinds]
    return best.groupby(["blocks", "loss", "rate"], as_index=False, sort=False).agg(
        n=("arm", "size"), development=("development", "mean"), divergence=("divergence", "mean")
    )


def chosen_rates(
    tried: pd.DataFrame,
    costs: pd.DataFrame,
    arms: pd.DataFrame,
    rates: Sequence[float],
    *,
    budget: float,
) -> dict[str, float]:
    """The learning rate of every arm but the pilots.

    By number of blocks and loss that of the least mean development loss among those whose mean
    divergence is within ``budget`` (nats a token); the lowest rate where none is. Where every arm
    was tried itself, its own of least loss; the only one where there is one.
    """
    names = [name for name in arms.arm if not is_pilot(name)]
    if len(rates) == 1:
        return dict.fromkeys(names, rates[0])
    if len(names) == len(arms):
        least = tried.loc[tried.groupby("arm", sort=False).development.idxmin()]
        return dict(zip(least.arm, least.rate, strict=True))
    table, found = pilot_table(tried, costs, arms), {}
    for name in names:
        blocks, loss = _kind(arm_of(arms, name))
        own = table[(table.blocks == blocks) & (table.loss == loss)]
        within = own[own.divergence <= budget]
        usable = not within.empty and np.isfinite(within.development).any()
        found[name] = float(within.rate[within.development.idxmin()] if usable else min(rates))
    return found


def trial_keys(chosen: Mapping[str, float], *, n_seeds: int, guided_seeds: int = 0) -> list[Key]:
    """(arm, seed, learning rate): the untrained model, then every named arm, seed by seed.

    GUIDED has ``guided_seeds`` where these are more.
    """
    named = {name: rate for name, rate in chosen.items() if not name.startswith(RANDOM)}
    found = [(UNTRAINED, 0, 0.0)]
    for seed in range(max(n_seeds, guided_seeds)):
        found += [(a, seed, x) for a, x in named.items() if seed < n_seeds or a == GUIDED]
    return found


def set_keys(chosen: Mapping[str, float], *, n_seeds: int) -> list[Key]:
    """(random set, seed, learning rate), seed by seed, those of other losses included."""
    drawn = {name: rate for name, rate in chosen.items() if name.startswith(RANDOM)}
    return [(name, seed, rate) for seed in range(n_seeds) for name, rate in drawn.items()]


def _kind(arm: Arm) -> tuple[int, str]:
    return len(arm.trained), loss_name(arm)


def _facts(trained: Trained) -> dict[str, float]:
    """Of a training: trained parameters, steps, steps left out, its least development loss, and
    whether it failed.
    """
    return {
        "parameters": trained.n_parameters,
        "steps": trained.history.step.max(),
        "left out": trained.n_left_out,
        "failed": float(trained.failed),
    }


def _named(tables: Mapping[str, pd.DataFrame], name: str, seed: int) -> dict[str, pd.DataFrame]:
    """The tables with the arm and its seed in front."""
    return {
        table: own.assign(arm=name, seed=seed)[["arm", "seed", *own.columns]]
        for table, own in tables.items()
    }
