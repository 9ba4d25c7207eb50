"""``python -m avss_utils``: score, prune, evaluate, run, compare, assets.

A user's mistake ends with one sentence on standard error and exit code 2.
"""

import argparse
import os
import sys
from pathlib import Path

from avss_utils import commands
from avss_utils.runs import UsageError

DEFAULT_MODEL = "smollm2-135m"
MODEL_HELP = "embedded name, Hub id, local folder or GGUF file"


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
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for name, function, help_text, add in (
        (
            "score",
            commands.score,
            "a score for every block by one criterion, as CSV",
            _calibration,
        ),
        ("prune", commands.prune, "write a pruned checkpoint", _prune_arguments),
        (
            "evaluate",
            commands.evaluate,
            "full model beside the pruned one: questions and text, with intervals, as CSV",
            _evaluate_arguments,
        ),
        ("run", commands.run, "execute notebooks with papermill", _run_arguments),
        ("compare", commands.compare, "two run folders side by side", _compare_arguments),
        ("assets", commands.assets, "convert an installed model once", _assets_arguments),
    ):
        command = subparsers.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(command=function)
        if add is not _compare_arguments:
            command.add_argument("--model", default=DEFAULT_MODEL, help=MODEL_HELP)
        add(command)
    return parser


def _compare_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="folder of a finished run")


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
