"""Generate the typed surface of `palaver.client` from the contract, for `make protos`.

Reads a descriptor set with comments, and writes `types.py` (a dataclass for each message that calls
take or return), `rpcs.py`, `calls.py` and `async_calls.py` (a method for each RPC).
"""

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

_PACKAGE = "palaver.v1"

# The attributes of a client, and the services whose calls each has.
_SURFACES = {
    "Memory": ("SessionService", "MemoryService"),
    "Users": ("UserService",),
    "Admin": ("AdminService",),
}

_WELL_KNOWN = {
    ".google.protobuf.Struct": "dict[str, Any]",
    ".google.protobuf.Timestamp": "datetime",
    ".google.protobuf.Duration": "timedelta",
}
_SCALARS = {
    FieldDescriptorProto.TYPE_INT32: ("int", "0"),
    FieldDescriptorProto.TYPE_INT64: ("int", "0"),
    FieldDescriptorProto.TYPE_DOUBLE: ("float", "0.0"),
    FieldDescriptorProto.TYPE_BOOL: ("bool", "False"),
    FieldDescriptorProto.TYPE_STRING: ("str", '""'),
    FieldDescriptorProto.TYPE_BYTES: ("bytes", 'b""'),
}


@dataclass(frozen=True)
class Field:
    """A field of a message, and its comment."""

    proto: FieldDescriptorProto
    comment: str

    @property
    def name(self) -> str:
        """The name of the field, and of the argument."""
        return self.proto.name

    @property
    def is_required(self) -> bool:
        """Whether the contract requires the field, at least in most requests."""
        return re.match(r"Required\b", self.comment) is not None

    @property
    def is_repeated(self) -> bool:
        """Whether the field is a list."""
        return self.proto.label == FieldDescriptorProto.LABEL_REPEATED

    @property
    def has_presence(self) -> bool:
        """Whether the field may be unset, which differs from its default."""
        is_message = self.proto.type == FieldDescriptorProto.TYPE_MESSAGE
        return is_message or self.proto.HasField("oneof_index")

    def result(self) -> tuple[str, str]:
        """Return the type and the default of the attribute of a dataclass."""
        kind, default = self._kind()
        if self.is_repeated:
            return f"list[{kind}]", "field(default_factory=list)"
        if kind.startswith("dict"):
            return kind, "field(default_factory=dict)"
        return (f"{kind} | None", "None") if self.has_presence else (kind, default)

    def argument(self) -> tuple[str, str]:
        """Return the type and the default of the argument of a method."""
        kind, default = self._kind()
        if self.proto.type == FieldDescriptorProto.TYPE_MESSAGE:
            mapping = "Mapping[str, Any]"
            kind = mapping if kind.startswith("dict") else kind
            kind = f"{kind} | {mapping}" if kind.startswith("types.") else kind
        if self.is_repeated:
            return f"Iterable[{kind}]", "()"
        if self.has_presence and not self.is_required:
            return f"{kind} | None", "None"
        return kind, default

    def _kind(self) -> tuple[str, str]:
        if self.proto.type == FieldDescriptorProto.TYPE_ENUM:
            return f"types.{_enum_name(self.proto.type_name)}", '"UNSPECIFIED"'
        if self.proto.type == FieldDescriptorProto.TYPE_MESSAGE:
            name = self.proto.type_name
            return _WELL_KNOWN.get(name) or f"types.{name.rpartition('.')[2]}", "None"
        return _SCALARS[self.proto.type]


@dataclass(frozen=True)
class Message:
    """A message, its fields and its comment."""

    name: str
    fields: Sequence[Field]
    comment: str

    @property
    def items(self) -> Field | None:
        """The list of a page or chunk of a listing."""
        lists = [field for field in self.fields if field.is_repeated]
        is_page = any(field.name == "next_cursor" for field in self.fields)
        return lists[0] if is_page and len(lists) == 1 else None


@dataclass(frozen=True)
class Rpc:
    """An RPC, its messages and its comment."""

    service: str
    name: str
    request: Message
    response: Message
    takes_stream: bool
    returns_stream: bool
    comment: str

    @property
    def method(self) -> str:
        """The name of the method of the client."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).lower()

    @property
    def constant(self) -> str:
        """The name of the constant in `rpcs.py`."""
        return self.method.upper()


class Contract:
    """The messages, enums and RPCs of the package."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.messages: dict[str, Message] = {}
        self.enums: dict[str, list[str]] = {}
        self.rpcs: list[Rpc] = []
        own = [file for file in files.file if file.package == _PACKAGE]
        for file in own:
            comments = _comments(file)
            for number, message in enumerate(file.message_type):
                self._add_message(message, (4, number), comments)
            for enum in file.enum_type:
                self._add_enum(f".{_PACKAGE}.{enum.name}", enum)
        for file in own:
            self._add_rpcs(file, _comments(file))

    def results(self) -> list[Message]:
        """Return the messages that calls return, and those that arguments contain."""
        names: dict[str, None] = {}
        for rpc in self.rpcs:
            names[rpc.response.name] = None
            for field in rpc.request.fields:
                self._collect(field, names)
        for name in list(names):
            for field in self.messages[name].fields:
                self._collect(field, names)
        return [message for message in self.messages.values() if message.name in names]

    def _collect(self, field: Field, names: dict[str, None]) -> None:
        name = field.proto.type_name.rpartition(".")[2]
        is_own = field.proto.type_name.startswith(f".{_PACKAGE}.") and name in self.messages
        if is_own and name not in names:
            names[name] = None
            for nested in self.messages[name].fields:
                self._collect(nested, names)

    def _add_message(
        self, message: DescriptorProto, path: tuple[int, ...], comments: dict[tuple[int, ...], str]
    ) -> None:
        fields = [
            Field(proto, comments.get((*path, 2, number), ""))
            for number, proto in enumerate(message.field)
        ]
        self.messages[message.name] = Message(message.name, fields, comments.get(path, ""))
        for enum in message.enum_type:
            self._add_enum(f".{_PACKAGE}.{message.name}.{enum.name}", enum)

    def _add_enum(self, full_name: str, enum: EnumDescriptorProto) -> None:
        self.enums[_enum_name(full_name)] = [
            value.name.removeprefix(_enum_prefix(enum.name)) for value in enum.value
        ]

    def _add_rpcs(self, file: FileDescriptorProto, comments: dict[tuple[int, ...], str]) -> None:
        for at, service in enumerate(file.service):
            for number, method in enumerate(service.method):
                request, response = (
                    self.messages[name.rpartition(".")[2]]
                    for name in (method.input_type, method.output_type)
                )
                self.rpcs.append(
                    Rpc(
                        service=service.name,
                        name=method.name,
                        request=request,
                        response=response,
                        takes_stream=method.client_streaming,
                        returns_stream=method.server_streaming,
                        comment=comments[6, at, 2, number],
                    )
                )


def _comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {
        tuple(location.path): re.sub(r"(?m)^ ", "", location.leading_comments).strip()
        for location in file.source_code_info.location
    }


def _enum_prefix(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper() + "_"


def _enum_name(full_name: str) -> str:
    """Return the name of an enum's type: `Mode` of `SearchMemoryRequest` is `SearchMemoryMode`."""
    *_, outer, name = full_name.split(".")
    return name if outer == "v1" else outer.removesuffix("Request") + name


def _docstring(text: str, indent: str) -> str:
    """Return a docstring; a paragraph is wrapped again, lists keep their lines."""
    text = text.replace("\\", "\\\\").replace('"""', "'''")
    text += " " if text.endswith('"') else ""
    body = textwrap.indent(text, indent).strip()
    end = f"\n{indent}" if "\n" in text else ""
    return f'{indent}"""{body}{end}"""\n'


def types_module(contract: Contract) -> str:
    """Return the module of the dataclasses and the enums."""
    header = (
        '"""The values that calls take and return: a dataclass for each message.\n\n'
        "Metadata are plain dicts, times are `datetime` in UTC, and enums are their names.\n"
        '"""\n\n# Generated by `make protos`. Do not edit.\n\n'
        "from collections.abc import Iterator\n"
        "from dataclasses import dataclass, field\n"
        "from datetime import datetime, timedelta\n"
        "from typing import Any, Literal, TypeAlias\n"
    )
    parts = [header]
    for name, values in contract.enums.items():
        lines = "".join(f'    "{value}",\n' for value in values)
        parts.append(f"\n{name}: TypeAlias = Literal[\n{lines}]\n")
    parts += [_dataclass(message) for message in contract.results()]
    return "".join(parts)


def _dataclass(message: Message) -> str:
    comment = message.comment or f"The response of `{message.name.removesuffix('Response')}`."
    attributes = [f"{field.name}: {field.comment}" for field in message.fields if field.comment]
    text = comment + ("\n\nAttributes:\n" + _indented(attributes) if attributes else "")
    lines = [
        f"\n\n@dataclass(frozen=True, slots=True)\nclass {message.name}:\n",
        _docstring(text, "    "),
    ]
    if message.fields:
        lines.append("\n")
    for field in message.fields:
        kind, default = (part.replace("types.", "") for part in field.result())
        # Quoted: the class may be defined below.
        kind = f'"{kind}"' if field.proto.type == FieldDescriptorProto.TYPE_MESSAGE else kind
        lines.append(f"    {field.name}: {kind} = {default}\n")
    if items := message.items:
        kind = items.result()[0].replace("types.", "").removeprefix("list[").removesuffix("]")
        lines.append(
            f'\n    def __iter__(self) -> Iterator["{kind}"]:\n'
            f"        return iter(self.{items.name})\n"
            f"\n    def __len__(self) -> int:\n"
            f"        return len(self.{items.name})\n"
        )
    return "".join(lines)


def _indented(entries: Sequence[str]) -> str:
    """Return the entries of a section of a docstring, further lines indented."""
    return "\n".join(
        textwrap.indent(entry.replace("\n\n", "\n").replace("\n", "\n    "), "    ")
        for entry in entries
    )


def rpcs_module(contract: Contract) -> str:
    """Return the module of the constants for the RPCs."""
    lines = [
        f'{rpc.constant} = Rpc("{_PACKAGE}.{rpc.service}", "{rpc.name}", '
        f"types.{rpc.response.name})\n"
        for rpc in contract.rpcs
    ]
    return (
        '"""The RPCs of the contract."""\n\n# Generated by `make protos`. Do not edit.\n\n'
        "from palaver.client import types\nfrom palaver.client.rpc import Rpc\n\n" + "".join(lines)
    )


def calls_module(contract: Contract, *, is_async: bool) -> str:
    """Return the module of the methods of one flavour."""
    caller = "AsyncCaller" if is_async else "Caller"
    iterator = "AsyncIterator" if is_async else "Iterator"
    flavour = "`AsyncClient`" if is_async else "`Client`"
    header = (
        f'"""The calls of {flavour}: a method for each RPC."""\n\n'
        "# Generated by `make protos`. Do not edit.\n\n"
        f"from collections.abc import {', '.join(sorted([iterator, 'Iterable', 'Mapping']))}\n"
        "from datetime import datetime, timedelta\n"
        "from typing import Any\n\n"
        "from palaver.client import rpcs, types\n"
        f"from palaver.client.{'async_caller' if is_async else 'caller'} import {caller}\n"
    )
    parts = [header]
    for surface, services in _SURFACES.items():
        name = f"Async{surface}" if is_async else surface
        rpcs = [rpc for service in services for rpc in contract.rpcs if rpc.service == service]
        listed = " and ".join(f"`{service}`" for service in services)
        parts.append(
            f'\n\nclass {name}:\n    """The calls of {listed}."""\n\n'
            f"    def __init__(self, caller: {caller}) -> None:\n"
            "        self._caller = caller\n"
        )
        for rpc in rpcs:
            parts.append("".join(_method(rpc, is_async=is_async)))
            if (items := rpc.response.items) and not rpc.returns_stream:
                parts.append("".join(_iteration(rpc, items, iterator)))
    return "".join(parts)


def _method(rpc: Rpc, *, is_async: bool) -> Iterator[str]:
    result = f"types.{rpc.response.name}"
    action = "upload" if rpc.takes_stream else "stream" if rpc.returns_stream else "unary"
    awaited = "await " if is_async and not rpc.returns_stream else ""
    if rpc.returns_stream:
        result = f"{'AsyncIterator' if is_async else 'Iterator'}[{result}]"
    yield from _signature(rpc.method, rpc.request.fields, result, is_coroutine=bool(awaited))
    yield _docstring(_described(rpc.comment, rpc.request.fields), "        ")
    yield _body(rpc, rpc.request.fields, f"return {awaited}self._caller.{action}(")


def _iteration(rpc: Rpc, listed: Field, iterator: str) -> Iterator[str]:
    """Yield the lines of a method that iterates over the items of all pages."""
    fields = [field for field in rpc.request.fields if field.name != "limit"]
    items = listed.name
    kind = listed.result()[0].removeprefix("list[").removesuffix("]")
    comment = (
        f"Iterate over the {items} of all pages of `{rpc.method}`.\n\n"
        "Gets the next page when it is needed. `timeout` is that of one page."
    )
    yield from _signature(f"iter_{items}", fields, f"{iterator}[{kind}]", is_coroutine=False)
    yield _docstring(_described(comment, fields), "        ")
    yield _body(rpc, fields, "return self._caller.items(")


def _described(comment: str, fields: Sequence[Field]) -> str:
    entries = [f"{field.name}: {field.comment}" for field in fields]
    entries.append(
        "timeout: Seconds after which the call fails, retries included; None: the client's."
    )
    return f"{comment}\n\nArgs:\n{_indented(entries)}"


def _signature(
    name: str, fields: Sequence[Field], result: str, *, is_coroutine: bool
) -> Iterator[str]:
    yield f"\n    {'async ' if is_coroutine else ''}def {name}(\n        self,\n"
    for field in fields:
        if field.is_required:
            yield f"        {field.name}: {field.argument()[0]},\n"
    yield "        *,\n"
    for field in fields:
        if not field.is_required:
            kind, default = field.argument()
            yield f"        {field.name}: {kind} = {default},\n"
    yield f"        timeout: float | None = None,\n    ) -> {result}:\n"


def _body(rpc: Rpc, fields: Sequence[Field], call: str) -> str:
    given = "".join(f'                "{field.name}": {field.name},\n' for field in fields)
    return (
        f"        {call}\n"
        f"            rpcs.{rpc.constant},\n"
        f"            {{\n{given}            }},\n"
        "            timeout,\n"
        "        )\n"
    )


def main(descriptor_set: str, directory: str) -> None:
    """Write the modules to a directory."""
    contract = Contract(FileDescriptorSet.FromString(Path(descriptor_set).read_bytes()))
    modules = {
        "types": types_module(contract),
        "rpcs": rpcs_module(contract),
        "calls": calls_module(contract, is_async=False),
        "async_calls": calls_module(contract, is_async=True),
    }
    for name, source in modules.items():
        (Path(directory) / f"{name}.py").write_text(source, "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
