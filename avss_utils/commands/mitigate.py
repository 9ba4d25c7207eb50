"""An adapter for a user's own questions: trained, judged on held-out ones, and written with a card.

Half of the questions are learned from, a fifth decide the learning rate and when to stop, and the
rest judge; a question's part depends on nothing but its name.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from avss_utils.chapters.mitigation.adapter_training import Lessons, Trained, merged, train
from avss_utils.chapters.mitigation.arms import Arm, Recipe
from avss_utils.chapters.mitigation.contrastive_losses import lessons_of
from avss_utils.commands.adapter_folder import MARK, save_adapter
from avss_utils.commands.before_after import before_and_after
from avss_utils.data.answer_sets import PLAIN, Events, events_of
from avss_utils.data.loading import load_open, load_texts, standard_split
from avss_utils.data.rows import Corpus, split_rows
from avss_utils.data.windows import Window, text_windows
from avss_utils.errors import UsageError
from avss_utils.models.blocks import checked_numbers
from avss_utils.models.checkpoint import check_target
from avss_utils.models.devices import as_device
from avss_utils.models.load import load_model
from avss_utils.models.plan import as_text
from avss_utils.scores.eavss import ProneScores

LEARNED, STOPPED_BY, JUDGED = "learned from", "stopped by", "judged"
SHARES = {"calibration": 0.5, "development": 0.2}
FEWEST = 4
NEUTRAL = "c4"
NAMED = ("eavss", "last", "uniform")
RATES = (3e-4, 1e-3, 3e-3)
BATCH_TOKENS = 2048


def mitigate(
    model: str,
    questions: str,
    out: Path,
    *,
    blocks: str,
    contrast: str,
    steps: int,
    rank: int,
    seed: int,
    device: str | None = None,
) -> pd.DataFrame:
    """Train an adapter on a file of questions, write it to ``out``, and return what it changed.

    ``blocks``: eavss (the most prone quarter on the questions learned from), last (the last
    quarter), uniform (all), or numbers; ``rank``: of the adapters on a quarter of the blocks, whose
    number of parameters any other choice comes close to. Raises UsageError before a model is
    loaded where the file, the folder or a name will not do.
    """
    corpus, out = load_open(questions), check_target(out, mark=MARK)
    parts = own_parts(corpus, seed=seed)
    Arm("as asked", (0,), (0,), contrast)  # refuses an unknown contrast
    check_blocks(blocks)
    loaded = load_model(model, dtype="float32", device=as_device(device))
    chosen = blocks_of(loaded, blocks, parts[LEARNED])
    quarter = max(1, loaded.identity["n_blocks"] // 4)
    ranks = max(1, round(rank * quarter / len(chosen))) * len(chosen)
    recipe = Recipe(ranks, steps, 8, RATES[0], evaluate_every=max(1, steps // 6))
    arm = Arm(blocks, chosen, chosen, contrast)
    lessons = Lessons(*(lessons_of(loaded, parts[part]) for part in (LEARNED, STOPPED_BY)))
    folder = out.with_name(f".{out.name}.training")
    trained, recipe = best_of(loaded, lessons, arm, recipe, folder, seed=seed)
    windows = neutral_windows(loaded.tokenizer)
    counts = ", ".join(f"{len(own.questions)} {part}" for part, own in parts.items())
    facts = _facts(arm, recipe, seed) | {"questions": f"{corpus.identity['name']}: {counts}"}
    options = dict(batch_tokens=BATCH_TOKENS, seed=seed)
    table = before_and_after(loaded, merged(loaded, trained), parts[JUDGED], windows, **options)
    save_adapter(out, loaded.identity, trained, table, facts)
    shutil.rmtree(folder, ignore_errors=True)
    return table


def _facts(arm: Arm, recipe: Recipe, seed: int) -> dict:
    return {
        "blocks": f"{as_text(arm.trained)} ({arm.name})",
        "contrast": arm.contrast,
        "learning_rate": recipe.learning_rate,
        "steps": recipe.steps,
        "rank": recipe.ranks // len(arm.trained),
        "seed": seed,
    }


def check_blocks(blocks: str) -> None:
    """Raise UsageError unless ``blocks`` is a name in NAMED or numbers."""
    if blocks not in NAMED and not blocks.replace(" ", "").isdecimal():
        raise UsageError(
            f"unknown blocks {blocks!r}: choose {', '.join(NAMED)}, or numbers such as '3 4 5'"
        )


def blocks_of(loaded, blocks: str, learned: Events) -> tuple[int, ...]:
    """The numbers that ``blocks`` stands for in this model."""
    n_blocks = loaded.identity["n_blocks"]
    top = max(1, n_blocks // 4)
    if blocks == "eavss":
        return prone_blocks(loaded, learned, top=top, batch_tokens=BATCH_TOKENS)
    if blocks in NAMED:
        return tuple(range(n_blocks - top if blocks == "last" else 0, n_blocks))
    return tuple(checked_numbers(map(int, blocks.split()), n_blocks))


def neutral_windows(tokenizer) -> list[Window]:
    """A little text that no question is about: what an adapter costs is measured there."""
    texts = standard_split(load_texts(NEUTRAL))["evaluation"]
    return text_windows(tokenizer, texts, context=128, max_tokens=4096)


def own_parts(corpus: Corpus, *, seed: int) -> dict[str, Events]:
    """Questions with answers by part: learned from, stopped by, judged.

    Raises UsageError where a part has fewer than FEWEST questions.
    """
    split = split_rows(corpus, **SHARES, seed=seed)
    names = dict(zip((LEARNED, STOPPED_BY, JUDGED), split, strict=True))
    for part, own in names.items():
        if len(split[own]) < FEWEST:
            raise UsageError(
                f"{corpus.name!r} leaves {len(split[own])} questions to be {part}, and {FEWEST} "
                f"are needed: give it about {8 * FEWEST} or more"
            )
    return {
        part: events_of(split[own], corpus.name, wording=PLAIN, seed=seed)
        for part, own in names.items()
    }


def prone_blocks(loaded, events: Events, *, top: int, batch_tokens: int) -> tuple[int, ...]:
    """The ``top`` blocks of highest EAVSS, read as a contrast, on these questions."""
    prone = ProneScores(loaded, [events], eps=1e-5, ratio=1e-3, batch_tokens=batch_tokens)
    own = prone["contrast"]
    return tuple(sorted(np.argsort(-own, kind="stable")[:top].tolist()))


def best_of(
    loaded, lessons: Lessons, arm: Arm, recipe: Recipe, folder: Path, *, seed: int
) -> tuple[Trained, Recipe]:
    """Of RATES the training of least development loss, and its recipe.

    An interrupted one goes on from its checkpoints in ``folder``.
    """
    found: list[tuple[Trained, Recipe]] = []
    for rate in RATES:
        own = replace(recipe, learning_rate=rate)
        options = dict(seed=seed, folder=folder / f"rate-{rate:g}")
        found.append((train(loaded, lessons, arm, own, **options), own))
    return min(found, key=lambda one: one[0].history.development.min())
