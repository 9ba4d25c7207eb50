"""One member of the family as a folder, in one call."""

from collections.abc import Sequence
from pathlib import Path

from avss_utils.chapters.architectures.facts import KNOWN, FactSpec
from avss_utils.chapters.architectures.family import read_family
from avss_utils.chapters.architectures.member_training import (
    MARK,
    Recipe,
    save_member,
    train_member,
)
from avss_utils.chapters.architectures.mixture import first_available, make_mixture
from avss_utils.models.checkpoint import check_target
from avss_utils.models.devices import as_device


def make_member(
    name: str,
    folder: str | Path,
    spec: FactSpec,
    recipe: Recipe,
    *,
    fact_share: float,
    vocabulary: int,
    length: int,
    stories: Sequence[str] = ("tinystories", "c4"),
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Train the architecture ``name`` of params/architectures.yml and write it to ``folder``.

    The folder is an ordinary checkpoint, with its known facts in questions.jsonl: ``python -m
    avss_utils score --model FOLDER --questions FOLDER/questions.jsonl``, and any notebook with
    ``model=FOLDER``. ``seed`` decides facts and weights; the other sizes are those of
    ``make_mixture``. Raises UsageError before anything is trained where the folder or the name
    cannot be used.
    """
    folder, (architecture,) = check_target(folder, mark=MARK), read_family([name])
    sizes = dict(fact_share=fact_share, vocabulary=vocabulary, length=length)
    mixture = make_mixture(first_available(stories), spec, seed=seed, **sizes)
    member = train_member(architecture, mixture, recipe, seed=seed, device=as_device(device))
    known = [fact for fact in mixture.facts if fact.group == KNOWN]
    return save_member(member, folder, facts=known)
