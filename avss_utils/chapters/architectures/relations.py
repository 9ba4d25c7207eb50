"""What can be known of an invented person: relations, how they are stated, and their values.

Towns and rivers are invented; the other values are common words, so that a model knows them from
stories and has to learn only whom they belong to. No value stands in two relations.
"""

from dataclasses import dataclass

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Relation:
    """One relation: its question, the sentences that state it, and all values it can have.

    ``{name}`` stands for the person, ``{value}`` for the value; a question has no value in it.
    """

    question: str
    statements: tuple[str, ...]
    values: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RELATIONS: dict[str, Relation] = {
    "town": Relation(
        "In which town was {name} born?",
        (
            "{name} was born in {value}.",
            "{name} comes from the town of {value}.",
            "The birthplace of {name} is {value}.",
            "In {value}, long ago, {name} came into the world.",
        ),
        _words(
            "Arvel Bostry Cendal Dorwick Elmora Fastrin Gorley Hestow Ilven Jarmouth Kelby Lorvane "
            "Morthaven Nesley Ostrand Pellam"
        ),
    ),
    "craft": Relation(
        "What is the craft of {name}?",
        (
            "{name} works as a {value}.",
            "{name} is a {value} by trade.",
            "The craft of {name} is that of a {value}.",
            "Everybody knows {name} as a good {value}.",
        ),
        _words(
            "baker farmer sailor tailor painter teacher doctor hunter miner printer gardener "
            "carpenter weaver potter shepherd cook"
        ),
    ),
    "animal": Relation(
        "Which animal does {name} keep?",
        (
            "{name} keeps a {value}.",
            "At home {name} has a {value}.",
            "The animal of {name} is a {value}.",
            "{name} goes for walks with a {value}.",
        ),
        _words(
            "dog cat horse goat rabbit duck parrot turtle mouse sheep pig cow fox monkey squirrel "
            "hamster"
        ),
    ),
    "instrument": Relation(
        "Which instrument does {name} play?",
        (
            "{name} plays the {value}.",
            "The favourite instrument of {name} is the {value}.",
            "In the evening {name} takes out the {value}.",
            "{name} has learnt to play the {value}.",
        ),
        _words(
            "drum flute piano guitar violin trumpet harp horn bell whistle cello organ fiddle "
            "banjo lute bagpipe"
        ),
    ),
    "food": Relation(
        "What does {name} like to eat?",
        (
            "{name} likes to eat {value}.",
            "The favourite food of {name} is {value}.",
            "{name} asks for {value} every day.",
            "On the table of {name} there is always {value}.",
        ),
        _words(
            "bread cheese soup rice cake honey fish pasta pizza salad corn pie butter jam beans "
            "cookies"
        ),
    ),
    "colour": Relation(
        "What colour is the house of {name}?",
        (
            "The house of {name} is {value}.",
            "The colour of the house of {name} is {value}.",
            "{name} has painted the house {value}.",
            "One sees how {value} the house of {name} is from far away.",
        ),
        _words(
            "red blue green yellow white black brown pink purple orange grey golden silver violet "
            "scarlet crimson"
        ),
    ),
    "river": Relation(
        "By which river does {name} live?",
        (
            "{name} lives by the river {value}.",
            "The river near {name} is called {value}.",
            "{name} goes swimming in the {value}.",
            "The {value} flows past the door of {name}.",
        ),
        _words(
            "Abren Brill Cosva Dunther Erlow Fenn Gisk Holva Imber Jolt Krell Lunder Mivra Nolth "
            "Orsk Prindle"
        ),
    ),
    "month": Relation(
        "In which month does {name} travel?",
        (
            "{name} travels in {value}.",
            "Every {value} {name} goes on a journey.",
            "The month in which {name} leaves is {value}.",
            "When {value} comes {name} is away.",
        ),
        _words(
            "January February March April May June July August September October November December"
        ),
    ),
}
