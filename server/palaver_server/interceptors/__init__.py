"""Concerns of every call, one per file; bootstrap/server.py has their order."""
