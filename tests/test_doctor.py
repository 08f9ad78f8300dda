"""`qvec doctor`: its report on machine, packages and databases, the problems that it knows, and no secrets."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from command_line import invoke, succeed
from databases import Store
from fake_qdrant import FakeQdrantServer
from pooler_helpers import PROGRAM, pooled

import qvec
from qvec.cli import environment
from qvec.postgres import sql_script
from qvec.postgres._sync import diagnosis, schema
from qvec.store.connect_options import redact

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def roomy_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, without variables, on a machine with a gibibyte of shared memory."""
    monkeypatch.chdir(tmp_path)
    for name in ("QVEC_DB", "QVEC_QDRANT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(diagnosis, "shared_memory", lambda: 1 << 30)


def examine(*arguments: str, **options: Any) -> dict[str, Any]:
    """Return the report of `qvec doctor --json`; its exit code has to tell whether there are problems."""
    result = invoke("doctor", "--json", *arguments, **options)
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (1 if report["problems"] else 0)
    assert result.stderr == ""
    return report


def problem_of(*arguments: str, **options: Any) -> str:
    """Return the only problem that `qvec doctor` finds, in one line."""
    (problem,) = examine(*arguments, **options)["problems"]
    assert "\n" not in problem
    return str(problem)


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


# Machine and packages


def test_report_without_a_database() -> None:
    report = examine()
    assert report["qvec"] == qvec.__version__
    assert report["python"].startswith(platform.python_version())
    assert report["platform"] == platform.platform()
    assert report["cpu"].keys() == {"model", "cores", "features"}
    assert {"numpy", "psycopg", "pgvector", "qdrant-client", "qdrant-edge-py", "torch"} <= report["packages"].keys()
    assert report["packages"]["numpy"] == environment.installed_version("numpy")
    assert (report["database"], report["problems"]) == (None, [])


def test_report_as_text() -> None:
    text = succeed("doctor").stdout
    assert re.search(rf"^qvec: +{qvec.__version__}$", text, re.MULTILINE)
    assert re.search(r"^  numpy: +\d", text, re.MULTILINE)
    assert re.search(r"^database: +none opened", text, re.MULTILINE)
    assert text.endswith("problems:\n  none known\n")


def test_version_stays_one_line() -> None:
    assert succeed("--version").stdout == f"qvec, version {qvec.__version__}\n"


def test_cpu_features_are_those_that_rust_is_compiled_for() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "rust").rglob("src/*.rs"))
    targets = re.findall(r"#\[multiversion\(targets\((.*?)\)\)\]", sources)
    features = {name for target in re.findall(r'"(.*?)"', "".join(targets)) for name in target.split("+")}
    assert features == {"x86_64", *environment.CPU_FEATURES}


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "features"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vpopcntdq popcnt\n", ["avx2", "popcnt", "avx512vpopcntdq"]),
        ("AMD64", None, None),
        ("aarch64", "Features\t: fp asimd\n", []),
    ],
)
def test_cpu_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, cpuinfo: str | None, features: list[str] | None
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert environment.cpu_features(tmp_path / "cpuinfo") == features


def test_lower_bounds_are_those_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"numpy", "psycopg", "torch", "sentence-transformers", "qdrant-edge-py"} <= environment.lower_bounds().keys()
    requirements = [
        "numpy>=1.24",
        "psycopg[binary,pool]>=3.2",
        "sentence-transformers[train] >=6 ; extra == 'models'",
        "qvec[embedded,models] ; extra == 'demo'",
        "sphinx>=8; extra == 'docs'",
        'numpy>=2 ; extra == "dev"',
    ]
    monkeypatch.setattr(environment, "requires", lambda _: requirements)
    assert environment.lower_bounds() == {"numpy": "1.24", "psycopg": "3.2", "sentence-transformers": "6"}


@pytest.mark.parametrize(
    ("installed", "is_old"),
    [("0.3.6", True), ("0.4", False), ("0.4.0rc1", False), ("0.10.1", False), ("1.0+cu121", False), (None, False)],
)
def test_packages_older_than_the_lower_bound(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, is_old: bool
) -> None:
    monkeypatch.setattr(environment, "lower_bounds", lambda: {"pgvector": "0.4"})
    monkeypatch.setattr(environment, "installed_version", lambda _: installed)
    line = "pgvector is 0.3.6, and qvec needs 0.4 or newer; run: pip install --upgrade 'pgvector>=0.4'"
    assert examine()["problems"] == ([line] if is_old else [])


# Databases that are not there


def test_default_directory_is_not_created(tmp_path: Path) -> None:
    examine()
    assert list(tmp_path.iterdir()) == []


def test_existing_default_directory_is_opened(tmp_path: Path) -> None:
    (tmp_path / "qvec-data").mkdir()
    (tmp_path / "qvec-data" / "PG_VERSION").write_text("1\n")
    assert "cannot open the embedded database in qvec-data" in problem_of()


@pytest.mark.parametrize("url", ["postgres:./missing", "postgres:./qvec-data", "qdrant:./missing"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_named_missing_directory_is_a_problem(tmp_path: Path, url: str, by_variable: bool) -> None:
    problem = problem_of(env={"QVEC_DB": url}) if by_variable else problem_of("--db", url)
    assert problem.startswith(f"there is no database in {url.partition(':')[2]} yet")
    assert list(tmp_path.iterdir()) == []


def test_unreachable_server_is_a_problem() -> None:
    report = examine("--db", "postgresql://me@localhost:1/shop")
    assert report["database"] is None
    assert report["problems"][0].startswith("cannot connect to postgresql://me@localhost:1/shop: ")


# Databases


def test_report_on_every_store(store: Store) -> None:
    report = examine("--db", store.url)
    assert report["database"]["kind"] == store.database.kind
    assert report["database"]["url"] == (redact(store.url) if "://" in store.url else store.url)
    if not store.kind.endswith("-server"):  # whose version may be any
        assert report["problems"] == []


def test_report_on_postgres(url: str) -> None:
    facts = examine("--db", url)["database"]
    assert re.match(r"\d\d", facts["postgres"])
    assert facts["pgvector"] == facts["pgvector_available"]
    assert facts["qvec_schema"] == facts["qvec_schema_of_package"] == sql_script.version()
    assert (facts["encoding"], facts["standby"], facts["pooler"]) == ("UTF8", False, False)
    assert (facts["pgvector_schema"], facts["dev_shm"]) == ("public", "1024MB")
    assert {"shared_buffers", "maintenance_work_mem", "max_parallel_maintenance_workers"} <= facts.keys()
    text = succeed("doctor", "--db", url).stdout
    assert re.search(r"^  pooler: +no$", text, re.MULTILINE)
    assert re.search(r"^  shared_buffers: +\d+\w+$", text, re.MULTILINE)


def test_doctor_installs_nothing(empty_url: str) -> None:
    facts = examine("--db", empty_url)["database"]
    assert (facts["pgvector"], facts["qvec_schema"]) == (None, None)
    assert facts["pgvector_available"] is not None
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'").fetchall() == []


@pytest.mark.parametrize(
    ("version", "problems"),
    [
        ("0.6.2", ["pgvector is 0.6.2; qvec needs 0.7.0 or newer"]),
        ("0.7.4", ["pgvector 0.7.4 has no iterative index scans", "pgvector 0.7.4 has known HNSW bugs"]),
        ("0.8.1", ["pgvector 0.8.1 has known HNSW bugs"]),
        ("0.8.4", []),
    ],
)
def test_old_pgvector_is_a_problem(url: str, version: str, problems: list[str]) -> None:
    execute(url, f"UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'vector'")
    report = examine("--db", url)
    assert report["database"]["pgvector"] == version
    assert len(report["problems"]) == len(problems)
    assert all(found.startswith(problem) for found, problem in zip(report["problems"], problems, strict=True))


def test_server_without_pgvector_is_a_problem(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_AVAILABLE", schema._AVAILABLE.replace("'vector'", "'no such extension'"))
    assert problem_of("--db", empty_url).startswith("the server has no pgvector; install it")


@pytest.mark.parametrize(
    ("version", "remedy"), [("0.1.0", "run: qvec sql upgrade"), ("9.9.9", "pip install --upgrade qvec")]
)
def test_schema_of_another_version_is_a_problem(url: str, version: str, remedy: str) -> None:
    execute(url, f"CREATE OR REPLACE FUNCTION qvec.version() RETURNS text LANGUAGE sql AS $$SELECT '{version}'$$")
    problem = problem_of("--db", url)
    assert problem.startswith(f"the schema qvec is {version}, and this package has {sql_script.version()}; ")
    assert problem.endswith(remedy)


def test_old_server_is_a_problem(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST_POSTGRES", 99)
    assert problem_of("--db", url).endswith("qvec needs 99 or newer")


def test_other_encoding_is_a_problem(new_database: Any) -> None:
    url = new_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    assert "has encoding LATIN1; qvec needs UTF8" in problem_of("--db", url)


def test_little_shared_memory_is_a_problem(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "shared_memory", lambda: 64 << 20)
    assert problem_of("--db", url).startswith("/dev/shm has 64 MB, which is too little for parallel index builds")


def test_missing_right_is_a_problem(url: str, admin: psycopg.Connection) -> None:
    user = "doctor_guest"
    admin.execute(f"DROP ROLE IF EXISTS {user}".encode())
    admin.execute(f"CREATE ROLE {user} LOGIN".encode())
    report = examine("--db", url.replace("postgres@", f"{user}@"))
    (problem,) = report["problems"]
    assert problem.startswith("cannot read the version of the schema qvec: permission denied for schema qvec")
    assert report["database"]["shared_buffers"]


@pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer (Debian: apt install pgbouncer)")
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_pooler_is_reported(url: str, mode: str) -> None:
    with pooled(url, mode) as pooled_url:
        assert examine("--db", pooled_url)["database"]["pooler"] is True


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("1.20.0", None),
        ("1.17.3", "Qdrant 1.17.3 lacks TurboQuant prefilters, among them the default, searches by words"),
        ("1.19.1", "Qdrant 1.19.1 lacks searches by words"),
        ("1.15.0", "Qdrant 1.15.0 keeps no metadata of collections, which qvec needs"),
    ],
)
def test_version_of_qdrant(tmp_path: Path, version: str, problem: str | None) -> None:
    with FakeQdrantServer(tmp_path, version=version) as server:
        report = examine("--db", server.url)
    facts = report["database"]
    assert (facts["qdrant"], facts["nodes"]) == (version, {server.url: version})
    assert [found.startswith(str(problem)) for found in report["problems"]] == ([] if problem is None else [True])


def test_nodes_of_qdrant(tmp_path: Path, short_retries: None) -> None:  # noqa: ARG001
    with FakeQdrantServer(tmp_path / "1") as one, FakeQdrantServer(tmp_path / "2", version="1.19.0") as two:
        report = examine("--db", f"{one.url},127.0.0.1:{two.port},127.0.0.1:1")
    assert report["database"]["nodes"] == {
        one.url: "1.20.0",
        two.url: "1.19.0",
        "qdrant://127.0.0.1:1": None,
    }
    unreachable, old, different = report["problems"]
    assert unreachable.startswith("cannot connect to qdrant://127.0.0.1:1: ")
    assert old.startswith("Qdrant 1.19.0 lacks")
    assert different.startswith("the nodes run different versions of Qdrant (1.19.0, 1.20.0)")


# Secrets

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:{}@localhost:1/shop",
        "postgresql://me@localhost:1/shop?password={}",
        "postgresql://me:a@{}@localhost:1/shop",
        "mysql://me:{}@localhost/shop",
        "http://localhost:6333?api_key={}",
        "http://localhost:6333?API-Key={}",
        "host=localhost password={}",
        "me:{}@localhost/shop",
        "qdrant://key:{}@localhost:6334",
        "qdrant://localhost:6334?api_key={}",
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_secrets_of_a_url_are_not_printed(url: str, options: list[str]) -> None:
    result = invoke("doctor", "--db", url.format(SECRET), *options)
    assert result.exit_code == 1
    assert SECRET not in result.output


def test_password_of_an_open_database_is_not_printed(url: str) -> None:
    with_password = f"{url.replace('postgres@', f'postgres:{SECRET}@')}&password={quote(SECRET)}"
    assert with_password.count(SECRET) == 2
    result = succeed("doctor", "--db", with_password)
    assert "postgresql://postgres@" in result.output
    assert SECRET not in result.output


def test_api_key_is_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeQdrantServer(tmp_path, api_key=SECRET) as server:
        monkeypatch.setenv("QVEC_QDRANT_API_KEY", SECRET)
        assert SECRET not in succeed("doctor", "--db", server.url).output
        monkeypatch.setenv("QVEC_QDRANT_API_KEY", SECRET + "3")
        result = invoke("doctor", "--db", server.url)
    assert result.exit_code == 1
    assert SECRET not in result.output
