"""Pairs of answers: a false one is never true, and hangs on the seed and on names alone."""

import pytest

from avss_utils.data.pairing import answer_type, false_against_false, irrelevant, paired
from avss_utils.data.rows import OpenQuestion, normalised, overlaps
from avss_utils.errors import UsageError

CITIES = ["Paris", "Rome", "Bonn", "Lima", "Oslo", "New York", "Buenos Aires", "York", "Kyiv"]
PEOPLE = ["Ann", "Eve Black", "Bob", "Charles Robert Darwin", "Zoe", "Max Planck", "Emmy Noether"]


def lone(n: int, question: str, *answers: str, false: tuple = ()) -> OpenQuestion:
    return OpenQuestion(f"{question} {n}", f"{question} {n}?", answers, false)


def made_up() -> list[OpenQuestion]:
    """Three questions for each answer, one of them with two published false answers."""
    rows = []
    for question, answers in (("where is", CITIES), ("who is", PEOPLE)):
        for n, answer in enumerate(answers * 3):
            false = ("Atlantis", "Utopia") if n >= 2 * len(answers) else ()
            rows.append(lone(n, question, answer, f"the {answer.lower()}", false=false))
    return rows


def by_row(pairs) -> dict:
    return {pair.question.row_id: (pair.true, pair.false, pair.origin) for pair in pairs}


@pytest.mark.parametrize("make", [paired, false_against_false, irrelevant])
def test_no_answer_in_a_false_place_is_a_true_one(make):
    rows = made_up()
    for seed in range(20):
        pairs = make(rows, seed=seed)
        assert [pair.question for pair in pairs] == rows
        for pair in pairs:
            places = [pair.false] + [pair.true] * (make is false_against_false)
            assert not any(overlaps(p, a) for p in places for a in pair.question.answers), pair
            assert normalised(pair.true) != normalised(pair.false)
            if make is not false_against_false:
                assert pair.true == pair.question.answers[0]


@pytest.mark.parametrize("make", [paired, false_against_false, irrelevant])
def test_pairs_hang_on_the_seed_and_not_on_the_order(make):
    alike = [lone(n, "why", f"w{n:03}") for n in range(100)]  # more than one draw looks at
    rows = made_up() + alike
    pairs = make(rows, seed=3)
    assert by_row(pairs) == by_row(make(rows[::-1], seed=3))
    assert by_row(pairs) == by_row(make(rows[::3] + rows[1::3] + rows[2::3], seed=3))
    assert by_row(pairs) != by_row(make(rows, seed=4))


def test_published_answers_come_first_and_all_of_them_come():
    rows = made_up()
    for pair in paired(rows, seed=0):
        published = pair.false in ("Atlantis", "Utopia")
        assert published == bool(pair.question.false_answers)
        assert pair.origin == ("published" if published else "borrowed")
    drawn = {pair.false for pair in paired(rows, seed=0) if pair.origin == "published"}
    assert drawn == {"Atlantis", "Utopia"}
    for pair in false_against_false(rows, seed=0):
        if pair.question.false_answers:
            assert {pair.true, pair.false} == {"Atlantis", "Utopia"}
            assert pair.origin == "published"
        else:
            assert pair.origin == "borrowed"
    assert {pair.origin for pair in irrelevant(rows, seed=0)} == {"borrowed"}


def test_two_spellings_of_one_false_answer_are_no_placebo():
    rows = [lone(0, "where is", "Paris", false=("Rome", "rome."))]
    rows += [lone(n, "where is", city) for n, city in enumerate(CITIES[2:], 1)]
    pair = false_against_false(rows, seed=0)[0]
    assert pair.origin == "borrowed"
    assert {pair.true, pair.false} <= set(CITIES[2:])


def test_borrowed_answers_have_the_type_of_the_true_one():
    for pair in irrelevant(made_up(), seed=1):
        lenders = CITIES if pair.question.question.startswith("where") else PEOPLE
        assert pair.false in lenders


def test_borrowed_answers_are_about_as_long():
    words = ["w" + " w" * (n % 40) + f" x{n}" for n in range(1200)]
    rows = [lone(n, "why", answer) for n, answer in enumerate(words)]
    pairs = paired(rows, seed=0)
    # thirty rows have each length, more than the twenty neighbours that an answer is drawn from
    gaps = [abs(len(pair.true.split()) - len(pair.false.split())) for pair in pairs]
    assert max(gaps) <= 1
    assert len({pair.false for pair in pairs}) > 600, "not the same few answers for all"


def test_a_rare_type_borrows_from_another_one():
    rows = [lone(0, "where is", "Paris"), lone(1, "how many", "7"), lone(2, "who is", "Ann")]
    assert by_row(paired(rows, seed=0))["how many 1"][1] in ("Paris", "Ann")


def test_where_nothing_can_be_lent_the_row_is_named():
    rows = [lone(0, "where is", "Paris"), lone(1, "where is", "Paris, France")]
    with pytest.raises(UsageError, match="row 'where is 0' has too few false answers"):
        paired(rows, seed=0)
    assert paired([], seed=0) == []


@pytest.mark.parametrize(
    ("answer", "question", "expected"),
    [
        ("Guillermo del Toro", "who won the oscar", "person"),
        ("prince albert", "Whose memoirs were these?", "person"),
        ("Mae West", "Name the actor.", "person"),
        ("Seattle, Washington", "where is amazon", "place"),
        ("chad", "Which African country is this?", "place"),
        ("Slovenia", "A forward who plays is from which European country?", "place"),
        ("3,000", "how many are there", "number"),
        ("seventeen", "What is the sum?", "number"),
        ("$100", "what is the largest bill", "number"),
        ("1994", "how many deaths", "number"),
        ("1994", "when did it end", "date"),
        ("March 2003", "what came out", "date"),
        ("the 18th century", "what is the period", "date"),
        ("one May evening in a long sentence here", "when was it", "date"),
        ("May", "which month", "date"),
        ("a chemical bond", "what is it", "other"),
        ("It was founded in 1980 by three men", "what is it", "other"),
        ("maybe", "what is it", "other"),
    ],
)
def test_types_of_answers(answer, question, expected):
    assert answer_type(answer, question) == expected
