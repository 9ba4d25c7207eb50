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
# Of texts that look alike with all that lies behind them, and are as much in sight, axe judges the
# contrast once: of all, a page takes it 20 seconds. A text of less than two letters or digits,
# which axe may leave open, stands for its like only; and what is painted across a text but does
# not hold it is a part of its look.
ALIKE = r"""() => {
  const numbers = new Map(), seen = new Set(), range = document.createRange(), painted = [];
  const number = (key) => numbers.get(key) ?? numbers.set(key, numbers.size).get(key);
  const edges = ({ left, right, top, bottom }) => [left, right, top, bottom];
  const looks = new Map(), clips = new Map();
  const skipped = "mjx-container *, svg *, script, style";
  for (const e of document.querySelectorAll(`html, body, body *:not(${skipped})`)) {
    const s = getComputedStyle(e), up = e.parentElement, box = edges(e.getBoundingClientRect());
    const look = [e.localName, e.className, s.color, s.backgroundColor, s.backgroundImage, s.filter,
      s.opacity, s.fontSize, s.fontWeight, s.textShadow, s.position, s.mixBlendMode];
    looks.set(e, number([looks.get(up), ...look].join()));
    clips.set(e, [...(clips.get(up) ?? []), ...(s.overflowX === "visible" ? [] : [box])]);
    if (s.backgroundColor !== "rgba(0, 0, 0, 0)" || s.backgroundImage !== "none")
      painted.push([e, box]);
  }
  for (const e of looks.keys()) {
    const texts = [...e.childNodes].filter((part) => part.nodeType === 3 && part.data.trim());
    e.removeAttribute("data-alike");
    if (!texts.length || e.closest("button, label, select, [aria-disabled]")) continue;
    range.setStartBefore(texts[0]);
    range.setEndAfter(texts.at(-1));
    const own = edges(range.getBoundingClientRect()), [left, right, top, bottom] = own;
    const text = texts.map((part) => part.data.trim()).join(" ");
    const across = painted.filter(([p, [l, r, t, b]]) =>
      l < right && r > left && t < bottom && b > top && !p.contains(e) && !e.contains(p));
    const sight = clips.get(e).map(([l, r, t, b]) => [left < l, right > r, top < t, bottom > b]);
    const key = [looks.get(e), /[a-z0-9].*[a-z0-9]/is.test(text) || text, left < right, sight,
      across.map(([p]) => number(p))].join();
    if (seen.has(key)) e.setAttribute("data-alike", "");
    seen.add(key);
  }
  axe.configure({ rules: [{ id: "color-contrast", selector: "*:not([data-alike])" }] });
}"""
# Colours apart, axe's rules see the tree, its attributes and its boxes. Where these are as they
# were at the last look, as in the other colours of the theme, what was found then still holds.
BARRIERS = r"""async (options) => {
  const coloured = axe.getRules(options.runOnly.values).filter((r) => r.tags.includes("cat.color"));
  const colours = { ...options, runOnly: coloured.map((rule) => rule.ruleId) };
  const whole = [...document.querySelectorAll("*:not(.theme-switch-button *)")].map((e) => {
    const { x, y, width, height } = e.getBoundingClientRect(), s = getComputedStyle(e);
    const seen = [x + scrollX, y + scrollY, width, height, s.visibility, s.display, s.opacity];
    const own = [...e.attributes].filter((a) => !/^(class|data-.*)$/.test(a.name));
    return [e.localName, ...own.map((a) => `${a.name}=${a.value}`), ...seen].join();
  }).join("\n") + document.body.textContent;
  const same = window.lastLook?.whole === whole;
  const { violations } = await axe.run(same ? colours : options);
  const isColour = (found) => colours.runOnly.includes(found.id);
  const others = same ? window.lastLook.others : violations.filter((found) => !isColour(found));
  window.lastLook = { whole, others };
  return [...others, ...violations.filter(isColour)];
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

    Only of text that looks alike the contrast is looked at once, and what does not hang on colours
    is looked at again only where something else has changed since the last look at the open page.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    page.evaluate(ALIKE)
    violations = page.evaluate(BARRIERS, AXE_OPTIONS)
    return [f"{v['id']}: {n['target']} {n['html'][:200]}" for v in violations for n in v["nodes"]]
