"""Configuration of the documentation; `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "_ext")]

from pygments.lexers.sql import PsqlRegexLexer  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import qvec  # noqa: E402

for framework in ("langchain", "llama_index", "haystack"):
    # Before autodoc, which edits annotations of pydantic's classes so that later models fail.
    import_module(f"qvec.integrations.{framework}")

project = "qvec"
author = "the qvec developers"
version = release = qvec.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "python_reference",
    "python_links",
    "command_pages",
]
exclude_patterns = ["_build"]
smartquotes = False  # `--db` stays as it is
language = "en"

myst_heading_anchors = 3

autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"qvec {version}"
html_static_path = ["_static"]
html_css_files = ["qvec.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def setup(app: Sphinx) -> None:
    app.add_lexer("sql", PsqlRegexLexer)  # knows $1 and \gexec
