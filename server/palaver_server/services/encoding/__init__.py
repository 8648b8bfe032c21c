"""Responses as protobuf bytes, written from rows of the database."""
