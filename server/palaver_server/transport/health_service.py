"""The servicer of `grpc.health.v1.Health`."""

from typing import Any

from grpc_health.v1 import health, health_pb2


class HealthService(health.aio.HealthServicer):
    """gRPC's own, with the method that it declares and does not have."""

    async def List(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - so it is declared
        """Gives the health of all services, by their names."""
        # The stubs of neither know of it yet.
        statuses = self._server_status  # type: ignore[attr-defined]
        return health_pb2.HealthListResponse(  # type: ignore[attr-defined]
            statuses={
                service: health_pb2.HealthCheckResponse(status=status)
                for service, status in statuses.items()
            }
        )
