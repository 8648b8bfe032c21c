"""Who is calling and what the caller may access: API keys, JWTs, client certificates, roles."""
