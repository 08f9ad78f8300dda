"""Adapt autodoc to this project: docstrings are Markdown, and signatures appear as the source has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import inspect
from sphinx.util.docutils import SphinxDirective

_NOT_CONSTRUCTED = re.compile(r"qvec\.(Async)?(Collection|Database)$")
"""Classes whose instances come from other calls."""


class MarkdownDirective(SphinxDirective):
    """Parse its content as Markdown."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        return document.children


def fence_examples(lines: list[str]) -> Iterator[str]:
    """Yield the lines with interactive examples in fences: Markdown takes their prompts for quotations."""
    inside = False
    for line in lines:
        if inside and not line.strip():
            yield "```"
            inside = False
        elif not inside and line.startswith(">>> "):
            yield "```python"
            inside = True
        yield re.sub(r" *# doctest: .*", "", line).removeprefix(">>> ").removeprefix("... ") if inside else line
    if inside:
        yield "```"


def wrap_in_directive(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if any(line.strip() for line in lines):
        lines[:] = [".. markdown::", "", *("   " + line for line in fence_examples(lines)), ""]


def hide_constructor(app: Sphinx, what: str, name: str, *_: Any) -> tuple[str, None] | None:
    return ("", None) if what == "class" and _NOT_CONSTRUCTED.match(name) else None


def keep_type_aliases() -> None:
    """Let signatures name type aliases, such as ArrayLike, and not spell out what they stand for."""

    def unavailable(_: object) -> None:
        raise NameError  # then Sphinx keeps the annotations as they are written

    inspect.TypeAliasNamespace = unavailable  # type: ignore[assignment, misc]


def hide_overloads() -> None:
    """Show the implementation's signature, which alone has the defaults."""
    analyze = ModuleAnalyzer.analyze

    def analyze_without_overloads(self: ModuleAnalyzer) -> None:
        analyze(self)
        self.overloads = {}

    ModuleAnalyzer.analyze = analyze_without_overloads  # type: ignore[method-assign]


def setup(app: Sphinx) -> dict[str, bool]:
    keep_type_aliases()
    hide_overloads()
    app.add_directive("markdown", MarkdownDirective)
    app.connect("autodoc-process-docstring", wrap_in_directive)
    app.connect("autodoc-process-signature", hide_constructor)
    return {"parallel_read_safe": True}
