// On a narrow screen a long equation and a wide figure scroll inside their line; the keyboard has
// to reach them there.
function markScrolling() {
  for (const box of document.querySelectorAll("div.math mjx-container, .bd-article figure")) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

window.addEventListener("load", () => {
  markScrolling();
  window.MathJax?.startup?.promise.then(markScrolling);
});
window.addEventListener("resize", markScrolling);
