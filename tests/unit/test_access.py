"""The access scope of a caller."""

import pytest

from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.errors import PermissionDenied

ADA = Access("ada")


def test_access_new_owner_of_scoped_caller_defaults_to_its_user() -> None:
    assert ADA.new_owner(None) == "ada"
    assert ADA.new_owner("ada") == "ada"
    assert EVERYTHING.new_owner(None) is None
    assert EVERYTHING.new_owner("grace") == "grace"


def test_access_new_owner_that_is_another_user_is_denied() -> None:
    with pytest.raises(PermissionDenied) as caught:
        ADA.new_owner("grace")

    assert caught.value.reason == "BOUND_TO_ANOTHER_USER"


@pytest.mark.parametrize("user_id", ["grace", None])
def test_access_check_owner_of_scoped_caller_denies_others_and_nobody(user_id: str | None) -> None:
    ADA.check_owner("ada")
    EVERYTHING.check_owner(user_id)

    with pytest.raises(PermissionDenied):
        ADA.check_owner(user_id)
