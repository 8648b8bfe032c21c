"""Embedders: each turns texts into vectors, by a local model or over HTTP."""
