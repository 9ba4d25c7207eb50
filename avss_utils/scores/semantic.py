"""What several answers drawn for one question say of the one that is given.

A model that knows says the same each time. Answers are taken to mean the same where they are equal
once normalised, or where a model of entailment says so (``measure.entailment``).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from avss_utils.data.rows import normalised
from avss_utils.measure.decoding import Generated
from avss_utils.stats.detection import detection_table


def answer_clusters(texts: Sequence[str]) -> np.ndarray:
    """The meaning of each text, numbered from 0 in the order of their first: (n_texts,) of int.

    Texts without a word are one meaning.
    """
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(normalised(text), len(seen)) for text in texts], int)


def discrete_entropy(clusters: ArrayLike) -> float:
    """Entropy of how often each meaning was drawn, in nats: 0 to log of the number of samples.

    Farquhar, Kossen, Kuhn and Gal 2024 (Nature 630, 625-630), discrete semantic entropy.
    """
    return _entropy(np.bincount(np.asarray(clusters, int)).astype(float))


def semantic_entropy(
    clusters: ArrayLike, log_probabilities: ArrayLike, *, n_tokens: ArrayLike | None = None
) -> float:
    """Entropy of the meanings' probabilities, in nats: 0 to log of their number.

    ``log_probabilities``, (n_samples,): a meaning's probability is the sum over its samples, and
    all together are made 1; a text that was drawn twice counts twice. ``n_tokens``, (n_samples,):
    each log-probability is first divided by its number, the length-normalised form. Kuhn, Gal and
    Farquhar 2023 (arXiv 2302.09664); the code of Farquhar et al. 2024 (Nature 630) takes the
    length-normalised form, without the token that ends an answer, as uqlm does by default.
    ``sampling_scores`` and lm-polygraph take whole log-probabilities; lm-polygraph then averages
    -log over the samples and does not make the sum 1. ValueError for lengths that differ and for
    numbers of tokens below 1.
    """
    clusters, logs = np.asarray(clusters, int), np.asarray(log_probabilities, float)
    lengths = np.ones(len(logs)) if n_tokens is None else np.asarray(n_tokens, float)
    if not len(clusters) == len(logs) == len(lengths):
        counts = f"{len(clusters)} meanings for {len(logs)} log-probabilities"
        raise ValueError(counts + ("" if n_tokens is None else f" of {len(lengths)} lengths"))
    if (lengths < 1).any():
        raise ValueError("an answer of no token has no mean over its tokens")
    logs = logs / lengths
    return _entropy(np.bincount(clusters, np.exp(logs - logs.max())))


def eigen_score(embeddings: ArrayLike, *, ridge: float = 1e-3) -> float:
    """Mean log eigenvalue of the samples' covariance, in nats; log(ridge) where all are equal.

    ``embeddings``, (n_samples, width): as a rule ``measure.self_judgement.answer_states``. Each is
    centred over its units, S = Z J Z', and the score is log det(S + ridge I) / n_samples: Chen et
    al. 2024 (INSIDE, arXiv 2402.03744). Their code divides S by width - 1 and takes logarithms of
    base 10. ValueError for numbers that are not finite.
    """
    states = np.asarray(embeddings, float)
    if not np.isfinite(states).all():
        raise ValueError("an embedding that is not finite spans nothing")
    states = states - states.mean(-1, keepdims=True)
    gram = states @ states.T + ridge * np.eye(len(states))
    return float(np.linalg.slogdet(gram).logabsdet / len(states))


def sampling_scores(
    answer: Generated,
    samples: Sequence[Generated],
    embeddings: ArrayLike | None = None,
    *,
    meanings: ArrayLike | None = None,
) -> dict[str, float]:
    """Scores of one question's answer, each higher for the more suspicious one.

    ``meanings``: of the answer and then of each sample, (1 + n_samples,), where anything but
    ``answer_clusters`` says what they are.

    "disagreeing samples" (share of them), "discrete entropy", "semantic entropy" (of whole
    probabilities, with what ended an answer), "mean token entropy" (of the samples, an empty one
    counting its first token) and, of ``embeddings`` (n_samples, width), "eigen score".
    """
    if meanings is None:
        meanings = answer_clusters([own.text for own in (answer, *samples)])
    own, *clusters = np.asarray(meanings, int).tolist()
    logs = [sample.log_probability_with_end for sample in samples]
    entropies = [s.entropy if s.ids else s.first_entropy for s in samples]
    found = {
        "disagreeing samples": float(np.mean(np.array(clusters) != own)),
        "discrete entropy": discrete_entropy(clusters),
        "semantic entropy": semantic_entropy(clusters, logs),
        "mean token entropy": float(np.mean(entropies)),
    }
    return found if embeddings is None else found | {"eigen score": eigen_score(embeddings)}


def sampling_detection(scores: pd.DataFrame, is_false: ArrayLike, *, seed: int) -> pd.DataFrame:
    """``detection_table`` of scores, one column each and a row a question; ``is_false``: one each.

    Where all answers are right, or all are wrong, nothing can be told from anything: NaN, within
    limits that are infinite, which a verdict calls "cannot be tested".
    """
    false = np.asarray(is_false, bool)
    if false.any() and not false.all():
        columns = {name: scores[name].to_numpy(float) for name in scores}
        return detection_table(columns, false, np.arange(len(false)), seed=seed)
    unknown = dict(auroc=np.nan, low=-np.inf, high=np.inf)
    unknown |= dict(aurc=np.nan, aurc_low=-np.inf, aurc_high=np.inf)
    return pd.DataFrame([{"score": name, **unknown, "n": len(false)} for name in scores])


def _entropy(weights: np.ndarray) -> float:
    """Of weights, 0 or more, that are first made 1 together; in nats."""
    shares = weights[weights > 0] / weights.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0  # never -0
