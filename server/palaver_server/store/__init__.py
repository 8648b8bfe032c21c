"""Sessions, messages, memory and users: one file per resource, each with its SQL."""
