"""Named question, text and sentiment sets -> rows with disjoint splits, plus their identity.

A name may also be the path of a user's file (``own``). ``rows`` holds what a row is and how rows
are split, ``formats`` and ``open_formats`` one parser a data set, ``registry`` and ``open_sets``
one row a data set, ``sources`` where the files are found, ``loading`` what finds them by name,
``wordings`` the prompts, ``pairing`` true answers beside false ones.
"""

from avss_utils.corpora.loading import (
    check_open,
    check_set,
    disjoint_parts,
    load_open,
    load_questions,
    load_texts,
    standard_split,
)
from avss_utils.corpora.own import set_name
from avss_utils.corpora.pairing import Pair, answer_type, false_against_false, irrelevant, paired
from avss_utils.corpora.registry import SPECS
from avss_utils.corpora.rows import Corpus, OpenQuestion, Question, Text, normalised, split_rows
from avss_utils.corpora.sources import NowhereError
from avss_utils.corpora.wordings import WORDINGS, answer_prompt, check_wording, prompt

__all__ = [
    "SPECS",
    "WORDINGS",
    "Corpus",
    "NowhereError",
    "OpenQuestion",
    "Pair",
    "Question",
    "Text",
    "answer_prompt",
    "answer_type",
    "check_open",
    "check_set",
    "check_wording",
    "disjoint_parts",
    "false_against_false",
    "irrelevant",
    "load_open",
    "load_questions",
    "load_texts",
    "normalised",
    "paired",
    "prompt",
    "set_name",
    "split_rows",
    "standard_split",
]
