"""What a page of the book must satisfy, asked of a real browser; each check lists complaints."""

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

AXE_OPTIONS = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
    "resultTypes": ["violations"],
    "preload": False,  # it would fetch the style sheets once more, by wrong relative addresses
}

UNTYPESET = r"""() => {
  const found = [];
  const elsewhere = "script, style, noscript, pre, code, kbd, mjx-container, textarea";
  const raw = /\\[a-zA-Z]{2,}|\\[(\[]|\$[^$]*\S\$/;
  for (const box of document.querySelectorAll(".math"))
    if (!box.querySelector("mjx-container")) found.push(`not typeset: ${box.textContent}`);
  for (const part of document.querySelectorAll("mjx-container"))
    if (part.querySelector("[data-mml-node=merror], [fill=red], [mathcolor=red]"))
      found.push(`error in a formula: ${part.textContent}`);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (!node.parentElement.closest(elsewhere) && raw.test(node.data))
      found.push(`raw TeX: ${node.data.trim()}`);
  }
  return found;
}"""

SIDEWAYS = r"""() => {
  const limit = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > limit)
    found.push(`the page scrolls sideways: ${document.documentElement.scrollWidth} > ${limit}`);
  const scrolls = (box) => /auto|scroll/.test(getComputedStyle(box).overflowX);
  const inside = (e) => e && e !== document.body && (scrolls(e) || inside(e.parentElement));
  const skipped = "mjx-container *, .headerlink, .visually-hidden";
  for (const e of document.querySelectorAll("main :is(h1, h2, h3, p, li, img, table, pre)")) {
    const { right, width } = e.getBoundingClientRect();
    if (width > 0 && right > limit + 1 && !e.matches(skipped) && !inside(e.parentElement))
      found.push(`cut off at the right: <${e.localName}> ${e.textContent.trim().slice(0, 60)}`);
  }
  return found;
}"""

FIGURES = r"""(smallest) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const behind = (e) => {
    const colour = e ? getComputedStyle(e).backgroundColor : "white";
    return /^rgba\(.*, 0\)$/.test(colour) ? behind(e.parentElement) : colour;
  };
  const corners = (image) => {
    const [w, h] = [canvas.canvas.width, canvas.canvas.height] =
      [image.naturalWidth, image.naturalHeight];
    canvas.fillStyle = behind(image);
    canvas.fillRect(0, 0, w, h);
    canvas.drawImage(image, 0, 0, w, h);
    return [[1, 1], [w - 2, 1], [1, h - 2], [w - 2, h - 2]].map(([x, y]) =>
      Math.min(...canvas.getImageData(x, y, 1, 1).data.slice(0, 3)));
  };
  const complaints = (image) => {
    const found = [];
    if (!image.alt.trim()) found.push("no alternative text");
    if (!image.naturalWidth) return [...found, "not loaded"];
    if (image.width < Math.min(image.naturalWidth, smallest))
      found.push(`shrunk to ${image.width}`);
    if (getComputedStyle(image).filter !== "none") found.push("recoloured");
    if (Math.min(...corners(image)) < 230) found.push("on a dark ground");
    return found;
  };
  return [...document.querySelectorAll("main img:not(.btn img)")].flatMap((image) =>
    complaints(image).map((text) => `${image.getAttribute("src").slice(-40)}: ${text}`));
}"""
# Of cells of one table, or tokens of one listing, that look alike with all that lies behind them in
# there, and are as much in sight, axe judges the contrast once: of all, a page takes it 20 seconds.
ALIKE = r"""() => {
  const seen = new Map();
  const look = (e) => {
    const s = getComputedStyle(e);
    return [e.localName, s.color, s.backgroundColor, s.backgroundImage, s.opacity, s.fontSize,
      s.fontWeight, s.textShadow, s.position].join();
  };
  const looks = (e, end) => e === end ? look(e) : look(e) + looks(e.parentElement, end);
  for (const e of document.querySelectorAll(":is(table, pre) :is(td, th, span)")) {
    const whole = e.closest("table, pre"), box = whole.parentElement;
    if (e.childElementCount) continue;
    if (!seen.has(whole)) seen.set(whole, new Set());
    const [own, around] = [e.getBoundingClientRect(), box.getBoundingClientRect()];
    const sight = [own.right > around.right, own.bottom > around.bottom, own.width > 0];
    const key = looks(e, whole) + sight;
    if (seen.get(whole).has(key)) e.setAttribute("data-alike", "");
    seen.get(whole).add(key);
  }
  axe.configure({ rules: [{ id: "color-contrast", selector: "*:not([data-alike])" }] });
}"""
SMALLEST_FIGURE = 440  # pixels: below it the labels of a figure eight inches wide cannot be read


def listen(page: Page, base: str) -> list[str]:
    """A list that fills with what goes wrong on ``page``: errors, and requests beyond ``base``."""
    heard = []
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("console", lambda m: heard.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("requestfailed", lambda r: heard.append(f"failed: {r.url}"))
    page.on("request", lambda r: None if _own(r.url, base) else heard.append(f"beyond: {r.url}"))
    return heard


def _own(address: str, base: str) -> bool:
    return address.startswith((base, "data:", "blob:", "about:"))


def settle(page: Page) -> None:
    """Wait for the formulas, and unfold the code at once, so that everything is looked at."""
    page.evaluate("window.MathJax?.startup?.promise.then(() => null)")
    page.add_style_tag(content="* { animation: none !important; transition: none !important }")
    page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")


def untypeset(page: Page) -> list[str]:
    """Formulas that are missing, wrong or still TeX."""
    return page.evaluate(UNTYPESET)


def sideways(page: Page) -> list[str]:
    """What is wider than the window and cannot be scrolled inside its own box."""
    return page.evaluate(SIDEWAYS)


def unreadable_figures(page: Page) -> list[str]:
    """Images without a text, too small, or on a ground that hides dark ink."""
    return page.evaluate(FIGURES, SMALLEST_FIGURE)


def inaccessible(page: Page) -> list[str]:
    """Violations of WCAG A and AA and of axe's best practices; no rule is excepted.

    Only of text that looks alike in one table or listing the contrast is looked at once.
    """
    page.evaluate(AXE_SCRIPT)
    page.evaluate(ALIKE)
    violations = page.evaluate("(options) => axe.run(options)", AXE_OPTIONS)["violations"]
    return [f"{v['id']}: {n['target']} {n['html'][:200]}" for v in violations for n in v["nodes"]]
