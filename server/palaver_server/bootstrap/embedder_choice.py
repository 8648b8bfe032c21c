"""Which embedder the settings name."""

from importlib.util import find_spec

from palaver_server.config import DatabaseSettings
from palaver_server.embedding.embedders.embedder import Embedder
from palaver_server.embedding.embedders.wordllama import WordLlamaEmbedder


def chosen_embedder(settings: DatabaseSettings) -> Embedder | None:
    """Makes the embedder that the settings name; None for none."""
    match settings.embedder:
        case "openai":
            # Not imported by a server that has no use for it.
            from palaver_server.embedding.embedders.endpoint import EndpointEmbedder  # noqa: PLC0415

            key = settings.embedder_key
            return EndpointEmbedder(
                url=settings.embedder_url or "",
                model=settings.embedder_model or "",
                key=key.get_secret_value() if key else "",
                dimensions=settings.embedder_dimensions or 0,
                timeout=settings.embedder_timeout_seconds,
            )
        case "wordllama":
            return WordLlamaEmbedder()
        case "auto" if find_spec("wordllama"):
            return WordLlamaEmbedder()
        case _:
            return None
