"""Changes of metadata: JSON Merge Patch (RFC 7396), replacement, and by top-level keys."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palaver.v1.metadata_pb2 import MetadataMode
from palaver_server.errors import InvalidRequest
from palaver_server.services.metadata_change import MetadataChange, merge_patch


def objects_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    # Few keys, so that patches hit their targets.
    return st.dictionaries(st.sampled_from("abc"), values, max_size=3)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | objects_of(inner),
    max_leaves=15,
)
objects = objects_of(values)

generated = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def has_null_member(value: Any) -> bool:
    """Return whether an object or a nested object has a null; lists are opaque."""
    return isinstance(value, dict) and any(
        item is None or has_null_member(item) for item in value.values()
    )


# Source: RFC 7396, appendix A; the examples whose target and patch are objects.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_examples_of_rfc_hold(
    target: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]
) -> None:
    assert merge_patch(target, patch) == result


# Source: RFC 7396, section 3.
def test_merge_patch_document_of_rfc_holds() -> None:
    target = {
        "title": "Goodbye!",
        "author": {"givenName": "John", "familyName": "Doe"},
        "tags": ["example", "sample"],
        "content": "This will be unchanged",
    }
    patch = {
        "title": "Hello!",
        "phoneNumber": "+01-123-456-7890",
        "author": {"familyName": None},
        "tags": ["example"],
    }

    assert merge_patch(target, patch) == {
        "title": "Hello!",
        "author": {"givenName": "John"},
        "tags": ["example"],
        "content": "This will be unchanged",
        "phoneNumber": "+01-123-456-7890",
    }


@generated
@given(objects, objects)
def test_merge_patch_changes_neither_target_nor_patch(
    target: dict[str, Any], patch: dict[str, Any]
) -> None:
    before = copy.deepcopy((target, patch))

    merge_patch(target, patch)

    assert (target, patch) == before


@generated
@given(objects)
def test_merge_patch_empty_changes_nothing(target: dict[str, Any]) -> None:
    assert merge_patch(target, {}) == target


@generated
@given(objects, objects)
def test_merge_patch_is_idempotent(target: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge_patch(target, patch)

    assert merge_patch(once, patch) == once


@generated
@given(objects)
def test_merge_patch_leaves_no_null_of_patch(patch: dict[str, Any]) -> None:
    assert not has_null_member(merge_patch({}, patch))


@generated
@given(objects, objects)
def test_merge_patch_keeps_unnamed_keys(target: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = merge_patch(target, patch)

    for key in target.keys() - patch.keys():
        assert merged[key] == target[key]
    for key, value in patch.items():
        assert (key in merged) == (value is not None)


@generated
@given(objects, objects)
def test_merge_patch_of_different_keys_commutes(
    target: dict[str, Any], patch: dict[str, Any]
) -> None:
    other = {f"other {key}": value for key, value in patch.items()}

    assert merge_patch(merge_patch(target, patch), other) == merge_patch(
        merge_patch(target, other), patch
    )


def test_change_without_metadata_keeps_metadata() -> None:
    for mode in MetadataMode.values():
        assert MetadataChange(None, mode).apply('{"a": 1}') == '{"a": 1}'


def test_change_modes_merge_replace_or_replace_top_level() -> None:
    metadata, given = '{"a": {"b": 1}, "c": 2, "e": 3}', {"a": {"d": 3}, "c": None}

    def changed(mode: MetadataMode.ValueType) -> object:
        return json.loads(MetadataChange(given, mode).apply(metadata))

    assert changed(MetadataMode.METADATA_MODE_UNSPECIFIED) == {"a": {"b": 1, "d": 3}, "e": 3}
    assert changed(MetadataMode.METADATA_MODE_MERGE_PATCH) == {"a": {"b": 1, "d": 3}, "e": 3}
    assert changed(MetadataMode.METADATA_MODE_REPLACE) == given
    assert changed(MetadataMode.METADATA_MODE_TOP_LEVEL) == {**given, "e": 3}


@pytest.mark.parametrize("mode", MetadataMode.values())
def test_change_with_too_large_result_is_refused(mode: MetadataMode.ValueType) -> None:
    with pytest.raises(InvalidRequest) as raised:
        MetadataChange({"a": "x" * 65_536}, mode).apply("{}")

    assert [violation.field for violation in raised.value.violations] == ["metadata"]
