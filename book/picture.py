"""Draw the README's picture, book/main_result.png, from the committed record."""

from pathlib import Path

import matplotlib.pyplot as plt

from avss_utils import claims
from avss_utils.show import figures
from avss_utils.stats import retention
from avss_utils.store.runs import open_record

NAMES = {
    "avss": "AVSS as printed",
    "block-influence": "block influence",
    "relative-update-variance": "relative update variance",
    "update-variance": "update variance",
    "tail": "the last blocks",
}


def main() -> None:
    run = open_record("01_avss_pruning", records="results/full", model="smollm2-135m")
    answers, null = run.read("answers"), run.read("null")
    answers = answers[answers.arm.isin([retention.BASELINE, *NAMES]) & (answers.set == "sciq")]
    answers = answers[answers.wording == "plain"]
    estimates = retention.question_estimates(answers, seed=0)
    shown = estimates[
        (estimates.measure == "corrected retention") & (estimates.arm != retention.BASELINE)
    ].set_index("arm")
    shown = shown.loc[list(NAMES)].rename(index=NAMES).reset_index()
    figures.set_style()
    _, (left, right) = figures.panels(1, 2, height=2.9, width=10)
    figures.intervals(
        left,
        shown,
        threshold=claims.KEPT,
        xlabel="SciQ performance kept, chance = 0",
        highlight=NAMES["avss"],
    )
    left.set_title("a quarter of the blocks removed, nothing trained")
    marks = {
        name: null[null.null == arm].bits_per_byte.iloc[0]
        for arm, name in {"full": "full model", **NAMES}.items()
        if arm in ("full", "avss", "block-influence")
    }
    sets = null[null.null == "random"]
    figures.null_distribution(
        right,
        sets.bits_per_byte,
        marks,
        xlabel="bits per byte, WikiText-2 (lower is better)",
        highlight=NAMES["avss"],
    )
    right.set_title(f"against {len(sets)} random sets of blocks")
    right.legend(fontsize="small")
    out = Path(__file__).parent / "main_result.png"
    plt.savefig(out, metadata={"Software": None})
    print(out)


if __name__ == "__main__":
    main()
