"""The `qvec` command: output, exit codes and one-line error messages."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import psycopg
import pytest
from command_line import invoke, succeed
from ingest_helpers import command_line, random_vectors, run_command, with_ids, write_lines

import qvec
from qvec.cli import main
from qvec.postgres import embedded


def all_commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, subcommand in group.commands.items():
        yield (*path, name), subcommand
        if isinstance(subcommand, click.Group):
            yield from all_commands(subcommand, (*path, name))


COMMANDS = dict(all_commands())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    subcommand = COMMANDS[path]
    text = succeed(*path, "--help").output
    example = " ".join(("qvec", *path))
    assert re.search(rf"Examples?:(.|\n)*{example}", text)
    assert subcommand.get_short_help_str()
    for parameter in subcommand.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} has no help"


def test_help_version_and_unknown_commands() -> None:
    assert qvec.__version__ in succeed("--version").output
    text = succeed("-h").output
    assert all(name in text for name in ("ingest", "search", "calibrate", "index", "collections", "drop", "db", "demo"))
    assert invoke("nonsense").exit_code == 2
    assert invoke("ingest").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "No such command 'serch'. Did you mean 'search'?"),
        (["colections", "--json"], "No such command 'colections'. Did you mean 'collections'?"),
        (["db", "strat"], "No such command 'strat'. Did you mean 'start'?"),
        (["sql", "uninstal"], "No such command 'uninstal'. Did you mean 'uninstall' or 'install'?"),
        (["nonsense"], "No such command 'nonsense'."),
    ],
    ids=str,
)
def test_misspelt_command_suggests_the_right_one(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"\nError: {message}\n")


def test_misspelt_option_suggests_the_right_one() -> None:
    result = invoke("ingest", "a.npy", "--colection", "docs")
    assert result.exit_code == 2
    assert re.search("(Did you mean|Possible options).*--collection", result.stderr)  # the words of click


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small files; the working directory of the error tests."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "a.npy", random_vectors(50))
    np.save(folder / "wide.npy", random_vectors(50, dimensions=12))
    np.save(folder / "zeros.npy", np.zeros((5, 8), np.float32))
    np.save(folder / "integers.npy", np.zeros((5, 8), np.int8))
    np.save(folder / "none.npy", np.empty((0, 8), np.float32))
    (folder / "broken.parquet").write_bytes(b"not parquet")
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "a.txt").write_text("?")
    write_lines(folder / "texts.jsonl", [{"id": 1, "text": "one"}])
    write_lines(folder / "a.jsonl", with_ids(random_vectors(50)))
    (folder / "damaged.safetensors").write_bytes(b"\0" * 20)
    return folder


@pytest.fixture(scope="module")
def docs_url(new_database: Any, files: Path) -> str:
    """The URL of a database with a collection `docs` of 50 rows."""
    url: str = new_database()
    succeed("ingest", files / "a.npy", "--db", url, "-c", "docs", "-q")
    return url


UNREACHABLE = "postgresql://u:secret@localhost:1/x"
INGEST = ["ingest", "a.npy", "-q", "-c", "new"]
SEARCH = ["search", "-c", "docs"]
USER_ERRORS: dict[str, tuple[list[str], str]] = {
    "no such file": (["ingest", "missing.npy", "-c", "new"], "no such file: missing.npy"),
    "unknown file name ending": (["ingest", "a.txt", "-c", "new"], "give --format, one of"),
    "unknown --format": ([*INGEST, "--format", "xml"], "unknown format 'xml'"),
    "wrong --format": ([*INGEST, "--format", "parquet"], "a.npy"),
    "damaged Parquet file": (["ingest", "broken.parquet", "-c", "new"], "broken.parquet"),
    "empty file": (["ingest", "empty.jsonl", "-c", "new"], "empty.jsonl"),
    "source without rows": (["ingest", "none.npy", "-c", "new"], "no usable rows to calibrate on"),
    "only zero vectors": (["ingest", "zeros.npy", "-c", "new"], "no usable rows to calibrate on"),
    "integers instead of floats": (["ingest", "integers.npy", "-c", "new"], "integers.npy"),
    "folder without Parquet files": (["ingest", "..", "-c", "new"], "no Parquet files there"),
    "texts without a model": (["ingest", "texts.jsonl", "-c", "new"], "name a model that embeds it: --model NAME"),
    "missing vector column": (["ingest", "a.jsonl", "-c", "new", "--vector-column", "x"], "there is no column 'x'"),
    "column option for a format without columns": ([*INGEST, "--id-column", "x"], "no column 'x'"),
    "missing calibration file": ([*INGEST, "--calibration", "missing.safetensors"], "missing.safetensors"),
    "damaged calibration file": ([*INGEST, "--calibration", "damaged.safetensors"], "damaged.safetensors"),
    "--rejects without --on-error skip": ([*INGEST, "--rejects", "r.jsonl"], "--rejects needs --on-error skip"),
    "--rejects in a missing folder": (
        [*INGEST, "--on-error", "skip", "--rejects", "x/r"],
        "cannot write the rejects file x/r",
    ),
    "invalid threshold": (
        [*INGEST, "--threshold", "much"],
        "--threshold is 'much', expected zero, half, mean or a number",
    ),
    "threshold out of range": ([*INGEST, "--threshold", "7"], "--threshold is '7', expected"),
    "threshold is NaN": ([*INGEST, "--threshold", "nan"], "--threshold is 'nan', expected"),
    "quantile out of range": ([*INGEST, "--quantile", "2"], "quantile is 2.0"),
    "negative spread": ([*INGEST, "--ranges", "rolling", "--spread", "-1"], "spread is -1"),
    "--ranges fixed without --range": ([*INGEST, "--ranges", "fixed"], "a fixed range needs its value"),
    "--range without --ranges fixed": ([*INGEST, "--range", "1"], "only a fixed range takes one"),
    "too many dimensions": ([*INGEST, "--dimensions", "99"], "99"),
    "negative dimensions": ([*INGEST, "--dimensions", "-1"], "-1"),
    "--id-start beyond bigint": ([*INGEST, "--id-start", "99999999999999999999"], "--id-start is 99999999999999999999"),
    "collection name too long": (["ingest", "a.npy", "-q", "-c", "x" * 64], "expected 1 to 63"),
    "empty collection name": (["ingest", "a.npy", "-q", "-c", ""], "expected 1 to 63"),
    "rescore differs from the collection's": (
        ["ingest", "a.npy", "-c", "docs", "--restart", "--rescore", "int4"],
        "has rescore int8",
    ),
    "dimensions differ from the collection's": (
        ["ingest", "wide.npy", "-c", "docs"],
        "has 12 dimensions, but collection 'docs' takes 8",
    ),
    "search in a missing collection": (["search", "-c", "other", "--vectors", "a.npy"], "no collection 'other'"),
    "--explain with two questions": ([*SEARCH, "x", "y", "--explain"], "--explain takes one question, not 2"),
    "search without a question": (SEARCH, "give either questions or --vectors FILE"),
    "search with a question and --vectors": (
        [*SEARCH, "x", "--vectors", "a.npy"],
        "give either questions or --vectors FILE",
    ),
    "question without a model": ([*SEARCH, "x"], "name their model: --model"),
    "query vectors with wrong dimensions": ([*SEARCH, "--vectors", "wide.npy"], "12"),
    "zero query vectors": ([*SEARCH, "--vectors", "zeros.npy"], "zero"),
    "query file without vectors": ([*SEARCH, "--vectors", "texts.jsonl"], "texts.jsonl has no vectors"),
    "drop a missing collection": (["drop", "other", "--yes"], "no collection 'other'"),
    "index a missing collection": (["index", "-c", "other"], "no collection 'other'"),
    "calibrate without a source": (["calibrate", "-o", "x"], "give either a source or --import-ranges"),
    "calibration output in a missing folder": (["calibrate", "a.npy", "-q", "-o", "x/y"], "x/y"),
    "unreadable ranges file": (["calibrate", "-o", "x", "--import-ranges", "a.txt"], "cannot read ranges from a.txt"),
    "ranges with a wrong shape": (["calibrate", "-o", "x", "--import-ranges", "a.npy"], "(50, 8)"),
    "unreachable Postgres server": (
        ["collections", "--db", UNREACHABLE],
        "cannot connect to postgresql://u@localhost:1/x",
    ),
    "invalid port": (["collections", "--db", "postgresql://u:secret@h:x/x"], "postgresql"),
    "invalid host": (["collections", "--db", "postgresql://u:secret@[::1/x"], "connection URL"),
    "unescaped % in a password": (["collections", "--db", "postgresql://u:100%secret@h/x"], "connection URL"),
    "unsupported URL scheme": (["collections", "--db", "mysql://u:secret@h"], "is not a database URL"),
    "missing Postgres directory": (
        ["collections", "--db", "postgres:./missing"],
        "there is no database in ./missing yet",
    ),
    "directory without a Postgres database": (
        [*INGEST, "--db", "postgres:."],
        "is not empty and holds no Postgres database",
    ),
    "file instead of a directory": ([*INGEST, "--db", "postgres:a.npy"], "a.npy is a file"),
    "db stop on a server": (["db", "stop", "--db", UNREACHABLE], "only an embedded Postgres"),
    "db stop on Qdrant": (["db", "stop", "--db", "qdrant:vectors"], "only an embedded Postgres"),
    "db url on Qdrant": (["db", "url", "--db", "qdrant:vectors"], "only an embedded Postgres"),
    "missing Qdrant directory": (["collections", "--db", "qdrant:./missing"], "there is no database in ./missing yet"),
    "unreachable Qdrant server": (
        ["info", "--db", "qdrant://localhost:1?retry=0"],
        "cannot connect to qdrant://localhost:1",
    ),
    "API key in a URL": (["info", "--db", "qdrant://u:secret@h"], "put the API key into QVEC_QDRANT_API_KEY"),
    "Qdrant shard keys on Postgres": (
        [*INGEST, "--shard-key-field", "tenant"],
        "--shard-key-field is not a setting of a collection in Postgres",
    ),
    "Qdrant setting on Postgres": ([*INGEST, "--shards", "2"], "--shards is not a setting of a collection in Postgres"),
    "Qdrant precision on Postgres": (
        [*INGEST, "--rescore", "turbo8"],
        "rescore is 'turbo8', expected one of: int10, int8",
    ),
    "Qdrant prefilter on Postgres": (
        [*INGEST, "--prefilter", "turbo1"],
        "prefilter is 'turbo1', expected one of: ternary",
    ),
    "ternary prefilter with binary codes": (
        [*INGEST, "--rescore", "binary", "--prefilter", "ternary"],
        "keeps one bit",
    ),
    "unknown metadata index type": ([*INGEST, "--index-metadata", "year:number"], "type 'number' found"),
    "filter that is not JSON": ([*SEARCH, "--vectors", "a.npy", "--filter", "{lang: en}"], "--filter is not JSON"),
    "unknown filter operator": (
        [*SEARCH, "--vectors", "a.npy", "--filter", '{"$near": 1}'],
        "'$near' is not an operator",
    ),
    "copy onto itself": (["copy", "--from", "X", "--to", "X", "-c", "docs"], "would be copied onto itself"),
    "copy of a missing collection": (
        ["copy", "--from", "X", "--to", "qdrant:copied", "-c", "other"],
        "no collection 'other'",
    ),
}


@pytest.mark.parametrize(("arguments", "reason"), USER_ERRORS.values(), ids=USER_ERRORS)
def test_user_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, docs_url: str, files: Path, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(files)
    arguments = [docs_url if argument == "X" else argument for argument in arguments]
    result = invoke(*arguments, env={"QVEC_DB": docs_url})
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert "secret" not in result.stderr
    with qvec.connect(docs_url) as database:
        written = [collection.name for collection in database.collections() if collection.count()]
        if database.has_collection("new"):
            database.drop_collection("new")
    assert written == ["docs"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*INGEST, "--workers", "0"],
        [*INGEST, "--id-start", "first"],
        [*INGEST, "--sample", "0"],
        [*INGEST, "--seed", "-1"],
        [*INGEST, "--rescore", "int2"],
        [*SEARCH, "-k", "0"],
        [*SEARCH, "--oversampling", "0.5"],
        ["ingest", "a.npy"],
        ["drop"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_code_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_ingest_json_prints_one_object(url: str, files: Path) -> None:
    result = succeed("ingest", files / "a.npy", "--db", url, "-c", "docs", "--json")
    (line,) = result.stdout.splitlines()
    summary = json.loads(line)
    assert {"rows", "seconds", "rows_per_second", "bytes_per_vector", "calibration", "rejected"} <= summary.keys()
    assert (summary["rows"], summary["rejected"]) == (50, 0)
    assert summary["bytes_per_vector"].keys() == {"table", "index", "ram"}
    assert re.fullmatch("[0-9a-f]{16}", summary["calibration"])
    assert summary["calibration"] in result.stderr
    assert "\x1b" not in result.stderr
    assert "━" not in result.stderr


@pytest.mark.parametrize(
    ("options", "quantile"),
    [
        ([], 0.9999),
        (["--rescore", "int4"], 0.99),
        (["--rescore", "int4", "--threshold", "zero"], 0.99),
        (["--rescore", "int4", "--quantile", "0.9999"], 0.9999),
        (["--quantile", "0.9"], 0.9),
    ],
)
def test_default_quantile_depends_on_precision(url: str, files: Path, options: list[str], quantile: float) -> None:
    succeed("ingest", files / "a.npy", "--db", url, "-c", "ranged", "-q", *options)
    with qvec.connect(url) as database:
        assert database.collection("ranged").calibration.description["method"]["quantile"] == quantile


def test_ingest_prints_a_summary(url: str, files: Path) -> None:
    result = succeed("ingest", files / "a.npy", "--db", url, "-c", "docs")
    assert re.match(
        r"50 rows in .* rows/s\); collection 'docs' has 50 rows of .* bytes \(table \+ index\)", result.stdout
    )
    assert succeed("ingest", files / "a.npy", "--db", url, "-c", "more", "--quiet").output == ""


def test_info_shows_bytes_by_part(url: str, files: Path) -> None:
    succeed("ingest", files / "a.npy", "--db", url, "-c", "docs")
    shown = dict(re.findall(r"of it ([a-z ]+[a-z])\W+([\d,.]+)", succeed("info", "docs", "--db", url).stdout))
    assert shown.keys() == {"heap", "toast", "primary key", "other indexes", "prefilter index"}
    stored = json.loads(succeed("info", "docs", "--db", url, "--json").stdout)["part_bytes_per_vector"]
    assert [float(size.replace(",", "")) for size in shown.values()] == list(stored.values())


@pytest.mark.parametrize(("given", "prefilter"), [("2", "binary"), ("4", "levels4"), ("levels8", "levels8")])
def test_prefilter_by_name_or_number_of_levels(url: str, files: Path, given: str, prefilter: str) -> None:
    succeed("ingest", files / "a.npy", "--db", url, "-c", "docs", "--prefilter", given)
    assert json.loads(succeed("info", "docs", "--db", url, "--json").stdout)["prefilter"] == prefilter
    refused = invoke("ingest", files / "a.npy", "--db", url, "-c", "more", "--prefilter", "7")
    assert refused.exit_code == 2
    assert "'7' is not one of 'binary', 'ternary', 'levels4'" in refused.output


def test_ingest_reads_standard_input(url: str, files: Path) -> None:
    content = (files / "a.jsonl").read_bytes()
    result = succeed("ingest", "-", "--db", url, "-c", "docs", "--json", input=content)
    assert json.loads(result.stdout)["rows"] == 50
    again = succeed("ingest", "-", "--db", url, "-c", "docs", "--json", input=content)
    assert json.loads(again.stdout)["rows"] == 0


def search(url: str, *arguments: Any) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in succeed("search", "--db", url, "-c", "docs", "--json", *arguments).stdout.splitlines()
    ]


@pytest.mark.parametrize("options", [[], ["--exact"], ["--oversampling", "2"], ["--rescore-in", "sql"]], ids=str)
def test_search_json_prints_one_object_per_query(docs_url: str, files: Path, options: list[str]) -> None:
    lines = search(docs_url, "--vectors", files / "a.npy", "-k", 3, *options)
    assert [line["query"] for line in lines] == list(range(50))
    for number, line in enumerate(lines):
        assert line.keys() == {"query", "hits"}
        assert len(line["hits"]) == 3
        assert line["hits"][0]["id"] == number
        scores = [hit["score"] for hit in line["hits"]]
        assert scores == sorted(scores, reverse=True)
        assert all(hit.keys() == {"id", "score", "document", "metadata"} for hit in line["hits"])


def test_search_can_omit_documents_and_metadata(url: str, tmp_path: Path) -> None:
    rows = [{**row, "text": f"text {row['id']}", "tag": "ö"} for row in with_ids(random_vectors(5))]  # type: ignore[dict-item, index]
    path = write_lines(tmp_path / "a.jsonl", rows)  # type: ignore[arg-type]
    succeed("ingest", path, "--db", url, "-c", "docs", "-q")
    query = ["--vectors", path, "-k", "1"]
    assert search(url, *query)[3]["hits"][0] | {"score": 0} == {
        "id": 3,
        "score": 0,
        "document": "text 3",
        "metadata": {"tag": "ö"},
    }
    assert search(url, *query, "--no-documents")[0]["hits"][0].keys() == {"id", "score", "metadata"}
    bare = search(url, *query, "--no-documents", "--no-metadata")[0]["hits"][0]
    assert bare.keys() == {"id", "score"}
    table = succeed("search", "--db", url, "-c", "docs", *query).stdout
    assert "query 3" in table
    assert "text 3" in table
    assert '{"tag": "ö"}' in table
    assert "text 3" not in succeed("search", "--db", url, "-c", "docs", *query, "--no-documents").stdout


def test_explain_shows_statement_plan_and_times(docs_url: str, files: Path) -> None:
    text = succeed("search", "--db", docs_url, "-c", "docs", "--vectors", files / "a.npy", "--explain", "-k", 5).stdout
    assert text.startswith("SELECT ")
    assert re.search(r"actual time=", text)
    assert re.search(r"candidates: \d+, hits: 5", text)
    assert re.search(r"\d\.\d{3} ms", text)
    exact = succeed(
        "search", "--db", docs_url, "-c", "docs", "--vectors", files / "a.npy", "--explain", "--exact"
    ).stdout
    printed = succeed(
        "search", "--db", docs_url, "-c", "docs", "--vectors", files / "a.npy", "--explain", "--json"
    ).stdout
    assert set(json.loads(printed)) == {"statement", "plan", "candidates", "milliseconds", "hits"}
    assert "candidates: all rows" in exact
    assert "hnsw" not in exact


def test_collections_index_and_drop_commands(url: str, files: Path) -> None:
    succeed("ingest", files / "a.npy", "--db", url, "-c", "docs", "--no-index", "-q")
    (line,) = succeed("collections", "--db", url, "--json").stdout.splitlines()
    described = json.loads(line)
    assert (described["name"], described["rows"], described["dimensions"]) == ("docs", 50, 8)
    assert described["index"] == "none"
    succeed("index", "-c", "docs", "--db", url)
    assert "already has its index" in succeed("index", "-c", "docs", "--db", url).stderr
    table = succeed("collections", "--db", url).stdout
    assert re.search(r"docs.*50.*8.*int8.*levels6.*built", table)
    assert invoke("drop", "docs", "--db", url, input="n\n").exit_code == 1
    assert "docs" in succeed("collections", "--db", url).stdout
    assert "Drop collection 'docs' with 50 rows?" in succeed("drop", "docs", "--db", url, input="y\n").stderr
    result = succeed("collections", "--db", url)
    assert (result.stdout, result.stderr) == ("", "no collections\n")


def test_qvec_db_variable_names_the_database(monkeypatch: pytest.MonkeyPatch, docs_url: str) -> None:
    monkeypatch.setenv("QVEC_DB", docs_url)
    assert json.loads(succeed("collections", "--json").stdout)["name"] == "docs"


def test_ingest_uses_a_calibration_file(url: str, files: Path, tmp_path: Path) -> None:
    file = tmp_path / "cal.safetensors"
    text = succeed("calibrate", files / "a.npy", "-o", file, "--threshold", "zero").stdout
    calibration = qvec.Calibration.load(file)
    assert calibration.id in text
    assert not calibration.threshold.any()
    printed = json.loads(succeed("calibrate", files / "a.npy", "-o", file, "--json", "--dimensions", 4).stdout)
    assert printed["id"] == qvec.Calibration.load(file).id
    result = succeed("ingest", files / "a.npy", "--db", url, "-c", "docs", "--calibration", file, "--json")
    assert json.loads(result.stdout)["calibration"] == printed["id"]
    assert "drawn uniformly" not in result.stderr
    np.save(tmp_path / "ranges.npy", np.stack([-np.ones(8, np.float32), np.ones(8, np.float32)]))
    succeed("calibrate", "-o", file, "--import-ranges", tmp_path / "ranges.npy")
    assert qvec.Calibration.load(file).radius == pytest.approx(np.ones(8))


@pytest.mark.slow
def test_db_starts_and_stops_the_embedded_database(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    option = ["--db", f"postgres:{directory}"]
    printed = run_command("db", "url", *option).stdout.strip()
    try:
        with psycopg.connect(printed) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert run_command("db", "start", *option).stdout.strip() == f"running at {printed}"
        assert embedded.running(directory)
    finally:
        assert run_command("db", "stop", *option).stdout == "stopped\n"
    assert not embedded.running(directory)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(printed)
    assert "no database runs in" in run_command("db", "stop", *option).stdout
    assert run_command("db", "url", "--db", UNREACHABLE).stdout.strip() == UNREACHABLE


def run_on_terminal(*arguments: Any, interrupt_at: str | None = None) -> tuple[int, str]:
    """Run the command on a pseudo-terminal; press Ctrl-C once its output matches `interrupt_at`.

    Return the exit code and the output.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm", "COLUMNS": "120"}
        line = command_line(*arguments, batch_rows=20)
        os.execv(line[0], line)
    output = ""
    while True:
        try:
            output += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            break
        if interrupt_at is not None and re.search(interrupt_at, output):
            os.write(terminal, b"\x03")
            interrupt_at = None
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


def test_ingest_shows_progress_on_a_terminal(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_vectors(3000))
    code, output = run_on_terminal("ingest", tmp_path / "a.npy", "--db", url, "-c", "docs")
    assert code == 0
    for stage in ("sampling", "loading"):
        assert re.search(rf"{stage} .*3000/3000", output)
    assert re.search(r"index +.*━", output)
    assert "3,000 rows in" in output
    code, output = run_on_terminal("ingest", tmp_path / "a.npy", "--db", url, "-c", "more", "--quiet")
    assert (code, output) == (0, "")


@pytest.mark.slow
def test_ctrl_c_keeps_embedded_database_running(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of the command, including the embedded server's."""
    np.save(tmp_path / "a.npy", random_vectors(20_000))
    arguments = ["ingest", tmp_path / "a.npy", "--db", f"postgres:{tmp_path / 'data'}", "-c", "docs", "--no-index"]
    code, output = run_on_terminal(*arguments, interrupt_at=r"loading .* [1-9]\d*/20000")
    assert code == 130
    assert "run the same command again to continue" in output
    assert "Traceback" not in output
    assert "lost" not in output
    result = run_command(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["resumed_at"] == 20_000 - summary["rows"] > 0
    assert summary["total_rows"] == 20_000


def test_closed_output_pipe_is_not_an_error(docs_url: str, files: Path) -> None:
    search_command = command_line("search", "--db", docs_url, "-c", "docs", "--vectors", str(files / "a.npy"), "--json")
    with subprocess.Popen(search_command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_ctrl_c_interrupts_a_waiting_search(docs_url: str, files: Path) -> None:
    """Interrupt a search that waits for a table locked by another transaction."""
    lock_waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(docs_url) as blocker, psycopg.connect(docs_url, autocommit=True) as watcher:
        blocker.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        line = command_line("search", "--db", docs_url, "-c", "docs", "--vectors", str(files / "a.npy"))
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while watcher.execute(lock_waits).fetchone() == (0,):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == "Interrupted.\n"


def test_model_folder_is_stored_as_absolute_path(
    url: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    succeed("ingest", files / "a.npy", "--db", url, "-c", "docs", "--model", "model")
    with qvec.connect(url) as database:
        assert database.collection("docs").model == str((tmp_path / "model").resolve())
