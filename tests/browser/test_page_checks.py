"""Every check must be able to fail: pages made to have one defect each."""

import barriers
import conftest
import links
import page_checks
import pytest

SVG = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='600' height='300'>"
WHITE = f"{SVG}<rect width='600' height='300' fill='white'/></svg>"
DARK = f"{SVG}<rect width='600' height='300' fill='navy'/></svg>"
CLEAR = f"{SVG}<circle cx='300' cy='150' r='50'/></svg>"
TYPESET = "<span class='math'><mjx-container>x</mjx-container></span>"
SOUND = f"""<body><main><h1>A title</h1><p>Text, {TYPESET} and <code>\\frac</code> for $5.</p>
<figure><img src="{WHITE}" alt="A square"><figcaption>A square.</figcaption></figure></main></body>
"""
DARK_PAGE = "<style>body { background: #121212; color: #eee }</style>"


def body(content: str) -> str:
    return f"<body><main><h1>A title</h1>{content}</main></body>"


def complaints(view: conftest.View) -> list[str]:
    checks = (page_checks.untypeset, page_checks.sideways, page_checks.unreadable_figures)
    return [*view.heard, *(c for check in checks for c in check(view.page))]


def test_a_sound_page_has_no_complaints(opened):
    view = opened(SOUND, head="<link rel='icon' href='data:,'>")
    assert complaints(view) == []
    assert barriers.inaccessible(view.page) == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("<script>undefinedName()</script>", "error: undefinedName is not defined"),
        ("<script>console.error('a word')</script>", "console: a word"),
        ("<img src='missing.png' alt='x'>", "404"),
        ("<script src='https://example.org/a.js'></script>", "beyond: https://example.org/a.js"),
        ("<script src='https://example.org/a.js'></script>", "failed: https://example.org/a.js"),
        (r"<span class='math'>\(x\)</span>", r"not typeset: \(x\)"),
        ("<mjx-container><g data-mml-node='merror'>q</g></mjx-container>", "error in a formula: q"),
        ("<mjx-container><mtext mathcolor='red'>q</mtext></mjx-container>", "error in a formula"),
        (r"<p>so \sigma is</p>", r"raw TeX: so \sigma is"),
        ("<p>so $x_i$ is</p>", "raw TeX: so $x_i$ is"),
        ("<p style='width: 3000px'>wide</p>", "the page scrolls sideways"),
        ("<div style='overflow: hidden'><p style='width: 3000px'>w</p></div>", "cut off at the"),
        (f'<img src="{WHITE}" alt=" ">', "no alternative text"),
        (f'<img src="{WHITE}" alt="{WHITE}">', "no alternative text"),
        (f'<img src="{WHITE}" alt="x" width="200">', "shrunk to 200"),
        (f'<img src="{WHITE}" alt="x" style="filter: brightness(0.8)">', "recoloured"),
        (f'<img src="{DARK}" alt="x">', "on a dark ground"),
        ("<img src='missing.png' alt='x'>", "not loaded"),
    ],
)
def test_a_defect_is_a_complaint(opened, content, complaint):
    assert complaint in "\n".join(complaints(opened(body(content))))


def test_a_clear_figure_needs_a_light_ground_in_dark_pages(opened):
    figure = f'<img src="{CLEAR}" alt="x">'
    on_white = figure.replace("alt", "style='background: white' alt")
    assert page_checks.unreadable_figures(opened(body(figure)).page) == []
    assert page_checks.unreadable_figures(opened(body(on_white), head=DARK_PAGE).page) == []
    (complaint,) = page_checks.unreadable_figures(opened(body(figure), head=DARK_PAGE).page)
    assert "on a dark ground" in complaint


def test_what_scrolls_in_its_own_box_is_no_complaint(opened):
    box = "<div style='overflow-x: auto' tabindex='0'><p style='width: 3000px'>wide</p></div>"
    assert page_checks.sideways(opened(body(box), width=390).page) == []


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (f'<img src="{WHITE}">', "image-alt"),
        ("<figure><figcaption style='color: #999'>A caption</figcaption></figure>", "color-contr"),
        (
            "<details><summary>More</summary><p style='color: #999'>Some text</p></details>",
            "color-contr",
        ),
        ("<div role='list'><div role='button'>x</div></div>", "aria-required-children"),
        ("<table><tr><th></th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>", "empty-tab"),
        ("</main><a href='#x'>outside</a><main>", "region"),
        ("<a href='#x'><b></b></a>", "link-name"),
        ("<mjx-container><svg><g><a href='#x'><path/></a></g></svg></mjx-container>", "link-name"),
        ("<mjx-container><svg role='img'><g><rect/></g></svg></mjx-container>", "svg-img-alt"),
        (f"<pre style='overflow: auto; width: 9em'>{'<span>word</span> ' * 9}</pre>", "scrollable"),
        (
            f"<div style='overflow: auto; width: 9em'><pre>{'<i><span>word</span></i> ' * 9}</pre>"
            "</div>",
            "scrollable",
        ),
        (
            f"<div style='overflow: auto; width: 9em'><pre>{'<span>word</span> ' * 9}</pre></div>",
            "scrollable",
        ),
    ],
)
def test_a_barrier_is_found(opened, content, rule):
    found = barriers.inaccessible(opened(body(content)).page)
    assert any(text.startswith(rule) for text in found), found


# axe does not judge a single letter
ROWS = "<tr><td>one</td></tr>" * 3
FAINT = "style='color: #999'"
DARK_WORD = "<span style='color: #000'>word</span> "


@pytest.mark.parametrize(
    "content",
    [
        f"<table>{ROWS}<tr><td {FAINT}>two</td></tr>{ROWS}</table>",
        f"<table>{ROWS}<tr style='background: #444'><td>two</td></tr>{ROWS}</table>",
        f"<table>{ROWS}<tr><td style='opacity: 0.3'>two</td></tr>{ROWS}</table>",
        f"<table>{ROWS}</table><table {FAINT}>{ROWS}</table>",
        f"<table>{ROWS}<tr {FAINT}><td><b>two</b></td></tr></table>",
        f"<pre><span>word</span> <span>word</span> <span {FAINT}>word</span></pre>",
        f"<pre>{'<span>word</span> ' * 3}<b {FAINT}>word</b></pre>",
        f"<pre {FAINT}>{DARK_WORD * 3}word</pre>",
        f"<p>one</p><p {FAINT}>two</p><p>three</p>",
        f"<p>one</p><p {FAINT}>two <b style='color: #000'>three</b></p>",
        f"<p>one</p><div {FAINT}><p>two</p></div>",
        f"<p {FAINT}>-</p><p {FAINT}>1</p><p {FAINT}>two</p>",
        "<p>one</p><p id='low'>two</p><style>#low { color: #999 }</style>",
        "<p>one</p><div style='background: #444; height: 5em; margin-bottom: -5em'></div>"
        "<p style='position: relative'>two</p>",
        "<p style='position: relative'>one</p><div style='position: absolute; background: #444;"
        " height: 5em; width: 9em'></div><p style='position: relative'>two</p>",
    ],
)
def test_the_one_faint_among_many_alike_is_found(opened, content):
    (found,) = barriers.inaccessible(opened(body(content)).page)
    assert found.startswith("color-contrast")


def test_what_is_alike_and_faint_is_found_once(opened):
    content = f"<table>{ROWS.replace('<td>', f'<td {FAINT}>')}</table>"
    found = barriers.inaccessible(opened(body(content)).page)
    assert [text.split(":")[0] for text in found] == ["color-contrast"]


BY_THEME = "<style>html[data-theme=dark] {RULE}</style>"
TO_DARK = "document.documentElement.dataset.theme = 'dark'"


@pytest.mark.parametrize(
    ("content", "rule", "complaint"),
    [
        ("<p>one</p><p id='low'>two</p>", "#low { color: #999 }", "color-contrast"),
        (
            "<p>one of many words <a href='#x'>two</a> and more of them</p>",
            "a { color: #222; text-decoration: none }",
            "link-in",
        ),
        ("<p hidden><a href='#x'><b></b></a></p>", "p { display: block }", "link-name"),
        (
            "<p style='visibility: hidden'><img src='data:,'></p>",
            "img { visibility: visible }",
            "im",
        ),
        (
            f"<div>{'<p>one</p>' * 9}</div>",
            "div { height: 3em; overflow: auto }",
            "scrollable",
        ),
        (
            "<button>one</button><br><button>two</button><style>button { height: 50px }</style>",
            "button { height: 9px; padding: 0; font-size: 6px; border: 0 } br { display: none }",
            "target-size",
        ),
    ],
)
def test_what_only_the_other_colours_show_is_found_there(opened, content, rule, complaint):
    """Also by a second look at the page that was opened in the first ones."""
    style = BY_THEME.replace("{RULE}", "{ " + rule + " }")
    page = opened(body(content), head=style).page
    assert barriers.inaccessible(page) == []
    page.evaluate(TO_DARK)
    assert any(text.startswith(complaint) for text in barriers.inaccessible(page))


def test_a_barrier_is_found_in_both_colours(opened):
    page = opened(body(f'<img src="{WHITE}"><p>one</p>')).page
    light = barriers.inaccessible(page)
    page.evaluate(TO_DARK)
    assert [text.split(":")[0] for text in light] == ["image-alt"]
    assert barriers.inaccessible(page) == light


def test_a_barrier_that_comes_later_is_found(opened):
    page = opened(body("<p>one</p>")).page
    assert barriers.inaccessible(page) == []
    page.evaluate("document.querySelector('p').setAttribute('role', 'nothing')")
    assert barriers.inaccessible(page)[0].startswith("aria-roles")


def test_a_page_is_afterwards_as_it_was(opened):
    """Only the marks of what is alike stay."""
    listing = f"<pre tabindex='0'>{'<span class=n>word</span> ' * 4}</pre>"
    formula = "<mjx-container><svg aria-hidden='true'><g><rect/></g></svg></mjx-container>"
    page = opened(body(listing + formula)).page
    before = page.inner_html("main")
    assert barriers.inaccessible(page) == []
    assert page.inner_html("main").replace(' data-alike=""', "") == before


def test_broken_links_and_anchors_are_found(tmp_path):
    folder = tmp_path / "pages"
    (folder / "part").mkdir(parents=True)
    (tmp_path / "outside.html").write_text("")
    (folder / "a.html").write_text(
        '<a id="here" href="part/b.html#there"></a><a href="#here"></a>'
        '<a href="part/b.html#no"></a><a href="#nowhere"></a>'
        '<a href="https://example.org/#x"></a><img src="c.png">'
        '<a href="../outside.html"></a>'
    )
    (folder / "part" / "b.html").write_text('<p id="there"></p><a href="../a.html#here"></a>')
    assert links.broken_links(folder) == [
        "a.html: #nowhere",
        "a.html: ../outside.html",
        "a.html: c.png",
        "a.html: part/b.html#no",
    ]


def test_without_a_browser_the_tests_are_skipped_but_not_on_ci(monkeypatch):
    monkeypatch.setattr(conftest.shutil, "which", lambda _: None)
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser: install one of chromium"):
        conftest.find_chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        conftest.find_chromium()
    monkeypatch.setenv("CHROMIUM", "/some/chromium")
    assert conftest.find_chromium() == "/some/chromium"
