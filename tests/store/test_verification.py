"""Tables held against some of them made again: honest ones pass, whatever is changed is found."""

import numpy as np
import pandas as pd
import pytest

from avss_utils.store.agreement import (
    ANYTHING,
    Check,
    checked,
    checks_of,
    compare,
    keys_recorded,
)
from avss_utils.store.files import file_sha256
from avss_utils.store.run_folder import Run
from avss_utils.store.tables import read_csv, write_table
from avss_utils.store.verification import DATA_DIR, Verification, reduced

N_ROWS = 6
IDENTITY = {"name": "Tiny", "short": "tiny", "weights_sha256": "aa"}
DATA = {"name": "sciq", "sha256": "11", "source": DATA_DIR}


class Experiment:
    """A chapter of three tables; ``n`` rows a key are the first of as many as there are."""

    def __init__(self, n: int, weights: str = "aa", data: str = "11") -> None:
        self.n, self.identity = n, IDENTITY | {"weights_sha256": weights}
        self.data = [DATA | {"sha256": data}]

    @checked(by="arm row", sizes=dict(n=2), key="arm", numbers="FLOAT32")
    def answers(self, key: str) -> pd.DataFrame:
        values = np.sqrt(np.arange(1, N_ROWS + 1) + len(key))
        table = pd.DataFrame({"row": range(N_ROWS), "value": values, "seconds": np.random.rand()})
        return table.head(self.n).assign(arm=key).drop(columns="seconds")

    @checked(form=lambda t: t.low <= t.high)
    @checked(by="block", but=dict(seconds=ANYTHING))
    def blocks(self) -> pd.DataFrame:
        table = pd.DataFrame({"block": [0, 1], "low": [1.0, 2.0], "high": [2.0, 3.0]})
        return table.assign(seconds=np.random.rand())

    @checked(sizes=dict(n=1), pick="first", values=False, key="arm", form=lambda t: t.loss > 0)
    def trained(self, key: str) -> pd.DataFrame:
        return pd.DataFrame({"arm": key, "loss": np.random.rand(self.n) + 0.1})


KEYS = ["full", "avss", "tail"]
MADE = {
    "answers": lambda own: pd.concat([own.answers(key) for key in KEYS], ignore_index=True),
    "blocks": Experiment.blocks,
    "trained": lambda own: pd.concat([own.trained(key) for key in KEYS], ignore_index=True),
}


@pytest.fixture
def verified(tmp_path, monkeypatch):
    """A function that changes a table of an honest record and gives verdict and words by table."""
    monkeypatch.setenv(DATA_DIR, "somewhere")
    monkeypatch.chdir(tmp_path)

    def run(table: str = "", edit=None, *, prepare=Experiment, ask=MADE) -> dict[str, tuple]:
        record = {"notebook": "01_x", "model": IDENTITY, "data": [DATA], "tables": {}}
        for name, make in MADE.items():
            made = make(Experiment(N_ROWS))
            file = write_table(edit(made) if name == table else made, tmp_path / name)
            record["tables"][name] = {"rows": len(made), "sha256": file_sha256(file)}
        own = Run(tmp_path, record, finished=True)
        report = tmp_path / "report.csv"
        check = Verification(own, lambda sizes, gone: prepare(**sizes), n=2, report=report)
        for name in ask:
            compute = getattr(Experiment, name)
            check.table(name, compute, checks_of(compute), None if name == "blocks" else KEYS)
        check.finish()
        return {row.table: (row.verdict, row.what) for row in read_csv(report).itertuples()}

    return run


def small(n: int = N_ROWS, **given) -> Experiment:
    return Experiment(n, **given)


def test_an_honest_record_is_computed_again_in_part(verified):
    assert verified(prepare=small) == {
        "answers": ("ok", "every arm; 2 of 3 keys"),
        "blocks": ("ok", "its form; computed again"),
        "trained": ("ok", "its form; every arm; 1 of 3 keys"),
    }


@pytest.mark.parametrize(
    ("table", "edit", "says"),
    [
        ("answers", lambda t: t.assign(value=t.value + (t.index == 0) * 0.01), "value"),
        ("answers", lambda t: t.assign(value=t.value.where(t.index != 1)), "value"),
        ("answers", lambda t: t[t.arm != "tail"], "every arm"),
        ("answers", lambda t: t.drop(index=1), "rows"),
        ("answers", lambda t: pd.concat([t, t.head(1)]), "rows"),
        ("answers", lambda t: t.drop(columns="value"), "column value"),
        ("blocks", lambda t: t.assign(low=[1.0, 4.0]), "form"),
        ("trained", lambda t: t.assign(loss=-1.0), "form"),
        ("trained", lambda t: t.drop(columns="loss"), "AttributeError"),
    ],
)
def test_whatever_is_changed_is_found_though_its_sha256_is_noted(verified, table, edit, says):
    found = verified(table, edit, prepare=small)
    verdict, what = found.pop(table)
    assert (verdict, says in what) == ("DIFFERS", True)
    assert {verdict for verdict, _ in found.values()} == {"ok"}


def test_a_table_that_is_never_asked_for_differs(verified):
    found = verified(prepare=small, ask=["answers", "blocks"])
    assert found["trained"] == ("DIFFERS", "table that the notebook does not make")


def test_a_table_without_a_check_and_one_that_the_record_lacks_differ(tmp_path):
    record = {"notebook": "01_x", "model": IDENTITY, "data": [], "tables": {"plain": {}}}
    own = Run(tmp_path, record, finished=True)
    check = Verification(own, lambda *_: small(), n=2, report=tmp_path / "r.csv")
    check.table("plain", lambda own: own, checks_of(len))
    check.table("blocks", Experiment.blocks, checks_of(Experiment.blocks))
    words = [row.cells()[3:] for row in check.rows.values()]
    assert words == [
        ("DIFFERS", "table without a check"),
        ("DIFFERS", "table that the record lacks"),
    ]


@pytest.mark.parametrize(
    ("given", "says"), [({"weights": "bb"}, "other weights"), ({"data": "22"}, "not the data")]
)
def test_other_weights_or_data_are_named(verified, given, says):
    found = verified(prepare=lambda **sizes: small(**sizes, **given))
    assert found["answers"][0] == "DIFFERS"
    assert says in found["answers"][1]


def test_data_that_is_made_of_the_parameters_is_none_to_compare(verified):
    def prepare(**sizes):
        own = small(**sizes)
        own.data.append({"name": "sciq", "sha256": "of fewer rows", "source": "made here"})
        return own

    assert verified(prepare=prepare)["answers"][0] == "ok"


def test_without_the_data_its_keys_are_left_out_and_the_rest_is_checked(verified, monkeypatch):
    monkeypatch.delenv(DATA_DIR)
    monkeypatch.chdir("/")

    def away(**sizes):
        raise OSError("no file")

    verdict, what = verified(prepare=away)["answers"]
    assert (verdict, what) == ("not checked", "needs sciq")


def test_parameters_are_reduced_and_never_enlarged():
    given = dict(n=10, eps=1e-5, sets=["a", "b", "c"], device="cuda", records="results/full")
    given |= dict(eval_dtype="bfloat16", batch_tokens=9000, verify=2)
    own = reduced(given, dict(n=3, sets=1, first_blocks=2), {"a"})
    assert own == given | dict(
        n=3, sets=["b"], device="cpu", records="", eval_dtype="float32", batch_tokens=2048, verify=0
    )
    assert reduced(given, dict(n=99), set())["n"] == 10


# comparing


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame({"row": range(len(next(iter(columns.values())))), **columns})


@pytest.mark.parametrize(
    ("tolerance", "recorded", "again", "agrees"),
    [
        ("EXACT", [1.0], [1.0 + 1e-9], False),
        ("FLOAT32", [1000.0], [1000.9], True),
        ("FLOAT32", [1000.0], [1001.1], False),
        ("COUNT", [1.0], [4.0], True),
        ("COUNT", [100.0], [115.0], False),
        ("RANKS", [0.5], [0.521], False),
        ("DECISION", [1.0] * 9 + [0.0], [1.0] * 10, True),
        ("DECISION", [1.0] * 8 + [0.0] * 2, [1.0] * 10, False),
        ("FLOAT32", [np.nan], [np.nan], True),
        ("FLOAT32", [np.nan], [1.0], False),
        ("FLOAT32", [np.inf], [np.inf], True),
        ("FLOAT32", [np.inf], [1e300], False),
    ],
)
def test_edges_of_tolerances(tolerance, recorded, again, agrees):
    check = Check(by="row", numbers=tolerance)
    found = compare(check, table(x=recorded), table(x=again))
    assert all(finding.agrees for finding in found) == agrees


def test_roundings_of_bfloat16_grow_with_the_root_of_the_tokens():
    check = Check(by="row", but={"nll": "BFLOAT16"})
    for gap, agrees in ((2.4, True), (2.6, False)):
        one, two = table(nll=[50.0], n_tokens=[100]), table(nll=[50.0 + gap], n_tokens=[100])
        assert all(finding.agrees for finding in compare(check, one, two)) == agrees


def test_a_known_difference_is_excused_and_a_larger_one_is_not():
    check = Check(by="row", numbers="EXACT", known={"x": (0.5, "a reason")})
    for gap, known in ((0.4, "a reason"), (0.6, "")):
        _, finding = compare(check, table(x=[1.0]), table(x=[1.0 + gap]))
        assert (finding.known, finding.agrees) == (known, bool(known))


def test_nothing_compared_is_no_agreement():
    check = Check(by="row")
    assert not all(f.agrees for f in compare(check, table(x=[1.0]), table(x=[1.0]).head(0)))


def test_keys_are_held_against_the_first_parts_of_what_was_asked():
    check, recorded = Check(key="arm drop"), pd.DataFrame({"arm": ["a", "b"], "drop": ["-", "3 4"]})
    keys = [("a", (), "plain"), ("b", (3, 4), "plain")]
    assert keys_recorded(check, recorded, keys).agrees
    assert not keys_recorded(check, recorded, keys[:1]).agrees
    assert not keys_recorded(check, recorded.head(1), keys).agrees
