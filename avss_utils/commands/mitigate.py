"""An adapter for a user's own questions: trained, judged on held-out ones, and written with a card.

Half of the questions are learned from, a fifth decide the learning rate and when to stop, and the
rest judge; a question's part depends on nothing but its name.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from avss_utils.chapters.mitigation.adapter_training import (
    Asked,
    Lessons,
    Trained,
    frozen,
    merged,
    peft_model,
    train,
)
from avss_utils.chapters.mitigation.arms import Arm, Recipe
from avss_utils.chapters.mitigation.contrastive_losses import lessons_of
from avss_utils.commands.before_after import before_and_after, rate_verdict
from avss_utils.data.answer_sets import PLAIN, Events, events_of
from avss_utils.data.loading import load_open, load_texts, standard_split
from avss_utils.data.rows import Corpus, digest, split_rows
from avss_utils.data.windows import text_windows
from avss_utils.errors import UsageError
from avss_utils.models.devices import as_device
from avss_utils.models.load import LoadedModel, load_model
from avss_utils.models.plan import as_text
from avss_utils.scores.eavss import ProneScores
from avss_utils.show.tables import plain
from avss_utils.store.outputs import claimed, whole_folder

MARK = "mitigation.json"
LEARNED, STOPPED_BY, JUDGED = "learned from", "stopped by", "judged"
SHARES = {"calibration": 0.5, "development": 0.2}
FEWEST = 4
NEUTRAL = "c4"  # what an adapter costs is measured on text that no question is about
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
    loaded where the file, the folder or a name will not do. An interrupted call goes on where it
    was when it is made again; one that fails leaves nothing.
    """
    corpus = load_open(questions)
    with claimed(out, mark=MARK) as out, trainings(out) as folder:
        asked: dict[str, Any] = dict(
            blocks=blocks, contrast=contrast, steps=steps, rank=rank, seed=seed
        )
        return _mitigated(model, corpus, out, folder, **asked, device=device)


@contextmanager
def trainings(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` for checkpoints of trainings: an interruption alone leaves it."""
    folder = out.with_name(f".{out.name}.training")
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _mitigated(
    model: str,
    corpus: Corpus,
    out: Path,
    folder: Path,
    *,
    blocks: str,
    contrast: str,
    steps: int,
    rank: int,
    seed: int,
    device: str | None,
) -> pd.DataFrame:
    """What ``mitigate`` does with its folders."""
    parts = own_parts(corpus, seed=seed)
    Arm("as asked", (0,), (0,), contrast)  # refuses an unknown contrast
    check_blocks(blocks)
    loaded = load_model(model, dtype="float32", device=as_device(device))
    chosen = blocks_of(loaded, blocks, parts[LEARNED])
    quarter = max(1, loaded.identity["n_blocks"] // 4)
    ranks = max(1, round(rank * quarter / len(chosen))) * len(chosen)
    recipe = Recipe(ranks, steps, 8, evaluate_every=max(1, steps // 6))
    arm = Arm(blocks, chosen, chosen, contrast)
    lessons = Lessons(*(lessons_of(loaded, parts[part]) for part in (LEARNED, STOPPED_BY)))
    what = [loaded.identity, corpus.identity, asdict(arm), asdict(recipe), seed]
    place = folder / digest(json.dumps(what, sort_keys=True, default=str))
    base = frozen(loaded)
    trained, rate = best_of(base, lessons, arm, recipe, place, seed=seed)
    texts = standard_split(load_texts(NEUTRAL))["evaluation"]
    windows = text_windows(loaded.tokenizer, texts, context=128, max_tokens=4096)
    counts = ", ".join(f"{len(own.questions)} {part}" for part, own in parts.items())
    facts = {
        "blocks": f"{as_text(chosen)} ({blocks})",
        "contrast": contrast,
        "learning_rate": rate,
        "steps": steps,
        "rank": ranks // len(chosen),
        "seed": seed,
        "n_parameters": trained.n_parameters,
        "questions": f"{corpus.identity['name']}: {counts}",
    }
    options: dict[str, Any] = dict(batch_tokens=BATCH_TOKENS, seed=seed)
    after = merged(loaded, base, trained)
    table = before_and_after(loaded, after, parts[JUDGED], windows, **options)
    save_adapter(out, loaded.identity, peft_model(base, trained), table, facts)
    return table


def check_blocks(blocks: str) -> None:
    """Raise UsageError unless ``blocks`` is a name in NAMED or numbers."""
    numbers = blocks.split()
    if blocks not in NAMED and not (numbers and all(n.isdecimal() and len(n) < 9 for n in numbers)):
        raise UsageError(
            f"unknown blocks {blocks!r}: choose {', '.join(NAMED)}, or numbers such as '3 4 5'"
        )


def blocks_of(loaded: LoadedModel, blocks: str, learned: Events) -> tuple[int, ...]:
    """The numbers that ``blocks`` stands for; eavss: those of highest contrast on ``learned``."""
    n_blocks = loaded.identity["n_blocks"]
    top = max(1, n_blocks // 4)
    if blocks == "eavss":
        prone = ProneScores(loaded, [learned], eps=1e-5, ratio=1e-3, batch_tokens=BATCH_TOKENS)
        order = np.argsort(-prone["contrast"], kind="stable")
        return tuple(sorted(order[:top].tolist()))
    if blocks in NAMED:
        return tuple(range(n_blocks - top if blocks == "last" else 0, n_blocks))
    chosen = {int(number) for number in blocks.split()}
    if not chosen <= set(range(n_blocks)):
        raise UsageError(f"blocks to train must be numbers from 0 to {n_blocks - 1}, not {blocks}")
    return tuple(sorted(chosen))


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


def best_of(
    base: nn.Module, lessons: Lessons, arm: Arm, recipe: Recipe, checkpoint: Path, *, seed: int
) -> tuple[Trained, float]:
    """Of RATES, trained side by side, the training of least development loss, and its rate.

    An interrupted call goes on from its ``checkpoint``.
    """
    asked = [Asked(arm, seed, rate) for rate in RATES]
    found = train(base, lessons, asked, recipe, checkpoint=checkpoint)
    usable = [pair for pair in zip(found, RATES, strict=True) if not pair[0].failed]
    if not usable:
        found[0].checked(asked[0])
    return min(usable, key=lambda pair: pair[0].history.development.min())


def save_adapter(
    folder: Path,
    identity: dict,
    model: nn.Module,
    table: pd.DataFrame,
    facts: dict,
) -> Path:
    """Write adapter, card, ``mitigation.json`` and before-and-after.csv, whole or not at all
    (``outputs.whole_folder``).
    """
    with whole_folder(folder, mark=MARK) as working:
        model.save_pretrained(working)
        table.to_csv(working / "before-and-after.csv", index=False, float_format="%.6g")
        record = {"base_model": identity, **facts}
        (working / MARK).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (working / "README.md").write_text(card(identity, table, facts), encoding="utf-8")
    return folder


def card(identity: dict, table: pd.DataFrame, facts: dict) -> str:
    """The adapter's model card: how it was made, what changed, and whether it helped."""
    shown = {k.replace("_", " "): plain(str(v)) for k, v in facts.items() if k != "n_parameters"}
    shown["trained parameters"] = f"{facts['n_parameters']:,}"
    lines = "\n".join(f"- {name}: {value}" for name, value in shown.items())
    base = json.dumps(identity["name"])
    head = "| measure | before | after | change | n |\n|---|---|---|---|---|"
    rows = "\n".join(
        f"| {r.measure} | {r.before:.4g} | {r.after:.4g} | {r.change:.3g} [{r.low:.3g}, "
        f"{r.high:.3g}] | {r.n} |"
        for r in table.itertuples()
    )
    return (
        f"# An adapter for {plain(identity['short'])}\n\n"
        f"Base model: {plain(identity['name'])} (weights sha256 `{identity['weights_sha256']}`). "
        "Its licence applies.\n\n"
        f"{lines}\n\n"
        "On questions that were not learned from, with 95 % intervals; bits per byte and "
        f"divergence on neutral text:\n\n{head}\n{rows}\n\n"
        f"That the hallucination rate fell is {rate_verdict(table)} by these questions.\n\n"
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
        f"base = AutoModelForCausalLM.from_pretrained({base})\n"
        'model = PeftModel.from_pretrained(base, ".")\n```\n'
    )
