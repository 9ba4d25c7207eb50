"""Corrects markup by which a screen reader would be misled: bibliography entries, empty headers.

Both corrections work on what the theme's own writer has just produced, so that nothing of it is
copied here.
"""

from docutils import nodes
from docutils.nodes import NodeVisitor
from sphinx.application import Sphinx


def visit_citation(writer: NodeVisitor, node: nodes.citation) -> None:
    """An entry of the bibliography is an item of its list; its own role has been withdrawn."""
    type(writer).visit_citation(writer, node)
    writer.body[-1] = writer.body[-1].replace('role="doc-biblioentry"', 'role="listitem"')


def depart_citation(writer: NodeVisitor, node: nodes.citation) -> None:
    """Close what was opened."""
    type(writer).depart_citation(writer, node)


def visit_entry(writer: NodeVisitor, node: nodes.entry) -> None:
    """A header without a text, as above a column of row names, heads nothing: it is a cell."""
    type(writer).visit_entry(writer, node)
    if writer.body[-1].startswith("<th") and not node.astext().strip():
        writer.body[-1] = writer.body[-1].replace("<th", "<td", 1)
        writer.context[-1] = writer.context[-1].replace("</th", "</td")


def depart_entry(writer: NodeVisitor, node: nodes.entry) -> None:
    """Close what was opened."""
    type(writer).depart_entry(writer, node)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_node(nodes.citation, override=True, html=(visit_citation, depart_citation))
    app.add_node(nodes.entry, override=True, html=(visit_entry, depart_entry))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
