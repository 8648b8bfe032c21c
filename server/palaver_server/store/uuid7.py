"""Time-ordered ids of messages."""

import os
import time

# The variant is the first two bits of its digit, 10; the other two are random.
_VARIANT = {digit: "89ab"[int(digit, 16) & 0b11] for digit in "0123456789abcdef"}


def uuid7() -> str:
    """Return a new UUID of version 7: 48 bits of Unix milliseconds, then random bits.

    Source: RFC 9562, section 5.7. (The standard library has it from Python 3.14 on.)
    """
    at = f"{time.time_ns() // 1_000_000 & 2**48 - 1:012x}"
    random = os.urandom(10).hex()
    # The first digit of each of the two random parts holds the version, or the variant.
    high, low = random[1:4], _VARIANT[random[4]] + random[5:8]
    return f"{at[:8]}-{at[8:]}-7{high}-{low}-{random[8:]}"
