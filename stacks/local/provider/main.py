"""The executable `pulumi-resource-wms`: serves the provider to the Pulumi engine,
dispatching by type token.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
from pulumi.provider.experimental import provider as api
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

from stacks.local.provider.difference import Change
from stacks.local.provider.errors import NotReady, ProviderError
from stacks.local.provider.handler import Handler, secret_paths
from stacks.local.provider.handlers import HANDLERS
from stacks.local.provider.values import Path, Values, decode, encode, redacted
from stacks.local.provider.waiting import interrupted

T = TypeVar("T")
Properties = dict[str, PropertyValue]

NAME = "wms"
VERSION = "0.1.0"
THREADS = 128
"""Handlers block (they wait for servers and for their turn in a rollout), so there is a thread for each of
them.
"""

KINDS = {
    ("add", False): api.PropertyDiffKind.ADD,
    ("add", True): api.PropertyDiffKind.ADD_REPLACE,
    ("delete", False): api.PropertyDiffKind.DELETE,
    ("delete", True): api.PropertyDiffKind.DELETE_REPLACE,
    ("update", False): api.PropertyDiffKind.UPDATE,
    ("update", True): api.PropertyDiffKind.UPDATE_REPLACE,
}


def token(urn: str) -> str:
    """The resource's own type: a URN names the types of its parents before it, joined by `$`."""
    return urn.split("::")[-2].rpartition("$")[2]


class InitFailed(Exception):
    """A NotReady with its outputs encoded, on its way to the engine."""

    def __init__(self, message: str, resource_id: str, properties: Properties, inputs: Properties) -> None:
        super().__init__(message)
        self.resource_id = resource_id
        self.properties = properties
        self.inputs = inputs


class LocalProvider(api.Provider):
    """Translates requests for the handlers and their answers for the engine."""

    def __init__(self, handlers: Mapping[str, Handler[Any]] | None = None) -> None:
        self.handlers = dict(handlers if handlers is not None else HANDLERS)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="handler")

    def handler(self, token: str) -> Handler[Any]:
        """The handler of a type token. Raises ProviderError naming the known ones."""
        try:
            return self.handlers[token]
        except KeyError:
            known = ", ".join(sorted(self.handlers))
            raise ProviderError(f"unknown resource type {token}", f"Known types: {known}") from None

    async def configure(self, request: api.ConfigureRequest) -> api.ConfigureResponse:
        # Outputs and resources as values of their own are not accepted: the engine then sends plain values,
        # with secrets and unknowns marked, which is all that handlers need.
        return api.ConfigureResponse(
            accept_secrets=True, supports_preview=True, accept_outputs=False, accept_resources=False
        )

    async def get_schema(self, request: api.GetSchemaRequest) -> api.GetSchemaResponse:
        return api.GetSchemaResponse(schema=f'{{"name": "{NAME}", "version": "{VERSION}"}}')

    async def check(self, request: api.CheckRequest) -> api.CheckResponse:
        handler = self.handler(token(request.urn))
        inputs, secrets = decode(request.new_inputs)
        filled, problems = handler.check(inputs)
        return api.CheckResponse(
            inputs=encode(filled, secrets),
            failures=[api.CheckFailure(p.property, redacted(p.reason, inputs, secrets)) for p in problems],
        )

    async def diff(self, request: api.DiffRequest) -> api.DiffResponse:
        handler = self.handler(token(request.urn))
        state, _ = decode(request.old_state)
        inputs, _ = decode(request.new_inputs)
        found = handler.diff(state, inputs)
        return api.DiffResponse(
            changes=bool(found),
            replaces=found.replaces,
            diffs=list(found.changes),
            detailed_diff={path: detail(change) for path, change in found.changes.items()},
            delete_before_replace=handler.delete_before_replace and bool(found.replaces),
        )

    async def create(self, request: api.CreateRequest) -> api.CreateResponse:
        handler = self.handler(token(request.urn))
        inputs, secrets = decode(request.properties)
        if request.preview:
            foreseen = handler.preview(None, inputs)
            return api.CreateResponse("", encode(foreseen, secret_paths(handler, secrets, foreseen)))
        resource_id, outputs = await self.run(
            handler, lambda: handler.create(request.name, inputs), inputs, secrets
        )
        return api.CreateResponse(resource_id, encode(outputs, secret_paths(handler, secrets, outputs)))

    async def read(self, request: api.ReadRequest) -> api.ReadResponse:
        handler = self.handler(token(request.urn))
        state, state_secrets = decode(request.properties)
        _, input_secrets = decode(request.inputs)
        secrets = state_secrets | input_secrets
        found = await self.run(handler, lambda: handler.read(request.resource_id, state), state, secrets)
        if found is None:
            return api.ReadResponse("")
        inputs = {key: found[key] for key in handler.fields if key in found}
        return api.ReadResponse(
            request.resource_id,
            encode(found, secret_paths(handler, secrets, found)),
            encode(inputs, secret_paths(handler, secrets, inputs)),
        )

    async def update(self, request: api.UpdateRequest) -> api.UpdateResponse:
        handler = self.handler(token(request.urn))
        state, state_secrets = decode(request.olds)
        inputs, secrets = decode(request.news)
        if request.preview:
            outputs = handler.preview(state, inputs)
        else:
            outputs = await self.run(
                handler,
                lambda: handler.update(request.resource_id, state, inputs),
                {**state, **inputs},
                secrets,
                also=(state, state_secrets),
            )
        return api.UpdateResponse(encode(outputs, secret_paths(handler, secrets, outputs)))

    async def delete(self, request: api.DeleteRequest) -> None:
        handler = self.handler(token(request.urn))
        state, secrets = decode(request.properties)
        await self.run(handler, lambda: handler.delete(request.resource_id, state), state, secrets)

    async def cancel(self) -> None:
        interrupted.set()

    async def run(
        self,
        handler: Handler[Any],
        work: Callable[[], T],
        values: Values,
        secrets: Collection[Path],
        also: tuple[Values, Collection[Path]] = ({}, ()),
    ) -> T:
        """Do blocking `work` in a thread. What it raises is told without the secret ones of `values` and
        `also`.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work)
        except NotReady as error:
            paths = secret_paths(handler, secrets, error.outputs)
            inputs = {key: error.outputs[key] for key in handler.fields if key in error.outputs}
            raise InitFailed(
                redacted(redacted(str(error), values, secrets), *also),
                error.resource_id,
                encode(error.outputs, paths),
                encode(inputs, [path for path in paths if path[0] in inputs]),
            ) from None
        except ProviderError as error:
            raise ProviderError(redacted(redacted(str(error), values, secrets), *also)) from None


def detail(change: Change) -> api.PropertyDiff:
    """A change in Pulumi's terms."""
    return api.PropertyDiff(KINDS[change.kind, change.replace], change.by_input)


def described(error: BaseException) -> str:
    """A mistake of the provider itself: where, but not the words, which may hold a value that is secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = " < ".join(
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames[-4:])
    )
    return f"a mistake in the provider {NAME} {VERSION}: {type(error).__name__} at {place}. Please report it"


class Servicer(ProviderServicer):
    """The gRPC side: turns exceptions into statuses that the engine shows as they are."""

    async def guarded(self, call: Coroutine[Any, Any, T], context: Any) -> T:
        """Await `call`; end the request with a clear status when it raises."""
        # FAILED_PRECONDITION rather than UNKNOWN: creates can always be repeated here, so the engine need not
        # record the operation as pending.
        status = grpc.Status()
        status.code = grpc.StatusCode.FAILED_PRECONDITION
        status.trailing_metadata = ()
        try:
            return await call
        except InitFailed as error:
            status.details = str(error)
            detail = provider_pb2.ErrorResourceInitFailed(id=error.resource_id, reasons=[str(error)])
            detail.properties.CopyFrom(PropertyValue.marshal_map(error.properties))
            detail.inputs.CopyFrom(PropertyValue.marshal_map(error.inputs))
            wire = status_pb2.Status(code=status.code.value[0], message=str(error))
            wire.details.add().Pack(detail)
            status.trailing_metadata = (("grpc-status-details-bin", wire.SerializeToString()),)
        except ProviderError as error:
            status.details = str(error)
        except Exception as error:  # every mistake must reach the operator with its place
            status.details = described(error)
        await context.abort_with_status(status)
        raise AssertionError("abort_with_status returns never")

    async def Check(self, request: Any, context: Any) -> Any:
        return await self.guarded(super().Check(request, context), context)

    async def Diff(self, request: Any, context: Any) -> Any:
        return await self.guarded(super().Diff(request, context), context)

    async def Create(self, request: Any, context: Any) -> Any:
        return await self.guarded(super().Create(request, context), context)  # type: ignore[no-untyped-call]

    async def Read(self, request: Any, context: Any) -> Any:
        return await self.guarded(super().Read(request, context), context)  # type: ignore[no-untyped-call]

    async def Update(self, request: Any, context: Any) -> Any:
        return await self.guarded(super().Update(request, context), context)  # type: ignore[no-untyped-call]

    async def Delete(self, request: Any, context: Any) -> Any:
        return await self.guarded(super().Delete(request, context), context)  # type: ignore[no-untyped-call]


async def serve(engine: str) -> None:
    """Listen on a free loopback port, print it for the engine, and serve until the engine ends us."""
    # Certificates, configurations and their old versions travel in one message: no limit of gRPC's own.
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    )
    servicer = Servicer([], VERSION, LocalProvider(), engine_address=engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main() -> None:
    """Entry point; the engine passes its own address and possibly logging flags, which do not concern us."""
    parser = argparse.ArgumentParser(
        prog=f"pulumi-resource-{NAME}", description="Pulumi provider of the local target"
    )
    parser.add_argument("engine", nargs="?", default="", help="address of the Pulumi engine")
    parser.add_argument("--version", action="version", version=VERSION)
    known, _ = parser.parse_known_args()
    try:
        asyncio.run(serve(known.engine))
    except KeyboardInterrupt:
        interrupted.set()


if __name__ == "__main__":
    main()
