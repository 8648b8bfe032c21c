"""The fuzzer: send odd and malformed requests to every method, and check how calls end."""
