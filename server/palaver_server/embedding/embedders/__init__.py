"""Embedders: one module per way to turn texts into vectors, in this process or over HTTP."""
