"""Authentication and access: API keys, JWTs, client certificates, roles, access scopes."""
