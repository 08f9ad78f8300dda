"""qvec search"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from numpy.typing import NDArray

from qvec.cli.console import one_line, print_table
from qvec.cli.shared_options import (
    FILE,
    collection_option,
    db_option,
    embedding_of,
    embedding_options,
    encoding_option,
    json_option,
    open_database,
)
from qvec.client import Collection
from qvec.codecs import preset
from qvec.embedding import Embedder, EmbeddingOptions, load_embedder
from qvec.embedding.embedding_options import choose_embedding
from qvec.errors import InputError
from qvec.results import Explanation, Hit
from qvec.sources import Columns, open_source

_BATCH = 256


@click.command()
@click.argument("questions", nargs=-1)
@db_option
@collection_option
@click.option(
    "--vectors", type=FILE, metavar="FILE", help="File of query vectors, in any format that `qvec ingest` reads."
)
@encoding_option
@embedding_options
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Hits for each query.")
@click.option("--oversampling", type=click.FloatRange(1), help="Candidates for each hit (default: the collection's).")
@click.option("--exact", is_flag=True, help="Rescore every row, without the index.")
@click.option("--filter", metavar="JSON", help='Filter on metadata, e.g. \'{"lang": "en", "year": {"$gte": 2020}}\'.')
@click.option(
    "--by",
    type=click.Choice(["vectors", "words", "both"]),
    default="vectors",
    show_default=True,
    help="Search by meaning, by words (BM25), or by both, fused; words need an index: qvec index --texts.",
)
@click.option("--no-rescore", is_flag=True, help="Rank by the prefilter alone; scores are not the metric.")
@click.option("--rescore-in", type=click.Choice(["client", "sql"]), help="Where to rescore codes, on Postgres.")
@click.option("--explain", is_flag=True, help="Show the statement or request, the plan and the time of each step.")
@click.option("--documents/--no-documents", default=True, show_default=True, help="Return the documents.")
@click.option("--metadata/--no-metadata", default=True, show_default=True, help="Return the metadata.")
@json_option
def search(
    questions: tuple[str, ...],
    url: str,
    collection: str,
    vectors: str | None,
    encoding: str,
    documents: bool,
    metadata: bool,
    filter: str | None,
    by: str,
    no_rescore: bool,
    rescore_in: str | None,
    explain: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search a collection by QUESTIONS, which its model embeds, or by vectors.

    --json prints one line for each query: {"query": 0, "hits": [{"id", "score", "document", "metadata"}]}.

    \b
    Examples:
      qvec search "How do I read a CSV file?" --collection docs -k 5
      qvec search --vectors queries.npy --collection docs --json > hits.jsonl
      qvec search "read a file" --collection docs --filter '{"module": {"$in": ["csv", "pathlib"]}}'
      qvec search "csv.Sniffer delimiter" --collection docs --by both
      qvec search "read a file" --collection docs --explain
    """
    if bool(questions) == bool(vectors):
        raise InputError("give either questions or --vectors FILE")
    if explain and len(questions) > 1:
        raise InputError(f"--explain takes one question, not {len(questions)}")
    wanted = embedding_of(options)
    options["filter"] = None if filter is None else _filter(filter)
    if by != "vectors":
        _check_words(by, {"vectors": vectors, "exact": options["exact"], "explain": explain, "no-rescore": no_rescore})
    with open_database(url) as database:
        found = database.collection(collection)
        if rescore_in:
            if database.kind != "Postgres":
                raise InputError(
                    f"--rescore-in is {rescore_in}, but only Postgres has it; {database.kind} rescores in its engine"
                )
            options["rescore_in"] = rescore_in
        if by != "vectors":
            answers = _by_words(found, questions, by, wanted, options)
        else:
            queries = (
                _vectors(vectors, encoding) if vectors else iter([_embedder(found, wanted).embed_queries(questions)])
            )
            if explain:
                _print_explanation(found.explain(next(queries)[0], **options), as_json)
                return
            options |= {"texts": documents or metadata, "rescore": not no_rescore}
            answers = (hits for batch in queries for hits in found.search(batch, **options))
        for number, hits in enumerate(answers):
            title = questions[number] if questions else f"query {number}"
            _print_hits(number, title, hits, documents, metadata, as_json)


def _check_words(by: str, others: Mapping[str, Any]) -> None:
    """Raise InputError for options that only searches by vectors have."""
    for option, value in others.items():
        if value:
            raise InputError(f"--{option} is for searches by vectors, not for --by {by}")


def _by_words(
    collection: Collection, questions: Sequence[str], by: str, wanted: EmbeddingOptions, options: Mapping[str, Any]
) -> Iterator[list[Hit]]:
    """Yield the hits of each question, by its words alone or by words and vector."""
    if by == "words":
        for question in questions:
            yield collection.search_text(question, options["k"], filter=options["filter"])
        return
    collection.embedder = _embedder(collection, wanted)
    for question in questions:
        arguments = {name: options[name] for name in ("k", "oversampling", "filter")}
        yield collection.search_hybrid(question, **arguments)


def _filter(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"--filter is not JSON ({error}): {text}") from None


def _vectors(location: str, encoding: str) -> Iterator[NDArray[Any]]:
    with open_source(location, columns=Columns(codec=preset(encoding))) as source:
        if source.dimensions is None:
            raise InputError(f"{location} has no vectors")
        for batch in source.batches(batch_rows=_BATCH):
            if batch.rejected:
                raise InputError(f"{batch.rejected[0].where}: {batch.rejected[0].reason}")
            assert batch.vectors is not None
            yield batch.vectors


def _embedder(collection: Collection, wanted: EmbeddingOptions) -> Embedder:
    embedding = choose_embedding(wanted, collection, collection.calibration)
    if embedding.model is None:
        raise InputError(f"collection {collection.name!r} was loaded as vectors; name their model: --model")
    return load_embedder(embedding)


def _print_hits(number: int, title: str, hits: list[Hit], documents: bool, metadata: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"query": number, "hits": [_as_dict(hit, documents, metadata) for hit in hits]}))
        return
    columns = {"#": "right", "score": "right", "id": "left"}
    columns |= {"document": "left"} if documents else {}
    columns |= {"metadata": "left"} if metadata else {}
    print_table(title, columns, [_as_row(rank, hit, documents, metadata) for rank, hit in enumerate(hits, 1)])


def _as_dict(hit: Hit, documents: bool, metadata: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"id": hit.id, "score": hit.score}
    if documents:
        found["document"] = hit.document
    if metadata:
        found["metadata"] = hit.metadata
    return found


def _as_row(rank: int, hit: Hit, documents: bool, metadata: bool) -> list[str]:
    row = [str(rank), f"{hit.score:.4f}", str(hit.id)]
    if documents:
        row.append(one_line(hit.document or "", 160))
    if metadata:
        row.append(one_line(json.dumps(hit.metadata, ensure_ascii=False) if hit.metadata else "", 80))
    return row


def _print_explanation(explanation: Explanation, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(explanation)))
        return
    click.echo(explanation.statement + "\n")
    if explanation.plan:
        click.echo("\n".join(explanation.plan) + "\n")
    candidates = "all rows" if explanation.candidates is None else explanation.candidates
    click.echo(f"candidates: {candidates}, hits: {len(explanation.hits)}")
    for step, milliseconds in explanation.milliseconds.items():
        click.echo(f"{step:>10} {milliseconds:8.3f} ms")
