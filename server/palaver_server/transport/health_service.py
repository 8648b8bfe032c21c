"""The servicer of `grpc.health.v1.Health`."""

from typing import Any

from grpc_health.v1 import health, health_pb2


class HealthService(health.aio.HealthServicer):
    """gRPC's servicer, with the method List, which it declares but does not implement."""

    async def List(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name in the .proto file
        """Return the health of all services by their names."""
        # The type stubs lack both names.
        statuses = self._server_status  # type: ignore[attr-defined]
        return health_pb2.HealthListResponse(  # type: ignore[attr-defined]
            statuses={
                service: health_pb2.HealthCheckResponse(status=status)
                for service, status in statuses.items()
            }
        )
