"""The fuzzer: requests that nobody would send, to every method, and what must not come of them."""
