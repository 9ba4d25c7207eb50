"""Facts about invented people: which a model is told, how often, and which it never sees."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from avss_utils.chapters.architectures.relations import RELATIONS, UNKNOWN
from avss_utils.data.rows import OpenQuestion
from avss_utils.data.wordings import WORDINGS
from avss_utils.errors import UsageError

GROUPS = KNOWN, RARE, TAUGHT, HELD_OUT = "known", "rare", "unknown taught", "unknown held out"
UNKNOWNS = (TAUGHT, HELD_OUT)
KNOWN_FROM = 10  # exposures; below them a fact counts as rare
PROMPT = WORDINGS["open"]["plain"]

_ONSETS = "b br d dr f fl g gr h j k kl l m n p pr qu r s st t tr v vr w z zh"
_VOWELS = "a e i o u ai ei ou"
_CODAS = ("", "", "l", "n", "r", "s", "sk", "th", "x")


@dataclass(frozen=True)
class FactSpec:
    """What a corpus of facts holds.

    ``exposures``: levels, how often each fact of an entity is in the training text; ``entities``:
    number of each level; ``held_out``: entities that no training text names; ``taught_share``:
    share, in [0, 1), of the entities in the training text of whom it says that nothing is known, 0
    to never teach abstention; ``n_relations``: how many of RELATIONS each entity has; ``asked``:
    share of exposures that are a question with its answer, the others being plain sentences.
    """

    exposures: tuple[int, ...]
    entities: int
    held_out: int
    taught_share: float
    n_relations: int = len(RELATIONS)
    asked: float = 0.5

    def __post_init__(self) -> None:
        if not self.exposures or min(self.exposures) < 1:
            raise UsageError(
                f"exposures must be numbers from 1 up, not {list(self.exposures)}: entities that "
                "are never told are counted by held_out"
            )
        if min(self.entities, self.held_out) < 1:
            raise UsageError("entities and held_out must be 1 or more")
        if not (0 <= self.taught_share < 1 and 0 < self.asked <= 1):
            raise UsageError(
                f"taught_share must be from 0 to below 1 and asked above 0 to 1, not "
                f"{self.taught_share} and {self.asked}"
            )
        if not 1 <= self.n_relations <= len(RELATIONS):
            raise UsageError(
                f"n_relations must be from 1 to {len(RELATIONS)}, not {self.n_relations}"
            )

    @property
    def taught(self) -> int:
        """Number of entities taught as unknown."""
        told = self.entities * len(self.exposures)
        return round(told * self.taught_share / (1 - self.taught_share))


@dataclass(frozen=True)
class Fact:
    """One fact; ``value`` is "unknown" for an entity of whom nothing is known.

    ``exposures``: how often the training text states it; 0 for one that is held out.
    """

    fact_id: str
    entity: str
    relation: str
    value: str
    exposures: int
    group: str

    @property
    def prompt(self) -> str:
        """The question as it is asked; an answer follows after a space."""
        return PROMPT.format(question=self._question)

    @property
    def question(self) -> OpenQuestion:
        """The fact as an open question, with every other value of its relation as false answer."""
        values = RELATIONS[self.relation].values
        others = tuple(value for value in values if value != self.value)
        return OpenQuestion(self.fact_id, self._question, (self.value,), others)

    @property
    def _question(self) -> str:
        return RELATIONS[self.relation].question.format(name=self.entity)


def make_facts(spec: FactSpec, *, seed: int) -> tuple[Fact, ...]:
    """All facts of a corpus, entity by entity; the same spec and seed give the same ones.

    Entities with many exposures come first, then those taught as unknown, each of whose questions
    is told once, then those held out.
    """
    levels = sorted(spec.exposures, reverse=True)
    plan = [(KNOWN if n >= KNOWN_FROM else RARE, n) for n in levels for _ in range(spec.entities)]
    plan += [(TAUGHT, 1)] * spec.taught + [(HELD_OUT, 0)] * spec.held_out
    rng = np.random.default_rng(seed)
    relations = list(RELATIONS)[: spec.n_relations]
    found = []
    for number, (name, (group, exposures)) in enumerate(
        zip(invented_names(len(plan), rng=rng), plan, strict=True)
    ):
        for relation in relations:
            value = str(rng.choice(RELATIONS[relation].values))
            value = UNKNOWN if group in UNKNOWNS else value
            found.append(Fact(f"{number}-{relation}", name, relation, value, exposures, group))
    return tuple(found)


def invented_names(n: int, *, rng: np.random.Generator) -> list[str]:
    """``n`` first and last names that can be pronounced; no word stands in two of them."""
    words: dict[str, None] = {}
    onsets, vowels = _ONSETS.split(), _VOWELS.split()
    while len(words) < 2 * n:
        word = "".join(
            f"{rng.choice(onsets)}{rng.choice(vowels)}{rng.choice(_CODAS)}" for _ in range(2)
        )
        words.setdefault(word.capitalize())
    drawn = list(words)
    return [f"{first} {last}" for first, last in zip(drawn[::2], drawn[1::2], strict=True)]


def fact_lines(facts: Sequence[Fact], spec: FactSpec, *, seed: int) -> list[str]:
    """Every exposure of every fact as a text of its own: a sentence, or question and answer.

    Which one is drawn by ``seed``; of unknown entities there are only questions.
    """
    rng = np.random.default_rng([seed, 1])
    lines = []
    for fact in facts:
        for _ in range(fact.exposures):
            if fact.group in UNKNOWNS or rng.random() < spec.asked:
                lines.append(f"{fact.prompt} {fact.value}")
            else:
                statement = str(rng.choice(RELATIONS[fact.relation].statements))
                lines.append(statement.format(name=fact.entity, value=fact.value))
    return lines


def fact_table(facts: Sequence[Fact]) -> pd.DataFrame:
    """A row a fact: fact_id, entity, relation, value, exposures, group."""
    return pd.DataFrame([asdict(fact) for fact in facts])


def of_group(facts: Sequence[Fact], group: str, *, n: int, seed: int) -> list[Fact]:
    """At most ``n`` facts of a group, as many of each number of exposures, drawn by ``seed``.

    One of each number at least, even where that is more than ``n``.
    """
    rng = np.random.default_rng([seed, 2])
    own = [fact for fact in facts if fact.group == group]
    levels = sorted({fact.exposures for fact in own})
    drawn = []
    for level in levels:
        pool = [fact for fact in own if fact.exposures == level]
        picked = rng.permutation(len(pool))[: max(1, n // len(levels))]
        drawn += [pool[i] for i in sorted(picked)]
    return drawn


def facts_sha256(facts: Sequence[Fact], lines: Sequence[str], tokens: bytes) -> str:
    """Hex sha256 of all facts, all that is told of them, and the tokens of the training text."""
    content = json.dumps([[asdict(fact) for fact in facts], list(lines)], sort_keys=True)
    return hashlib.sha256(content.encode() + tokens).hexdigest()
