"""C5 and C6: are high-variance and low-sparsity blocks the important ones (notebook 04)?"""

from avss_utils.chapters.thresholds.loss_correlations import correlations
from avss_utils.claims.papers import FEWEST_BLOCKS
from avss_utils.claims.verdicts import Finding
from avss_utils.stats.retention import pick, plan_name, text_gap
from avss_utils.store.run_folder import Run


def mechanism_findings(run: Run) -> list[Finding]:
    """C5 and C6 from a run of notebook 04.

    Primary: rank correlation with the loss that removing a block alone adds, above 0: of variance,
    and of minus sparsity ("sparse is redundant"). Beside it the break condition: removing the
    blocks that the statistic calls important must cost more bits per byte than removing the others.
    """
    seed = run.record["parameters"]["seed"]
    scores = run.read("scores")
    scores = scores[scores.criterion.isin(["variance", "sparsity"])]
    table = correlations(scores, run.read("leave_one_out"), seed=seed)
    opposite = run.read("opposites").set_index("arm")["drop"].map(plan_name)
    texts, found = run.read("texts"), []
    for claim, name in (("C5", "variance"), ("C6", "sparsity")):
        row = table[table.criterion == name].iloc[0]
        sign = "minus " * (name == "sparsity")
        found.append(
            Finding(
                claim,
                f"rank correlation of {sign}{name} with leave-one-out loss",
                pick(table, criterion=name),
                threshold=0.0,
                testable=row.n >= FEWEST_BLOCKS,
                primary=True,
                note=f"p = {row.p_shift:.3g} by shifts; {row.partial:.2f} given depth",
            )
        )
        gap = text_gap(texts, opposite[f"{name}:highest"], opposite[name], seed=seed)
        found.append(
            Finding(
                claim,
                f"bits per byte, blocks {name} calls important less those it does not",
                gap,
                threshold=0.0,
                primary=False,
            )
        )
    return found
