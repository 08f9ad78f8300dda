"""Generate the `_sync` modules of qvec from their `_async` sources.

    python tools/async_to_sync.py           write every generated module
    python tools/async_to_sync.py --check   exit with 1 where one is stale, and name it

Code that waits for a database is written once, asynchronous, in `_async/`; its twin in `_sync/` is generated and
checked in, as psycopg does. The rules, on tokens:

- `async` and `await` go, with the parentheses around an awaited expression;
- `Awaitable[X]` becomes `X`, `AsyncGenerator[X, Y]` becomes `Generator[X, Y, None]`;
- `AsyncName` becomes `Name`, `name_async` becomes `name`, `_async` becomes `_sync`;
- the names in `NAMES` become their synchronous twins.

What differs beyond these rules is written by hand twice, as `name_async` and `name`, in a module outside `_async`.
"""

from __future__ import annotations

import io
import keyword
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "AbstractAsyncContextManager": "AbstractContextManager",
    "AsyncExitStack": "ExitStack",
    "aclosing": "closing",
    "anext": "next",
    "asynccontextmanager": "contextmanager",
    "_async": "_sync",
}
HEADER = "# Generated from {source} by tools/async_to_sync.py: edit that file, then run `make sync`.\n"

Edit = tuple[tuple[int, int], tuple[int, int], str]
"""Start and end of a piece of source, as (line, column), and what takes its place."""


def sync_name(name: str) -> str:
    """Return the synchronous twin of an identifier."""
    if name in NAMES:
        return NAMES[name]
    return re.sub(r"^(_?)Async(?=[A-Z])", r"\1", name).removesuffix("_async")


def convert(source: str) -> str:
    """Return the synchronous twin of a module's source, unformatted."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    lines = source.splitlines(keepends=True)
    for (row, start), (_, end), text in sorted(_edits(tokens), reverse=True):
        line = lines[row - 1]
        lines[row - 1] = line[:start] + text + line[end:]
    return "".join(lines)


def _edits(tokens: list[tokenize.TokenInfo]) -> Iterator[Edit]:
    for index, token in enumerate(tokens):
        if token.type != tokenize.NAME:
            continue
        following = tokens[index + 1]
        if token.string in ("async", "await"):
            yield token.start, following.start, ""
            if token.string == "await":
                yield from _needless_parentheses(tokens, index)
        elif token.string == "Awaitable" and following.string == "[":
            closing = tokens[_closing(tokens, index + 1)]
            yield token.start, following.end, ""
            yield closing.start, closing.end, ""
        elif token.string == "AsyncGenerator" and following.string == "[":
            closing = tokens[_closing(tokens, index + 1)]
            yield token.start, token.end, "Generator"
            yield closing.start, closing.start, ", None"
        elif (name := sync_name(token.string)) != token.string:
            yield token.start, token.end, name


def _needless_parentheses(tokens: list[tokenize.TokenInfo], index: int) -> Iterator[Edit]:
    """Drop the parentheses of `(await call(...))`, which hold a primary expression alone."""
    opening, before = tokens[index - 1], tokens[index - 2]
    is_call = before.type == tokenize.NAME and not keyword.iskeyword(before.string)
    if opening.string != "(" or is_call or before.string in (")", "]"):
        return
    end = _closing(tokens, index - 1)
    position = index + 1
    while position < end:
        if tokens[position].string in ("(", "["):
            position = _closing(tokens, position)
        elif tokens[position].type != tokenize.NAME and tokens[position].string != ".":
            return
        position += 1
    if opening.start[0] == tokens[end].start[0]:
        yield opening.start, opening.end, ""
        yield tokens[end].start, tokens[end].end, ""


def _closing(tokens: list[tokenize.TokenInfo], opening: int) -> int:
    """Return the index of the bracket that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(tokens)):
        depth += (tokens[index].string in ("(", "[", "{")) - (tokens[index].string in (")", "]", "}"))
        if not depth:
            return index
    raise ValueError(f"line {tokens[opening].start[0]}: a bracket is not closed")


def generate(source: Path) -> str:
    """Return what the twin of a module in `_async` should hold, formatted."""
    name = source.relative_to(ROOT).as_posix()
    text = HEADER.format(source=name) + convert(source.read_text(encoding="utf-8"))
    stdin = ["--quiet", "--stdin-filename", str(twin_of(source)), "-"]
    for command in (["check", "--fix-only", "--select", "F401,I"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, *stdin]
        text = subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
    return text


def twin_of(source: Path) -> Path:
    return source.parent.parent / "_sync" / source.name


def main() -> int:
    check = sys.argv[1:] == ["--check"]
    stale = []
    for source in sorted(ROOT.glob("qvec/*/_async/*.py")):
        twin = twin_of(source)
        text = generate(source)
        if twin.exists() and twin.read_text(encoding="utf-8") == text:
            continue
        if check:
            stale.append(twin.relative_to(ROOT).as_posix())
        else:
            twin.parent.mkdir(exist_ok=True)
            twin.write_text(text, encoding="utf-8")
            print(f"wrote {twin.relative_to(ROOT)}")
    for name in stale:
        print(f"{name} is stale: edit its source in _async, then run `make sync`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
