"""Encoding of responses and decoding of fields: one file per resource. No I/O, no validation."""
