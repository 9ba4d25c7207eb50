"""Do our detectors of wrong answers agree with lm-polygraph's, on the very same answers?

``python benchmarks/detectors.py``, in the environment of benchmarks/requirements.txt, lets
SmolLM2-135M answer questions of SciQ, greedily and drawn, in float32 on the CPU, and hands to the
estimators of lm-polygraph

- the same texts, log-probabilities and states, in the same meanings (texts that are equal once
  normalised), where both compute the same: equal to GIVEN_BOUND;
- the tokens that were written, read again in plain passes of the model, and the question whether
  an answer is true as its own calculator asks the model: equal to PASS_BOUND, float32 passes in
  other batches;
- the log-probabilities for its own semantic entropy, which is another estimator: no bound, a rank
  correlation.

All are in nats, on the same scale: eigen scores are natural logarithms and S is not divided by
width - 1 in both, unlike in the code of INSIDE. lm-polygraph has no share of samples that disagree
with the answer; uqlm has, but asks for transformers below 5, numpy below 2 and pandas below 3,
which this project's lock does not allow.

It writes results/benchmarks/detectors.csv and detectors.json. Exit code 1 and a sentence when
something does not agree, 2 when something is missing.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp
from scipy.stats import spearmanr

from avss_utils.chapters.hallucination.said import Said
from avss_utils.data.answer_sets import FEW_SHOT, N_EXAMPLES, set_events
from avss_utils.errors import UsageError
from avss_utils.measure.decoding import Generated
from avss_utils.measure.judging import device_name
from avss_utils.measure.self_judgement import CALLED_TRUE, answer_states, p_true_prompt
from avss_utils.models.blocks import pad
from avss_utils.models.load import LoadedModel, load_model
from avss_utils.scores.answer_study import SetStudy
from avss_utils.scores.semantic import answer_clusters, semantic_entropy
from avss_utils.store.files import project_root, provenance, write_json
from avss_utils.store.tables import write_csv

OUT = project_root() / "results" / "benchmarks"
MODEL, SET, TOOL = "smollm2-135m", "sciq_open", "lm-polygraph"
N_SAMPLES, N_NEW, SEED = 8, 8, 0

GIVEN_BOUND = 1e-6  # the same numbers handed over: another order of float64 operations
PASS_BOUND = 1e-3  # sums of a few log-probabilities of float32 passes
DIFFERENCE, BOUND, RANKS = "largest difference", "bound", "rank correlation"
GIVEN, READ = "the same numbers", "a pass of its own"
LENGTH_NORMALISED = "semantic entropy, length-normalised"
COMPARED = (
    ("discrete entropy", GIVEN),
    ("semantic entropy", GIVEN),
    (LENGTH_NORMALISED, GIVEN),
    ("eigen score", GIVEN),
    ("eigen score", READ),
    ("summed surprise", READ),
    ("mean surprise", READ),
    ("mean entropy", READ),
    ("mean token entropy", READ),
    ("p(false)", READ),
)


def row(detector: str, reference: str, handed: str, ours, theirs, bound: float = np.nan) -> dict:
    """Our values beside those of an estimator; a question where either has none is left out."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    real = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[real], theirs[real]
    return {
        "detector": detector,
        "reference": reference,
        "handed over": handed,
        "questions": len(ours),
        "smallest": ours.min(),
        "largest": ours.max(),
        DIFFERENCE: np.abs(ours - theirs).max(),
        BOUND: bound,
        RANKS: spearmanr(ours, theirs).statistic,
    }


def disagreements(table: pd.DataFrame) -> list[str]:
    """A sentence for each comparison that is missing, cannot fail or does not agree."""
    found = []
    for detector, handed in COMPARED:
        own = table[(table.detector == detector) & (table["handed over"] == handed)]
        own = own[own[BOUND].notna()]
        name = f"{detector} of {handed}"
        if not len(own):
            found.append(f"{name}: nothing was compared")
        elif not (own.largest > own.smallest).all():
            found.append(f"{name}: all values are the same")
        elif not (own[DIFFERENCE] <= own[BOUND]).all():
            found.append(f"{name}: {own[DIFFERENCE].max():.2g} apart")
    return found


def said_by(loaded: LoadedModel, n_questions: int) -> Said:
    """Answers as notebook 02 has them given, to the first questions of the set."""
    options = dict(wording="plain", seed=SEED)
    before = set_events(SET, part="calibration", n_questions=N_EXAMPLES, **options)[0]
    after = set_events(SET, part="evaluation", n_questions=n_questions, **options)[0]
    sizes = dict(eps=0.1, ratio=0.1, seed=SEED, batch_tokens=4096)
    study = SetStudy(loaded, before, after, sites=("residual",), **sizes)
    answers = dict(n_questions=n_questions, n_samples=N_SAMPLES, max_new_tokens=N_NEW)
    return Said(loaded, study, FEW_SHOT, **answers)


class Meanings:
    """Answers drawn for each question, in the form in which lm-polygraph keeps them."""

    def __init__(self, samples: Sequence[Sequence[Generated]]) -> None:
        self.texts = [[sample.text for sample in own] for own in samples]
        self.clusters = [answer_clusters(own) for own in self.texts]
        members = [
            [np.flatnonzero(own == c) for c in range(own.max() + 1)] for own in self.clusters
        ]
        self.stats = {
            "sample_texts": self.texts,
            "semantic_classes_entail": {
                "class_to_sample": {i: [m.tolist() for m in own] for i, own in enumerate(members)},
                "sample_to_class": {
                    i: dict(enumerate(own.tolist())) for i, own in enumerate(self.clusters)
                },
            },
        }

    def discrete(self) -> np.ndarray:
        """Minus the mean log share of the samples' meanings: their entropy."""
        from lm_polygraph.estimators import SemanticEntropy

        return SemanticEntropy(class_probability_estimation="frequency")(self.stats)

    def of_samples(self, logs: Sequence[np.ndarray]) -> np.ndarray:
        """lm-polygraph's own: minus the mean over samples of their meaning's log-probability."""
        from lm_polygraph.estimators import SemanticEntropy

        return SemanticEntropy()(self.stats | {"sample_log_probs": logs})

    def of_probabilities(self, logs: Sequence[np.ndarray]) -> np.ndarray:
        """The same where the samples' probabilities are first made 1 together, and each sample
        weighs by its own: the weights that the estimator takes.
        """
        from lm_polygraph.estimators import SemanticEntropy

        made_one = [own - logsumexp(own) for own in logs]
        weights = [own + np.log(len(own)) for own in made_one]
        estimator = SemanticEntropy()
        estimator(self.stats | {"sample_log_probs": made_one})  # takes the meanings
        return estimator.batched_call(self.texts, made_one, log_weights=weights)


class Reread:
    """Answers to one prompt as a plain pass reads them: whole rows, no cache, nothing of ours.

    ``log_probs``: of each answer's tokens, the whole distributions, (n_tokens, vocabulary); of an
    empty answer what its first token was taken from. ``states``: (n_answers, width), behind the
    middle block at each answer's last token.
    """

    def __init__(self, model, answers: Sequence[Generated]) -> None:
        ids, mask = pad([own.prefix + own.ids for own in answers], side="right")
        with torch.inference_mode():
            out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        self.answers = answers
        n, ends = len(answers[0].prefix), mask.sum(1) - 1
        logs = [
            logits[n - 1 : n - 1 + max(1, len(own.ids))].double().log_softmax(-1).numpy()
            for logits, own in zip(out.logits, answers, strict=True)
        ]
        middle = len(out.hidden_states) // 2  # the first are the embeddings
        self.log_probs = logs
        self.states = out.hidden_states[middle][torch.arange(len(ids)), ends].double().numpy()

    def likelihoods(self, i: int) -> np.ndarray:
        """Log-probability of each token of one answer; NaN of an empty one."""
        ids = np.array(self.answers[i].ids, int)
        return self.log_probs[i][np.arange(len(ids)), ids] if len(ids) else np.array([np.nan])

    def entropies(self) -> np.ndarray:
        """Mean token entropy of each answer, by lm-polygraph from the distributions."""
        from lm_polygraph.estimators import MeanTokenEntropy
        from lm_polygraph.stat_calculators import EntropyCalculator

        return MeanTokenEntropy()(EntropyCalculator()({"greedy_log_probs": self.log_probs}))


def called_true(loaded: LoadedModel, prompts: Sequence[str]) -> np.ndarray:
    """p(True) of these prompts by lm-polygraph's calculator, a token of the choices at a time."""
    from lm_polygraph import WhiteboxModel
    from lm_polygraph.stat_calculators import PromptCalculator

    box, tokenizer = WhiteboxModel(loaded.model, loaded.tokenizer), loaded.tokenizer
    scores = np.zeros((2, len(prompts)))
    for choice, total in zip(CALLED_TRUE, scores, strict=True):
        before = ""
        for token in tokenizer.convert_ids_to_tokens(tokenizer(choice)["input_ids"]):
            text = tokenizer.convert_tokens_to_string([token])
            calculator = PromptCalculator()
            calculator.prompt, calculator.expected = "{q}" + before, text
            for i, prompt in enumerate(prompts):
                asked = {"input_texts": [prompt], "greedy_texts": [""]}
                total[i] += calculator(asked, [prompt], box)["p_true"][0]
            before += text
    return np.exp(scores[0] - np.logaddexp(*scores))


def compare(loaded: LoadedModel, said: Said) -> pd.DataFrame:
    """All comparisons, a row each."""
    ours = said.scores()
    return pd.DataFrame([*given_rows(loaded, said, ours), *read_rows(loaded, said, ours)])


def given_rows(loaded: LoadedModel, said: Said, ours: pd.DataFrame) -> list[dict]:
    """Estimators that get our numbers."""
    from lm_polygraph.estimators import EigenScore

    meanings = Meanings(said.samples)
    logs = [np.array([s.log_probability_with_end for s in own]) for own in said.samples]
    texts = [np.array([_of_text(s) for s in own]) for own in said.samples]
    lengths = [np.array([max(1, len(s.ids)) for s in own]) for own in said.samples]
    means = [own / n for own, n in zip(texts, lengths, strict=True)]
    parts = zip(meanings.clusters, texts, lengths, strict=True)
    normalised = [semantic_entropy(c, own, n_tokens=n) for c, own, n in parts]
    states = answer_states(loaded.model, [s for own in said.samples for s in own])
    states = states.reshape(len(logs), N_SAMPLES, -1).astype(float)
    discrete, semantic = ours["discrete entropy"], ours["semantic entropy"]
    weighed = "SemanticEntropy, probabilities made 1, samples weighed by them"
    by_count = "SemanticEntropy, classes by frequency"
    plain = "SemanticEntropy as it is: another estimator"
    eigen = EigenScore()({"sample_embeddings": states})
    bound = GIVEN_BOUND
    return [
        row("discrete entropy", by_count, GIVEN, discrete, meanings.discrete(), bound),
        row("semantic entropy", weighed, GIVEN, semantic, meanings.of_probabilities(logs), bound),
        row(LENGTH_NORMALISED, weighed, GIVEN, normalised, meanings.of_probabilities(means), bound),
        row("eigen score", "EigenScore", GIVEN, ours["eigen score"], eigen, bound),
        row("semantic entropy", plain, GIVEN, semantic, meanings.of_samples(logs)),
    ]


def _of_text(sample: Generated) -> float:
    """Log-probability of its tokens without the end, as in Farquhar et al.'s code; an empty
    answer is its end."""
    return sample.log_probability if sample.ids else sample.log_probability_with_end


def read_rows(loaded: LoadedModel, said: Said, ours: pd.DataFrame) -> list[dict]:
    """Estimators that get what passes of their own read."""
    from lm_polygraph.estimators import EigenScore, MaximumSequenceProbability, Perplexity

    every = zip(said.greedy, said.samples, strict=True)
    read = [Reread(loaded.model, [answer, *drawn]) for answer, drawn in every]
    greedy = {"greedy_log_likelihoods": [own.likelihoods(0) for own in read]}
    entropies = np.array([own.entropies() for own in read])
    states = {"sample_embeddings": [own.states[1:] for own in read]}
    asked = [
        p_true_prompt(q.question, own.text, [sample.text for sample in drawn])
        for q, own, drawn in zip(said.events.questions, said.greedy, said.samples, strict=True)
    ]
    entropy = "EntropyCalculator, MeanTokenEntropy"
    theirs = {
        "eigen score": ("EigenScore", EigenScore()(states)),
        "summed surprise": ("MaximumSequenceProbability", MaximumSequenceProbability()(greedy)),
        "mean surprise": ("Perplexity", Perplexity()(greedy)),
        "mean entropy": (entropy, entropies[:, 0]),
        "mean token entropy": (f"{entropy}, mean of samples", entropies[:, 1:].mean(1)),
        "p(false)": ("PromptCalculator with our prompt", 1 - called_true(loaded, asked)),
    }
    return [row(k, name, READ, ours[k], own, PASS_BOUND) for k, (name, own) in theirs.items()]


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Five digits of a value, two of a difference, three of a correlation."""
    digits = {"smallest": 5, "largest": 5, DIFFERENCE: 2, RANKS: 3}
    shown = {name: [float(f"{x:.{n}g}") for x in table[name]] for name, n in digits.items()}
    return table.assign(**shown)


def main() -> int:
    """Measure, write, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        tool = metadata.version(TOOL)
        loaded = load_model(MODEL, device="cpu")
        table = rounded(compare(loaded, said_by(loaded, arguments.questions)))
    except (UsageError, metadata.PackageNotFoundError) as error:
        print(f"detectors: {error} (see benchmarks/requirements.txt)", file=sys.stderr)
        return 2
    made = provenance(device_name(loaded.model))
    made["versions"] |= {TOOL: tool}
    sizes = dict(set=SET, questions=arguments.questions, samples=N_SAMPLES, new_tokens=N_NEW)
    identity = {key: loaded.identity[key] for key in ("name", "weights_sha256", "bos")}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_csv(table, arguments.out / "detectors.csv")
    write_json(arguments.out / "detectors.json", made | {"model": identity} | sizes)
    print(table.to_string(index=False))
    found = disagreements(table)
    if found:
        print(f"detectors: {found[0]} ({len(found)} in all)", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
