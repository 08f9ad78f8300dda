"""Access to a Postgres server: TLS and certificates, services and password files, roles without CREATE."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certificates
import numpy as np
import psycopg
import pytest
from certificates import Authority
from command_line import invoke, succeed
from conftest import realistic
from numpy.typing import NDArray
from pooler_helpers import PROGRAM as PGBOUNCER
from pooler_helpers import pooled
from standby_servers import PostgresServer, primary_server, tls_programs

import qvec
from qvec import Calibration, DatabaseError
from qvec.postgres import sql_script
from qvec.postgres._sync import schema

Vectors = NDArray[np.float32]
ROWS = 200
VECTORS = realistic(1000)
CALIBRATION = Calibration.fit(VECTORS)
SECRET = "hunter-2/%@"
"""A password that a URL can hold only in another form."""
TLS = tls_programs()

needs_openssl = pytest.mark.skipif(certificates.PROGRAM is None, reason="needs openssl")
needs_tls_server = pytest.mark.skipif(TLS is None, reason="needs a Postgres with TLS (Debian: apt install postgresql)")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server without TLS, which wants a password of the role app, with the collection docs."""
    with primary_server() as server:
        server.fetch(f"CREATE ROLE app LOGIN PASSWORD '{SECRET}'")
        with qvec.connect(server.url()) as db:
            docs = db.create_collection("docs", calibration=CALIBRATION)
            docs.upsert(np.arange(ROWS), VECTORS[:ROWS], [f"note {row}" for row in range(ROWS)])
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(sql_script.roles().encode())
            connection.execute("GRANT qvec_reader TO app; GRANT SELECT ON docs TO app")
        server.authenticate("host all app all scram-sha-256")
        yield server


def assert_refused(url: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that client and command fail with one line that has these words, and that nothing shows the password."""
    with caplog.at_level(logging.DEBUG), pytest.raises(DatabaseError) as caught:
        qvec.connect(url)
    with pytest.raises(DatabaseError):
        asyncio.run(qvec.connect_async(url))
    refused = invoke("collections", "--db", url)
    message = str(caught.value)
    assert words in message
    assert refused.exit_code == 1
    assert refused.stderr == f"Error: {message}\n"
    assert "\n" not in message
    assert SECRET not in message + refused.output + caplog.text + repr(caught.value.__cause__)


def assert_searches(url: str) -> None:
    with qvec.connect(url) as db:
        assert db.collection("docs").search(VECTORS[7], 1)[0].id == 7

    async def search() -> None:
        async with await qvec.connect_async(url) as db:
            assert (await (await db.collection("docs")).search(VECTORS[7], 1))[0].id == 7

    asyncio.run(search())


# TLS


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """An authority; its folder also holds the certificates that it signs, and can be read by a server's user."""
    with tempfile.TemporaryDirectory(prefix="qvec-tls-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as folder:
        Path(folder).chmod(0o755)
        yield Authority(Path(folder), "ours")


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "theirs")


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[PostgresServer]:
    """A server on localhost with TLS; the role app logs in with a certificate. It has no pgvector."""
    with primary_server(TLS) as server:
        server.use_tls(*authority.sign("server", "localhost"), authority.certificate)
        server.fetch("CREATE ROLE app LOGIN")
        server.authenticate("hostssl all app all cert", "hostnossl all app all reject")
        yield server


def tls_url(server: PostgresServer, user: str = "postgres", host: str = "localhost", **settings: object) -> str:
    """Return a URL with a password, which the server does not want."""
    password = "hunter-2%2F%25%40"
    given = "&".join(f"{name}={value}" for name, value in settings.items())
    return f"postgresql://{user}:{password}@{host}:{server.port}/postgres?{given}"


@needs_openssl
@needs_tls_server
def test_connections_with_tls(tls_server: PostgresServer, authority: Authority) -> None:
    for mode in ("require", "verify-ca", "verify-full"):
        url = tls_url(tls_server, sslmode=mode, sslrootcert=authority.certificate)
        with qvec.connect(url) as db:
            assert db.collections() == []
            with db.store.connection() as connection:  # type: ignore[attr-defined]
                assert connection.pgconn.ssl_in_use
        assert succeed("collections", "--db", url).exit_code == 0
    with qvec.connect(
        tls_url(tls_server, host="127.0.0.1", sslmode="verify-ca", sslrootcert=authority.certificate)
    ) as db:
        assert db.collections() == []


@needs_openssl
@needs_tls_server
def test_a_server_that_is_not_trusted(
    tls_server: PostgresServer,
    authority: Authority,
    other_authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for mode in ("verify-ca", "verify-full"):
        wrong = tls_url(tls_server, sslmode=mode, sslrootcert=other_authority.certificate)
        assert_refused(wrong, "is not signed by an authority in sslrootcert", caplog)
    elsewhere = tls_url(tls_server, host="127.0.0.1", sslmode="verify-full", sslrootcert=authority.certificate)
    assert_refused(elsewhere, "with sslmode=verify-full the URL must have a host name that is in the", caplog)
    missing = tls_url(tls_server, sslmode="verify-ca", sslrootcert=tmp_path / "none.crt")
    assert_refused(missing, f'root certificate file "{tmp_path}/none.crt" does not exist (sslrootcert names', caplog)
    (tmp_path / "empty.crt").touch()
    empty = tls_url(tls_server, sslmode="verify-ca", sslrootcert=tmp_path / "empty.crt")
    assert_refused(empty, "(sslrootcert names the file", caplog)


@needs_openssl
@needs_tls_server
def test_client_certificates(
    tls_server: PostgresServer,
    authority: Authority,
    other_authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trusting = {"sslmode": "verify-full", "sslrootcert": authority.certificate}

    def url(certificate: Path, key: Path) -> str:
        return tls_url(tls_server, "app", **trusting, sslcert=certificate, sslkey=key)

    certificate, key = authority.sign("app")
    with qvec.connect(url(certificate, key)) as db:
        assert db.collections() == []
    without = tls_url(tls_server, "app", **trusting, sslcert=tmp_path / "none.crt")
    assert_refused(without, "the server wants a client certificate: sslcert and sslkey", caplog)
    assert_refused(url(*authority.sign("intruder")), "the certificate in sslcert is of another user", caplog)
    assert_refused(url(*other_authority.sign("app")), "authority of the client certificate in sslcert", caplog)
    assert_refused(url(certificate, tmp_path / "none.key"), "sslkey names the key of the client certificate", caplog)
    key.chmod(0o644)
    assert_refused(url(certificate, key), "readable by its owner only (chmod 600)", caplog)


def test_a_server_without_tls(server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    no_tls = "the server has no TLS, which sslmode asks for; turn it on there, or lower sslmode"
    for settings in ({"sslmode": "require"}, {"sslmode": "verify-full", "sslrootcert": "system"}):
        assert_refused(tls_url(server, host="127.0.0.1", **settings), no_tls, caplog)
    assert_refused(tls_url(server, host="127.0.0.1", sslmode="always"), 'invalid sslmode value: "always"', caplog)


@needs_openssl
@pytest.mark.skipif(PGBOUNCER is None, reason="needs PgBouncer (Debian: apt install pgbouncer)")
def test_searches_with_tls_and_a_client_certificate(
    server: PostgresServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = authority.sign("pooler", "localhost")
    mine, my_key = authority.sign("reader")
    monkeypatch.setenv("PGSSLCERT", str(mine))
    monkeypatch.setenv("PGSSLKEY", str(my_key))
    files = {
        "client_tls_cert_file": certificate,
        "client_tls_key_file": key,
        "client_tls_ca_file": authority.certificate,
    }
    with pooled(server.url(), client_tls_sslmode="verify-full", **files) as url:
        trusting = url.replace("127.0.0.1", "localhost")
        trusting += f"?sslmode=verify-full&sslrootcert={authority.certificate}"
        assert_searches(trusting)
        monkeypatch.setenv("PGSSLCERT", "/nowhere.crt")
        assert_refused(trusting, "", caplog)


# Services and password files


@pytest.fixture
def services(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service file: `prod` has a password, `bare` and `wrong` have none and a wrong one."""
    common = f"host=127.0.0.1\nport={server.port}\nuser=app\ndbname=postgres\n"
    file = tmp_path / "services.conf"
    file.write_text(
        f"[prod]\n{common}password={SECRET}\n[bare]\n{common}[wrong]\n{common}password={SECRET}!\n"
        f"[other]\n{common.replace('dbname=postgres', 'dbname=elsewhere')}password={SECRET}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    return file


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///?service=prod",
        "postgresql://?service=prod",
        "postgres:///?service=prod",
        "postgresql:///postgres?service=other",
        "postgresql://app@/postgres?service=other",
    ],
)
def test_a_service_has_host_user_and_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert_searches(url)
        with qvec.connect(url) as db:
            shown = db.name + repr(db) + repr(db.collection("docs"))
            with pytest.raises(
                DatabaseError, match=r"^cannot delete from collection 'docs': permission denied"
            ) as caught:
                db.collection("docs").delete([1])
    for command in (["collections"], ["info", "docs"]):
        shown += succeed(*command, "--db", url).output
    assert SECRET not in shown + caplog.text + str(caught.value)


@pytest.mark.usefixtures("services")
def test_a_service_that_does_not_work(services: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_refused("postgresql:///?service=wrong", 'password authentication failed for user "app"', caplog)
    assert_refused("postgresql:///?service=bare", "give one in the file of passfile or PGPASSFILE", caplog)
    assert_refused("postgresql:///?service=none", 'definition of service "none" not found (service names a', caplog)
    services.write_text(f"[prod]\npassword={SECRET}\nnonsense\n")
    assert_refused("postgresql:///?service=prod", "(PGSERVICEFILE or ~/.pg_service.conf is read", caplog)


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("by_variable", [False, True], ids=["passfile", "PGPASSFILE"])
def test_a_password_file(
    server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    by_variable: bool,
) -> None:
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{server.port}:*:app:{SECRET}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file) if by_variable else str(tmp_path / "none"))
    end = "" if by_variable else f"passfile={file}"
    with caplog.at_level(logging.DEBUG):
        assert_searches(f"postgresql://app@{server.host}/postgres?{end}")
        assert_searches(f"postgresql:///?service=bare&{end}")
    assert SECRET not in caplog.text
    file.write_text(f"*:*:*:*:{SECRET}!\n")
    refused = 'password authentication failed for user "app"'
    assert_refused(f"postgresql://app@{server.host}/postgres?{end}", refused, caplog)


# Roles without CREATE


@pytest.fixture
def connect_as(server: PostgresServer) -> Iterator[Callable[..., str]]:
    """A function that creates a role with grants and returns its URL; the roles are dropped at the end."""
    roles: list[str] = []

    def create(role: str, *grants: str) -> str:
        roles.append(role)
        server.fetch(f"CREATE ROLE {role} LOGIN")
        for grant in grants:
            server.fetch(f"GRANT {grant} TO {role}")
        return server.url().replace("postgres@", f"{role}@")

    yield create
    for role in roles:
        server.fetch(f"DROP OWNED BY {role}; DROP ROLE {role}")


def assert_missing_right(url: str, work: Callable[[Any], object], words: str) -> None:
    with qvec.connect(url) as db, pytest.raises(DatabaseError) as caught:
        work(db)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reader_only_searches(connect_as: Callable[..., str]) -> None:
    url = connect_as("reading", "qvec_reader", "SELECT ON docs")
    assert_searches(url)
    assert succeed("info", "docs", "--db", url).exit_code == 0
    granting = "permission denied for table docs; let its owner run GRANT SELECT ON … TO …; to write also INSERT"
    assert_missing_right(url, lambda db: db.collection("docs").upsert([1], VECTORS[:1]), granting)
    assert_missing_right(url, lambda db: db.collection("docs").delete([1]), granting)
    assert_missing_right(
        url,
        lambda db: db.create_collection("own", calibration=Calibration.fit(VECTORS, threshold=0)),
        "permission denied for table calibration; let the owner of the schema grant this user qvec_reader or, to write",
    )


def test_a_writer_without_create(connect_as: Callable[..., str], tmp_path: Path) -> None:
    url = connect_as("writing", "qvec_writer", "SELECT, INSERT, UPDATE, DELETE ON docs")
    with qvec.connect(url) as db:
        docs = db.collection("docs")
        assert docs.upsert([1000], VECTORS[999:]) == 1
        assert docs.search(VECTORS[999], 1)[0].id == 1000
        assert docs.delete([1000]) == 1
    np.save(tmp_path / "a.npy", VECTORS[500:520])
    command = ["ingest", tmp_path / "a.npy", "--db", url]
    assert succeed(*command, "-c", "docs", "--id-start", "5000", "--no-index").exit_code == 0
    with qvec.connect(url) as db:
        docs = db.collection("docs")
        assert docs.delete(list(range(5000, 5020))) == 20
        docs.set_oversampling(docs.oversampling)
    granting = (
        "user 'writing' may not create the table 'own' in schema 'public'; let its owner run: GRANT CREATE ON SCHEMA"
    )
    assert_missing_right(url, lambda db: db.create_collection("own", calibration=CALIBRATION), granting)
    assert_missing_right(
        url, lambda db: db.collection("docs").build_index(), "docs; connect as the owner, or as a member"
    )
    assert_missing_right(url, lambda db: db.drop_collection("docs"), "docs; connect as the owner, or as a member")
    refused = invoke(*command, "-c", "own")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith("Error: user 'writing' may not create the table 'own'")
    assert "Traceback" not in refused.output


def test_a_writer_without_temporary_tables(server: PostgresServer, connect_as: Callable[..., str]) -> None:
    url = connect_as("lasting", "qvec_writer", "SELECT, INSERT, UPDATE, DELETE ON docs")
    server.fetch("REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC")
    try:
        writing = "GRANT TEMPORARY ON DATABASE"
        assert_missing_right(url, lambda db: db.collection("docs").upsert([1], VECTORS[1:2]), writing)
        assert_searches(url)
    finally:
        server.fetch("GRANT TEMPORARY ON DATABASE postgres TO PUBLIC")


def test_a_role_without_grants(server: PostgresServer, connect_as: Callable[..., str]) -> None:
    url = connect_as("stranger")
    granting = "permission denied for schema qvec; let the owner of the schema grant this user qvec_reader"
    assert_missing_right(url, lambda db: db.collections(), granting)
    refused = invoke("collections", "--db", url)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert granting in refused.stderr
    server.fetch("CREATE DATABASE bare")
    try:
        bare = url.replace("/postgres", "/bare")
        with qvec.connect(bare) as db:
            assert db.collections() == []
        assert_missing_right(bare, lambda db: db.install(), "user 'stranger' may not create the extension vector")
        with psycopg.connect(server.url("bare"), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        installing = (
            "user 'stranger' may not create the schema qvec in database 'bare'; let its owner run: GRANT CREATE"
        )
        assert_missing_right(bare, lambda db: db.create_collection("own", calibration=CALIBRATION), installing)
        with psycopg.connect(server.url("bare"), autocommit=True) as connection:
            schema.prepare(connection, install=True)
        assert_missing_right(bare, lambda db: db.collections(), granting)
    finally:
        server.fetch("DROP DATABASE bare WITH (FORCE)")
