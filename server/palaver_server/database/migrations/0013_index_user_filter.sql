-- ListUsers and ListAllUsers with filter.email or filter.metadata, if few users match. Addresses
-- compare by bytes (COLLATE "C"), as IDs do. Placeholders have no address, and cost no entry.

CREATE INDEX users_email ON users (email COLLATE "C")
    WHERE deleted_at IS NULL AND email COLLATE "C" <> '';

CREATE INDEX users_metadata ON users USING gin (metadata jsonb_path_ops) WHERE deleted_at IS NULL;
