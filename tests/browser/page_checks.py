"""What a page of the book must satisfy, asked of a real browser; each check lists complaints."""

from playwright.sync_api import Page

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
    // Sphinx gives an image without one the path of its file
    if (["", image.getAttribute("src")].includes(image.alt.trim()))
      found.push("no alternative text");
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
