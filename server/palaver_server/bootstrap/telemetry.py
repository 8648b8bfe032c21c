"""Telemetry: metrics follow the settings, traces OpenTelemetry's own variables."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from palaver_server.bootstrap.database import Reading
from palaver_server.bootstrap.embedding import EmbeddingComponents
from palaver_server.bootstrap.security import Security
from palaver_server.bootstrap.services import DESCRIPTORS
from palaver_server.config import Settings
from palaver_server.database.pool import Pool
from palaver_server.purge.purger import Purger
from palaver_server.telemetry.readings import Readings
from palaver_server.telemetry.telemetry import Telemetry
from palaver_server.transport.database_health import DatabaseHealth


@asynccontextmanager
async def open_telemetry() -> AsyncIterator[Telemetry]:
    """Set up the telemetry, and export the last of it after the block."""
    telemetry = Telemetry()
    try:
        yield telemetry
    finally:
        await telemetry.stop()


def add_metrics(  # noqa: PLR0913, PLR0917
    telemetry: Telemetry,
    settings: Settings,
    pool: Pool,
    reading: Reading,
    purger: Purger,
    embedding: EmbeddingComponents,
    database_health: DatabaseHealth,
    security: Security,
) -> None:
    """Add metrics of these components to the telemetry if there is an address to serve them on."""
    if settings.metrics_listen:
        telemetry.measure(
            settings.metrics_listen,
            services=DESCRIPTORS,
            readings=Readings(
                pool_stats=pool.stats,
                is_serving=lambda: database_health.is_serving,
                reload_status=security.reload_status,
                ignored_jwt_keys=security.ignored_jwt_keys,
                standby=reading.standby.stats if reading.standby else None,
                search_fallbacks=lambda: embedding.search.fallbacks,
                backlogs={"purge": purger.backlog, "embedding": embedding.worker.backlog},
            ),
        )
