"""The concerns of every call, one per file; `bootstrap/server.py` lists them in order."""
