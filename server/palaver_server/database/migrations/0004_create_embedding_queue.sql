-- What embedding needs beside the vectors, whose table is made where the database has
-- pgvector (server/store/embedding_models.py).

-- The models that vectors were made with, and how far each is with the messages that
-- were there before it.
CREATE TABLE embedding_models (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    dimensions integer NOT NULL,
    -- Where the walk over all messages goes on, by their primary key; NULL: it is over.
    walk_session_id text COLLATE "C" DEFAULT '',
    walk_sequence   bigint NOT NULL DEFAULT 0,
    walk_count      bigint NOT NULL DEFAULT 0,          -- messages that it has come by
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (name, dimensions)
);

-- Messages that wait for a vector. Whoever writes a message's content appends a row in the
-- same transaction, and never looks at those that are there: no writer waits for another or
-- for the embedder. A message that is gone or has its vector when its turn comes is passed
-- over.
CREATE TABLE embedding_queue (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the order in which they are taken
    session_id text COLLATE "C" NOT NULL,
    sequence   bigint NOT NULL
);
