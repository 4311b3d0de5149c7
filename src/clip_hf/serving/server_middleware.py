# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What every request passes before it reaches its route, and every answer on its way back.

Plain ASGI: Starlette's `BaseHTTPMiddleware` runs the app in a task of its own, which takes as long as the rest, and
does not see that a client went away.
"""

import asyncio
import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from .request_errors import RequestError
from .server_metrics import ServerMetrics
from .server_options import ANY_HOST, ServerOptions, host_name


access_log = logging.getLogger("clip_hf.serving.access")
logger = logging.getLogger("clip_hf.serving")

CLIENT_GONE = 499
"""The status of a request whose client went away, in logs and metrics; nginx's."""
JSON_POLICY = "default-src 'none'; frame-ancestors 'none'"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEALTH_PATHS = frozenset(("/health/live", "/health/ready"))  # asked for by address, by what starts and stops servers
_OPEN_PATHS = _HEALTH_PATHS | {"/", "/docs", "/openapi.json"}
_OPEN_FOLDER = "/page/"
_METRICS_PATH = "/metrics"  # needs the key, and answers while there are too many requests
_FOLDERS = (_OPEN_FOLDER, "/v1/hf/", "/v1/models/")  # of routes whose paths have a name behind them
_SINGLE_HEADERS = (b"authorization", b"origin", b"sec-fetch-site")
_LOGGED_CHARACTERS = 200  # of a path


@dataclass
class Traffic:
    """What is being answered, and whether more is welcome.

    Args:
        metrics (`ServerMetrics`): Counts what was answered.
        requests (`int`, *optional*, defaults to 0): Requests that are being answered.
        body_bytes (`int`, *optional*, defaults to 0): Bytes of their bodies.
        draining (`bool`, *optional*, defaults to `False`): Whether the server ends: connections close after answers.
    """

    metrics: ServerMetrics
    requests: int = 0
    body_bytes: int = 0
    draining: bool = False


class ServerMiddleware:
    """Checks who asks, reads the body, bounds the time, cancels for clients that went away, and writes the log.

    Args:
        app: The ASGI app behind it. It finds the body whole in its first message.
        options ([`ServerOptions`]): Key, hosts and limits.
        traffic ([`Traffic`]): Shared with the server.
        routes (`Iterable[str]`): Paths, as metrics name them.
    """

    def __init__(self, app: Any, options: ServerOptions, traffic: Traffic, routes: Iterable[str]):
        self.app, self.options, self.traffic, self.routes = app, options, traffic, frozenset(routes)
        self.allowed_hosts = frozenset(host_name(host) or host for host in options.allowed_hosts)  # or any
        self.key = None if options.api_key is None else options.api_key.encode()

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await _Exchange(self, without_prefix(scope), receive, send).run()

    def route_of(self, path: str) -> str:
        """The path if it is a route's, else a word for all others, so that clients cannot make up series."""
        if path in self.routes:
            return path
        return next((f"{folder}*" for folder in _FOLDERS if path.startswith(folder)), "other")


class _Exchange:
    """One request and its answer."""

    def __init__(self, gate: ServerMiddleware, scope: dict, receive: Any, send: Any):
        self.gate, self.scope, self._receive, self._send_on = gate, scope, receive, send
        path = scope["path"]
        self.is_open = path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER)
        self.is_bounded = not self.is_open and path != _METRICS_PATH
        self.started = time.perf_counter()
        self.headers = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.id = given.decode() if _REQUEST_ID.fullmatch(given) else new_request_id()
        self.body_bytes, self.body_seconds, self.image_bytes = 0, 0.0, 0
        self.status: int | None = None
        self.is_complete = self.is_gone = False
        self.state = scope.setdefault("state", {})
        self.state |= {"request_id": self.id, "items": 0, "hold_bytes": self.hold_bytes}

    async def run(self) -> None:
        """Answer the request, whatever happens."""
        traffic = self.gate.traffic
        try:
            self._check_sender()
            if self.is_bounded:
                await self._answer_in_bounds()
            else:
                await self.gate.app(self.scope, self._receive, self._send)
        except RequestError as error:
            await self._send_error(error)
        except asyncio.CancelledError:
            if not (self.is_gone or traffic.draining):
                raise
            asyncio.current_task().uncancel()
            # After the time to drain, uvicorn cancels what is left.
            await self._send_error(RequestError(503, "The server is ending.", code="draining", retry_after=1))
        except Exception:
            logger.exception("request %s failed", self.id)
            await self._send_error(
                RequestError(500, f"Internal error; the server's log has it as request {self.id}.", code="internal")
            )
        finally:
            traffic.body_bytes -= self.body_bytes
            self._record()

    async def _answer_in_bounds(self) -> None:
        traffic, limits = self.gate.traffic, self.gate.options.limits
        if traffic.requests >= limits.max_pending_requests:
            raise RequestError(
                429,
                f"The server is answering {traffic.requests:,} requests, the most that it takes: try again.",
                code="too_many_requests",
                retry_after=1,
            )
        traffic.requests += 1
        try:
            async with asyncio.timeout(limits.max_seconds) as total:
                await self._call(await self._read_body())
        except TimeoutError:
            if not total.expired() or self.status is not None:
                raise
            message = f"The answer took more than {limits.max_seconds:g} s, the most that is allowed: ask for less."
            raise RequestError(503, message, code="timeout", retry_after=1) from None
        finally:
            traffic.requests -= 1

    async def _call(self, body: bytes) -> None:
        """Run the app; cancel it if the client goes away meanwhile."""
        watch = asyncio.create_task(self._watch(asyncio.current_task()))

        async def receive() -> dict:
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self.gate.app(self.scope, receive, self._send)
        finally:
            watch.cancel()

    async def _watch(self, answering: asyncio.Task) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.is_complete:
            self.is_gone = True
            answering.cancel()

    # ------------------------------------------------------------------------------------------------------ who asks

    def _check_sender(self) -> None:
        """RequestError unless the host is the server's, no other web site sent the browser, and the key is right."""
        if self.scope["path"] in _HEALTH_PATHS:
            return
        host = self._check_host()
        if self.is_open:
            return
        for name in _SINGLE_HEADERS:
            if sum(each == name for each, _ in self.scope["headers"]) > 1:
                raise RequestError(
                    400, f"The request has several {name.decode()} headers; it may have one.", code="repeated_header"
                )
        self._check_site(host)
        if self.gate.key is not None:
            self._check_key(self.gate.key)

    def _check_key(self, key: bytes) -> None:
        scheme, _, given = self.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given, key):
            what = "is not this server's" if b"authorization" in self.headers else "is missing"
            raise RequestError(401, f"The API key {what}: send `Authorization: Bearer KEY`.", code="invalid_api_key")

    def _check_host(self) -> str:
        """The `Host` header; RequestError unless it is this server's."""
        hosts = [value for name, value in self.scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            raise RequestError(400, f"The request has {len(hosts)} Host headers; it must have one.", code="bad_host")
        host = hosts[0].decode("latin-1").lower()
        name, allowed = host_name(host), self.gate.allowed_hosts
        if name is None:
            raise RequestError(400, "The Host header is no name or address with or without a port.", code="bad_host")
        if not (ANY_HOST in allowed or name in allowed or is_loopback(name)):
            raise RequestError(
                403,
                "The Host header names another server. If this is a name of this one, start it with --allowed-hosts.",
                code="host_not_allowed",
            )
        return host

    def _check_site(self, host: str) -> None:
        """RequestError for what a browser sends on behalf of a page of another site.

        Where the browser says it (`Sec-Fetch-Site`, which no page can set), `Origin` is not compared: behind a proxy
        that sets `Host`, it is another name.
        """
        site = self.headers.get(b"sec-fetch-site")
        origin = self.headers.get(b"origin")
        if site is not None:
            is_foreign = site not in (b"same-origin", b"none")
        else:
            is_foreign = origin is not None and origin.decode("latin-1").lower().partition("://")[1:] != ("://", host)
        if is_foreign:
            raise RequestError(
                403,
                "Web pages of other sites may not use this server from a browser. If the page is this server's, let "
                "the proxy in front of it pass the Host header on.",
                code="cross_site_request",
            )

    # ------------------------------------------------------------------------------------------------------ the body

    async def _read_body(self) -> bytes:
        limits, started = self.gate.options.limits, time.perf_counter()
        self._check_size(int(self.headers.get(b"content-length", b"0")), self.gate.traffic.body_bytes)
        chunks, more = [], True
        try:
            async with asyncio.timeout(limits.max_body_seconds):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self.is_gone = True
                        raise asyncio.CancelledError
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    self._check_size(self.body_bytes + len(chunk), self.gate.traffic.body_bytes - self.body_bytes)
                    self.body_bytes += len(chunk)
                    self.gate.traffic.body_bytes += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            message = f"The body took more than {limits.max_body_seconds:g} s to arrive, the most that is allowed."
            raise RequestError(408, message, code="body_timeout") from None
        self.body_seconds = time.perf_counter() - started
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _check_size(self, size: int, others: int) -> None:
        """RequestError for a body that is too large, or for which the bodies of others leave no room."""
        limits = self.gate.options.limits
        if size > limits.max_body_bytes:
            message = f"The body is larger than {limits.max_body_bytes:,} bytes, the most that is allowed: send less."
            raise RequestError(413, message, code="body_too_large")
        if size + others > limits.max_pending_bytes:
            raise RequestError(
                429, "The server is busy with the bodies of other requests: try again.", code="busy", retry_after=1
            )

    def hold_bytes(self, count: int) -> None:
        """Count the bytes of one field's images, decoded or fetched, where all fields have more than the body had.

        Raises:
            RequestError: 429 if what other requests hold leaves no room.
        """
        self.image_bytes += count
        more = max(0, self.image_bytes - self.body_bytes)
        self._check_size(0, self.gate.traffic.body_bytes + more)
        self.body_bytes += more
        self.gate.traffic.body_bytes += more

    # ---------------------------------------------------------------------------------------------------- the answer

    async def _send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._all_headers(message.get("headers", ()))
        elif not message.get("more_body", False):
            self.is_complete = True
        await self._send_on(message)

    def _all_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        seconds = time.perf_counter() - self.started
        timing = f"body;dur={1000 * self.body_seconds:.1f}, total;dur={1000 * seconds:.1f}"
        defaults = {
            b"cache-control": b"no-store",
            b"content-security-policy": JSON_POLICY.encode(),
            b"x-content-type-options": b"nosniff",
            b"x-request-id": self.id.encode(),
            b"server-timing": timing.encode(),
        }
        if self.gate.traffic.draining or self.status == 408:
            defaults[b"connection"] = b"close"
        return list((defaults | dict(headers)).items())

    async def _send_error(self, error: RequestError) -> None:
        if self.status is not None or self.is_gone:
            return  # the client has the beginning of an answer, or is not there
        content = orjson.dumps(error.body())
        headers = {"content-type": "application/json", "content-length": str(len(content)), **error.headers()}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": error.status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": content})

    def _record(self) -> None:
        seconds = time.perf_counter() - self.started
        status = CLIENT_GONE if self.is_gone else self.status or 500
        path = self.scope["path"]
        metrics = self.gate.traffic.metrics
        metrics.observe_request(self.gate.route_of(path), status, seconds)
        if status == CLIENT_GONE:
            metrics.count_cancelled()
        elif status in (429, 503) and self.is_bounded:
            metrics.count_rejected()
        access_log.info(
            '%s "%s %s" %d %.1f ms, %d items',
            self.id,
            self.scope["method"],
            # Encoded, so that no path looks like the rest of a line, or like another one.
            quote(path[:_LOGGED_CHARACTERS], errors="replace") + ("..." if len(path) > _LOGGED_CHARACTERS else ""),
            status,
            1000 * seconds,
            self.state["items"],
        )


def without_prefix(scope: dict) -> dict:
    """The scope of a request with the path below the prefix that the app is at (`root_path`), for all that follows.

    The prefix is in `scope["state"]["prefix"]`.
    """
    path, prefix = scope["path"], scope.get("root_path", "").rstrip("/")
    below = path.removeprefix(prefix)
    path = below if below.startswith("/") else path
    state = {**scope.get("state", {}), "prefix": prefix}
    return {**scope, "path": path, "root_path": "", "state": state}


def new_request_id() -> str:
    """An id for a request that brings none."""
    return secrets.token_hex(8)


def is_loopback(name: str) -> bool:
    """Whether a host is the loopback device, by name or address."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
