"""Links and anchors of a folder of pages, followed on disk."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            if name in ("href", "src"):
                self.links.add(value or "")


def pages_of(folder: Path) -> list[str]:
    """Every page, but not the templates that the theme keeps among its files."""
    found = (p.relative_to(folder) for p in folder.rglob("*.html"))
    return sorted(p.as_posix() for p in found if p.parts[0] != "_static")


def broken_links(folder: Path) -> list[str]:
    """Links within ``folder`` that lead to no file, or to no anchor of their page."""
    read = {folder / name: _read(folder / name) for name in pages_of(folder)}
    return [
        f"{page.relative_to(folder)}: {link}"
        for page, reader in read.items()
        for link in sorted(reader.links)
        if not _resolves(link, page, folder, read)
    ]


def _read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text())
    return reader


def _resolves(link: str, page: Path, folder: Path, read: dict[Path, _Reader]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(folder) or not target.is_file():
        return False
    anchor = unquote(parts.fragment)
    return not anchor or target not in read or anchor in read[target].anchors
