"""Facts about invented people: which a model is told, how often, and which it never sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avss_utils.data.rows import OpenQuestion
from avss_utils.data.wordings import WORDINGS
from avss_utils.errors import UsageError

GROUPS = KNOWN, RARE, TAUGHT, HELD_OUT = "known", "rare", "unknown taught", "unknown held out"
UNKNOWNS = (TAUGHT, HELD_OUT)
UNKNOWN = "unknown"
KNOWN_FROM = 10  # exposures; below them a fact counts as rare
PROMPT = WORDINGS["open"]["plain"]

_ONSETS = "b br d dr f fl g gr h j k kl l m n p pr qu r s st t tr v vr w z zh"
_VOWELS = "a e i o u ai ei ou"
_CODAS = ("", "", "l", "n", "r", "s", "sk", "th", "x")
# Relations: the question, sentences that state it, and all values it can have. Towns and rivers are
# invented; the other values are common words, so that a model knows them from stories and has to
# learn only whom they belong to. No value stands in two relations.
_RELATIONS = """
town: In which town was {name} born?
{name} was born in {value}.
{name} comes from the town of {value}.
The birthplace of {name} is {value}.
In {value}, long ago, {name} came into the world.
Arvel Bostry Cendal Dorwick Elmora Fastrin Gorley Hestow Ilven Jarmouth Kelby Lorvane Morthaven
Nesley Ostrand Pellam

craft: What is the craft of {name}?
{name} works as a {value}.
{name} is a {value} by trade.
The craft of {name} is that of a {value}.
Everybody knows {name} as a good {value}.
baker farmer sailor tailor painter teacher doctor hunter miner printer gardener carpenter weaver
potter shepherd cook

animal: Which animal does {name} keep?
{name} keeps a {value}.
At home {name} has a {value}.
The animal of {name} is a {value}.
{name} goes for walks with a {value}.
dog cat horse goat rabbit duck parrot turtle mouse sheep pig cow fox monkey squirrel hamster

instrument: Which instrument does {name} play?
{name} plays the {value}.
The favourite instrument of {name} is the {value}.
In the evening {name} takes out the {value}.
{name} has learnt to play the {value}.
drum flute piano guitar violin trumpet harp horn bell whistle cello organ fiddle banjo lute
bagpipe

food: What does {name} like to eat?
{name} likes to eat {value}.
The favourite food of {name} is {value}.
{name} asks for {value} every day.
On the table of {name} there is always {value}.
bread cheese soup rice cake honey fish pasta pizza salad corn pie butter jam beans cookies

colour: What colour is the house of {name}?
The house of {name} is {value}.
The colour of the house of {name} is {value}.
{name} has painted the house {value}.
One sees how {value} the house of {name} is from far away.
red blue green yellow white black brown pink purple orange grey golden silver violet scarlet
crimson

river: By which river does {name} live?
{name} lives by the river {value}.
The river near {name} is called {value}.
{name} goes swimming in the {value}.
The {value} flows past the door of {name}.
Abren Brill Cosva Dunther Erlow Fenn Gisk Holva Imber Jolt Krell Lunder Mivra Nolth Orsk Prindle

month: In which month does {name} travel?
{name} travels in {value}.
Every {value} {name} goes on a journey.
The month in which {name} leaves is {value}.
When {value} comes {name} is away.
January February March April May June July August September October November December
"""


@dataclass(frozen=True)
class Relation:
    """``{name}`` stands for the person, ``{value}`` for the value; a question has no value."""

    question: str
    statements: tuple[str, ...]
    values: tuple[str, ...]


def _relation(text: str) -> tuple[str, Relation]:
    first, *lines = text.split("\n")
    name, question = first.split(": ")
    stated = tuple(line for line in lines if "{value}" in line)
    return name, Relation(question, stated, tuple(" ".join(lines[len(stated) :]).split()))


RELATIONS: dict[str, Relation] = dict(map(_relation, _RELATIONS.strip().split("\n\n")))


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
        return PROMPT.format(question=self.question.question)

    @property
    def question(self) -> OpenQuestion:
        """The fact as an open question, with every other value of its relation as false answer."""
        relation = RELATIONS[self.relation]
        others = tuple(value for value in relation.values if value != self.value)
        asked = relation.question.format(name=self.entity)
        return OpenQuestion(self.fact_id, asked, (self.value,), others)


def make_facts(spec: FactSpec, *, seed: int) -> tuple[Fact, ...]:
    """All facts of a corpus, entity by entity; the same spec and seed give the same ones.

    Entities with many exposures come first, then those taught as unknown, each of whose questions
    is told once, then those held out.
    """
    levels = sorted(spec.exposures, reverse=True)
    plan = [(KNOWN if n >= KNOWN_FROM else RARE, n) for n in levels for _ in range(spec.entities)]
    plan += [(TAUGHT, 1)] * spec.taught + [(HELD_OUT, 0)] * spec.held_out
    rng = np.random.default_rng(seed)
    found = []
    names = invented_names(len(plan), rng=rng)
    for number, (name, (group, exposures)) in enumerate(zip(names, plan, strict=True)):
        for relation in list(RELATIONS)[: spec.n_relations]:
            drawn = str(rng.choice(RELATIONS[relation].values))
            value = UNKNOWN if group in UNKNOWNS else drawn
            found.append(Fact(f"{number}-{relation}", name, relation, value, exposures, group))
    return tuple(found)


def invented_names(n: int, *, rng: np.random.Generator) -> list[str]:
    """``n`` first and last names that can be pronounced; no word stands in two of them."""
    words: dict[str, None] = {}
    parts = (_ONSETS.split(), _VOWELS.split(), _CODAS)
    while len(words) < 2 * n:
        drawn = (rng.choice(part) for _ in range(2) for part in parts)
        words.setdefault("".join(drawn).capitalize())
    names = list(words)
    return [f"{first} {last}" for first, last in zip(names[::2], names[1::2], strict=True)]


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


def of_group(facts: Sequence[Fact], group: str, *, n: int, seed: int) -> list[Fact]:
    """At most ``n`` facts of a group, as many of each number of exposures, drawn by ``seed``.

    One of each number at least, even where that is more than ``n``.
    """
    rng, drawn = np.random.default_rng([seed, 2]), []
    own = [fact for fact in facts if fact.group == group]
    levels = sorted({fact.exposures for fact in own})
    for level in levels:
        pool = [fact for fact in own if fact.exposures == level]
        picked = rng.permutation(len(pool))[: max(1, n // len(levels))]
        drawn += [pool[i] for i in sorted(picked)]
    return drawn
