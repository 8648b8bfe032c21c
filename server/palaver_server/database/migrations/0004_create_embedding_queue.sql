-- The tables of embedding, except that of the vectors, which is created if the database has
-- pgvector (embedding/models.py).

-- The models of stored vectors, and the progress of each with the messages that are older than it:
-- the backfill. (Its columns are called walk_*.)
CREATE TABLE embedding_models (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    dimensions integer NOT NULL,
    -- The primary key of the last message that the backfill has visited; NULL: it is complete.
    walk_session_id text COLLATE "C" DEFAULT '',
    walk_sequence   bigint NOT NULL DEFAULT 0,
    walk_count      bigint NOT NULL DEFAULT 0,          -- messages that it has visited
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (name, dimensions)
);

-- Messages that wait for a vector. A statement that writes a content appends a row in the same
-- transaction, and never reads the others: no writer waits for another one or for the embedder.
-- A message that is deleted or has its vector when it is taken is skipped.
CREATE TABLE embedding_queue (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the order of processing
    session_id text COLLATE "C" NOT NULL,
    sequence   bigint NOT NULL
);
