"""What criteria are computed from, as the options of a command name it."""

import argparse
import os
from typing import Any

import numpy as np
import torch

from avss_utils.data.answer_sets import PLAIN, Events, set_events
from avss_utils.data.calibrations import calibration_batches
from avss_utils.data.suites import check_names
from avss_utils.data.token_rows import Scored
from avss_utils.errors import UsageError
from avss_utils.measure.sensitivity import Sensitivity
from avss_utils.models import load as models
from avss_utils.scores.arms import Calibration, parse_arm
from avss_utils.scores.criteria import CRITERIA, wanted_options
from avss_utils.scores.eavss import ProneScores
from avss_utils.store.processes import place

BULK_EPS = 1e-3  # where the share of entries below it still grows in proportion to it
RATIO = 1e-3  # of a block's standard deviation: the relative threshold
BATCH_TOKENS = 2048
OF_WEIGHTS = ("taylor", "taylor-protected", "weight-magnitude")  # they read them, or gradients


def answer_events(arguments: argparse.Namespace, criterion: str) -> Events | None:
    """True and false answers for a criterion that compares them, None for any other.

    Raises UsageError for an unknown set, or one too small to lend false answers.
    """
    if criterion not in CRITERIA or "answers" not in wanted_options(criterion):
        return None
    events, _ = set_events(
        arguments.answers,
        part="calibration",
        n_questions=arguments.answer_questions,
        wording=PLAIN,
        seed=arguments.seed,
    )
    return events


def calibrate(arguments: argparse.Namespace) -> tuple[models.LoadedModel, Calibration, dict]:
    """The model, its statistics on the calibration part of a text set, and the set's identity.

    Under torchrun the processes share the batches, and each has the statistics of all of them.
    Raises UsageError before the model is loaded for an unknown set, and for a criterion
    that a model over several devices cannot be scored by.
    """
    check_names(calibration=arguments.calibration)
    criterion, _, _ = parse_arm(arguments.criterion)
    if arguments.device == models.SPREAD and criterion in OF_WEIGHTS:
        raise UsageError(f"{criterion} needs the weights on one device: pass --device cpu or cuda")
    loaded = models.load_model(arguments.model, device=_own_device(arguments.device))
    batches, identity = calibration_batches(
        loaded.tokenizer,
        arguments.calibration,
        n_texts=arguments.texts,
        length=arguments.length,
        batch_tokens=BATCH_TOKENS,
    )
    eps = (arguments.eps, BULK_EPS)
    return loaded, Calibration(loaded.model, batches, eps=eps, in_processes=True), identity


def _own_device(device: str | None) -> str | None:
    """Of several processes on a machine with GPUs each takes its own; otherwise ``device``."""
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if place()[1] > 1 else 1
    n_gpus = torch.cuda.device_count()
    if here == 1 or n_gpus == 0 or device not in (None, "cuda", models.SPREAD):
        return device
    most = 1 if device == models.SPREAD else n_gpus
    if here > most:
        raise UsageError(
            f"{here} processes are too many for the {n_gpus} GPUs of this machine: pass "
            f"--nproc-per-node {most} to torchrun, or --device cpu"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}"


def criterion_options(
    arguments: argparse.Namespace,
    loaded: models.LoadedModel,
    calibration: Calibration,
    answers: Events | None,
    *,
    n_greedy: int,
) -> dict:
    """The keywords of every criterion; losses are those of the calibration texts.

    ``answers`` only where there are any. Nothing runs the model before a criterion asks for it.
    """
    rows = Scored.batches(calibration.batches)
    options: dict[str, Any] = {
        "eps": arguments.eps,
        "bulk_eps": BULK_EPS,
        "ratio": RATIO,
        "rng": np.random.default_rng(arguments.seed),
        "sensitivity": Sensitivity(
            loaded.model, rows, n_greedy=n_greedy, batch_tokens=BATCH_TOKENS
        ),
    }
    if answers is not None:
        sizes: dict[str, Any] = dict(eps=arguments.eps, ratio=RATIO, batch_tokens=BATCH_TOKENS)
        options["answers"] = ProneScores(loaded, [answers], **sizes)
    return options
