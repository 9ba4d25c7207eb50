"""What notebook 04 computes from: parameters checked first, then the model, then the data."""

from functools import cached_property, partial
from types import SimpleNamespace

import numpy as np
import torch

from avss_utils.chapters.opening import Load
from avss_utils.data import calibrations, suites
from avss_utils.data.answer_sets import set_events
from avss_utils.data.loading import check_open
from avss_utils.data.own import set_name
from avss_utils.measure.judging import device_name, for_evaluation
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.models.devices import as_dtype
from avss_utils.models.plan import n_to_drop
from avss_utils.scores.arms import Calibration, check_arms
from avss_utils.scores.eavss import ProneScores


class Inputs:
    """Model, texts and questions of notebook 04; see ``opening.Inputs``."""

    def __init__(self, load: Load, p: SimpleNamespace) -> None:
        check_arms([*p.arms, *p.candidates, *p.confirm_arms, *p.heal_arms, p.better])
        check_arms([*p.stable_criteria, *p.moving_criteria])
        as_dtype(p.eval_dtype, torch.device("cpu"))
        sets = dict(tasks=p.tasks, text_sets=p.text_sets, calibration=p.calibration)
        suites.check_names(**sets | dict(tasks=[*p.tasks, *p.confirm_tasks]))
        suites.check_names(tasks=[p.choice_task], text_sets=[*p.heal_sets, *p.development_sets])
        for name in p.answer_sets:
            check_open(name)
        for name in p.calibration_sets:
            calibrations.check_calibration_set(name)
        self.p, self.loaded = p, load()
        self.identity = self.loaded.identity
        self.judged = for_evaluation(self.loaded, p.eval_dtype)
        self.device = device_name(self.judged.model)
        sizes = dict(n_tokens=p.n_text_tokens, context=p.context, batch_tokens=p.batch_tokens)
        made = suites.build_inputs(
            self.loaded.tokenizer,
            **sets,
            **sizes,
            n_questions=p.n_questions,
            n_calibration=p.n_calibration,
            calibration_length=p.calibration_length,
        )
        self.suite, self.batches = made.suite, made.calibration
        asked = dict(tasks=p.confirm_tasks, text_sets=[], n_questions=p.n_confirm)
        self.untouched, untouched = suites.build_suite(self.loaded.tokenizer, **asked, **sizes)
        self.data = [*made.identities, *untouched, *self._read_searched(), *self._read_texts()]

    def _read_searched(self) -> list[dict]:
        """What losses are taken on: calibration texts, choices, questions with two answers."""
        p, tokenizer = self.p, self.loaded.tokenizer
        texts = partial(calibrations.scored_texts, tokenizer, p.calibration, part="calibration")
        self.loss_rows, data = texts(n_tokens=p.n_loss_tokens, context=p.loss_context)
        self.pair_rows, _ = texts(n_tokens=p.n_pair_tokens, context=p.loss_context)
        self.choices, of_choices = calibrations.scored_choices(
            self.loaded.model, tokenizer, p.choice_task, n_questions=p.n_choice_questions
        )
        asked = dict(part="calibration", n_questions=p.n_answer_questions, wording="plain")
        events = [set_events(name, **asked, seed=p.seed) for name in p.answer_sets]
        self.events = [own for own, _ in events]
        return [data, of_choices, *(own for _, own in events)]

    def _read_texts(self) -> list[dict]:
        """What plans are compared on before they are judged, and what heals them."""
        p, tokenizer = self.p, self.loaded.tokenizer
        own = dict(part="development", n_tokens=p.n_development, context=p.loss_context)
        texts = {n: calibrations.scored_texts(tokenizer, n, **own) for n in p.development_sets}
        own = dict(part="calibration", context=p.heal_length)
        healers = [calibrations.part_windows(tokenizer, name, **own) for name in p.heal_sets]
        self.development_rows = {set_name(name): rows for name, (rows, _) in texts.items()}
        self.healing_windows = [window for windows, _ in healers for window in windows]
        return [data for _, data in (*texts.values(), *healers)]

    @property
    def n_drop(self) -> int:
        """How many blocks the claimed ratio removes."""
        return n_to_drop(self.identity["n_blocks"], ratio=self.p.drop_ratio)

    @property
    def counts(self) -> list[int]:
        """The numbers of removed blocks that are tried: half of the blocks at most."""
        most = max(self.n_drop, self.identity["n_blocks"] // 2)
        return sorted({n for n in (*self.p.drop_counts, self.n_drop) if n <= most})

    @cached_property
    def collect(self) -> Calibration:
        """Statistics of the calibration texts, read from the model once."""
        eps, spans = (self.p.eps, self.p.bulk_eps), (1, *self.counts)
        return Calibration(self.loaded.model, self.batches, eps=eps, spans=spans)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Losses without blocks, each computed once."""
        sizes = dict(n_greedy=max(2, *self.counts), batch_tokens=self.p.batch_tokens)
        return Sensitivity(self.loaded.model, self.loss_rows, choices=self.choices, **sizes)

    @cached_property
    def prone_scores(self) -> ProneScores:
        """EAVSS in all its readings, read from the model once."""
        thresholds = dict(eps=self.p.eps, ratio=self.p.relative_eps)
        return ProneScores(self.loaded, self.events, **thresholds, batch_tokens=self.p.batch_tokens)

    @property
    def options(self) -> dict:
        """The criteria's keywords."""
        thresholds = dict(eps=self.p.eps, bulk_eps=self.p.bulk_eps, ratio=self.p.relative_eps)
        asked = dict(sensitivity=self.sensitivity, answers=self.prone_scores)
        return {**thresholds, **asked, "rng": np.random.default_rng(self.p.seed)}
