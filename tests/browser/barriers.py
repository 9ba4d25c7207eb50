"""Barriers of a page for readers who see little or use no mouse, as axe finds them."""

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
# A token that is alike and bears nothing but a class is for axe as good as its text, and a listing
# has thousands: while it looks, each run of them is one element, and the strokes of a formula are
# away. Colours, sizes and inline styles apart, axe's rules see the tree, its attributes and what is
# in sight. Where these are as they were at the last look, as in the other colours of the theme,
# what was found then still holds.
BARRIERS = r"""async (options) => {
  const sizes = ["target-size", "scrollable-region-focusable", "avoid-inline-spacing"];
  const again = axe.getRules(options.runOnly.values).map((rule) => rule.tags.includes("cat.color") ?
    rule.ruleId : sizes.find((size) => size === rule.ruleId)).filter(Boolean);
  const bare = (e) => [...e.attributes].every((a) => /^(class|data-alike)$/.test(a.name));
  const token = (e) => e.matches?.("span[data-alike]") && !e.childElementCount && bare(e);
  const runs = [...document.querySelectorAll("pre")].flatMap((pre) => {
    const found = [[]];
    for (const part of pre.childNodes)
      if (token(part) || (part.nodeType === 3 && !part.data.trim())) found.at(-1).push(part);
      else if (found.at(-1).length) found.push([]);
    return found.filter((run) => run.length > 1);
  });
  const merged = (run) => {
    const one = document.createElement("span");
    one.setAttribute("data-alike", "");
    one.textContent = run.map((part) => part.textContent).join("");
    return one;
  };
  const strokes = [...document.querySelectorAll("mjx-container svg > g")].filter((e) =>
    !e.querySelector(":not(g, path, use, rect, line, svg), [id], [role], [tabindex]"));
  const away = runs.map((run) => [run, merged(run)])
    .concat(strokes.map((e) => [[e], new Comment()]));
  const whole = [...document.querySelectorAll("*:not(.theme-switch-button *)")].map((e) => {
    const { right, bottom, width, height } = e.getBoundingClientRect(), s = getComputedStyle(e);
    const own = [...e.attributes].filter((a) => !/^(class|style|data-.*)$/.test(a.name));
    return [e.localName, ...own.map((a) => `${a.name}=${a.value}`), s.visibility, s.display,
      s.opacity > 0, s.clip, s.clipPath, right + scrollX > 0, bottom + scrollY > 0, width > 0,
      height > 0].join();
  }).join("\n") + document.body.textContent;
  away.forEach(([parts, one]) => {
    parts[0].before(one);
    parts.forEach((part) => part.remove());
  });
  const same = window.lastLook?.whole === whole;
  const { violations } = await axe.run(same ? { ...options, runOnly: again } : options);
  away.forEach(([parts, one]) => one.replaceWith(...parts));
  const late = (found) => again.includes(found.id);
  const others = same ? window.lastLook.others : violations.filter((found) => !late(found));
  window.lastLook = { whole, others };
  return [...others, ...violations.filter(late)];
}"""


def inaccessible(page: Page) -> list[str]:
    """Violations of WCAG A and AA and of axe's best practices; no rule is excepted.

    Only of text that looks alike the contrast is looked at once, and what hangs on neither
    colours nor sizes only where something else has changed since the last look at the open page.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    page.evaluate(ALIKE)
    violations = page.evaluate(BARRIERS, AXE_OPTIONS)
    return [f"{v['id']}: {n['target']} {n['html'][:200]}" for v in violations for n in v["nodes"]]
