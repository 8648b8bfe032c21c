"""The limits of requests and responses, as the `.proto` files state them."""

# Text
MAX_ID_BYTES = 1024
MAX_EMAIL_BYTES = 320
MAX_NAME_CHARACTERS = 256
MAX_ROLE_CHARACTERS = 64
MAX_CONTENT_BYTES = 1024 * 1024
MAX_PAYLOAD_BYTES = 3 * 1024 * 1024
MAX_PAYLOAD_TYPE_BYTES = 255
MAX_PATH_BYTES = 4096

# Metadata. That of sessions and users may be larger, as configured.
MAX_METADATA_BYTES = 64 * 1024  # as JSON
MAX_LARGE_STRUCT_BYTES = 2 * 1024 * 1024


def max_struct_bytes(max_metadata_bytes: int) -> int:
    """Return the maximum size as a Struct of metadata whose JSON has this maximum size."""
    # Of metadata, numbers in a list grow most: from 2 bytes as JSON to 11.
    return min(6 * max_metadata_bytes, MAX_LARGE_STRUCT_BYTES)


MAX_STRUCT_BYTES = max_struct_bytes(MAX_METADATA_BYTES)
MAX_METADATA_LEVELS = 32

# Items of a list or a page
MAX_ITEMS = 1000
MAX_ROLES = 100
DEFAULT_LIMIT = 100
MAX_LIMIT = MAX_ITEMS
DEFAULT_COUNT_LIMIT = 10_000
MAX_COUNT_LIMIT = 1_000_000
DEFAULT_SEARCH_LIMIT = 10
MAX_SEARCH_LIMIT = 100

MAX_DURATION_SECONDS = 315_576_000_000  # 10,000 years, protobuf's own limit
MAX_TTL_SECONDS = 3_155_760_000  # 100 years: a Timestamp ends with the year 9999

MAX_VIOLATIONS = 20  # reported for a request

MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_RESPONSE_BYTES = 4 * 1024 * 1024  # gRPC clients accept as much by default
