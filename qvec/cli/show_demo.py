"""qvec demo"""

from __future__ import annotations

from pathlib import Path

import click

from qvec.cli.console import ConsoleReporter, one_line, print_table
from qvec.cli.shared_options import open_database
from qvec.errors import InputError


@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-data"),
    show_default=True,
    help="Folder for passages, embeddings and the embedded database.",
)
@click.option("--db", "url", metavar="URL", help="URL of another database (default: postgres:DIRECTORY/postgres).")
def demo(directory: Path, url: str | None) -> None:
    """Try qvec on real text, the documentation of Python's standard library.

    Embed 3,000 passages with the MiniLM model, load them into an embedded Postgres (or --db), answer questions from
    them, compare float32, quantized and binary search, and write a report. A second run reuses the embeddings.

    \b
    Examples:
      qvec demo
      qvec demo --db qdrant:./demo-data
      qvec demo --db postgresql://me@localhost/test
    """
    from qvec.demo import run

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {directory}: {error.strerror}") from None
    with (
        ConsoleReporter(messages=False) as reporter,
        open_database(url or f"postgres:{directory / 'postgres'}", create=True) as database,
    ):
        result = run(database, directory, reporter)
    for question, hits in result.answers:
        click.echo()
        click.secho(question, bold=True)
        for hit in hits:
            click.echo(f"  {hit.score:.3f}  {hit.id}: {one_line(hit.document or '', 90)}")
    click.echo()
    columns = {"search": "left", "recall@10": "right", "bytes per vector": "right", "ms per query": "right"}
    rows = [
        [one.name, f"{100 * one.recall:.1f} %", f"{one.bytes_per_vector:,}", f"{one.milliseconds:.2f}"]
        for one in result.comparison
    ]
    title = f"{result.passages:,} passages, {result.queries} held-out queries, recall against exact float32"
    print_table(title, columns, rows)
    click.echo(f"Charts of recall against bytes, time and oversampling: {result.report}")
    click.echo(f'Ask your own: qvec search "…" --collection qvec_demo --db {url or f"postgres:{directory}/postgres"}')
