"""One Chromium for all tests, pages served from this machine, and no network beyond it."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from page_checks import listen, settle
from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# Names are not looked up, so that a page that asks another host fails here as it would offline.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

TURN = """(mode) => {
  const button = document.querySelector(".theme-switch-button");
  for (let i = 0; i < 3 && document.documentElement.dataset.mode !== mode; i++) button.click();
}"""


@dataclass
class View:
    """A page as one reader sees it, and what went wrong while it opened."""

    page: Page
    heard: list[str]

    def turn(self, mode: str) -> None:
        """Go to the theme's ``mode`` as a reader does, by the button that leads round all three."""
        self.page.evaluate(TURN, mode)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """A line a request would drown the report."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address under which ``folder`` is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def window(
    browser: Browser, base: str, *, width: int = 1280, mode: str = "light"
) -> Iterator[Callable[[str], View]]:
    """A window ``width`` pixels wide, in the theme's ``mode``, as a function that opens pages.

    One window for many pages is three times as fast as one for each.
    """
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        context.add_init_script(f"localStorage.mode = localStorage.theme = '{mode}';")
        page = context.new_page()
        heard = listen(page, base)

        def show(name: str) -> View:
            page.goto("about:blank")  # ends the last page, whose complaints are not the next one's
            heard.clear()
            page.goto(base + name)
            settle(page)
            return View(page, heard)

        yield show


def find_chromium() -> str:
    """The browser's path; without one the tests are skipped, but on CI they fail."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        end = pytest.fail if os.environ.get("CI") else pytest.skip
        end(f"no browser: install one of {', '.join(PROGRAMS)} or set CHROMIUM to its path")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium as the system has it."""
    program = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[OFFLINE])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., View]]:
    """A function that opens a page with the given body, for pages made to have a defect."""
    with serving(tmp_path) as base, ExitStack() as windows:

        def open_body(body: str, *, head: str = "", **size: int) -> View:
            text = f'<html lang="en"><head><title>A page</title>{head}</head>{body}</html>'
            (tmp_path / "page.html").write_text(f"<!DOCTYPE html>{text}")
            return windows.enter_context(window(browser, base, **size))("page.html")

        yield open_body
