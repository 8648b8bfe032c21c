"""gRPC as a server: options, TLS, method routing, health, graceful shutdown."""
