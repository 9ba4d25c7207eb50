"""What the model says by itself to one set, greedily and drawn, and what may tell its errors."""

from functools import cached_property

import numpy as np
import pandas as pd

from avss_utils.data.answer_sets import prompted
from avss_utils.measure.answer_tokens import AnswerTokens, collect_answers, relative_limits
from avss_utils.measure.decoding import Generated, greedy_answers, sampled_answers
from avss_utils.measure.entailment import Entailment
from avss_utils.measure.own_answers import contains, judged
from avss_utils.measure.self_judgement import answer_states, p_true
from avss_utils.models.load import LoadedModel
from avss_utils.scores.answer_study import RELATIVE, SetStudy
from avss_utils.scores.contrasts import answer_sums, each_answer, log_odds, log_variance
from avss_utils.scores.semantic import answer_clusters, sampling_scores

GREEDY = -1  # the number of the greedy answer among the samples
HSAV, HSS = "HSAV", "HSS"


class Said:
    """Answers to a study's evaluation questions in one prompt: given once, and kept.

    ``judged``: the model in the dtype that answers; states and statistics are those of the study's
    own. ``n_samples`` answers are drawn for each question at temperature 1, from ``study.seed``.
    ``entailment`` says which of them mean the same; without it, those that are equal once
    normalised.
    """

    def __init__(
        self,
        judged: LoadedModel,
        study: SetStudy,
        prompt: str,
        *,
        n_questions: int,
        n_samples: int,
        max_new_tokens: int,
        entailment: Entailment | None = None,
    ) -> None:
        self.judged, self.study, self.n_samples = judged, study, n_samples
        self.entailment = entailment
        self.max_new_tokens = max_new_tokens
        asked = study.evaluation.first(n_questions)
        self.events = prompted(asked, study.loaded.tokenizer, prompt, study.calibration)

    @cached_property
    def greedy(self) -> list[Generated]:
        """The likeliest answer to each question."""
        return greedy_answers(
            self.judged.model, self.judged.tokenizer, self._prompts, **self._sizes
        )

    @cached_property
    def samples(self) -> list[list[Generated]]:
        """Answers drawn for each question."""
        model, tokenizer = self.judged.model, self.judged.tokenizer
        drawn = dict(n_samples=self.n_samples, seed=self.study.seed)
        return sampled_answers(model, tokenizer, self._prompts, **drawn, **self._sizes)

    @cached_property
    def meanings(self) -> list[np.ndarray]:
        """Of each question, the meaning of its greedy answer and of each drawn one, numbered."""
        texts = [
            [own.text for own in (greedy, *drawn)]
            for greedy, drawn in zip(self.greedy, self.samples, strict=True)
        ]
        if self.entailment is None:
            return [answer_clusters(own) for own in texts]
        asked = [question.question for question in self.events.questions]
        return self.entailment.meanings(list(zip(asked, texts, strict=True)))

    @property
    def _prompts(self) -> list[str]:
        return [prompt for prompt, _ in self.events.asked]

    @property
    def _sizes(self) -> dict[str, int]:
        return dict(max_new_tokens=self.max_new_tokens, batch_tokens=self.study.batch_tokens)

    def answers(self) -> pd.DataFrame:
        """One row per answer; no text.

        Columns: set, row_id, sample (GREEDY or its number), label (right by SQuAD's exact match,
        wrong, abstained), contains (the looser rule), meaning (answers of a question with one
        number mean the same, see ``meanings``), n_tokens, log_probability (nats, of the tokens of
        its text), entropy and first_entropy (nats).
        """
        rows = []
        for question, greedy, drawn, meanings in zip(
            self.events.questions, self.greedy, self.samples, self.meanings, strict=True
        ):
            own = [greedy, *drawn]
            for sample, (answer, meaning) in enumerate(zip(own, meanings, strict=True), GREEDY):
                rows.append(
                    (
                        *(self.events.name, question.row_id, sample),
                        judged(answer.text, question.answers),
                        contains(answer.text, question.answers),
                        *(int(meaning), len(answer.ids), answer.log_probability),
                        *(answer.entropy, answer.first_entropy),
                    )
                )
        names = ["set", "row_id", "sample", "label", "contains", "meaning", "n_tokens"]
        table = pd.DataFrame(rows, columns=[*names, "log_probability", "entropy", "first_entropy"])
        small = {"sample": np.int8, "meaning": np.int8, "n_tokens": np.int16}
        return table.astype(small | dict.fromkeys(table.columns[-3:], np.float32))

    def examples(self, *, n: int) -> pd.DataFrame:
        """What the model wrote to the first ``n`` questions: set, row_id, label, greedy, drawn."""
        rows = [
            (self.events.name, q.row_id, judged(own.text, q.answers), own.text, drawn[0].text)
            for q, own, drawn in zip(
                self.events.questions[:n], self.greedy, self.samples, strict=False
            )
        ]
        return pd.DataFrame(rows, columns=["set", "row_id", "label", "greedy", "drawn"])

    def scores(self) -> pd.DataFrame:
        """One row per question: set, row_id, and scores of its greedy answer, higher for the more
        suspicious one.

        "summed surprise" and "mean surprise" (nats, minus the log-probability of the answer's
        tokens), "first entropy", "mean entropy", "length" (tokens), "p(false)" (1 less p(True),
        shown the samples) and those of ``semantic.sampling_scores``. Of an empty answer the mean
        surprise and entropy are those of the token that ended it.
        """
        texts = [[sample.text for sample in own] for own in self.samples]
        asked = [
            (q.question, own.text, ideas)
            for q, own, ideas in zip(self.events.questions, self.greedy, texts, strict=True)
        ]
        model, tokenizer = self.judged.model, self.judged.tokenizer
        true = p_true(model, tokenizer, asked, batch_tokens=self.study.batch_tokens)
        flat = [sample for own in self.samples for sample in own]
        states = answer_states(model, flat, batch_tokens=self.study.batch_tokens)
        states = states.reshape(len(self.greedy), self.n_samples, -1)
        rows = [
            {
                "set": self.events.name,
                "row_id": question.row_id,
                **_token_scores(own),
                "p(false)": 1 - p,
                **sampling_scores(own, drawn, embeddings, meanings=meanings),
            }
            for question, own, drawn, p, embeddings, meanings in zip(
                *(self.events.questions, self.greedy, self.samples, true, states, self.meanings),
                strict=True,
            )
        ]
        return pd.DataFrame(rows)

    @cached_property
    def tokens(self) -> AnswerTokens:
        """Every block at the tokens of the greedy answers, read again behind their prompts.

        An empty answer is read as the line's end that it was.
        """
        asked = [
            (prompt, ((" " if not prompt[-1].isspace() else "") + (own.text or "\n"),))
            for prompt, own in zip(self._prompts, self.greedy, strict=True)
        ]
        study = self.study
        return collect_answers(
            study.loaded.model,
            study.loaded.tokenizer,
            asked,
            sites=("residual",),
            limits={RELATIVE: relative_limits(study.before, study.ratio)},
            keep_states=True,
            batch_tokens=study.batch_tokens,
        )

    @property
    def states(self) -> np.ndarray:
        """What ``tokens`` keep of every answer: (n_answers, n_blocks, width)."""
        if self.tokens.states is None:
            raise ValueError("the tokens of own answers keep their states")
        return self.tokens.states

    def block_rows(self) -> pd.DataFrame:
        """Log variance and log odds of sparsity of each greedy answer by block, in float16.

        One row per question and score: set, row_id, score (HSAV: log variance; HSS: log odds of
        sparsity at the relative threshold), b0, b1, ...
        """
        sums = answer_sums(self.tokens, "residual", limit=RELATIVE)
        parts = []
        for score, values in ((HSAV, log_variance(each_answer(sums))), (HSS, log_odds(sums))):
            blocks = {f"b{i}": own for i, own in enumerate(values.T.astype(np.float16))}
            names = {"set": self.events.name, "row_id": [q.row_id for q in self.events.questions]}
            parts.append(pd.DataFrame({**names, "score": score, **blocks}))
        return pd.concat(parts, ignore_index=True)


def _token_scores(answer: Generated) -> dict[str, float]:
    ended = answer.log_probability_with_end
    return {
        "summed surprise": -answer.log_probability if answer.ids else -ended,
        "mean surprise": -answer.mean_log_probability if answer.ids else -ended,
        "first entropy": answer.first_entropy,
        "mean entropy": answer.entropy if answer.ids else answer.first_entropy,
        "length": float(len(answer.ids)),
    }
