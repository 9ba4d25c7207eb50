"""What the statistics, the choice scores and the start cost, as ratios within one run.

``python benchmarks/speed.py`` writes results/benchmarks/speed_<device>.csv (times and ratios),
figures_<device>.csv (memory, start-up, differences), sizes_<device>.csv (time and memory by model
size) and speed_<device>.json (machine, versions), as the book shows them.
TransformerLens and nnsight are timed where they are installed (benchmarks/requirements.txt), and
lm-evaluation-harness' choices by agreement.py. Exit code 1 when a bound of BOUNDS is broken.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import peers
import psutil
import torch
import transformers

from avss_utils.data.loading import load_questions, load_texts, standard_split
from avss_utils.data.token_rows import text_batches
from avss_utils.data.wordings import prompt
from avss_utils.measure.activations import SITES, collect_block_stats
from avss_utils.measure.choices import score_choices
from avss_utils.measure.judging import device_name
from avss_utils.models import blocks as families
from avss_utils.models.load import load_model
from avss_utils.store.files import project_root, provenance, write_json
from avss_utils.store.tables import write_csv

OUT = project_root() / "results" / "benchmarks"
MODEL = "smollm2-135m"
THREE_EPS = (1e-6, 1e-5, 1e-4)
# (part, way) -> the largest ratio allowed, by kind of device; memory in MB, start-up in seconds
BOUNDS = {
    "cpu": {
        ("statistics", "residual and update"): 1.03,
        ("statistics", "four sites, three eps"): 1.10,
        ("choices", "prompt once a question"): 0.5,
        ("memory", "1,024 texts minus 64 texts, MB"): 50,
        ("start-up", "imports and model, s"): 6,
    },
    "cuda": {("statistics", "residual and update"): 1.15},
}
LLAMA = {"vocab_size": 49152, "tie_word_embeddings": True}
QWEN = {"vocab_size": 151936, "tie_word_embeddings": True}
# name -> (configuration, width, inner width, blocks, heads, key-value heads, the rest)
SHAPES = {
    "SmolLM2-135M": (transformers.LlamaConfig, 576, 1536, 30, 9, 3, LLAMA),
    "SmolLM2-360M": (transformers.LlamaConfig, 960, 2560, 32, 15, 5, LLAMA),
    "Qwen2.5-0.5B": (transformers.Qwen2Config, 896, 4864, 24, 14, 2, QWEN),
    "Qwen2.5-1.5B": (transformers.Qwen2Config, 1536, 8960, 28, 12, 2, QWEN),
    "Llama-2-7B": (transformers.LlamaConfig, 4096, 11008, 32, 32, 32, {"vocab_size": 32000}),
    "Llama-2-70B": (transformers.LlamaConfig, 8192, 28672, 80, 64, 8, {"vocab_size": 32000}),
}
FIRST_IMPORTS = ("claims", "chapters.pruning", "show.figures", "data.suites", "models.checkpoint")
MEASURED = {"cpu": 4, "cuda": 5}  # how many of SHAPES, in order
TEXT_TOKENS = 256


def timed(ways: dict[str, Callable], *, rounds: int, device: torch.device) -> pd.DataFrame:
    """Run the ways in turn, ``rounds`` times: the fastest of each, and its ratio to the first's.

    In turn, so that a machine that slows down for a while slows all ways; the fastest, because
    other work on the machine only ever adds time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name in ways:
        ways[name]()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    fastest = {name: min(own) for name, own in seconds.items()}
    first = next(iter(fastest.values()))
    rows = [(name, own, own / first) for name, own in fastest.items()]
    return pd.DataFrame(rows, columns=["way", "seconds", "ratio"])


def plain_passes(model, batches: list[dict]) -> None:
    """The forward passes that every way of reading activations needs."""
    body = families.decoder_body(model)
    with torch.inference_mode():
        for batch in batches:
            body(**families.forward_inputs(model, batch), use_cache=False)


def time_statistics(model, tokenizer, *, rounds: int, n_texts: int, batch_size: int):
    """Statistics beside the same passes without them and beside other tools' activations."""
    rows = standard_split(load_texts("c4"))["calibration"][:n_texts]
    batches = text_batches(tokenizer, rows, length=TEXT_TOKENS // 2, batch_size=batch_size)
    ways = {
        "forward passes alone": lambda: plain_passes(model, batches),
        "residual and update": lambda: collect_block_stats(model, batches),
        "four sites, three eps": lambda: collect_block_stats(
            model, batches, sites=SITES, eps=THREE_EPS
        ),
        **(peers.activation_readers(MODEL, model, batches) if model.device.type == "cpu" else {}),
    }
    return timed(ways, rounds=rounds, device=model.device).assign(part="statistics")


def time_choices(model, tokenizer, *, rounds: int, n_questions: int, batch_tokens: int):
    """Four choices: the prompt once a question, beside prompt and choice together."""
    questions = standard_split(load_questions("sciq"))["development"][:n_questions]
    asked = [prompt(question, "sciq", "plain") for question in questions]

    def scores(shared: bool) -> list:
        return score_choices(
            model,
            tokenizer,
            [a[0] for a in asked],
            [a[1] for a in asked],
            batch_tokens=batch_tokens,
            shared_prefix=shared,
        )

    pairs = zip(scores(True), scores(False), strict=True)
    largest = max(float(abs(a - b).max()) for a, b in pairs)
    ways = {
        "prompt and choice together": lambda: scores(False),
        "prompt once a question": lambda: scores(True),
    }
    table = timed(ways, rounds=rounds, device=model.device).assign(part="choices")
    return pd.concat([table, value_row("choices", "largest difference of a score", largest)])


def value_row(part: str, way: str, value: float) -> pd.DataFrame:
    """A measured value that is no ratio, in the same columns."""
    return pd.DataFrame([{"part": part, "way": way, "value": value}])


def memory_growth() -> pd.DataFrame:
    """Peak memory of a whole process over 64 and over 1,024 texts, MB."""
    peaks = {n: _in_process("--peak", str(n)) for n in (64, 1024)}
    rows = [value_row("memory", f"{n:,} texts, peak MB", peak) for n, peak in peaks.items()]
    growth = value_row("memory", "1,024 texts minus 64 texts, MB", peaks[1024] - peaks[64])
    return pd.concat([*rows, growth])


def start_up(repeats: int) -> pd.DataFrame:
    """Imports of notebook 01 and the load of its model, from the start of a process; the fastest.

    The first, which may find cold disk caches, does not count.
    """
    seconds = min([_in_process("--start") for _ in range(repeats + 1)][1:])
    return value_row("start-up", "imports and model, s", seconds)


def _in_process(*words: str) -> float:
    """The number that this script prints when it is started with ``words``."""
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def print_peak(n_texts: int) -> None:
    """In a process of its own: statistics of ``n_texts`` short texts, then the peak in MB."""
    loaded = load_model(MODEL, device="cpu")
    rows = standard_split(load_texts("c4"))["calibration"][:n_texts]
    batches = text_batches(loaded.tokenizer, rows, length=16, batch_size=32)
    collect_block_stats(loaded.model, batches, sites=SITES, eps=THREE_EPS)
    print(peak_memory())


def peak_memory() -> float:
    """Largest resident size of this process so far, MB (Linux).

    Not ``ru_maxrss``, in which a process also finds the size of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def sizes(device: torch.device) -> pd.DataFrame:
    """Seconds and memory for 1,000 texts by model size, and from the largest measured, the rest."""
    names, n_measured = list(SHAPES), MEASURED[device.type]
    measured = [_measure_size(name, device) for name in names[:n_measured]]
    table = pd.DataFrame(measured)
    scale = table.iloc[-1]
    for name in names[n_measured:]:
        parameters = _n_parameters(name)
        factor = parameters / scale.n_parameters
        rest = scale.memory_gb - 4e-9 * scale.n_parameters
        estimate = {
            "model": name,
            "n_parameters": parameters,
            "source": f"extrapolated from {scale.model}",
            "seconds": scale.seconds * factor,
            "memory_gb": 4e-9 * parameters + rest * _widths(name) / _widths(scale.model),
            "statistics_share": None,
        }
        table = pd.concat([table, pd.DataFrame([estimate])])
    return table


def _measure_size(name: str, device: torch.device) -> dict:
    if device.type == "cpu":  # in a process of its own, whose peak is this model's
        out = subprocess.run(
            [sys.executable, __file__, "--size", name], capture_output=True, text=True, check=True
        )
        seconds, plain, memory = map(float, out.stdout.split())
    else:
        seconds, plain, memory = size_figures(name, device)
    return {
        "model": name,
        "n_parameters": _n_parameters(name),
        "source": "measured",
        "seconds": seconds,
        "memory_gb": memory,
        "statistics_share": 1 - plain / seconds,
    }


def size_figures(name: str, device: torch.device) -> tuple[float, float, float]:
    """Seconds per 1,000 texts with and without statistics, and peak GB, of a random model."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with device:
        model = transformers.AutoModelForCausalLM.from_config(_config(name), dtype=torch.float32)
    n, n_batches, rounds = (2, 1, 2) if device.type == "cpu" else (64, 2, 3)
    ids = torch.randint(5, 1000, (n, TEXT_TOKENS), device=device)
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}] * n_batches
    ways = {
        "plain": lambda: plain_passes(model.eval(), batches),
        "statistics": lambda: collect_block_stats(model, batches),
    }
    table = timed(ways, rounds=rounds, device=device)
    plain, seconds = table.seconds * 1000 / (n * len(batches))
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else peak_memory() / 1e3
    return seconds, plain, peak


def _config(name: str):
    kind, width, inner, blocks, heads, key_value, rest = SHAPES[name]
    return kind(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        **rest,
    )


def _widths(name: str) -> int:
    return SHAPES[name][1] + SHAPES[name][2]


def _n_parameters(name: str) -> int:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(_config(name))
    return sum(p.numel() for p in model.parameters())


def broken_bounds(table: pd.DataFrame, bounds: dict[tuple[str, str], float]) -> list[str]:
    """A sentence for each bound that the table does not keep, or does not show at all."""
    found = []
    for (part, way), bound in bounds.items():
        own = table[(table.part == part) & (table.way == way)]
        figures = own.ratio.fillna(own.value) if len(own) else pd.Series([float("nan")])
        if not figures.iloc[0] <= bound:
            found.append(f"{part}, {way}: {figures.iloc[0]:.3f}, at most {bound} allowed")
    return found


def measure(device: torch.device, rounds: int) -> pd.DataFrame:
    """All ratios on this device."""
    loaded = load_model(MODEL, device=device)
    small = {"n_texts": 16, "batch_size": 8}
    large = {"n_texts": 512, "batch_size": 128}
    size = small if device.type == "cpu" else large
    n, batch_tokens = (24, 2048) if device.type == "cpu" else (200, 16384)
    model, tokenizer = loaded.model, loaded.tokenizer
    tables = [
        time_statistics(model, tokenizer, rounds=rounds, **size),
        time_choices(model, tokenizer, rounds=rounds, n_questions=n, batch_tokens=batch_tokens),
    ]
    if device.type == "cpu":
        tables += [memory_growth(), start_up(3)]
    return pd.concat(tables, ignore_index=True)[["part", "way", "seconds", "ratio", "value"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SHAPES, help=argparse.SUPPRESS)
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.peak:
        print_peak(arguments.peak)
    elif arguments.size:
        print(*size_figures(arguments.size, device))
    elif arguments.start:
        _start()
    else:
        return report(device, arguments.rounds, arguments.out)
    return 0


def _start() -> None:
    """What notebook 01 imports before it does anything, and its model."""
    for name in FIRST_IMPORTS:
        importlib.import_module(f"avss_utils.{name}")
    load_model(MODEL)
    print(time.time() - psutil.Process().create_time())


def report(device: torch.device, rounds: int, out: Path) -> int:
    """Measure, write, print; 1 when a bound is broken."""
    bounds = BOUNDS[device.type]
    table, by_size = measure(device, rounds), sizes(device)
    kind = device.type
    machine = provenance(device_name(torch.nn.Linear(1, 1, device=device).weight))
    out.mkdir(parents=True, exist_ok=True)
    for name, shown in (
        (f"speed_{kind}", presented(table[table.ratio.notna()], bounds, "ratio")),
        (f"figures_{kind}", presented(table[table.value.notna()], bounds, "value")),
        (f"sizes_{kind}", presented_sizes(by_size)),
    ):
        write_csv(shown, out / f"{name}.csv")
        print(shown.to_string(index=False), end="\n\n")
    write_json(out / f"speed_{kind}.json", machine | peers.versions())
    broken = broken_bounds(table, bounds)
    print(*broken, sep="\n", file=sys.stderr)
    return int(bool(broken))


def presented(table: pd.DataFrame, bounds: dict, column: str) -> pd.DataFrame:
    """Three significant digits, and beside each figure the most that is allowed."""
    allowed = [bounds.get((row.part, row.way)) for row in table.itertuples()]
    shown = pd.DataFrame({"what": table.part, "how": table.way})
    if column == "ratio":
        shown["seconds"] = [three_digits(x) for x in table.seconds]
    shown[column] = [three_digits(x) for x in table[column]]
    return shown.assign(allowed=["" if x is None else str(x) for x in allowed])


def three_digits(x: float) -> str:
    """Three significant digits, written out: 1.16e3 is 1160."""
    return f"{float(f'{x:.3g}'):g}"


def presented_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """The table of sizes with units in its head."""
    share = ["" if pd.isna(x) else f"{x:.1%}" for x in table.statistics_share]
    return pd.DataFrame(
        {
            "model shape": table.model,
            "parameters, billions": [three_digits(x / 1e9) for x in table.n_parameters],
            "seconds per 1,000 texts": [three_digits(x) for x in table.seconds],
            "of which statistics": share,
            "peak memory, GB": [three_digits(x) for x in table.memory_gb],
            "source": table.source,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
