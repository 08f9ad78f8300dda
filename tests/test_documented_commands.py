"""Every `qvec` command in the documents and in the help parses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from qvec.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
FILE_NAMES = r"\b[\w-]+\.(?:npy|parquet|jsonl|safetensors|tsv|csv|arrow|json|fvecs|fbin)\b"


def commands_in_documents() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        for block in re.findall(r"^```(?:sh|text)?\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            yield from ((path.name, command) for command in find_commands(block))


def commands_in_help() -> Iterator[tuple[str, str]]:
    for name, command in walk_commands(main, ()):
        yield from ((name, example) for example in find_commands(command.help or ""))


def walk_commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path) or "qvec", command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk_commands(child, (*path, name))


def find_commands(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        yield from (part.strip() for part in re.split(r" \| ", line) if part.strip().startswith("qvec "))


def split_arguments(command: str) -> list[str]:
    return shlex.split(re.sub(r"\$\(.*?\)|[<>] ?\S+", "", command), comments=True)[1:]


def parse(arguments: list[str]) -> None:
    command: click.Command = main
    while isinstance(command, click.Group):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context("qvec", arguments)


DOCUMENTED = sorted({*commands_in_documents(), *commands_in_help()})


def test_commands_are_found() -> None:
    assert len(DOCUMENTED) > 60


@pytest.mark.parametrize("command", [pytest.param(command, id=f"{where}: {command}") for where, command in DOCUMENTED])
def test_documented_command_parses(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in re.findall(FILE_NAMES, command):
        Path(name).touch()
    parse(split_arguments(command))
