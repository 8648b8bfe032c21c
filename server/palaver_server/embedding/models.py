"""The table of vectors and the models in it, created where the database has pgvector."""

import logging
from typing import Any, NamedTuple

from pgvector.psycopg.halfvec import register_halfvec_info
from psycopg import errors
from psycopg.types import TypeInfo

from palaver_server.database.connection import Connection, Row
from palaver_server.database.pool import Pool
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.durations import milliseconds
from palaver_server.errors import VectorsUnusable

_LOGGER = logging.getLogger(__name__)

# The first version with iterative index scans, which continue until enough rows pass a filter.
_MIN_PGVECTOR_VERSION = (0, 8)

_TEXT = "m.role || ': ' || m.content"


class VectorSpace(NamedTuple):
    """The vectors of one model, which are comparable with each other only.

    Statements qualify pgvector's types with their schema: it may not be on the search path.
    """

    model_id: int
    dimensions: int
    schema: str
    type_oid: int
    array_oid: int

    def register(self, connection: Connection) -> None:
        """Let a connection send `HalfVector` parameters, in pgvector's binary format.

        pgvector's own `register_vector` looks the types up by name, on the search path.
        """
        if connection.adapters.types.get(self.type_oid) is None:
            halfvec = TypeInfo("halfvec", self.type_oid, self.array_oid)
            register_halfvec_info(connection, halfvec)

    @property
    def names(self) -> dict[str, Any]:
        """Return the values of the placeholders in statements."""
        return {
            "model": self.model_id,
            "halfvec": f"{self.schema}.halfvec",
            "inner_product": f"{self.schema}.halfvec_ip_ops",
            # The expression of the model's index: ORDER BY it can use the index.
            "indexed": f"embedding::{self.schema}.halfvec({self.dimensions})",
            # The negative inner product: for vectors of length 1, the negative similarity.
            "distance": f"OPERATOR({self.schema}.<#>)",
            # The text that is embedded of a row of `messages m`; the role is part of the meaning.
            "text": _TEXT,
            "text_hash": f"hashtextextended({_TEXT}, 0)",
        }


_GET_PGVECTOR = Statement(
    "embedding.get_pgvector",
    """
    SELECT extversion, quote_ident(nspname), t.oid, t.typarray,
        CASE WHEN has_schema_privilege(n.oid, 'USAGE') IS FALSE
            THEN format('GRANT USAGE ON SCHEMA %%I TO %%I', nspname, current_user)
        END
    FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
        LEFT JOIN pg_type t ON t.typnamespace = n.oid AND typname = 'halfvec'
    WHERE extname = 'vector'
""",
)

# NULL: there is no table yet, or nothing is missing.
_GET_GRANT = Statement(
    "embedding.get_grant",
    """
    SELECT format('GRANT %%s ON embeddings TO %%I', string_agg(privilege, ', '), current_user)
    FROM unnest(%(privileges)s::text[]) AS privilege
    WHERE NOT has_table_privilege(to_regclass('embeddings')::oid, privilege)
    HAVING count(*) > 0
""",
)

_CREATE_PGVECTOR = Statement(
    "embedding.create_pgvector", "CREATE EXTENSION IF NOT EXISTS vector", is_prepared=False
)

# Maximum wait for another server that creates the same, or a transaction that locks the table.
_LOCK_TIMEOUT_SECONDS = 30.0

_LIMIT_LOCK_WAITS = Statement(
    "embedding.limit_lock_waits",
    "SELECT set_config('lock_timeout', %(timeout)s, true)",
    is_prepared=False,
)

# Servers that start at the same time on one schema wait for each other.
_KEY = "hashtextextended('palaver embeddings ' || current_schema(), 0)"
_TRY_LOCK = Statement(
    "embedding.try_lock_schema", f"SELECT pg_try_advisory_xact_lock({_KEY})", is_prepared=False
)
_LOCK = Statement(
    "embedding.lock_schema", f"SELECT pg_advisory_xact_lock({_KEY})", is_prepared=False
)

_GET_MODEL = Statement(
    "embedding.get_model",
    """
    SELECT id FROM embedding_models WHERE name = %(name)s AND dimensions = %(dimensions)s
""",
)

_ADD_MODEL = Statement(
    "embedding.add_model",
    """
    INSERT INTO embedding_models (name, dimensions) VALUES (%(name)s, %(dimensions)s)
    RETURNING id
""",
)

# `text_hash` is the hash of the text that the vector was made from: for any other text of the
# message, the vector does not count. ON DELETE CASCADE: the purge deletes vectors with their
# messages. halfvec stores 2 bytes per number, half of vector, and ranks the same.
_CREATE_TABLE = StatementTemplate(
    "embedding.create_table",
    """
    CREATE TABLE IF NOT EXISTS embeddings (
        session_id   text COLLATE "C" NOT NULL,
        sequence     bigint NOT NULL,
        model        integer NOT NULL REFERENCES embedding_models (id),
        text_hash    bigint NOT NULL,
        embedding    {halfvec} NOT NULL,
        PRIMARY KEY (session_id, sequence, model),
        FOREIGN KEY (session_id, sequence) REFERENCES messages (session_id, sequence)
            ON DELETE CASCADE ON UPDATE CASCADE
    )
""",
)

# For searches over all messages. `m` and `ef_construction` are half of pgvector's defaults:
# inserting into this index is more than half of the cost of a message, and a larger
# `hnsw.ef_search` restores the recall.
_CREATE_INDEX = StatementTemplate(
    "embedding.create_index",
    """
    CREATE INDEX IF NOT EXISTS embeddings_nearest_{model} ON embeddings
        USING hnsw (({indexed}) {inner_product})
        WITH (m = 8, ef_construction = 32)
        WHERE model = {model}
""",
)


async def prepare_model(pool: Pool, name: str, dimensions: int) -> VectorSpace:
    """Create what the vectors of a model need, unless it exists.

    Raises:
        VectorsUnusable: The database has no pgvector, or its version is too old, the database
            user may not create what is missing, or others lock it for too long.
    """
    parameters = {"name": name, "dimensions": dimensions}
    async with pool.connection() as connection:
        if space := await _find(connection, parameters, ["SELECT", "INSERT", "UPDATE", "DELETE"]):
            return space  # needs no right to create anything
        try:
            # Without the timeout: the new index reads the vectors of all models.
            async with connection.in_transaction(has_timeout=False):
                await _lock(connection)
                return await _create(connection, parameters)
        except errors.LockNotAvailable as error:
            raise VectorsUnusable(
                "another server, or a transaction such as a backup's, has locked the table of"
                f" vectors for {_LOCK_TIMEOUT_SECONDS:g} s: restart Palaver when it is done"
            ) from error
        except errors.InsufficientPrivilege as error:
            raise VectorsUnusable(
                "this database user may not create the table of vectors: run palaver migrate with"
                " the same settings as a user who may, then restart Palaver"
            ) from error


async def _lock(connection: Connection) -> None:
    await connection.run(_LIMIT_LOCK_WAITS, {"timeout": str(milliseconds(_LOCK_TIMEOUT_SECONDS))})
    if await connection.fetch(_TRY_LOCK) != [(True,)]:
        _LOGGER.warning(
            "another server is creating the table of vectors; waiting up to %g s",
            _LOCK_TIMEOUT_SECONDS,
        )
        await connection.run(_LOCK)


async def find_model(pool: Pool, name: str, dimensions: int) -> VectorSpace:
    """Return the space of a model's vectors for searches, and create nothing.

    Raises:
        VectorsUnusable: The database has no vectors of the model, or this user may not read them.
    """
    async with pool.connection() as connection:
        parameters = {"name": name, "dimensions": dimensions}
        if space := await _find(connection, parameters, ["SELECT"]):
            return space
    raise VectorsUnusable(
        "the database has no vectors of this model, and this server is read-only: start a server"
        " that writes with the same embedder, then restart this one"
    )


async def _find(
    connection: Connection, parameters: dict[str, Any], privileges: list[str]
) -> VectorSpace | None:
    """Return the space of a model's vectors, if the database has any.

    Raises:
        VectorsUnusable: Its pgvector is too old, or this user lacks the privileges.
    """
    pgvector = await connection.fetch_one(_GET_PGVECTOR)
    found = await connection.fetch_one(_GET_MODEL, parameters)
    if not (pgvector and found):
        return None
    space = _space(found[0], parameters["dimensions"], pgvector)
    if grant := await connection.fetch_one(_GET_GRANT, {"privileges": privileges}):
        raise VectorsUnusable(_denied("use the table of vectors", grant[0]))
    return space


async def _create(connection: Connection, parameters: dict[str, Any]) -> VectorSpace:
    if not await connection.fetch_one(_GET_PGVECTOR):
        await _create_pgvector(connection)
    pgvector = await connection.fetch_one(_GET_PGVECTOR) or ()
    space = _space(0, parameters["dimensions"], pgvector)
    await connection.run(_CREATE_TABLE.fill(is_prepared=False, **space.names))
    found = await connection.fetch_one(_GET_MODEL, parameters)
    (model_id,) = found or await connection.fetch_one(_ADD_MODEL, parameters) or ()
    space = space._replace(model_id=model_id)
    await connection.run(_CREATE_INDEX.fill(is_prepared=False, **space.names))
    _LOGGER.info("created the vectors of model %(name)s, %(dimensions)s dimensions", parameters)
    return space


async def _create_pgvector(connection: Connection) -> None:
    try:
        async with connection.transaction():
            await connection.run(_CREATE_PGVECTOR)
    except (errors.FeatureNotSupported, errors.UndefinedFile) as error:
        raise VectorsUnusable(
            "the PostgreSQL server has no pgvector: install it there (https://github.com/pgvector/"
            "pgvector), then restart Palaver"
        ) from error
    except errors.InsufficientPrivilege as error:
        raise VectorsUnusable(
            "the database has no pgvector, and this database user may not create it: run"
            " CREATE EXTENSION vector as a user who may, then restart Palaver"
        ) from error


def _space(model_id: int, dimensions: int, pgvector: Row) -> VectorSpace:
    version, schema, type_oid, array_oid, grant = pgvector
    if grant:
        raise VectorsUnusable(_denied("use pgvector", grant))
    if tuple(int(part) for part in version.split(".")[:2]) < _MIN_PGVECTOR_VERSION:
        raise VectorsUnusable(
            f"the database's pgvector is {version}, but Palaver needs 0.8 or newer: run"
            " ALTER EXTENSION vector UPDATE, then restart Palaver"
        )
    return VectorSpace(model_id, dimensions, schema, type_oid, array_oid)


def _denied(action: str, grant: str) -> str:
    return f"this database user may not {action}: run {grant}, then restart Palaver"
