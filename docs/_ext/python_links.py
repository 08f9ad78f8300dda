"""Link code in the text, such as `Collection.search`, to the API reference."""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode


class PythonLinks(SphinxPostTransform):
    default_priority = 20

    def run(self, **_: object) -> None:
        domain = self.env.domains.python_domain
        for literal in list(self.document.findall(nodes.literal)):
            name = target_of(domain, literal.astext())
            if name is None or is_linked(literal):
                continue
            entry = domain.objects[name]
            link = make_refnode(
                self.app.builder, self.env.current_document.docname, entry.docname, entry.node_id, literal.deepcopy()
            )
            literal.replace_self(link)


def target_of(domain: PythonDomain, text: str) -> str | None:
    """Return the documented object that a piece of code names, with or without `qvec.` and parentheses."""
    name = text.removesuffix("()")
    if name.startswith("qvec.") and name in domain.objects:
        return name
    return f"qvec.{name}" if "." in name and f"qvec.{name}" in domain.objects else None


def is_linked(node: nodes.Node | None) -> bool:
    while node is not None:
        if isinstance(node, nodes.reference | nodes.title | addnodes.desc_signature):
            return True
        node = node.parent
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(PythonLinks)
    return {"parallel_read_safe": True}
