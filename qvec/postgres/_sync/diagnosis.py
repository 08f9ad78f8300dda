# Generated from qvec/postgres/_async/diagnosis.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""What a bug report needs about a Postgres database: its versions and settings, and what is known to go wrong with
them. This reads in single statements, which a pooler in statement mode allows, and changes nothing."""

from __future__ import annotations

from qvec.postgres import sql_script
from qvec.postgres._sync import schema
from qvec.postgres._sync.execute import fetch
from qvec.postgres._sync.session import Connection
from qvec.postgres.errors import wrap_errors
from qvec.postgres.machine import DOCKER_SHARED_MEMORY, shared_memory
from qvec.store.diagnosis import Diagnosis

_SETTINGS = "SELECT name, current_setting(name) FROM unnest(%s::text[]) name"
_NAMES = ["shared_buffers", "maintenance_work_mem", "max_parallel_maintenance_workers", "max_parallel_workers"]


def diagnose(connection: Connection, *, embedded: bool) -> Diagnosis:
    """Return versions, settings and known problems of the database, whether or not qvec supports it."""
    found = Diagnosis()
    _add_server(connection, found)
    _add_pgvector(connection, found)
    _add_schema(connection, found)
    found.facts |= fetch(connection, _SETTINGS, [_NAMES])
    if embedded or connection.info.host.startswith("/"):  # a Unix socket
        _add_shared_memory(found)
    return found


def _add_server(connection: Connection, found: Diagnosis) -> None:
    ((is_standby,),) = fetch(connection, "SELECT pg_is_in_recovery()")
    found.facts["postgres"] = connection.info.parameter_status("server_version")
    found.facts["encoding"] = connection.info.parameter_status("server_encoding")
    found.facts["standby"] = is_standby
    found.facts["pooler"] = connection.behind_pooler
    with found.noting_errors():
        schema.check_postgres(connection.info)


def _add_pgvector(connection: Connection, found: Diagnosis) -> None:
    installed = schema.installed_pgvector(connection)
    available = schema.available_pgvector(connection)
    found.facts["pgvector"] = installed and installed.text
    found.facts["pgvector_schema"] = installed and installed.schema
    found.facts["pgvector_available"] = available
    with found.noting_errors():
        if installed is not None:
            vector = schema.check_pgvector(installed)
            problems = (schema.iterative_scan_warning(vector), schema.hnsw_warning(vector))
            found.problems += filter(None, problems)
        elif available is None:
            raise schema.no_pgvector_error()


def _add_schema(connection: Connection, found: Diagnosis) -> None:
    current, installed = sql_script.version(), None
    with found.noting_errors(), wrap_errors("cannot read the version of the schema qvec"):
        installed = schema.installed_version(connection)
    found.facts["qvec_schema"] = installed
    found.facts["qvec_schema_of_package"] = current
    if installed is None or installed == current:
        return
    advice = (
        "run: qvec sql upgrade"
        if sql_script.knows(installed)
        else "this package does not know that version; upgrade it: pip install --upgrade qvec"
    )
    found.problems.append(f"the schema qvec is {installed}, and this package has {current}; {advice}")


def _add_shared_memory(found: Diagnosis) -> None:
    size = shared_memory()
    if size is None:
        return
    found.facts["dev_shm"] = f"{size >> 20}MB"
    if size <= DOCKER_SHARED_MEMORY:
        found.problems.append(
            f"/dev/shm has {size >> 20} MB, which is too little for parallel index builds, so that large ones run "
            "without parallel workers; give the container more: --shm-size 1g, or shm_size in a compose file"
        )
