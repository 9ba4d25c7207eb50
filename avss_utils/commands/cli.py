"""``python -m avss_utils``: score, prune, evaluate, mitigate, run, compare, verify, assets.

A user's mistake ends with one sentence on standard error and exit code 2, an interruption with 130.
A fault of the program ends with one sentence and exit code 1, and its traceback is kept in a file
of the cache folder ($AVSS_CACHE, else ~/.cache/avss_utils); --debug, behind any command, shows it
instead.
"""

import argparse
import os
import sys
import time
import traceback
from functools import partial
from io import TextIOWrapper
from typing import Any, NoReturn

from avss_utils.commands import actions as commands
from avss_utils.commands.rooms import purposes
from avss_utils.commands.values import above_zero, count, path, seed, share, whole
from avss_utils.errors import UsageError, printable
from avss_utils.store import processes
from avss_utils.store.files import cache_dir, disk_reason

DEFAULT_MODEL = "smollm2-135m"
ANSWERS = "sciq_open"  # embedded, with published false answers
DEVICE_HELP = "cpu, cuda, or spread: over all GPUs and the machine's memory"
KEPT = "in an earlier one your own files stay, and files that you changed are refused"
MODEL_HELP = "embedded name, Hub id, local folder or GGUF file"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments, code = _parser().parse_args(argv), 0
    if sys.stderr is None:  # or print would send what belongs there to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  open until the interpreter is gone
    if sys.stdout is None:
        return _say("standard output is closed: leave it open, or send it to a file", 2)
    if isinstance(sys.stdout, TextIOWrapper):  # names can have letters that its encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if arguments.command is not commands.score or arguments.questions is not None:
            processes.check_alone()
        code = arguments.command(arguments) or 0
        sys.stdout.flush()
    except UsageError as error:
        return _say(str(error), 2)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the interpreter is gone
    except OSError as error:
        return _say(f"{error.filename or 'the output'} {disk_reason(error)}", 2)
    except KeyboardInterrupt:
        return _say("interrupted: what was finished is kept, run the same command to go on", 130)
    except (MemoryError, RuntimeError) as error:
        if not _memory_ran_out(error):
            return _fault(error, debug=arguments.debug)
        return _say("memory ran out: take a smaller model, or fewer or shorter texts", 2)
    except Exception as error:
        return _fault(error, debug=arguments.debug)
    return code


def _fault(error: Exception, *, debug: bool) -> int:
    """Say in one sentence what no other door has foreseen, and where its traceback is."""
    if debug:
        raise error
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    name = f"avss_utils-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        file = cache_dir() / "logs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        where = f"its traceback is in {file}"
    except (OSError, UsageError):
        where = "run the same command again with --debug to see its traceback"
    return _say(f"a fault of this program and not yours ({what}): {where}", 1)


def _memory_ran_out(error: Exception) -> bool:
    """Also in torch's words, which is not imported only to know its error by type."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


def _say(sentence: str, code: int) -> int:
    processes.wait_to_speak()
    print(_line(sentence), file=sys.stderr)
    return code


def _line(sentence: str) -> str:
    """A sentence as one line, whatever names of the user's own it holds."""
    shown = printable(sentence).replace("\n", "\\n")
    return f"avss_utils: {shown}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, _line(f"{message} (see {self.prog} --help)") + "\n")


def _parser() -> argparse.ArgumentParser:
    epilog = "rooms of the module, each importing from those above it:\n"
    epilog += "\n".join(f"  {room:<9} {text}" for room, text in purposes().items())
    parser = _Parser(
        prog="python -m avss_utils",
        description=__doc__,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for name, (help_text, add) in COMMANDS.items():
        command = subparsers.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(command=getattr(commands, name))
        if name != "compare":
            command.add_argument("--model", default=DEFAULT_MODEL, help=MODEL_HELP)
        add(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of a fault")
    return parser


def _compare_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs=2, type=path, metavar="RUN", help="folder of a finished run")


def _verify_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--records", default="results/full", help="folder of records by model")
    command.add_argument("--keys", type=count, default=2, help="of a table, made again")


def _assets_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--wheels", action="store_true", help="only print the wheels that carry the model"
    )


def _score_arguments(command: argparse.ArgumentParser) -> None:
    one_of = command.add_mutually_exclusive_group()
    _calibration(command, one_of)
    one_of.add_argument(
        "--questions",
        metavar="FILE",
        help="instead of blocks score the model's own answers to the questions of this .csv or "
        ".jsonl file: columns question and answer",
    )
    command.add_argument(
        "--prompt", default="few-shot", help="of --questions: few-shot, plain or chat"
    )
    command.add_argument(
        "--new-tokens", type=count, default=24, help="of an answer to --questions, at most"
    )


def _calibration(command: argparse.ArgumentParser, criterion: Any = None) -> None:
    """The options that decide the blocks' scores; ``criterion``: where that one belongs."""
    (criterion or command).add_argument(
        "--criterion", default="avss", help="criterion[:rule], see the glossary"
    )
    command.add_argument("--eps", type=above_zero, default=1e-5)
    command.add_argument("--calibration", default="c4", help="text set")
    command.add_argument("--texts", type=count, default=32, help="number of calibration texts")
    command.add_argument("--length", type=count, default=128, help="tokens of each text")
    command.add_argument(
        "--answers",
        default=ANSWERS,
        metavar="SET",
        help="open questions, for eavss criteria and as few-shot examples",
    )
    command.add_argument(
        "--answer-questions",
        type=count,
        default=64,
        help="calibration questions of that set",
    )
    command.add_argument("--seed", type=seed, default=0)
    command.add_argument("--device", default=None, help=DEVICE_HELP)


def _prune_arguments(command: argparse.ArgumentParser) -> None:
    _calibration(command)
    command.add_argument("--drop-ratio", type=share, default=0.25)
    command.add_argument(
        "--out", type=path, required=True, help=f"folder of the checkpoint; {KEPT}"
    )


def _evaluate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--drop", default="-", help='removed blocks, e.g. "13 14 15"')
    command.add_argument("--tasks", nargs="*", default=["sciq", "sst2"])
    command.add_argument("--text-sets", nargs="*", default=["wikipedia"])
    command.add_argument("--wording", default="plain")
    command.add_argument("--questions", type=count, default=64, help="rows a task")
    command.add_argument("--tokens", type=count, default=4096, help="scored tokens a text set")
    command.add_argument("--context", type=partial(whole, least=2), default=512)
    command.add_argument("--seed", type=seed, default=0, help="of the bootstrap")
    command.add_argument("--device", default=None, help=DEVICE_HELP)


def _mitigate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--questions",
        required=True,
        metavar="FILE",
        help=".csv or .jsonl file with columns question, answer and distractors",
    )
    command.add_argument("--out", type=path, required=True, help=f"folder of the adapter; {KEPT}")
    command.add_argument(
        "--blocks", default="eavss", help='eavss, last, uniform, or numbers, e.g. "3 4 5"'
    )
    command.add_argument("--contrast", default="infonce", help="infonce, triplet, preference, none")
    command.add_argument("--steps", type=count, default=60)
    command.add_argument("--rank", type=count, default=8, help="of a quarter of the blocks")
    command.add_argument("--seed", type=seed, default=0)
    command.add_argument("--device", default=None)


def _run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--notebook", nargs="+", default=["all"], help="names, or all")
    command.add_argument("--profile", default="quick", help="smoke, quick or full")
    command.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="NAME=JSON",
        help="further parameters of the notebook",
    )
    command.add_argument("--results", default="results")
    command.add_argument("--records", default="", help="show committed records, run no model")
    command.add_argument("--out", type=path, default=None, help="folder of executed notebooks")
    command.add_argument("--timeout", type=count, default=3600, help="seconds a cell")
    command.add_argument(
        "--processes",
        type=count,
        default=1,
        help="that share the trainings of a notebook; each has a model and memory of its own, so "
        "take no more than fit on the GPUs side by side",
    )


COMMANDS = {
    "score": (
        "a score for every block by one criterion, or for the model's own answers, as CSV",
        _score_arguments,
    ),
    "prune": ("write a pruned checkpoint", _prune_arguments),
    "evaluate": (
        "full model beside the pruned one: questions and text, with intervals, as CSV",
        _evaluate_arguments,
    ),
    "mitigate": (
        "train an adapter on your own questions and say what it changed, as CSV",
        _mitigate_arguments,
    ),
    "run": ("execute notebooks with papermill", _run_arguments),
    "compare": ("two run folders side by side", _compare_arguments),
    "verify": (
        "a sample of every table of the committed records, computed again on the CPU",
        _verify_arguments,
    ),
    "assets": ("convert an installed model once", _assets_arguments),
}
