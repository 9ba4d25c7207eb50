"""Every model type through the product's doors, held against plain passes of transformers."""

import contextlib
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import zoo
from plain_passes import CHOICES, DROP, PROMPTS, TOLERANCE, attempt, reference_of
from tiny import tiny_tokenizer
from tiny_types import NOT_BUILT, tiny_type

from avss_utils import models
from avss_utils.data.calibrations import row_batches
from avss_utils.errors import UsageError
from avss_utils.measure import collect_block_stats
from avss_utils.measure.choices import score_choices
from avss_utils.models.blocks import remove_blocks, shares_cache
from avss_utils.models.checkpoint import save_pruned
from avss_utils.scores import score_blocks

GRADES = ("exact", "slower, exact", "refused", "not built", "WRONG", "TRACEBACK")
FAULTS = GRADES[-2:]


@dataclass
class Found:
    """What the doors of one type gave: sentences of refusals and faults, by door."""

    refused: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    is_slower: bool = False

    @contextlib.contextmanager
    def door(self, name: str) -> Iterator[None]:
        """Takes down how a door ends: in the right numbers, in a refusal, or otherwise."""
        try:
            yield
        except UsageError as error:
            self.refused[name] = str(error)
        except AssertionError as error:
            self.wrong[name] = str(error)
        except Exception as error:  # whatever a user would see as a traceback
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error} (in {Path(place.filename).name})"
            self.broken[name] = what

    def row(self, model_type: str) -> dict[str, str]:
        """The worst of the doors' grades, the doors that have it, and the first one's reason."""
        worst = ("TRACEBACK", self.broken), ("WRONG", self.wrong), ("refused", self.refused)
        for grade, doors in worst:
            if doors:
                reason = plain(next(iter(doors.values())))
                return _row(model_type, grade, ", ".join(doors), reason)
        return _row(model_type, "slower, exact" if self.is_slower else "exact", "", "")


def _row(model_type: str, grade: str, doors: str, reason: str) -> dict[str, str]:
    return {"type": model_type, "grade": grade, "doors": doors, "reason": reason}


def plain(sentence: str) -> str:
    """A sentence in one line, without its numbers and paths, which differ between machines; of a
    class its name.
    """
    words = re.sub(r"(/[\w.-]+){2,}", "FOLDER", " ".join(sentence.split()))
    words = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", words)
    return re.sub(r"(?<![\w.])-?\d+(\.\d+)?(e[+-]?\d+)?(?!\w)", "N", words)


def close(found: object, wanted: object, what: str, *, relative: float = 0) -> None:
    """AssertionError, with the largest difference, unless two sets of numbers are equal."""
    assert not isinstance(wanted, Exception), f"{what}: given, but by plain passes {wanted!r}"
    found, wanted = (np.concatenate([np.ravel(x) for x in own]) for own in (found, wanted))
    assert found.shape == wanted.shape, f"{what}: {found.shape} numbers, not {wanted.shape}"
    off = (np.abs(found - wanted) / (np.abs(wanted) if relative else 1)).max()  # nan is not below
    assert off < (relative or TOLERANCE), f"{what}: {off:.2g} off"


def grade(model_type: str, folder: Path) -> dict[str, str]:
    """``type, grade, doors, reason`` of a tiny model of the type, which is saved in ``folder``.

    Grades are those of GRADES; ``doors`` are where the grade comes from.
    """
    if model_type in NOT_BUILT:
        return _row(model_type, "not built", "", NOT_BUILT[model_type])
    tiny_type(model_type).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    wanted, found = attempt(lambda: reference_of(folder / "model")), Found()
    own_cache = mock.patch.dict(os.environ, AVSS_CACHE=str(folder / "cache"))
    with own_cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with found.door("load"):
            loaded = models.load_model(folder / "model", device="cpu")
            assert not isinstance(wanted, Exception), f"loaded, but not by transformers: {wanted}"
            assert wanted.is_causal, "later tokens change the logits of earlier ones"
        if not (found.refused or found.wrong or found.broken):
            _through(found, loaded, wanted, folder / "pruned")
            found.is_slower = not shares_cache(loaded.model)
    return found.row(model_type)


def _through(found: Found, loaded: models.LoadedModel, wanted: SimpleNamespace, out: Path) -> None:
    """The doors behind the loading of a model, one after another, whatever each says."""

    def scored(model: torch.nn.Module) -> list[np.ndarray]:
        return score_choices(model, loaded.tokenizer, PROMPTS, CHOICES)

    with found.door("evaluate"):
        close(scored(loaded.model), wanted.scores, "scores of choices")
    with found.door("score"):
        _score(loaded, wanted)
    with found.door("evaluate --drop"):
        cut = remove_blocks(loaded.model, DROP, share_weights=True)
        close(scored(cut), wanted.scores_without, "scores of choices without blocks")
    with found.door("prune"):
        _prune(loaded, wanted, out)
    if "prune" in found.refused and out.exists():
        found.wrong["prune"] = "refused, and a folder is written"


def _score(loaded: models.LoadedModel, wanted: SimpleNamespace) -> None:
    batches = row_batches(wanted.rows, batch_size=2)
    stats = collect_block_stats(loaded.model, batches)
    own = [stats.variance(site) for site in ("residual", "update")]
    close(own, wanted.variances, "variances", relative=1e-3)
    assert np.isfinite(score_blocks("avss", stats, eps=1e-5)).all(), "AVSS is no number"


def _prune(loaded: models.LoadedModel, wanted: SimpleNamespace, out: Path) -> None:
    n_blocks = loaded.identity["n_blocks"]
    save_pruned(loaded, models.PruningPlan(DROP, n_blocks, "zoo"), out, facts={})
    again = models.load_model(out, device="cpu")
    assert again.identity["n_blocks"] == n_blocks - len(DROP), "reloaded with other blocks"
    close([zoo.logits_of(again.model)], wanted.logits_without, "logits of the reloaded model")
    changed = (wanted.logits - wanted.logits_without[0]).abs().max()
    assert changed > 10 * TOLERANCE, "the blocks that go change nothing"
