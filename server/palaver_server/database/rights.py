"""The rights that a server's user lacks, as the GRANT statements that give them."""

# The schema is looked up in the catalogs: without USAGE on it, its tables are not found by name.
_SCHEMA = """
    SELECT n.oid, nspname, relowner AS owner
    FROM unnest(regexp_split_to_array(
            replace(current_setting('search_path'), '"$user"', current_user), '[", ]+'
        )) WITH ORDINALITY AS path (name, place)
        JOIN pg_namespace n ON nspname = name
        JOIN pg_class c ON relnamespace = n.oid AND relname = 'schema_migrations'
    ORDER BY place
    LIMIT 1
"""

# Parameters: `tables`, names of tables, each with these `privileges`; a table that does not exist
# lacks none. `uses_vectors`, whether pgvector's types are used. The function names are Palaver's;
# other owners may have some of the kind in a schema that they share with it.
MISSING_GRANTS = f"""
    WITH home AS ({_SCHEMA})
    SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', nspname, current_user)
    FROM home WHERE NOT has_schema_privilege(oid, 'USAGE')
    UNION ALL
    SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', nspname, current_user)
    FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
    WHERE %(uses_vectors)s AND extname = 'vector' AND NOT has_schema_privilege(n.oid, 'USAGE')
    UNION ALL (
        SELECT format(
            'GRANT %%s ON %%s TO %%I',
            string_agg(privilege, ', ' ORDER BY place), c.oid::regclass, current_user
        )
        FROM home JOIN pg_class c ON relnamespace = home.oid AND relname = ANY(%(tables)s),
            unnest(%(privileges)s::text[]) WITH ORDINALITY AS privileges (privilege, place)
        WHERE NOT has_table_privilege(c.oid, privilege)
        GROUP BY c.oid, relname
        ORDER BY relname
    )
    UNION ALL (
        SELECT format('GRANT EXECUTE ON FUNCTION %%s TO %%I', p.oid::regprocedure, current_user)
        FROM home JOIN pg_proc p ON pronamespace = home.oid AND proowner = owner
        WHERE proname LIKE 'search\\_%%' AND NOT has_function_privilege(p.oid, 'EXECUTE')
        ORDER BY p.oid
    )
"""
