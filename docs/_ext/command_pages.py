"""Render click commands the way `--help` shows them: sphinx-click reads their help as reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
from sphinx.application import Sphinx

_MARKUP = re.compile(r"([*|\\@_])")


def describe(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    r"""Show the paragraphs after `\b` as code, and all other text as it is."""
    if context.parent is None:
        del lines[:]  # the page's own introduction says it
        return
    lines[:] = _description(lines)


def _description(lines: list[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if not line.startswith("| "):
            inside = False
            yield _plain(line)
        elif line.rstrip().endswith(":") and not inside:
            yield _plain(line.removeprefix("| "))
        else:
            if not inside:
                yield from ("", ".. code-block:: console", "")
            inside = True
            yield "   " + line.removeprefix("| ").removeprefix("  ")


def list_options(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """List each option with its values, default and variable."""
    options = [parameter for parameter in context.command.params if isinstance(parameter, click.Option)]
    lines[:] = [] if context.parent is None else [line for one in options for line in _option(context, one)]


def _option(context: click.Context, option: click.Option) -> Iterator[str]:
    names = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    yield f".. option:: {', '.join(names)}{' VALUE' if choices else value}"
    yield ""
    yield "   " + " ".join(filter(None, [_plain(option.help or ""), *_remarks(context, option, list(choices))]))
    yield ""


def _remarks(context: click.Context, option: click.Option, choices: list[str]) -> Iterator[str]:
    if choices:
        yield "One of " + ", ".join(f"``{choice}``" for choice in choices) + "."
    extra = option.get_help_extra(context)
    if "range" in extra:
        yield f"Range: ``{extra['range']}``."
    if "default" in extra:
        yield f"Default: ``{extra['default']}``."
    if option.envvar:
        yield f"Variable: ``{option.envvar}``."
    if option.required:
        yield "Required."


def _plain(text: str) -> str:
    """Escape all markup but `code`."""
    parts = text.split("`")
    return "``".join(part if index % 2 else _MARKUP.sub(r"\\\1", part) for index, part in enumerate(parts))


def _remove(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    del lines[:]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("sphinx-click-process-description", describe)
    app.connect("sphinx-click-process-options", list_options)
    app.connect("sphinx-click-process-arguments", _remove)
    for event in ("sphinx-click-process-envvars", "sphinx-click-process-envars"):
        # sphinx-click 6 registers the first name and emits the second.
        if event not in app.events.events:
            app.add_event(event)
        app.connect(event, _remove)
    return {"parallel_read_safe": True}
