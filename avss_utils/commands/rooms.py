"""The map of the module, read from the code itself: what each room is for, and what it imports."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ROOMS = (
    *("errors", "stats", "store", "show", "models", "data"),
    *("measure", "scores", "chapters", "claims", "commands"),
)


def purposes() -> dict[str, str]:
    """Room -> the first sentence that it says of itself."""
    return {room: _first_sentence(_files(room)[0]) for room in ROOMS}


def imports() -> set[tuple[str, str]]:
    """(room, room that it imports), of all files."""
    found = set()
    for room in ROOMS:
        for file in _files(room):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                path = (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
                if isinstance(node, ast.ImportFrom) and path[0] == "avss_utils":
                    names = path[1:2] or [alias.name for alias in node.names]
                    found |= {(room, name) for name in names}
    return {(a, b) for a, b in found if a != b and b in ROOMS}


def drawn() -> str:
    """The rooms as a Mermaid diagram, an arrow from what is imported to what imports it.

    Where one room imports another through a third as well, only the longer way is drawn.
    """
    arrows = imports()
    direct = [
        (a, b)
        for a, b in sorted(arrows, key=lambda pair: (ROOMS.index(pair[1]), ROOMS.index(pair[0])))
        if not any((a, c) in arrows and _leads(c, b, arrows) for c in ROOMS if c not in (a, b))
    ]
    lines = [f'    {room}["<b>{room}</b><br>{text}"]' for room, text in purposes().items()]
    return "\n".join(["flowchart TB", *lines, *(f"    {b} --> {a}" for a, b in direct)])


def _leads(start: str, end: str, arrows: set[tuple[str, str]]) -> bool:
    return any(b == end or _leads(b, end, arrows) for a, b in arrows if a == start)


def _files(room: str) -> list[Path]:
    """A room's files, the one that says what it is for first."""
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def _first_sentence(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


if __name__ == "__main__":
    print(drawn())
