"""Every `qvec` command that the documents and the help show is one that qvec reads."""

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
FILES = r"\b[\w-]+\.(?:npy|parquet|jsonl|safetensors|tsv|csv|arrow|json|fvecs|fbin)\b"


def in_documents() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        for block in re.findall(r"^```(?:sh|text)?\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            yield from ((path.name, command) for command in commands(block))


def in_help() -> Iterator[tuple[str, str]]:
    for name, command in leaves(main, ()):
        yield from ((name, shown) for shown in commands(command.help or ""))


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path) or "qvec", command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))


def commands(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        yield from (part.strip() for part in re.split(r" \| ", line) if part.strip().startswith("qvec "))


def arguments_of(command: str) -> list[str]:
    return shlex.split(re.sub(r"\$\(.*?\)|[<>] ?\S+", "", command), comments=True)[1:]


def parse(arguments: list[str]) -> None:
    command: click.Command = main
    while isinstance(command, click.Group):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context("qvec", arguments)


SHOWN = sorted({*in_documents(), *in_help()})


def test_there_are_some() -> None:
    assert len(SHOWN) > 60


@pytest.mark.parametrize("command", [pytest.param(command, id=f"{where}: {command}") for where, command in SHOWN])
def test_it_is_read(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in re.findall(FILES, command):
        Path(name).touch()
    parse(arguments_of(command))
