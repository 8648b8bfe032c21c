"""Callers: who they are, what they may access, how keys, tokens and certificates are checked."""
