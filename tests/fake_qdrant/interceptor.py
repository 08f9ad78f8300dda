"""The interceptor of every method: checks the API key, records calls, injects delays and faults."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

from .access import Rights, check_name, check_rights, only_allowed
from .old_versions import forget_newer_fields
from .status_errors import StatusError, from_engine_error, unimplemented

_KEPT_CALLS = 1000

Handler = Callable[[Any, grpc.ServicerContext], Any]


class RecordedCall(NamedTuple):
    """A call as it arrived: a method such as "Points/Upsert", the headers and the protobuf request."""

    method: str
    headers: dict[str, str]
    request: Any


@dataclass
class Fault:
    """Make calls of `method` answer `code`: `times` of them, after the first `skip`."""

    method: str
    times: int
    code: grpc.StatusCode
    after: bool
    skip: int
    retry_after: int | None
    details: str | None

    def applies_to(self, method: str) -> bool:
        if not is_named(method, self.method) or self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class CallInterceptor(grpc.ServerInterceptor):
    """Wrap every method of the server; tests may change it in another thread while calls arrive."""

    def __init__(self, api_key: str | None, limited_keys: Mapping[str, Rights], version: str) -> None:
        self._api_key = api_key
        self._limited_keys = limited_keys
        self._version = version
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._calls: deque[RecordedCall] = deque(maxlen=_KEPT_CALLS)
        self._faults: list[Fault] = []
        self._delays: dict[str, float] = {}

    def add_fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def set_delay(self, method: str, seconds: float) -> None:
        with self._lock:
            self._delays[method] = seconds

    def count(self, method: str) -> int:
        with self._lock:
            return sum(count for name, count in self._counts.items() if is_named(name, method))

    def last(self, method: str) -> RecordedCall:
        with self._lock:
            return next(call for call in reversed(self._calls) if is_named(call.method, method))

    @property
    def calls(self) -> list[RecordedCall]:
        with self._lock:
            return list(self._calls)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method.removeprefix("/qdrant.")
        return grpc.unary_unary_rpc_method_handler(
            self._wrap(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _wrap(self, method: str, handle: Handler) -> Handler:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            headers = dict(context.invocation_metadata())
            self._authenticate(method, headers, context)
            fault, delay = self._record(RecordedCall(method, headers, request))
            time.sleep(delay)
            if fault is not None and not fault.after:
                _abort(fault, context)
            response = self._serve(handle, request, context, method, self._limited_keys.get(_key(headers)))
            if fault is not None:
                _abort(fault, context)
            return response

        return answer

    def _serve(
        self, handle: Handler, request: Any, context: grpc.ServicerContext, method: str, rights: Rights | None
    ) -> Any:
        try:
            check_name(method, request)
            if rights is not None:
                check_rights(method, request, rights)
            forget_newer_fields(request, self._version)
            response = handle(request, context)
            return response if rights is None else only_allowed(method, response, rights)
        except StatusError as found:
            error = found
        except NotImplementedError:
            error = unimplemented(method)
        except Exception as found:
            error = from_engine_error(found)
        return context.abort(error.code, error.details)

    def _authenticate(self, method: str, headers: dict[str, str], context: grpc.ServicerContext) -> None:
        if self._api_key is None or method == "Qdrant/HealthCheck":
            return
        given = _key(headers)
        if not given:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Must provide an API key or an Authorization bearer token")
        if given != self._api_key and given not in self._limited_keys:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")

    def _record(self, call: RecordedCall) -> tuple[Fault | None, float]:
        with self._lock:
            self._counts[call.method] += 1
            self._calls.append(call)
            delay = max((s for name, s in self._delays.items() if is_named(call.method, name)), default=0.0)
            return next((fault for fault in self._faults if fault.applies_to(call.method)), None), delay


def _key(headers: Mapping[str, str]) -> str:
    return headers.get("api-key", headers.get("authorization", "").removeprefix("Bearer "))


def is_named(method: str, name: str) -> bool:
    """Return whether `name`, "Points/Upsert" or "Upsert", names the method "Points/Upsert"."""
    return method == name or method.endswith(f"/{name}")


def _abort(fault: Fault, context: grpc.ServicerContext) -> None:
    if fault.retry_after is not None:
        context.set_trailing_metadata((("retry-after", str(fault.retry_after)),))
    when = "after" if fault.after else "before"
    context.abort(fault.code, fault.details or f"a fault on purpose, {when} the work was done")
