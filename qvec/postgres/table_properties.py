"""Copy the properties of a collection's table to the table of its other version: generated columns, indexes, extended
statistics, privileges, storage parameters. Properties that cannot be copied are named in an error."""

from __future__ import annotations

import hashlib
from typing import Any

from psycopg.sql import SQL, Identifier

from qvec.errors import CollectionError
from qvec.postgres._sync.session import Connection
from qvec.postgres.layout import Table

CHANGES = "qvec_changes"
TRUNCATE = "qvec_truncate"
_OWN_TRIGGERS = ["qvec_fill", CHANGES, TRUNCATE]
_OWN_COLUMNS = ["id", "codes", "embedding", "document", "metadata", "embedding_in"]

_UNSUPPORTED = """
    SELECT 'column ' || quote_ident(attname) FROM pg_attribute
        WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped AND attname <> ALL (%(columns)s)
            AND attgenerated = ''
    UNION ALL SELECT 'trigger ' || quote_ident(tgname) FROM pg_trigger
        WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal AND tgname <> ALL (%(triggers)s)
    UNION ALL SELECT 'constraint ' || quote_ident(conname) FROM pg_constraint
        WHERE (conrelid = %(table)s::regclass OR confrelid = %(table)s::regclass) AND contype IN ('f', 'c', 'u', 'x')
    UNION ALL SELECT 'policy ' || quote_ident(polname) FROM pg_policy WHERE polrelid = %(table)s::regclass
    UNION ALL SELECT 'row level security' FROM pg_class WHERE oid = %(table)s::regclass AND relrowsecurity
    UNION ALL SELECT 'publication ' || quote_ident(pubname) FROM pg_publication_rel
        JOIN pg_publication p ON p.oid = prpubid WHERE prrelid = %(table)s::regclass
    UNION ALL SELECT DISTINCT 'view ' || ev_class::regclass FROM pg_depend JOIN pg_rewrite r ON r.oid = objid
        WHERE classid = 'pg_rewrite'::regclass AND refobjid = %(table)s::regclass AND ev_class <> refobjid
    UNION ALL SELECT DISTINCT 'rule ' || quote_ident(rulename) FROM pg_rewrite WHERE ev_class = %(table)s::regclass
    UNION ALL SELECT DISTINCT 'function ' || objid::regprocedure FROM pg_depend
        WHERE classid = 'pg_proc'::regclass AND refobjid = %(table)s::regclass
    UNION ALL SELECT 'inheritance' FROM pg_inherits
        WHERE inhrelid = %(table)s::regclass OR inhparent = %(table)s::regclass
"""

_INDEXES = """
    SELECT c.relname, pg_get_indexdef(c.oid), indisprimary,
           format('INDEX %%I ON %%I.%%I ', c.relname, nspname, t.relname)
    FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_class t ON t.oid = indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace WHERE indrelid = %s::regclass ORDER BY c.relname
"""

_STATISTICS = """
    SELECT stxname, pg_get_statisticsobjdef(s.oid), format('CREATE STATISTICS %%I.%%I', nspname, stxname)
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = stxnamespace WHERE stxrelid = %s::regclass ORDER BY stxname
"""

_PRIVILEGES = """
    WITH held AS (
        SELECT ''::text AS columns, relacl AS acl, relowner FROM pg_class WHERE oid = %(table)s::regclass
        UNION ALL SELECT format(' (%%I)', attname), attacl, relowner FROM pg_attribute
            JOIN pg_class c ON c.oid = attrelid
            WHERE attrelid = %(table)s::regclass AND NOT attisdropped AND attname = ANY (
                SELECT attname FROM pg_attribute WHERE attrelid = %(other)s::regclass AND NOT attisdropped))
    SELECT privilege_type || columns, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END, is_grantable
    FROM held CROSS JOIN LATERAL aclexplode(acl) LEFT JOIN pg_roles r ON r.oid = grantee
    WHERE grantee <> relowner AND (grantee = 0 OR rolname IS NOT NULL)
"""


def version_name(name: str, version: str) -> str:
    """Return the name of a version's table, index or collection, at most 63 bytes: a long name is cut and gets a
    hash."""
    whole = f"{name}@{version}"
    if len(whole.encode()) <= 63:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    kept = name.encode()[: 63 - len(f"~{digest}@{version}")].decode(errors="ignore")
    return f"{kept}~{digest}@{version}"


def check_copyable(connection: Connection, table: Table, collection: str) -> None:
    """Raise CollectionError where a table has dependents or properties that cannot be copied to another table."""
    wanted = {"table": _name(table), "columns": _OWN_COLUMNS, "triggers": _OWN_TRIGGERS}
    found = [row[0] for row in connection.execute(_UNSUPPORTED, wanted).fetchall()]
    if found:
        raise CollectionError(
            f"the table of collection {collection!r} has objects that cannot be moved to the table of a new version: "
            f"{', '.join(sorted(found))}; drop them, recalibrate, and create them again"
        )


def copy_columns(connection: Connection, table: Table, other: Table) -> None:
    """Add the generated columns that the other table lacks, such as the words of the documents."""
    statements = connection.execute(
        "SELECT format('ALTER TABLE %%s ADD COLUMN %%I %%s GENERATED ALWAYS AS (%%s) STORED', %(other)s::text, attname,"
        " format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid))"
        " FROM pg_attribute a JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = %(table)s::regclass AND attgenerated = 's' AND NOT EXISTS (SELECT FROM pg_attribute o"
        " WHERE o.attrelid = %(other)s::regclass AND o.attname = a.attname AND NOT o.attisdropped) ORDER BY attnum",
        {"table": _name(table), "other": _name(other)},
    ).fetchall()
    for (statement,) in statements:
        connection.execute(statement.encode())


def copy_indexes(connection: Connection, table: Table, other: Table, version: str) -> None:
    """Create the indexes that the other table lacks, except the prefilter's, which is built separately."""
    there = {row[0] for row in _indexes(connection, other)}
    for name, definition, is_key, head in _indexes(connection, table):
        wanted = version_name(name, version)
        if is_key or name == table.index or wanted in there:
            continue
        before, found, method = definition.partition(head)
        if not found:
            raise CollectionError(f"cannot create index {name!r} on another table: {definition}")
        target = SQL("INDEX {} ON {} ").format(Identifier(wanted), other.identifier).as_string()
        connection.execute((before + target + method).encode())


def copy_statistics(connection: Connection, table: Table, other: Table, version: str) -> None:
    """Create the extended statistics that the other table lacks; ANALYZE fills them."""
    there = {row[0] for row in _statistics(connection, other)}
    for name, definition, head in _statistics(connection, table):
        wanted = version_name(name, version)
        if wanted not in there:
            what = definition.removeprefix(head).rpartition(" FROM ")[0]
            create = SQL("CREATE STATISTICS {}").format(Identifier(other.schema, wanted)).as_string()
            connection.execute(f"{create}{what} FROM {_name(other)}".encode())


def name_key(connection: Connection, table: Table, other: Table, version: str) -> None:
    """Name the other table's primary key after the key of this one."""
    (key,) = (name for name, _, is_key, _ in _indexes(connection, table) if is_key)
    (made,) = (name for name, _, is_key, _ in _indexes(connection, other) if is_key)
    _rename_index(connection, other.schema, made, version_name(key, version))


def copy_privileges(connection: Connection, table: Table, other: Table) -> None:
    """Give the other table exactly the owner, privileges and storage parameters of this one."""
    for privilege, grantee, _ in _privileges(connection, other, table):
        connection.execute(f"REVOKE {privilege} ON {_name(other)} FROM {grantee}".encode())
    for privilege, grantee, is_grantable in _privileges(connection, table, other):
        option = " WITH GRANT OPTION" if is_grantable else ""
        connection.execute(f"GRANT {privilege} ON {_name(other)} TO {grantee}{option}".encode())
    statements = connection.execute(
        "SELECT format('ALTER TABLE %%s OWNER TO %%I', %(other)s, pg_get_userbyid(t.relowner))"
        " FROM pg_class t JOIN pg_class o ON o.oid = %(other)s::regclass"
        " WHERE t.oid = %(table)s::regclass AND t.relowner <> o.relowner"
        " UNION ALL SELECT format('ALTER TABLE %%s SET (%%s)', %(other)s, array_to_string(reloptions, ', '))"
        " FROM pg_class WHERE oid = %(table)s::regclass AND reloptions IS NOT NULL"
        " UNION ALL SELECT format('COMMENT ON TABLE %%s IS %%L', %(other)s, obj_description(%(table)s::regclass))",
        {"table": _name(table), "other": _name(other)},
    ).fetchall()
    for (statement,) in statements:
        connection.execute(statement.encode())


def swap_names(connection: Connection, table: Table, other: Table, versions: tuple[str, str], kept: Table) -> None:
    """Rename a table with its indexes to `kept`, and give the other table their former names.

    `versions` are the calibrations of the table and of the other one.
    """
    own, new = versions
    names = [name for name, *_ in _indexes(connection, table)]
    there = {name for name, *_ in _indexes(connection, other)}
    for name in names:
        _rename_index(connection, table.schema, name, kept.index if name == table.index else version_name(name, own))
    for name in names:
        made = other.index if name == table.index else version_name(name, new)
        if made in there:
            _rename_index(connection, other.schema, made, name)
    if table.index not in names and other.index in there:
        _rename_index(connection, other.schema, other.index, table.index)
    _swap_statistics(connection, table, other, versions)
    connection.execute(SQL("ALTER TABLE {} RENAME TO {}").format(table.identifier, Identifier(kept.name)))
    connection.execute(SQL("ALTER TABLE {} RENAME TO {}").format(other.identifier, Identifier(table.name)))


def _swap_statistics(connection: Connection, table: Table, other: Table, versions: tuple[str, str]) -> None:
    own, new = versions
    names = [name for name, *_ in _statistics(connection, table)]
    there = {name for name, *_ in _statistics(connection, other)}
    rename = SQL("ALTER STATISTICS {} RENAME TO {}")
    for name in names:
        kept, made = version_name(name, own), version_name(name, new)
        connection.execute(rename.format(Identifier(table.schema, name), Identifier(kept)))
        if made in there:
            connection.execute(rename.format(Identifier(other.schema, made), Identifier(name)))


def _rename_index(connection: Connection, schema: str, name: str, new: str) -> None:
    connection.execute(SQL("ALTER INDEX {} RENAME TO {}").format(Identifier(schema, name), Identifier(new)))


def _indexes(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    """Return the name, definition and head of each index, and whether it is the key; the head names index and table."""
    return connection.execute(_INDEXES, [_name(table)]).fetchall()


def _statistics(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    """Return the name, the definition and the head of the definition of each object of extended statistics."""
    return connection.execute(_STATISTICS, [_name(table)]).fetchall()


def _privileges(connection: Connection, table: Table, other: Table) -> list[tuple[Any, ...]]:
    return connection.execute(_PRIVILEGES, {"table": _name(table), "other": _name(other)}).fetchall()


def _name(table: Table) -> str:
    return table.identifier.as_string()
