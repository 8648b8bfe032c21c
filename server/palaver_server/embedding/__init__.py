"""Everything about vectors: embedders, models, the worker and its backlog, vector search."""
