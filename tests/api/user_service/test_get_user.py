"""UserService.GetUser: live users only."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ResourceInfo

from palaver.v1.user_service_pb2 import DeleteUserRequest, GetUserRequest, UpdateUserRequest
from tests.support.client import Client, refused

# --- Contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("request_type", [GetUserRequest, UpdateUserRequest, DeleteUserRequest])
def test_get_update_delete_user_unknown_or_deleted_is_not_found(
    palaver: Client, request_type: Any
) -> None:
    palaver.add_user("deleted")
    palaver.delete_user("deleted")

    for user_id in ("unknown", "deleted"):
        with refused(grpc.StatusCode.NOT_FOUND) as refusal:
            palaver.send(request_type(user_id=user_id))

        info = refusal.detail(ResourceInfo)
        assert (info.resource_type, info.resource_name) == ("palaver.v1.User", user_id)
