"""Where in depth the hallucination scores are highest, and where they would be by chance.

A profile over blocks always has a highest block: every place stands beside that of the same answers
with labels swapped at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from avss_utils.chapters.architectures.facts import Fact
from avss_utils.data.answer_sets import PAIRED, PLAIN, Events, set_events
from avss_utils.data.pairing import false_against_false, irrelevant, paired
from avss_utils.models.embedded import EMBEDDED, package_path
from avss_utils.scores.answer_study import PRIMARY, SetStudy
from avss_utils.scores.contrasts import eavss, group_stats, hsav, hss
from avss_utils.stats.resampling import limits, two_sided_p

SCORES = HSAV, HSS, EAVSS = "HSAV", "HSS", "EAVSS"
PLACES = CENTRE, HIGHEST = "centre", "highest"
FACTS = "facts"


def fact_events(facts: Sequence[Fact], *, seed: int) -> Events:
    """Facts as questions with a true and a false answer: another value of the same relation.

    And the answers that ``Events`` needs for its placebos. ``seed`` draws the false values.
    """
    rows = [fact.question for fact in facts]
    kinds = [make(rows, seed=seed) for make in (paired, false_against_false, irrelevant)]
    asked = []
    for fact, own, placebo, other in zip(facts, *kinds, strict=True):
        answers = (own.true, own.false, placebo.true, placebo.false, other.false)
        asked.append((fact.prompt, tuple(f" {answer}" for answer in answers)))
    return Events(FACTS, tuple(rows), tuple(asked), np.array([own.origin for own in kinds[0]]))


def score_profiles(study: SetStudy, *, n_shuffles: int) -> dict[str, np.ndarray]:
    """Size of each of SCORES by block, (1 + n_shuffles, n_blocks), 0 and above.

    The first row has the true labels, the others have them swapped within questions at random; the
    statistics are those of the primary analysis, EAVSS is read as a contrast.
    """
    sums, pairs = study.sums(study.tokens, study.evaluation, PAIRED, *PRIMARY)
    rng = np.random.default_rng(study.seed)
    swapped = rng.integers(0, 2, (n_shuffles + 1, len(pairs.true)))
    swapped[0] = 0
    weights = pairs.weights(swapped=swapped)
    false, true = (group_stats(sums, own) for own in weights)
    return {
        HSAV: np.abs(hsav(false, true)),
        HSS: np.abs(hss(false, true)),
        EAVSS: eavss("contrast", sums, *weights),
    }


def relative_depth(n_blocks: int) -> np.ndarray:
    """The middle of each block's share of the depth, (n_blocks,), in (0, 1)."""
    return (np.arange(n_blocks) + 0.5) / n_blocks


def places(profiles: np.ndarray) -> dict[str, np.ndarray]:
    """Relative depth of each profile's centre of mass and of its highest block, (n_profiles,).

    ``profiles``: (n_profiles, n_blocks), 0 and above. One without any mass has its centre in the
    middle, as an even one.
    """
    depth = relative_depth(profiles.shape[1])
    mass = profiles.sum(1)
    centre = np.divide(profiles @ depth, mass, out=np.full(len(mass), 0.5), where=mass > 0)
    return {CENTRE: centre, HIGHEST: depth[profiles.argmax(1)]}


def peak_table(profiles: dict[str, np.ndarray]) -> pd.DataFrame:
    """Where each score of ``score_profiles`` peaks, a row a score and place.

    Columns: score, place (centre of mass, or highest block), value (relative depth), shuffled (the
    mean with labels at random), low and high (where 95 % of those lie), p (two-sided: how often
    they are as far from their mean), n (shuffles).
    """
    rows = []
    for score, own in profiles.items():
        for place, found in places(own).items():
            value, null = found[0], found[1:]
            middle = null.mean()
            p = two_sided_p(null - middle, value - middle)
            rows.append((score, place, value, middle, *limits(null), p, len(null)))
    names = ["score", "place", "value", "shuffled", "low", "high", "p", "n"]
    return pd.DataFrame(rows, columns=names)


def present(names: Sequence[str]) -> list[str]:
    """Those of the named models that this machine can load without a network.

    Embedded ones whose wheels are all installed, folders and GGUF files that exist.
    """

    def is_here(name: str) -> bool:
        if name in EMBEDDED:
            return all(package_path(file) for _, file in EMBEDDED[name].parts)
        return Path(name).expanduser().exists()

    return [name for name in names if is_here(name)]


def as_data(loaded) -> dict:
    """A further loaded model as a run records its data: name, source, sha256 (weights), n (blocks).

    Which models a machine has decides what a run shows, so they belong to its key.
    """
    identity = loaded.identity
    return {
        "name": identity["short"],
        "source": identity["source"],
        "sha256": identity["weights_sha256"],
        "n": identity["n_blocks"],
    }


@dataclass(frozen=True)
class RealStudies:
    """A study of each real model on the same questions, and the questions' identity."""

    studies: Sequence[SetStudy]
    identity: dict


def real_studies(
    name: str, models: Sequence, *, n_calibration: int, n_questions: int, options: dict
) -> RealStudies:
    """Studies of loaded models on an open question set; nothing runs before it is asked for.

    ``options``: eps, ratio, seed and batch_tokens of ``SetStudy``.
    """
    sizes = (("calibration", n_calibration), ("evaluation", n_questions))
    (before, identity), (after, _) = (
        set_events(name, part=part, n_questions=n, wording=PLAIN, seed=options["seed"])
        for part, n in sizes
    )
    found = [SetStudy(own, before, after, sites=("residual",), **options) for own in models]
    return RealStudies(found, identity)


def real_peaks(study: SetStudy, *, n_shuffles: int) -> pd.DataFrame:
    """``peak_table`` of a real model, with its name and number of blocks before."""
    table = peak_table(score_profiles(study, n_shuffles=n_shuffles))
    identity = study.loaded.identity
    of_model = {"model": identity["short"], "n_blocks": identity["n_blocks"]}
    return table.assign(**of_model)[[*of_model, *table.columns]]
