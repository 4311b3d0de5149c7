# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""uvicorn with what it lacks: time-outs of slow clients, a bound of connections, and a drain that loses no request."""

import asyncio
import ctypes
import errno
import logging
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress

import httptools
import orjson
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .connection_limits import RefusedConnections, make_room_for_connections
from .request_errors import RequestError
from .server_app import LoadedModel, ServingState, create_app
from .server_middleware import access_log, new_request_id
from .server_options import ServerOptions
from .serving_limits import ServingLimits


logger = logging.getLogger("clip_hf.serving")

KEEP_ALIVE_SECONDS = 75
"""How long an open connection may be idle: longer than the usual 60 s of proxies, which would race with us."""
DRAIN_SECONDS = 30.0
_MAX_HEADER_BYTES = 65536
_BACKLOG = 2048
# How long to take what the kernel has queued, and then what clients send on connections that are open.
_ACCEPT_SECONDS, _IDLE_SECONDS = 0.1, 0.4
# The number is not in Python's `socket`. The filter drops packets with SYN and no ACK (byte 13 of TCP's header): ldb
# [13]; and #0x12; jeq #0x02, 0, 1; ret #0; ret #-1.
_SO_ATTACH_FILTER = 26
_NO_NEW_CONNECTIONS = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (6, 0, 0, 0), (6, 0, 0, 0xFFFFFFFF))


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with bounds: a request's headers must arrive in time and be small, and so must what follows a body in
    chunks; answers must be read in time, and there are so many connections at most."""

    limits: ServingLimits
    max_connections: int
    refused: RefusedConnections
    idle: "dict[_Protocol, None]"  # connections without a request, those that wait longest first

    def connection_made(self, transport):
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self._held_bytes = 0  # what the parser holds: neither whole headers nor a part of a body
        super().connection_made(transport)
        if len(self.connections) > self.max_connections and not self._close_idle():
            self.refused.add()
            transport.abort()
        else:
            self.idle[self] = None
            self._wait("headers", self.limits.max_header_seconds)

    def _close_idle(self) -> bool:
        """Close the connection that is idle for the longest time; False if there is none."""
        longest = next(iter(self.idle), None)
        if longest is not None:
            del self.idle[longest]
            longest.timeout_keep_alive_handler()
        return longest is not None

    def _wait(self, what: str, seconds: float) -> None:
        self._waiting[what] = self.loop.call_later(seconds, self._give_up, what)

    def _stop_waiting(self, what: str) -> None:
        timer = self._waiting.pop(what, None)
        if timer is not None:
            timer.cancel()

    def _give_up(self, what: str) -> None:
        if what == "headers" and self._held_bytes and not self.transport.is_closing():
            self._refuse(
                408, f"The headers took more than {self.limits.max_header_seconds:g} s to arrive.", "header_timeout"
            )
        else:
            self.transport.abort()

    def data_received(self, data):
        self.idle.pop(self, None)
        between = self.cycle is None or self.cycle.response_complete
        if between and "headers" not in self._waiting:
            self._wait("headers", self.limits.max_header_seconds)
        self._held_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._held_bytes <= _MAX_HEADER_BYTES or self.transport.is_closing():
            return
        if between:
            self._refuse(431, f"The headers have more than {_MAX_HEADER_BYTES:,} bytes.", "headers_too_large")
        else:
            self.transport.abort()  # another answer is on its way

    def _parse(self, data: bytes) -> None:
        """Parse what came. Where a request asks for another protocol, the parser stops after its headers: they are
        parsed again without that wish, which a server may ignore, and then the rest. Else the body would be read as
        the next request."""
        while data and not self.transport.is_closing():
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserError as error:
                logger.debug("A request is no valid HTTP: %s", error)
                self.send_400_response("")
                return
            except httptools.HttpParserUpgrade as upgrade:
                method = self.parser.get_method()
                if method == b"CONNECT":  # never anything else
                    self.send_400_response("")
                    return
                lines = [method + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
                lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
                data = b"\r\n".join([*lines, b"", data[upgrade.args[0] :]])
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def on_headers_complete(self):
        if self.parser.should_upgrade():
            return
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("neither HTTP/1.0 nor HTTP/1.1")
        self._stop_waiting("headers")
        self._held_bytes = 0
        super().on_headers_complete()

    def on_body(self, body):
        self._held_bytes = 0
        super().on_body(body)

    def on_message_complete(self):
        if not self.parser.should_upgrade():
            self._held_bytes = 0
            super().on_message_complete()

    def on_response_complete(self):
        if not (self.pipeline or self._held_bytes or self.transport.is_closing()):
            self.idle[self] = None
        super().on_response_complete()

    def pause_writing(self):
        super().pause_writing()
        self._wait("reading", self.limits.max_seconds)

    def resume_writing(self):
        super().resume_writing()
        self._stop_waiting("reading")

    def connection_lost(self, exc):
        self.idle.pop(self, None)
        for what in list(self._waiting):
            self._stop_waiting(what)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self):
        # `close` would wait for a client that does not read.
        self.transport.abort() if self.transport.get_write_buffer_size() else self.transport.close()

    def send_400_response(self, msg):
        self._refuse(400, "The request is no valid HTTP/1.0 or HTTP/1.1.", "invalid_http")

    def _refuse(self, status: int, message: str, code: str) -> None:
        id_ = new_request_id()
        access_log.info("%s (no whole request) %d", id_, status)
        body = orjson.dumps(RequestError(status, message, code=code).body())
        reason = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {id_}\r\nconnection: close\r\n"
        )
        more = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        self.transport.write(head.encode() + more + b"\r\n" + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's, which ends with status 0 after a drain, and when the model cannot be loaded."""

    def __init__(self, config: uvicorn.Config, serving: ServingState):
        super().__init__(config)
        self.serving = serving

    @contextmanager
    def capture_signals(self):
        hang_up = getattr(signal, "SIGHUP", None)  # Windows has none, and `nohup` has it ignored
        is_main = threading.current_thread() is threading.main_thread()
        if hang_up is None or not is_main or signal.getsignal(hang_up) is signal.SIG_IGN:
            hang_up = None
        before = None if hang_up is None else signal.signal(hang_up, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            if hang_up is not None:
                signal.signal(hang_up, before)

    def handle_exit(self, sig, frame):
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        return self.serving.load_error is not None or await super().on_tick(counter)

    async def shutdown(self, sockets=None):
        self.serving.traffic.draining = True
        if self.serving.load_error is None and not self.force_exit:
            for each in sockets:
                refuse_new_connections(each)
            await asyncio.sleep(_ACCEPT_SECONDS)
            for each in self.servers:
                each.close()
            # Clients that use their connections again send now, and are told that the answer is the last.
            await asyncio.sleep(_IDLE_SECONDS)
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn would leave them to the event loop, which ends the app before its routes.
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()


def _soften(record: logging.LogRecord) -> bool:
    """Log what is left after the time to drain as what it is: no error of the server."""
    if str(record.msg).startswith("Cancel %s running task(s)"):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg = "%s request(s) got 503, because the time to drain is over."
    return True


def refuse_new_connections(listening: socket.socket) -> None:
    """Let a listening socket take no more connections but those that the kernel has, or is about to have.

    Closing it would reset those that wait to be accepted, whose clients may have sent a request. Clients that come
    later are refused as soon as it is closed. Only Linux can do this; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _NO_NEW_CONNECTIONS))
    program = struct.pack("HP", len(_NO_NEW_CONNECTIONS), ctypes.addressof(code))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError as error:  # a sandbox may forbid it
        logger.warning("Clients that connect right now may be reset: the kernel takes no filter (%s).", error)


def resolve_host(host: str) -> str:
    """The numeric address of a host to listen on: itself, or the first that its name has, IPv4 before IPv6.

    Raises:
        ValueError: if it is no name or address; it says what is wrong.
        OSError: if there is no such name.
    """
    if not host.strip():
        raise ValueError("The host is empty: give an address of this machine, such as 127.0.0.1.")
    if "/" in host:
        raise ValueError(f"The host {host!r} is a URL or a path: give a name or an address alone.")
    if host.startswith("["):
        raise ValueError(f"The host {host!r} has brackets: an address of IPv6 is given without, and without a port.")
    if re.fullmatch(r"[^:]*:\d*", host):
        raise ValueError(f"The host {host!r} has a port: give it as --port.")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(f"The host {host!r} cannot be resolved ({why}): give an address of this machine.") from error
    return min(found, key=lambda each: each[0] != socket.AF_INET)[4][0]


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, bound before anything slow.

    Raises:
        OSError: if the port is in use or not allowed, or the host is no address of this machine; it says which.
        ValueError: if the host is no name or address.
    """
    family, *_, address = socket.getaddrinfo(resolve_host(host), port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        what = {
            errno.EADDRINUSE: "it is in use: stop the other program, or choose another --port (0: a free one)",
            errno.EACCES: "this user may not use it: choose a --port from 1024 on",
            errno.EADDRNOTAVAIL: "this machine has no such address: check --host",
        }.get(error.errno, error.strerror or str(error))
        raise OSError(f"Cannot listen on {host} port {port}: {what}.") from error
    listening.setblocking(False)
    return listening


def serve(
    load: Callable[[], LoadedModel],
    options: ServerOptions,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    drain_seconds: float = DRAIN_SECONDS,
    report: Callable[[str], None] = print,
    started: float | None = None,
) -> int:
    """Serve a model until SIGTERM, SIGINT or SIGHUP; then answer what was accepted, and return.

    Args:
        load (`Callable`): Loads the model, in a thread, while the server already answers `/health/live`.
        options ([`ServerOptions`]): Name, key, hosts and limits.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): The address to listen on.
        port (`int`, *optional*, defaults to 8000): The port; 0 picks a free one.
        drain_seconds (`float`, *optional*, defaults to 30): Time for the last answers; a second signal ends it.
        report (`Callable`, *optional*): Gets a line when the server listens, and, in a thread, one when it is ready.
        started (`float`, *optional*): From when on that line counts, on the clock of `time.perf_counter`; by default
            from the call.

    Returns:
        `int`: the exit status 0.

    Raises:
        OSError, ValueError: if it cannot listen there.
        Exception: what `load` raised; the server has ended then.
    """
    started = time.perf_counter() if started is None else started
    listening = bind(host, port)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    report(f"listening on {address}, loading {options.name}")
    app = create_app(load, options)
    serving: ServingState = app.state.serving
    serving.on_failure = lambda: None  # it is raised below

    def report_ready() -> None:
        with suppress(OSError):  # whoever reads may have enough
            report(f"ready in {time.perf_counter() - started:.1f} s: {address}  {serving.describe()}")

    serving.on_ready = threading.Thread(target=report_ready, name="report", daemon=True).start
    make_server(app, drain_seconds).run(sockets=[listening])
    if serving.load_error is not None:
        raise serving.load_error
    return 0


def make_server(app: Starlette, drain_seconds: float = DRAIN_SECONDS) -> uvicorn.Server:
    """The server of an app of [`create_app`]; its `run` takes sockets of [`bind`]."""
    serving: ServingState = app.state.serving
    max_connections = make_room_for_connections(serving.options.limits.max_connections)
    bounds = {
        "limits": serving.options.limits,
        "max_connections": max_connections,
        "refused": RefusedConnections(serving.traffic.metrics, max_connections),
        "idle": {},
    }
    logging.getLogger("uvicorn.error").addFilter(_soften)
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_Protocol,), bounds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
    )
    return _Server(config, serving)
