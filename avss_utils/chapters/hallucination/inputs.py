"""What notebook 02 computes from: true and false answers of every set, and studies of them."""

from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from types import SimpleNamespace

import numpy as np
import torch

from avss_utils.chapters.hallucination.own_contrasts import OwnAnswers
from avss_utils.chapters.hallucination.said import Said
from avss_utils.chapters.opening import Load
from avss_utils.data import calibrations, suites
from avss_utils.data.answer_sets import (
    Events,
    check_prompts,
    further_events,
    prompted,
    set_events,
    usable_prompts,
)
from avss_utils.data.loading import check_open
from avss_utils.data.own import set_name
from avss_utils.data.wordings import check_wording
from avss_utils.measure.entailment import Entailment
from avss_utils.measure.judging import device_name, for_evaluation
from avss_utils.models.devices import as_dtype
from avss_utils.models.load import LoadedModel
from avss_utils.models.plan import n_to_drop
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.arms import check_arms
from avss_utils.scores.eavss import ProneScores

Asked = tuple[str, str]  # (set, prompt)


class Studies:
    """The model and its sets; see ``opening.Inputs``.

    Sets are known by the names that tables have; ``studies``: one of each, whose statistics are
    taken once and kept; ``first``: of the sets that blocks are flagged on, none held out; ``own``:
    answers of the model's own by (set, prompt); ``said_of``: its greedy and drawn answers by set,
    in ``pruned_prompt``; ``texts``: batches of neutral text.
    """

    def __init__(self, load: Load, p: SimpleNamespace) -> None:
        every_set = [*p.sets, *p.held_out]
        check_arms(p.arms)
        as_dtype(p.eval_dtype, torch.device("cpu"))
        usable_prompts([*p.prompts, p.pruned_prompt], template=True)
        suites.check_names(calibration=p.calibration)
        check_wording(p.wording, every_set)
        for name in every_set:
            check_open(name)
        self.p, self.loaded = p, load()
        self.identity, tokenizer = self.loaded.identity, self.loaded.tokenizer
        to_ask(p.sets, p.prompts, self.identity)
        check_prompts([p.pruned_prompt], tokenizer)
        self.judged = for_evaluation(self.loaded, p.eval_dtype)
        self.device = device_name(self.judged.model)
        self.n_drop = n_to_drop(self.identity["n_blocks"], ratio=p.drop_ratio)
        before, after = (
            [
                set_events(s, part=part, n_questions=n, wording=p.wording, seed=p.seed)
                for s in every_set
            ]
            for part, n in (("calibration", p.n_calibration), ("evaluation", p.n_questions))
        )
        self._asked = [(one, other) for (one, _), (other, _) in zip(before, after, strict=True)]
        self.texts, texts = calibrations.calibration_batches(
            tokenizer,
            p.calibration,
            n_texts=p.n_texts,
            length=p.text_length,
            batch_tokens=p.batch_tokens,
        )
        self.data = [*(data for _, data in before), texts]
        self.studies = self._studies(self.loaded, keep_states=True)
        self.first = [self.studies[set_name(name)] for name in p.sets]
        self.own, self.said_of = cache(self._own), cache(self._said)

    def _studies(self, loaded: LoadedModel, *, keep_states: bool) -> dict[str, SetStudy]:
        p = self.p
        return {
            after.name: SetStudy(
                loaded,
                before,
                after,
                sites=p.sites,
                eps=p.eps,
                ratio=p.relative_eps,
                seed=p.seed,
                batch_tokens=p.batch_tokens,
                keep_states=keep_states,
            )
            for before, after in self._asked
        }

    @cached_property
    def coarse(self) -> dict[str, SetStudy]:
        """The same studies of the model in bfloat16."""
        return self._studies(for_evaluation(self.loaded, "bfloat16"), keep_states=False)

    def drawn(self, name: str, draw: int) -> SetStudy:
        """The study of a set, of draw 0, or of the next questions of its evaluation part, each draw
        as many others; the set's own again where the part has fewer.
        """
        p, study = self.p, self.studies[name]
        by_name = {set_name(own): own for own in (*p.sets, *p.held_out)}
        options = dict(part="evaluation", wording=p.wording, seed=p.seed)
        asked = draw and further_events(
            by_name[name], n_questions=p.n_questions, number=draw, **options
        )
        return study.on(asked) if asked else study

    def _own(self, key: Asked) -> OwnAnswers:
        name, prompt = key
        sizes = dict(n_questions=self.p.n_generated, max_new_tokens=self.p.max_new_tokens)
        return OwnAnswers(self.judged, self.studies[name], prompt, **sizes)

    def _said(self, name: str) -> Said:
        p = self.p
        sizes = dict(n_questions=p.n_said, n_samples=p.n_samples, max_new_tokens=p.max_new_tokens)
        options = dict(**sizes, entailment=self._entailment)
        return Said(self.judged, self.studies[name], p.pruned_prompt, **options)

    @cached_property
    def _entailment(self) -> Entailment | None:
        name = self.p.entailment
        return Entailment(name, device=self.judged.model.device) if name else None

    @cached_property
    def prone(self) -> ProneScores:
        """EAVSS over the sets that are not held out, on calibration questions: what flags blocks
        for pruning, for bypassing, and in notebook 03 for training.
        """
        p, asked = self.p, [study.calibration for study in self.first]
        sizes = dict(eps=p.eps, ratio=p.relative_eps, batch_tokens=p.batch_tokens)
        return ProneScores(self.loaded, asked, **sizes)

    @cached_property
    def random_blocks(self) -> list[int]:
        """As many blocks as are flagged, drawn by the seed."""
        drawn = np.random.default_rng(self.p.seed)
        n_blocks = self.identity["n_blocks"]
        return sorted(drawn.choice(n_blocks, self.n_drop, replace=False).tolist())

    @cached_property
    def open_questions(self) -> list[Events]:
        """What pruned models are asked in ``pruned_prompt``."""
        tokenizer, p = self.loaded.tokenizer, self.p
        return [
            prompted(own.evaluation.first(p.n_pruned), tokenizer, p.pruned_prompt, own.calibration)
            for own in self.first
        ]


def to_ask(sets: Iterable[str], prompts: Sequence[str], identity: dict) -> list[Asked]:
    """(set, prompt): every set in every prompt that the model can be asked in.

    ``identity``: the model's. Raises UsageError as ``answer_sets.usable_prompts``.
    """
    usable = usable_prompts(prompts, identity["chat_template"])
    return [(set_name(name), prompt) for name in sets for prompt in usable]
