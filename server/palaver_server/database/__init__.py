"""PostgreSQL, without resources: connections, pool, batching, paging, migrations, errors."""
