"""grpc.health.v1.Health: the package's servicer, and the method that it leaves out."""

from typing import Any

from grpc_health.v1 import health, health_pb2


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]
    """Says of each service, and of the server as "", whether it serves."""

    async def List(
        self, request: health_pb2.HealthListRequest, context: Any
    ) -> health_pb2.HealthListResponse:
        """Says it of all of them at once."""
        statuses = {
            name: health_pb2.HealthCheckResponse(status=status)
            for name, status in self._server_status.items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def status(self, service: str) -> str | None:
        """What Check says of a service, by the status's name; None for one that there is not."""
        status = self._server_status.get(service)
        return None if status is None else health_pb2.HealthCheckResponse.ServingStatus.Name(status)
