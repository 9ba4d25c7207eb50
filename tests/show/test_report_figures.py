"""What a notebook shows: glue, numbers, safe tables, and figures that draw what they are given."""

import io
import re
from urllib.parse import unquote

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.display import HTML
from matplotlib.colors import same_color

from avss_utils.chapters.pruning.costs import budget
from avss_utils.show import figures
from avss_utils.show import tables as report
from avss_utils.show.tables import as_html, glue, interval, number, with_interval
from avss_utils.stats.calibration import reliability_bins
from avss_utils.stats.resampling import Estimate

PREFIX = "application/papermill.record/"
NAN, INF = np.nan, np.inf


# glue


class Shown:
    """Stands in for IPython's display and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, content, *, raw, metadata) -> None:
        self.calls.append((content, raw, metadata))


@pytest.fixture
def shown(monkeypatch) -> Shown:
    recorder = Shown()
    monkeypatch.setattr(report, "display", recorder)
    return recorder


class Text:
    """Something whose plain display is its text, without the quotes of a string."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@pytest.mark.parametrize("value", [Text("blocks 1, 2"), HTML("<b>1</b>"), 7])
def test_glue_writes_what_myst_nb_writes(shown, monkeypatch, value):
    original = pytest.importorskip("myst_nb.ext.glue", reason="the book's packages are not here")
    theirs = Shown()
    monkeypatch.setattr(original, "ipy_display", theirs)
    # the shell's formatter, without starting a shell
    monkeypatch.setattr("IPython.core.formatters.format_display_data", DisplayFormatter().format)
    original.glue("avss_drop", value, display=False)
    glue(avss_drop=value)
    assert shown.calls == theirs.calls
    assert len(shown.calls) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"),
        (np.float64(1234.5), "'1,234'"),
        (0.31, "'0.310'"),
        ("x, <y>", "x, <y>"),
        (30, "30"),
        (491520, "'491,520'"),
        (Estimate(0.5, 0.25, 0.75, 9), "0.500 [0.250,\u00a00.750]"),
    ],
)
def test_glue_formats_numbers_and_estimates(shown, value, text):
    glue(x=value)
    assert shown.calls[0][0] == {PREFIX + "text/plain": text}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.31, "0.310"),
        (1234.5, "1,234"),
        (0.0, "0.000"),
        (1e-7, "1.00e−7"),
        (7, "7"),
        (2048, "2,048"),
    ]
    + [(text, text) for text in ("12 16", "0.10", "1,000", "it's", "none", "")],
)
def test_the_book_shows_what_was_glued(shown, value, text):
    variables = pytest.importorskip("myst_nb.core.variables", reason="no packages of the book")
    glue(x=value)
    assert variables.format_plain_text(shown.calls[0][0][PREFIX + "text/plain"], "s") == text


def test_glue_gives_tables_as_escaped_html(shown):
    table = pd.DataFrame({"a": ["<script>"]})
    glue(x=table)
    content = shown.calls[0][0]
    assert content[PREFIX + "text/html"] == as_html(table).data
    assert "<script>" not in content[PREFIX + "text/html"]


# numbers


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (1.0, "1.00"),
        (0.5, "0.500"),
        (0.05, "0.0500"),
        (0.00498, "0.00498"),
        (0.0002, "0.000200"),
        (0.0001, "0.000100"),
        (0.00009876, "9.88e−5"),
        (1e-12, "1.00e−12"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234.5678, "1,235"),
        (170000.0, "170,000"),
        (999_000_000.0, "999,000,000"),
        (1e9, "1.00e9"),
        (2.5e17, "2.50e17"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (NAN, "n/a"),
        (INF, "∞"),
        (-INF, "−∞"),
    ],
)
def test_a_number_shows_three_significant_digits(x, text):
    assert number(x) == text


def test_a_number_reads_back_within_its_digits():
    for x in np.random.default_rng(0).lognormal(0, 8, size=300):
        assert number(-x) == "−" + number(x)
        read = float(number(x).replace(",", "").replace("−", "-"))
        assert read == pytest.approx(x, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.5, -0.25, 12.0, "0.500 [−0.250, 12.0]"),
        (NAN, -INF, INF, "n/a"),
        (0.5, NAN, NAN, "0.500"),
        (0.5, -INF, INF, "0.500 [−∞, ∞]"),
        # what rounding leaves of zero is zero
        (-0.03, -0.07, 1.1e-16, "−0.0300 [−0.0700, 0.000]"),
        (-1.1e-16, -0.03, 0.03, "0.000 [−0.0300, 0.0300]"),
        (2e-14, 1e-14, 3e-14, "2.00e−14 [1.00e−14, 3.00e−14]"),
    ],
)
def test_an_interval_shows_value_and_limits(value, low, high, text):
    assert interval(Estimate(value, low, high, 9)) == text


# tables


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"a": ["<script>alert(1)</script>"]}),
        pd.DataFrame({"<script>": [1]}),
        pd.DataFrame({"a": ["x"], "b": [["<script>"]]}),
    ],
)
def test_tables_are_escaped(table):
    text = as_html(table, caption="<script>").data
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") == 2  # in the table and in the caption


def test_a_table_shows_every_row_whole_with_floats_to_three_digits():
    table = pd.DataFrame(
        {"arm": ["x" * 300] * 150, "n": 12345, "share": 0.123456, "limit": NAN, "yes": True}
    )
    text = as_html(table).data
    assert text.count("<tr") == 151
    assert text.count(f"<td>{'x' * 300}</td>") == 150
    for cell in ("<td>12345</td>", "<td>0.123</td>", "<td>n/a</td>", "<td>True</td>"):
        assert text.count(cell) == 150
    assert "<em>" not in text


CSV_LINK = re.compile(r'<a href="data:text/csv;charset=utf-8,([^"]*)" download="([^"]*)"')


def saved(html: str) -> tuple[str, str]:
    """The file behind a table's link, and its name."""
    ((address, name),) = CSV_LINK.findall(html)
    return unquote(address), name


def test_a_table_can_be_saved_as_csv_with_more_digits_than_it_shows():
    table = pd.DataFrame(
        {
            "arm, or plan": ['a "b" <c> & 50 %', "ü=#\n"],
            "share": [0.123456789, NAN],
            "n": [3, 4],
            "estimate": ["−0.5 [−∞, 0.25]", "x − y"],
        }
    )
    text, name = saved(as_html(table, caption="What it's <worth>, by arm: 95 % of 3 plans").data)
    assert name == "what-it-s-worth-by-arm.csv"
    again = pd.read_csv(io.StringIO(text))
    assert again.columns.tolist() == table.columns.tolist()
    assert again["arm, or plan"].to_list() == table["arm, or plan"].to_list()
    assert again.share[0] == 0.123457
    assert np.isnan(again.share[1])
    assert again.n.to_list() == [3, 4]
    assert again.estimate.to_list() == ["-0.5 [-∞, 0.25]", "x − y"]


def test_the_link_adds_no_more_than_the_table_has():
    rng = np.random.default_rng(0)
    estimates = [interval(Estimate(*rng.normal(size=3), 9)) for _ in range(60)]
    table = pd.DataFrame({"arm": "relative-update-variance", "estimate": estimates, "p": 0.25})
    html = as_html(table, caption="A caption.").data
    link = re.search("<a .*?</a>", html).group()
    assert len(link) < 0.7 * (len(html) - len(link))


def test_value_and_limits_become_one_column():
    tidy = pd.DataFrame({"arm": ["avss"], "value": [0.5], "low": [0.4], "high": [0.6], "n": [64]})
    joined = with_interval(tidy)
    assert joined.columns.tolist() == ["arm", "n", "estimate"]
    assert joined.iloc[0].tolist() == ["avss", 64, "0.500 [0.400, 0.600]"]


def test_the_budget_is_stated_by_part():
    record = {
        "parameters": {
            "n_calibration": 32,
            "calibration_length": 64,
            "null_questions": 16,
            "null_tokens": 2048,
        },
        "seconds": {"blocks": 10.0, "plans": 5.0, "answers": 20.0, "texts": 30.0, "null": 40.0},
    }
    answers = pd.DataFrame({"wording": "plain", "arm": ["full", "full", "avss", "avss"]})
    texts = pd.DataFrame({"arm": ["full", "avss"], "n_tokens": [4096, 4096]})
    table = budget(record, answers, texts, pd.DataFrame({"null": ["random"] * 42}))
    assert table.columns.tolist() == ["part", "count", "each", "seconds"]
    assert table.values.tolist() == [
        ["statistics", "calibration", "32 texts x 64 tokens", 15.0],
        ["arms", "2 arms", "2 questions, 4,096 text tokens", 50.0],
        ["null", "42 block sets", "16 questions, 2,048 text tokens", 40.0],
    ]


# figures


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    figure.canvas.draw()  # what was drawn can be rendered
    plt.close(figure)


def labels(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def test_block_profile_draws_one_line_a_profile(ax):
    values = {"a": np.array([1.0, 10.0, 100.0]), "b": np.array([3.0, 2.0, 1.0])}
    assert figures.block_profile(ax, values, ylabel="variance") is ax
    for line, (name, y) in zip(ax.lines, values.items(), strict=True):
        assert line.get_xdata().tolist() == [0, 1, 2]
        assert line.get_ydata().tolist() == y.tolist()
        assert line.get_label() == name
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("block", "variance", "log")
    assert labels(ax.get_legend()) == ["a", "b"]


def test_block_profile_leaves_a_gap_for_zero_on_a_log_axis_only(ax):
    given = np.array([1.0, 0.0, 4.0])
    figures.block_profile(ax, {"a": given}, ylabel="sparsity")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, NAN, 4.0])
    assert given[1] == 0.0
    assert ax.get_legend() is None
    figures.block_profile(ax, {"a": given}, ylabel="sparsity", log=False)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), given)
    assert ax.get_yscale() == "linear"


def test_a_heat_map_shows_every_cell_and_dots_the_marked_ones(ax):
    values = pd.DataFrame([[0.1, -0.9], [0.2, 0.0]], index=["a", "b"])
    marked = pd.DataFrame([[False, True], [False, False]], index=["a", "b"])
    assert figures.heat_map(ax, values, marked, limit=0.3, label="HSAV") is ax
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), values)
    assert image.get_clim() == (-0.3, 0.3)
    assert ax.collections[0].get_offsets().tolist() == [[1, 0]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_a_step_map_shows_every_block_and_step_from_zero(ax):
    values = pd.DataFrame([[0.0, 0.5], [0.0, 2.0], [0.0, 1.0]], columns=[0, 8])
    figures.step_map(ax, values, highest=1.0, label="moved")
    (image,) = ax.get_images()
    assert image.get_array().tolist() == values.to_numpy().tolist()
    assert image.get_clim() == (0, 1.0)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "8"]


def test_need_draws_every_arm_where_it_moved_and_what_it_cost(ax):
    rows = [("most", 2.0, 0.3, 0.1, 0.5), ("least", 0.5, 0.1, -0.1, np.inf)]
    table = pd.DataFrame(rows, columns=["arm", "moved", "value", "low", "high"])
    figures.need(ax, table, xlabel="moved", ylabel="cost")
    marks = [line for line in ax.lines if line.get_marker() not in ("None", "", None)]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [
        (2.0, 0.3),
        (0.5, 0.1),
    ]
    assert ax.get_legend_handles_labels()[1] == ["most", "least"]
    assert ax.lines[-1].get_ydata()[0] == 0


def test_dropped_blocks_marks_each_plans_blocks(ax):
    plans = pd.DataFrame({"arm": ["avss", "none"], "drop": [(0, 2), ()]})
    assert figures.dropped_blocks(ax, plans, n_blocks=4) is ax
    background, removed = ax.collections[0::2], ax.collections[1::2]
    assert [c.get_offsets().tolist() for c in background] == [
        [[block, row] for block in range(4)] for row in (0, 1)
    ]
    assert [c.get_offsets().tolist() for c in removed] == [[[0, 0], [2, 0]], []]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["avss", "none"]
    assert ax.yaxis_inverted()


ESTIMATES = pd.DataFrame(
    {"arm": ["avss", "tail"], "value": [0.5, 0.8], "low": [0.4, -INF], "high": [0.6, INF]}
)


def test_intervals_draws_point_limits_and_threshold(ax):
    drawn = figures.intervals(ax, ESTIMATES, threshold=0.9, xlabel="kept", highlight="avss")
    assert drawn is ax
    span, point = ax.lines[0], ax.lines[1]
    assert span.get_xdata().tolist() == [0.4, 0.6]
    assert point.get_xydata().tolist() == [[0.5, 0]]
    assert ax.lines[-1].get_xdata() == [0.9, 0.9]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["avss", "tail"]
    assert ax.get_xlabel() == "kept"
    assert ax.yaxis_inverted()
    assert same_color(span.get_color(), point.get_color())
    assert not same_color(span.get_color(), ax.lines[2].get_color())  # avss is highlighted


def test_an_infinite_interval_leaves_the_axis_on_both_sides(ax):
    figures.intervals(ax, ESTIMATES, threshold=0.9, xlabel="kept", highlight="avss")
    ax.set_xlim(-1, 1.3)
    low, high = ax.lines[2].get_xdata()
    assert np.isfinite([low, high]).all()
    assert low < -1
    assert high > 1.3


@pytest.mark.parametrize("log", [False, True])
def test_null_distribution_counts_every_set_and_marks_the_plans(ax, log):
    null, marks = [1.0, 2.0, 2.0, 50.0], {"avss": 100.0, "full": 0.5}
    assert (
        figures.null_distribution(ax, null, marks, xlabel="bits", highlight="avss", log=log) is ax
    )
    bars = ax.patches
    assert sum(bar.get_height() for bar in bars) == 4
    first, last = bars[0], bars[-1]
    assert first.get_x() == pytest.approx(0.5)
    assert last.get_x() + last.get_width() == pytest.approx(100.0)
    edges = np.array([bar.get_x() for bar in bars] + [last.get_x() + last.get_width()])
    steps = np.diff(np.log(edges) if log else edges)  # bins of equal width on the axis's own scale
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    assert {line.get_label(): line.get_xdata()[0] for line in ax.lines} == marks
    assert (ax.get_xlabel(), ax.get_xscale()) == ("bits", "log" if log else "linear")


def test_null_distribution_of_equal_sets_still_counts_them(ax):
    figures.null_distribution(ax, [0.25, 0.25], {"avss": 0.25}, xlabel="accuracy", highlight="avss")
    assert sum(bar.get_height() for bar in ax.patches) == 2


def test_reliability_has_a_point_a_bin_and_the_diagonal(ax):
    bins = reliability_bins([0.2, 0.3, 0.9, 0.9], [0, 1, 1, 1], n_bins=2)
    figures.reliability(ax, {"ours": bins})
    points = ax.collections[-1].get_offsets()
    np.testing.assert_allclose(points, [[0.25, 0.5], [0.9, 1.0]])
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert ax.get_legend() is None
    ax.clear()
    figures.reliability(ax, {"ours": bins, "theirs": bins})
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["ours", "theirs"]


# names are never markup


@pytest.mark.parametrize(
    ("values", "wanted"),
    [((0.001, 100.0), {"10⁻²", "10⁰", "10²"}), ((1.0, 5.0), {"10⁰", "2×10⁰", "4×10⁰"})],
)
def test_powers_of_ten_are_text_where_dollar_signs_are_no_mathematics(values, wanted):
    with mpl.rc_context():
        figures.set_style()
        figure, (ax,) = figures.panels(1, 1, height=2)
        figures.block_profile(ax, {"a $ name_{x} $": np.array(values)}, ylabel="$")
        figure.canvas.draw()
        labels = ax.get_yticklabels() + ax.get_yticklabels(minor=True)
        found = {label.get_text() for label in labels} - {""}
        plt.close(figure)
    assert found >= wanted
    assert not any("$" in text or "\\" in text for text in found)


def test_a_table_of_the_ledger_escapes_its_cells_and_its_head():
    hostile = "<s>*x*|`$y$`"
    table = pd.DataFrame({hostile: [hostile], "link": ["{doc}`/a`"]})
    text = report.as_markdown(table, links=["link"])
    escaped = r"\<s\>\*x\*\|\`\$y\$\`"
    assert text.data.count(escaped) == 2
    assert "{doc}`/a`" in text.data
