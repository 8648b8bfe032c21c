"""Time-ordered ids."""

import os
import time
from uuid import UUID


def uuid7() -> str:
    """Makes a UUID of version 7: 48 bits of Unix milliseconds, then random bits.

    Source: RFC 9562, section 5.7. (The standard library has it from Python 3.14 on.)
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (2**48 - 1)) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(UUID(int=value))
