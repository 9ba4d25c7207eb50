"""Notebook 03, table by table: which blocks are trained, what that changes, what it costs."""

from collections.abc import Iterator, Mapping, Sequence
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
    Arm,
    Recipe,
    arm_of,
    arm_table,
    budget,
    check_arms,
    chosen_arms,
    is_random,
)
from avss_utils.chapters.mitigation.contrastive_losses import lessons_of
from avss_utils.chapters.mitigation.training_effects import UNTRAINED
from avss_utils.chapters.mitigation.trial_outcomes import (
    Bench,
    choice_scores,
    cost_rows,
    judged_outcomes,
)
from avss_utils.chapters.opening import Load
from avss_utils.data import suites
from avss_utils.data.answer_sets import CHAT, Events, check_prompts, prompted, set_events
from avss_utils.data.loading import check_open
from avss_utils.data.wordings import check_wording
from avss_utils.measure.judging import device_name, for_evaluation
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
        check_arms(p.arms, n_random=p.n_random, contrast=p.contrast)
        as_dtype(p.eval_dtype, torch.device("cpu"))
        suites.check_names(tasks=p.tasks, text_sets=p.text_sets)
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
            text_sets=p.text_sets,
            n_questions=p.n_task_questions,
            n_tokens=p.n_text_tokens,
            context=p.context,
            batch_tokens=p.batch_tokens,
        )
        learned, set_data = self._part(names, "calibration", p.n_train)
        stopped, _ = self._part(names, "development", p.n_development)
        held, _ = self._part(names, "evaluation", p.n_questions)
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
        """What adapters are laid beside."""
        return frozen(self.loaded)

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
        """``arms.arm_table`` of the named arms and the random sets."""
        p = self.p
        scores = {name: own.score.to_numpy() for name, own in rankings.groupby("ranking")}
        options = dict(top=self.top, n_random=p.n_random, seed=p.seed, contrast=p.contrast)
        return arm_table(chosen_arms(p.arms, scores, **options), self.recipe.ranks)

    @checked(sizes=FEW, pick="first", values=False, key="arm", form=lambda t: t.development >= 0)
    def rates(self, name: str, arms: pd.DataFrame) -> pd.DataFrame:
        """Development loss of one arm by learning rate: arm, rate, step, development; infinite
        where a training has failed.

        One rate leaves nothing to choose: nothing is trained, and its loss is 0.
        """
        rates = self.p.rates
        if len(rates) == 1:
            first = {"arm": [name], "rate": list(rates), "step": [0], "development": [0.0]}
            return pd.DataFrame(first)
        asked = [Asked(arm_of(arms, name), self.p.seed, rate) for rate in rates]
        found = train(self.base, self.lessons, asked, self.recipe)
        parts = []
        for rate, own in zip(rates, found, strict=True):
            history = own.history.assign(arm=name, rate=rate)
            parts.append(history.assign(development=np.inf) if own.failed else history)
        return pd.concat(parts, ignore_index=True)[["arm", "rate", "step", "development"]]

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
        training ("") the number of parameters, steps, and those of them that were left out.
        """
        asked = [
            Asked(arm_of(arms, name), seed, rate) for name, seed, rate in keys if name != UNTRAINED
        ]
        found = iter(self._trained(asked) if asked else [])
        for name, seed, _ in keys:
            after, facts = self.judged, {"parameters": 0}
            if name != UNTRAINED:
                own = next(found)
                after = for_evaluation(merged(self.loaded, self.base, own), self.p.eval_dtype)
                facts = {"parameters": own.n_parameters, "steps": own.history.step.max()}
                facts["left out"] = own.n_left_out
            yield {
                table: rows.assign(arm=name, seed=seed)[["arm", "seed", *rows.columns]]
                for table, rows in self._judged(after, facts).items()
            }

    def arms_at_once(self) -> int:
        """How many trainings go through one batch here."""
        some = tuple(range(self.top))
        arm = Arm("some blocks", some, some, self.p.contrast)
        return arms_at_once(self.base, self.lessons, arm, self.recipe)

    def _judged(self, after: LoadedModel, facts: Mapping[str, float]) -> dict[str, pd.DataFrame]:
        """The tables of ``trials``, of one model; ``facts``: of its training, by measure."""
        rows = [("", measure, float(value)) for measure, value in facts.items()]
        training = pd.DataFrame(rows, columns=["set", "measure", "value"])
        costs = pd.concat([cost_rows(self.judged, after, self.bench.suite), training])
        return dict(trials=judged_outcomes(after, self.bench), trial_costs=costs)

    def _trained(self, asked: Sequence[Asked]) -> list[Trained]:
        found = train(self.base, self.lessons, asked, self.recipe)
        return [own.checked(one) for own, one in zip(found, asked, strict=True)]

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


def best_rates(rates: pd.DataFrame) -> dict[str, float]:
    """The learning rate of least development loss by arm, of ``Mitigation.rates``."""
    least = rates.loc[rates.groupby("arm", sort=False).development.idxmin()]
    return dict(zip(least.arm, least.rate, strict=True))


def trial_keys(rates: pd.DataFrame, *, n_seeds: int) -> list[Key]:
    """(arm, seed, learning rate): the untrained model, then every arm, seed by seed.

    Random arms have the first seed alone: they are draws themselves.
    """
    best, found = best_rates(rates), [(UNTRAINED, 0, 0.0)]
    for seed in range(n_seeds):
        found += [(a, seed, rate) for a, rate in best.items() if not (seed and is_random(a))]
    return found
