"""Run `qvec` commands in the test process."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from qvec.cli import main


def invoke(*arguments: Any, **options: Any) -> Result:
    """Run `qvec` with these arguments; raise what it raises, except for SystemExit."""
    result = CliRunner().invoke(main, list(map(str, arguments)), **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: Any, **options: Any) -> Result:
    """Run `qvec` and assert that its exit code is 0."""
    result = invoke(*arguments, **options)
    assert result.exit_code == 0, result.output
    return result
