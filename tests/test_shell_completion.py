"""Completion of the `qvec` command in bash, zsh and fish, by click's own classes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from command_line import succeed

from qvec.cli import main

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
CLI_PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def complete(*words: str, shell: str = "bash") -> list[tuple[str, str]]:
    """Return the kinds and values that complete the last word."""
    completion = SHELLS[shell](main, {}, "qvec", "_QVEC_COMPLETE")
    return [(item.type, item.value) for item in completion.get_completions(list(words[:-1]), words[-1])]


def values(*words: str) -> list[str]:
    return [value for _, value in complete(*words)]


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_complete(shell: str) -> None:
    assert complete("se", shell=shell) == [("plain", "search")]
    assert complete("db", "st", shell=shell) == [("plain", "start"), ("plain", "stop")]


def test_options_and_choices_complete() -> None:
    assert values("ingest", "--coll") == ["--collection"]
    assert values("ingest", "--rescore", "int") == ["int10", "int8", "int4"]
    assert values("doctor", "--") == ["--db", "--json", "--help"]


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", "vec"),
        ("ingest", "--calibration", "vec"),
        ("search", "--vectors", "vec"),
        ("calibrate", "vec"),
        ("adapt", "vec", "-o", "vec"),
        ("eval", "--truth", "vec"),
        ("eval", "--sweep", "vec"),
        ("recall", "--queries", "vec"),
        ("recalibrate", "--source", "vec"),
        ("drift", "--source", "vec"),
    ],
    ids=" ".join,
)
def test_files_complete(words: tuple[str, ...]) -> None:
    assert complete(*words) == [("file", "vec")]


def test_every_file_completes() -> None:
    parameters = [parameter for command in main.commands.values() for parameter in command.params]
    files = [each for each in parameters if each.metavar in ("FILE", "SOURCE") or each.name == "source"]
    assert len(files) > 15
    assert [each.name for each in files if not isinstance(each.type, click.Path)] == []


def test_a_source_may_be_something_else_than_a_file() -> None:
    command = main.commands["ingest"]
    for source in ("-", "missing-*.parquet", "https://host/a.npy"):
        assert command.make_context("ingest", [source, "-c", "docs"]).params["source"] == source


def answer(instruction: str, **environment: str) -> str:
    """Return what `qvec` prints when a shell calls it with this value of _QVEC_COMPLETE."""
    return succeed(prog_name="qvec", env={"_QVEC_COMPLETE": instruction, **environment}).stdout


def test_answers_to_zsh_and_fish() -> None:
    assert "_QVEC_COMPLETE=zsh_complete" in answer("zsh_source")
    assert "_QVEC_COMPLETE=fish_complete" in answer("fish_source")
    zsh = answer("zsh_complete", COMP_WORDS="qvec sea", COMP_CWORD="1")
    fish = answer("fish_complete", COMP_WORDS="qvec sea", COMP_CWORD="sea")
    assert zsh.startswith("plain\nsearch\nSearch a collection")
    assert fish.startswith("plain,search\tSearch a collection")


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_documented_line_completes_in_bash(tmp_path: Path) -> None:
    (line,) = re.findall(r"^eval .*bash_source.*$", CLI_PAGE.read_text("utf-8"), re.MULTILINE)
    program = tmp_path / "qvec"  # prints what qvec does, without the time of its imports
    program.write_text(f'#!/bin/sh\ncat "{tmp_path}/$_QVEC_COMPLETE"\n')
    program.chmod(0o755)
    (tmp_path / "bash_source").write_text(answer("bash_source"))
    (tmp_path / "bash_complete").write_text(answer("bash_complete", COMP_WORDS="qvec col", COMP_CWORD="1"))
    script = f'{line}\nCOMP_WORDS=(qvec col); COMP_CWORD=1; _qvec_completion qvec; echo "${{COMPREPLY[@]}}"'
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("collections\n", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_is_documented(shell: str) -> None:
    assert f"_QVEC_COMPLETE={shell}_source qvec" in CLI_PAGE.read_text("utf-8")
