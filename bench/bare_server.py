"""The bare server: runs the statement of a call on its one connection, and nothing around it.

    python -m bench.bare_server PORT DATABASE_URL

It has the runtime, options, statements and conversions of Palaver, but no pool, limits, log,
errors or batches. Its latency is the lower bound for a call to a Python gRPC service over
PostgreSQL.
"""

import sys
from typing import Any

import grpc
import uvloop

from bench.empty_server import serve
from bench.floors import ADD_MEMORY
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.database.connection import Connection
from palaver_server.services.encoding.added_memory import added_memory_response
from palaver_server.services.encoding.metadata import json_from_object, object_from_struct
from palaver_server.services.encoding.sessions import session_response
from palaver_server.store.memory import AddedMemory, AddedMessage
from palaver_server.store.sessions import GET_SESSION, SessionRow
from palaver_server.store.uuid7 import uuid7


class _BareMethods(grpc.GenericRpcHandler):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Without serializers: responses are encoded already.
        self._handlers = {
            "/palaver.v1.SessionService/GetSession": grpc.unary_unary_rpc_method_handler(
                self._get_session, GetSessionRequest.FromString
            ),
            "/palaver.v1.MemoryService/AddMemory": grpc.unary_unary_rpc_method_handler(
                self._add_memory, AddMemoryRequest.FromString
            ),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call."""
        return self._handlers.get(handler_call_details.method)

    async def _get_session(self, request: GetSessionRequest, _context: object) -> bytes:
        parameters = {"session_id": request.session_id, "access_user_id": None}
        row = await self._connection.fetch_one(GET_SESSION, parameters)
        return await session_response(SessionRow._make(row or ())).encode()

    async def _add_memory(self, request: AddMemoryRequest, _context: object) -> bytes:
        (message,) = request.messages
        metadata = json_from_object(object_from_struct(message.metadata, max_levels=9))
        parameters = {
            "session_id": request.session_id, "user_id": None, "access_user_id": None,
            "message_ids": [uuid7()], "roles": [message.role], "contents": [message.content],
            "token_counts": [message.token_count], "metadatas": [metadata], "created_ats": [None],
            "language": "english",
        }  # fmt: skip
        created, *added = await self._connection.fetch_one(ADD_MEMORY, parameters) or ()
        memory = AddedMemory(created, False, [AddedMessage._make(added)])  # noqa: FBT003
        return await added_memory_response(memory).encode()


async def main(port: int, database_url: str) -> None:
    """Connect to the database, and serve until the process ends."""
    connection = await Connection.connect(database_url)
    await serve(port, _BareMethods(connection))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
