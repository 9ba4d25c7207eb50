"""Every page of the built book as its readers see it: light and dark, on a desk and on a phone.

``make browser`` builds the book first; these tests open what lies in ``_build/book``.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import barriers
import links
import page_checks
import pandas as pd
import pytest
from conftest import View, serving, window

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "_build" / "book" / "_build" / "html"
ENTRANCE = "index.html"  # it only leads to the first page
PAGES = [name for name in links.pages_of(BOOK) if name != ENTRANCE]
# A page is opened once in each width, and turned there to the other mode: in one width it opens in
# the light, in the other in the dark.
OPENED = {1280: "light", 390: "dark"}
WINDOWS = [(1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")]
# A chapter of a further model is made as the primary one's, from other numbers: two views show what
# those can do, a longer word or a wider table.
FEW_WINDOWS = list(OPENED.items())
VIEWS = [
    (name, size)
    for name in PAGES
    for size in (FEW_WINDOWS if name.startswith("models/") else WINDOWS)
]


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with serving(BOOK) as address:
        yield address


class Desk:
    """A window for each width, which opens a page only where it does not show it already."""

    def __init__(self, browser, base: str, stack: ExitStack) -> None:
        self._show = {
            width: stack.enter_context(window(browser, base, width=width, mode=mode))
            for width, mode in OPENED.items()
        }
        self._shown: dict[int, tuple[str, View]] = {}

    def open(self, name: str, width: int) -> View:
        self._shown[width] = name, self._show[width](name)
        return self._shown[width][1]

    def look(self, name: str, width: int, mode: str) -> View:
        shown, view = self._shown.get(width, ("", None))
        if shown != name or mode == OPENED[width]:
            view = self.open(name, width)
        view.turn(mode)
        return view


@pytest.fixture(scope="module")
def desk(browser, base) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(browser, base, stack)


@pytest.fixture(scope="module", params=VIEWS, ids=lambda p: f"{p[0]}-{p[1][0]}-{p[1][1]}")
def view(request, desk) -> View:
    """Each page in each window and mode; all tests of that view look at it there."""
    name, (width, mode) = request.param
    view = desk.look(name, width, mode)
    assert view.page.evaluate("[innerWidth, document.documentElement.dataset.theme]") == [
        width,
        mode,
    ]
    return view


COLOURS = """[...document.querySelectorAll("body *")].map((e) => {
  const s = getComputedStyle(e);
  return [e.localName, s.color, s.backgroundColor, s.filter, s.display, e.clientWidth].join();
})"""


@pytest.mark.parametrize(("width", "mode"), [(1280, "dark"), (390, "light")])
def test_a_page_that_is_turned_looks_as_one_that_is_opened_so(desk, browser, base, width, mode):
    name = "notebooks/01_avss_pruning.html"
    turned = desk.look(name, width, mode).page.evaluate(COLOURS)
    with window(browser, base, width=width, mode=mode) as show:
        assert turned == show(name).page.evaluate(COLOURS)


def test_every_source_with_a_record_became_a_page():
    recorded = [path.name for path in ROOT.glob("results/full/smollm2-135m/[0-9]*")]
    sources = [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/07_*.ipynb")]
    wanted = {source.relative_to(ROOT).with_suffix(".html").as_posix() for source in sources}
    wanted |= {f"notebooks/{name}.html" for name in recorded}
    assert wanted - set(PAGES) == set(), "run `make book`"


def test_a_page_opens_without_an_error_or_a_request_elsewhere(view):
    assert view.heard == []


def test_every_formula_is_typeset(view):
    assert page_checks.untypeset(view.page) == []


def test_nothing_is_wider_than_the_window(view):
    assert page_checks.sideways(view.page) == []


def test_every_figure_has_a_text_and_can_be_read(view):
    assert page_checks.unreadable_figures(view.page) == []


def test_a_page_has_no_barriers(view):
    assert barriers.inaccessible(view.page) == []


@pytest.mark.parametrize("name", ["book/practice.html", "notebooks/01_avss_pruning.html"])
def test_every_table_of_a_run_can_be_saved(desk, name):
    page = desk.open(name, 1280).page
    boxes = page.locator(".table-scroll").all()
    assert len(boxes) > 2
    for box in boxes[:8]:  # Chromium refuses the eleventh of quick downloads
        with page.expect_download() as saving:
            box.get_by_role("link", name="CSV of this table").click()
        table = pd.read_csv(saving.value.path())
        assert saving.value.suggested_filename.endswith(".csv")
        assert table.columns.to_list() == box.locator("th").all_inner_texts()
        assert len(table) == box.locator("tbody tr").count()


def test_every_link_and_anchor_resolves():
    assert links.broken_links(BOOK) == []


def test_the_entrance_leads_to_the_first_page(browser, base):
    with browser.new_page() as page:
        page.goto(base + ENTRANCE)
        page.wait_for_url(base + "book/intro.html")


@pytest.mark.parametrize(("width", "mode"), WINDOWS)
def test_the_search_finds_what_is_written(browser, base, width, mode):
    with window(browser, base, width=width, mode=mode) as show:
        finds_what_is_written(show("search.html"))


def finds_what_is_written(view: View) -> None:
    field = view.page.locator(".bd-search-container input[name=q]")
    field.fill("block influence")
    field.press("Enter")
    for page in ("book/background", "book/glossary"):  # they come one after the other
        view.page.locator(f'#search-results li a[href^="{page}.html"]').first.wait_for()
    results = view.page.locator("#search-results li a")
    found = {link.get_attribute("href").split(".html")[0] for link in results.all()}
    assert {"book/background", "book/glossary"} <= found
    assert barriers.inaccessible(view.page) == []
    assert view.heard == []


def test_the_search_does_not_find_what_is_not_written(desk):
    view = desk.open("search.html?q=zyxwvutsrq", 1280)
    view.page.get_by_text("did not match any documents").wait_for()
    assert view.page.locator("#search-results li").count() == 0
