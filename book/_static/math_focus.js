// On a narrow screen a long equation scrolls inside its line; the keyboard has to reach it there.
function markScrollingMath() {
  for (const box of document.querySelectorAll("div.math mjx-container")) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

window.addEventListener("load", () => {
  const typeset = window.MathJax?.startup?.promise;
  if (typeset) typeset.then(markScrollingMath);
});
window.addEventListener("resize", markScrollingMath);
