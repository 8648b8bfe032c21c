"""Vectors: the models, the backlog and its worker, the vector store, semantic search."""
