"""Which blocks are trained and where the loss looks: the arms of the comparison, and adapters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.contrastive_losses import CONTRASTS
from avss_utils.errors import UsageError
from avss_utils.models.plan import as_drop, as_text

GUIDED = "eavss top"  # the flagged blocks, trained with the contrast on their own states
NEEDED = (GUIDED, "uniform")
# how the names of random sets begin, and of the trainings that learning rates are chosen by
RANDOM, PILOT = "random ", "pilot "
WITHOUT, SHUFFLED = "no contrast", "shuffled labels"  # what an arm is trained with instead
CHOICES = ("uniform", "eavss bottom", "last", "probe top")  # of blocks, beside the flagged


@dataclass(frozen=True)
class Arm:
    """``trained``: blocks that get adapters; ``read``: blocks whose states the contrast compares.

    ``contrast``: one of CONTRASTS; ``shuffled``: true and false answers change places in half of
    the training questions, at random.
    """

    name: str
    trained: tuple[int, ...]
    read: tuple[int, ...]
    contrast: str = "infonce"
    shuffled: bool = False

    def __post_init__(self):
        if self.contrast not in CONTRASTS:
            raise UsageError(
                f"unknown contrast {self.contrast!r}: choose from {', '.join(CONTRASTS)}"
            )
        if not self.trained:
            raise UsageError(f"arm {self.name!r} trains no block: name one at least")


@dataclass(frozen=True)
class Recipe:
    """What all arms have in common.

    ``ranks``: sum of the ranks over an arm's blocks (``budget``); ``steps`` of ``questions`` each,
    fewer where the development loss has not fallen in ``patience`` looks, one every
    ``evaluate_every`` steps. ``weight``: of the contrast beside the mean nats a token of true
    answers; ``temperature``, ``margin`` and ``strength`` are those of CONTRASTS.
    """

    ranks: int
    steps: int
    questions: int
    evaluate_every: int
    patience: int = 3
    weight: float = 1.0
    temperature: float = 0.1
    margin: float = 0.2
    strength: float = 1.0


def is_random(name: str) -> bool:
    """Whether an arm of this name is a random set, trained as the flagged blocks are."""
    return name.startswith(RANDOM) and "," not in name


def is_pilot(name: str) -> bool:
    """Whether an arm of this name is there to choose a learning rate by."""
    return name.startswith(PILOT)


def loss_name(arm: "Arm") -> str:
    """What an arm is trained with: its contrast, or SHUFFLED."""
    return SHUFFLED if arm.shuffled else arm.contrast


def budget(sizes: Sequence[int], *, least: int) -> int:
    """Ranks over all trained blocks, the same for arms of each of these numbers of blocks.

    The smallest multiple of all ``sizes`` that gives every block of every arm a rank of ``least``:
    with blocks of one shape, arms then have exactly as many trainable parameters.
    """
    return lcm(*sizes) * -(-least * max(sizes) // lcm(*sizes))


def rank_of(arm: Arm, total: int) -> int:
    """Rank of each of the arm's blocks under a ``budget``. Raises UsageError unless it is whole."""
    rank, rest = divmod(total, len(arm.trained))
    if rest or not rank:
        raise UsageError(
            f"a budget of {total} ranks is not shared by {len(arm.trained)} blocks evenly: take a "
            "multiple"
        )
    return rank


def standard_arms(
    rankings: Mapping[str, np.ndarray], *, top: int, contrast: str = "infonce"
) -> list[Arm]:
    """Every named arm, from scores by block of which high is prone, (n_blocks,) each.

    ``rankings`` has "eavss" and "probe". In order: eavss top, and CHOICES (uniform: all blocks);
    eavss top without the contrast, with its loss on the flagged blocks and the training on the
    bottom ones, the reverse, with shuffled labels, and with each other form of the ``contrast``;
    and each of CHOICES without the contrast and with shuffled labels.
    """
    n_blocks = len(rankings["eavss"])
    if not 1 <= top < n_blocks:
        raise UsageError(f"{top} of {n_blocks} blocks leave nothing to compare: take fewer")
    order = np.argsort(-np.asarray(rankings["eavss"]), kind="stable")
    probes = np.argsort(-np.asarray(rankings["probe"]), kind="stable")
    flagged, spared, everywhere = _blocks(order[:top]), _blocks(order[-top:]), range(n_blocks)
    guided = Arm(GUIDED, flagged, flagged, contrast)

    def elsewhere(name: str, blocks: Iterable[int]) -> Arm:
        return replace(guided, name=name, trained=_blocks(blocks), read=_blocks(blocks))

    every: list[Iterable[int]] = [everywhere, spared, everywhere[-top:], probes[:top].tolist()]
    blocks = dict(zip(CHOICES, every, strict=True))
    chosen = [elsewhere(name, own) for name, own in blocks.items()]
    return [
        guided,
        *chosen,
        replace(guided, name=WITHOUT, contrast="none"),
        replace(guided, name="loss top, training bottom", trained=spared),
        replace(guided, name="loss bottom, training top", read=spared),
        replace(guided, name=SHUFFLED, shuffled=True),
        *(
            replace(guided, name=f"eavss top, {other}", contrast=other)
            for other in CONTRASTS
            if other not in (contrast, "none")
        ),
        *(own for arm in chosen for own in _instead(arm)),
    ]


def _instead(arm: Arm) -> list[Arm]:
    """The same blocks trained without the contrast, and with shuffled labels."""
    return [
        replace(arm, name=f"{arm.name}, {WITHOUT}", contrast="none"),
        replace(arm, name=f"{arm.name}, {SHUFFLED}", shuffled=True),
    ]


def drawn_arms(
    n_blocks: int,
    *,
    top: int,
    n_random: int,
    n_random_losses: int,
    n_pilot: int,
    named: Sequence[Arm],
    seed: int,
) -> list[Arm]:
    """Arms of random sets of ``top`` blocks, drawn by ``seed``, trained and read alike.

    ``n_random`` with the first of ``named``'s contrast, the first ``n_random_losses`` of them also
    without one and with shuffled labels. Then, to choose learning rates by, ``n_pilot`` further
    sets, and all blocks as often, with each loss that arms of as many blocks have.
    """
    rng = np.random.default_rng(seed)
    sets = [_blocks(rng.choice(n_blocks, top, replace=False)) for _ in range(n_random + n_pilot)]
    contrast = named[0].contrast
    random = [Arm(f"{RANDOM}{i}", own, own, contrast) for i, own in enumerate(sets[:n_random])]
    others = [own for arm in random[:n_random_losses] for own in _instead(arm)]
    everything = tuple(range(n_blocks))
    pilots = [Arm(f"{PILOT}{i}", own, own) for i, own in enumerate(sets[n_random:])]
    pilots += [Arm(f"{PILOT}uniform {i}", everything, everything) for i in range(n_pilot)]
    losses = {(len(a.trained), a.contrast, a.shuffled): loss_name(a) for a in (*named, *others)}
    return [
        *random,
        *others,
        *(
            replace(pilot, name=f"{pilot.name}, {loss}", contrast=contrast, shuffled=shuffled)
            for pilot in pilots
            for (n, contrast, shuffled), loss in losses.items()
            if n == len(pilot.trained)
        ),
    ]


def chosen_arms(
    names: Sequence[str], rankings: Mapping[str, np.ndarray], *, top: int, contrast: str
) -> list[Arm]:
    """Those of ``standard_arms`` that are named, in their order; see ``check_arms``."""
    every = standard_arms(rankings, top=top, contrast=contrast)
    named = {arm.name: arm for arm in every}
    return [named[name] for name in names]


def check_sizes(p: Any) -> None:
    """Raise UsageError unless the numbers of random sets and seeds of ``p`` can be.

    C11 needs one random set at least.
    """
    if p.n_random < 1:
        raise UsageError(f"n_random must be 1 or more, not {p.n_random}: C11 needs a random set")
    for name, least, most in (
        ("n_random_losses", 0, p.n_random),
        ("random_seeds", 1, np.inf),
        ("guided_seeds", 1, np.inf),
        ("n_pilot", 0, np.inf),
    ):
        if not least <= getattr(p, name) <= most:
            limit = f"from {least} to {most}" if most < np.inf else f"{least} or more"
            raise UsageError(f"{name} must be {limit}, not {getattr(p, name)}")
    if not p.largest_divergence > 0:
        raise UsageError(f"largest_divergence must be above 0, not {p.largest_divergence}")


def check_arms(names: Sequence[str], *, contrast: str) -> None:
    """Raise UsageError unless ``names`` are arms, each once, and those that the claims need."""
    four = {"eavss": np.arange(4), "probe": np.arange(4)}
    known = [a.name for a in standard_arms(four, top=1, contrast=contrast)]
    if lacking := [name for name in NEEDED if name not in names]:
        raise UsageError(f"arms must have {lacking[0]!r}, which the claims are judged by: add it")
    for number, name in enumerate(names):
        if name not in known:
            raise UsageError(f"unknown arm {name!r}: choose from {'; '.join(known)}")
        if name in names[:number]:
            raise UsageError(f"arm {name!r} is named twice: name it once")


def _blocks(numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(map(int, numbers)))


def arm_table(arms: Sequence[Arm], ranks: int) -> pd.DataFrame:
    """The arms as they are shown: arm, trained, read, rank (of each block), contrast, shuffled."""
    rows = [
        (a.name, as_text(a.trained), as_text(a.read), rank_of(a, ranks), a.contrast, a.shuffled)
        for a in arms
    ]
    return pd.DataFrame(rows, columns=["arm", "trained", "read", "rank", "contrast", "shuffled"])


def arm_of(table: pd.DataFrame, name: str) -> Arm:
    """One arm of an ``arm_table``."""
    row = table.set_index("arm").loc[name]
    return Arm(name, as_drop(row.trained), as_drop(row.read), row.contrast, bool(row.shuffled))
