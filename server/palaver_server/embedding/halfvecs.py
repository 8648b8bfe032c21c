"""How vectors travel to the database: in binary, since to write numbers out takes too long."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format


@dataclass(frozen=True, slots=True)
class Halfvecs:
    """An array of pgvector's halfvec, whose type has this oid in the database at hand."""

    type_oid: int
    vectors: Sequence[Sequence[float]]


class _HalfvecsDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Halfvecs) -> bytes:
        # One dimension, no NULLs, the type of the elements; how many, counted from 1.
        header = struct.pack(">iiIii", 1, 0, obj.type_oid, len(obj.vectors), 1)
        return header + b"".join(map(_element, obj.vectors))


def _element(vector: Sequence[float]) -> bytes:
    size = len(vector)
    return struct.pack(f">ihh{size}e", 4 + 2 * size, size, 0, *vector)


psycopg.adapters.register_dumper(Halfvecs, _HalfvecsDumper)
