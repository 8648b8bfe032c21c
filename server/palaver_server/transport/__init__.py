"""The gRPC server: options, TLS, method routing, health, graceful shutdown."""
