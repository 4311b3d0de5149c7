# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Who may ask, how much and how long; what becomes of clients that go away; and what the log and the metrics hold."""

import asyncio
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson
import pytest

from clip_hf.serving import ServerOptions, ServingLimits
from clip_hf.serving.server_metrics import ServerMetrics
from clip_hf.serving.server_middleware import ServerMiddleware, Traffic, is_loopback


KEY = "a-key-of-more-than-16-characters"
DISCONNECT = {"type": "http.disconnect"}


@dataclass
class Answer:
    """What a client gets."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self) -> str:
        return orjson.loads(self.body)["error"]["code"]


async def echo(scope, receive, send) -> None:
    """An app that answers with the body it gets."""
    body = await receive()
    assert body["type"] == "http.request" and not body.get("more_body")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body.get("body", b"")})


def chunk(data: bytes = b"", more: bool = False) -> dict:
    return {"type": "http.request", "body": data, "more_body": more}


class Gate:
    """The middleware before an app, and calls of it."""

    def __init__(self, app=echo, traffic: Traffic | None = None, **options):
        self.traffic = traffic or Traffic(ServerMetrics())
        self.middleware = ServerMiddleware(
            app, ServerOptions(**{"name": "tiny", **options}), self.traffic, ["/v1/rank", "/"]
        )

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.traffic.metrics.render().decode(), re.MULTILINE)
        return 0.0 if found is None else float(found[1])

    async def call(
        self,
        path: str = "/v1/rank",
        headers: Iterable[tuple[str, str]] = (),
        messages: Iterable[dict | float] = (),
        prefix: str = "",
    ) -> Answer:
        """Send a request; of the messages, numbers are pauses, and after the last one the client waits."""
        given = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        if not any(name == b"host" for name, _ in given):
            given.append((b"host", b"localhost:8000"))
        scope = {"type": "http", "method": "POST", "path": prefix + path, "root_path": prefix, "headers": given}
        answer, waiting = Answer(), iter(list(messages) or [chunk(b"{}")])

        async def receive() -> dict:
            for message in waiting:
                if not isinstance(message, dict):
                    await asyncio.sleep(message)
                    continue
                return message
            await asyncio.sleep(5)
            raise AssertionError("the server waits for ever")

        async def send(message: dict) -> None:
            if message["type"] == "http.response.start":
                assert answer.status is None
                answer.status = message["status"]
                names = [name for name, _ in message["headers"]]
                assert len(set(names)) == len(names)
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message["body"]

        await self.middleware(scope, receive, send)
        return answer

    def ask(self, *args, **kwargs) -> Answer:
        before = (self.traffic.requests, self.traffic.body_bytes)
        answer = asyncio.run(self.call(*args, **kwargs))
        assert (self.traffic.requests, self.traffic.body_bytes) == before
        return answer


# ------------------------------------------------------------------------------------------------------------ who asks


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.9.9.9", "[::1]:8000", "localhost.", "localhost.:80"]
)
def test_loopback_names_are_always_this_server(host):
    assert Gate().ask(headers=[("Host", host)]).status == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "10.0.0.1", "0.0.0.0", "[::2]"]
)
def test_another_host_is_refused(host):
    for path in ("/v1/rank", "/"):
        answer = Gate().ask(path, headers=[("Host", host)])
        assert (answer.status, answer.code) == (403, "host_not_allowed")
    assert Gate(allowed_hosts=["*"]).ask(headers=[("Host", host)]).status == 200
    assert Gate().ask("/health/live", headers=[("Host", host)]).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "[::1",
        "localhost@evil.com",
        "evil.com@localhost",
        "localhost/x",
        "localhost#x",
        "localhost?x",
        "localhost:8000:1",
        "localhost:",
        "localhost..",
        ".localhost",
        "localhost x",
        "localhost, evil.com",
        "localh\xf6st",
    ],
)
def test_a_host_is_a_name_and_a_port(host):
    for gate in (Gate(), Gate(allowed_hosts=["*"])):
        answer = gate.ask(headers=[("Host", host)])
        assert (answer.status, answer.code) == (400, "bad_host")


def test_hosts_that_are_allowed_are_compared_whole():
    gate = Gate(allowed_hosts=["Clip.example.com", "[::2]"])
    assert gate.ask(headers=[("Host", "[::2]:8000")]).status == 200
    assert gate.ask(headers=[("Host", "clip.example.com.")]).status == 200
    assert gate.ask(headers=[("Host", "clip.EXAMPLE.com:8000")]).status == 200
    assert gate.ask(headers=[("Host", "localhost")]).status == 200
    assert gate.ask(headers=[("Host", "x.clip.example.com")]).status == 403


def test_there_must_be_one_host():
    assert Gate().ask(headers=[("Host", "localhost"), ("Host", "evil.com")]).code == "bad_host"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8000"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://clip.example.com"}, 200),  # a proxy sets Host
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"}, 403),
        ({"Sec-Fetch-Site": ""}, 403),
        ({"Origin": "https://LOCALHOST:8000"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://evil.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "localhost:8000"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(headers, status):
    answer = Gate().ask(headers=headers.items())
    assert answer.status == status
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert Gate().ask("/", headers=headers.items()).status == 200  # a link to the page


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", "\xe9"]
)
def test_without_the_key_nothing_but_open_paths_answers(header):
    headers = [] if header is None else [("Authorization", header)]
    gate = Gate(api_key=KEY)
    for path in ("/v1/rank", "/metrics", "/nothing", "/health", "/pages", "/docs/"):
        answer = gate.ask(path, headers=headers)
        assert (answer.status, answer.code, answer.headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
        assert KEY not in answer.body.decode()
    for path in ("/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/page/page.js"):
        assert gate.ask(path, headers=headers).status == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_key_opens_all(scheme):
    assert Gate(api_key=KEY).ask(headers=[("Authorization", f"{scheme} {KEY}")]).status == 200


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Authorization", [f"Bearer {KEY}", f"Bearer {KEY}"]),
        ("Authorization", ["Bearer x", f"Bearer {KEY}"]),
        ("Origin", ["http://evil.com", "http://localhost:8000"]),
        ("Sec-Fetch-Site", ["cross-site", "none"]),
    ],
)
def test_who_asks_is_said_once(name, values):
    headers = [(name, value) for value in values]
    if name != "Authorization":
        headers.append(("Authorization", f"Bearer {KEY}"))
    answer = Gate(api_key=KEY).ask(headers=headers)
    assert (answer.status, answer.code) == (400, "repeated_header")


@pytest.mark.parametrize("prefix", ["", "/clip", "/a/b", "/v1", "/health/live"])
def test_all_guards_hold_below_a_prefix(prefix):
    seen = []

    async def app(scope, receive, send) -> None:
        seen.append((scope["path"], scope["root_path"], scope["state"]["prefix"]))
        await echo(scope, receive, send)

    gate = Gate(app, api_key=KEY, limits=small(max_seconds=0.2))
    key = [("Authorization", f"Bearer {KEY}")]
    for path in ("/v1/rank", "/metrics", "/nothing"):
        assert gate.ask(path, prefix=prefix).status == 401
    assert gate.ask("/v1/rank", headers=key, messages=[chunk(b"x" * 11)], prefix=prefix).status == 413
    assert gate.ask("/v1/rank", headers=[*key, ("Origin", "http://evil.com")], prefix=prefix).status == 403
    for path in ("/health/live", "/docs", "/page/page.js", "/"):
        assert gate.ask(path, prefix=prefix).status == 200
    assert gate.ask("/health/live", headers=[("Host", "evil.com")], prefix=prefix).status == 200
    seen.clear()
    assert gate.ask("/v1/rank", headers=key, prefix=prefix).status == 200
    assert seen == [("/v1/rank", "", prefix)]
    assert gate.metric('clip_hf_requests_total{route="/v1/rank",status="413"}') == 1
    stalled = Gate(stall, limits=small(max_seconds=0.05)).ask("/v1/rank", prefix=prefix)
    assert (stalled.status, stalled.code) == (503, "timeout")


def test_a_path_that_is_not_below_the_prefix_is_guarded_as_it_is():
    async def call(path: str) -> Answer:
        answer = Answer()

        async def send(message: dict) -> None:
            answer.status = message.get("status", answer.status)

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "root_path": "/clip",
            "headers": [(b"host", b"localhost")],
        }
        await Gate(api_key=KEY).middleware(scope, None, send)
        return answer

    for path in ("/v1/rank", "/clipper/v1/rank", "/clip", "/clipdocs"):
        assert asyncio.run(call(path)).status == 401


def test_whatever_is_not_open_is_bounded():
    for path in ("/v1/rank", "/V1/rank", "//v1/rank", "/nothing", "/health/other", ""):
        answer = Gate(stall, limits=ServingLimits(max_seconds=0.05)).ask(path)
        assert (answer.status, answer.code) == (503, "timeout")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback(name):
    assert is_loopback(name)


@pytest.mark.parametrize("name", ["0.0.0.0", "::", "localhost.localdomain", "", "192.168.0.1", "2130706433"])
def test_not_loopback(name):
    assert not is_loopback(name)


# ------------------------------------------------------------------------------------------------------------ the body


def test_chunks_become_one_body():
    answer = Gate().ask(messages=[chunk(b"ab", True), 0.001, chunk(b"", True), chunk(b"c")])
    assert (answer.status, answer.body) == (200, b"abc")


def small(**limits) -> ServingLimits:
    return ServingLimits(**{"max_body_bytes": 10, **limits})


@pytest.mark.parametrize(
    ("headers", "messages"),
    [
        ([("Content-Length", "11")], [5.0]),  # refused before it is read
        ([], [chunk(b"x" * 10, True), chunk(b"x", True), 5.0]),
        ([("Content-Length", "9")], [chunk(b"x" * 11)]),
    ],
)
def test_a_large_body_is_413(headers, messages):
    answer = Gate(limits=small()).ask(headers=headers, messages=messages)
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert Gate(limits=small()).ask(messages=[chunk(b"x" * 10)]).status == 200


@pytest.mark.parametrize(("headers", "messages"), [([("Content-Length", "6")], [5.0]), ([], [chunk(b"x" * 6)])])
def test_bodies_of_all_requests_are_bounded(headers, messages):
    gate = Gate(limits=small(max_pending_bytes=10))
    gate.traffic.body_bytes = 5  # those of others
    answer = gate.ask(headers=headers, messages=messages)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "busy", "1")
    assert gate.ask(headers=[("Content-Length", "5")], messages=[chunk(b"xx", True), chunk(b"xxx")]).status == 200


def test_bytes_of_images_that_were_fetched_count_with_the_bodies():
    async def app(scope, receive, send):
        scope["state"]["hold_bytes"](2)  # no more than the body
        scope["state"]["hold_bytes"](int((await receive())["body"]))
        await echo(scope, receive, send)

    gate = Gate(app, limits=small(max_pending_bytes=20))
    gate.traffic.body_bytes = 5  # those of others
    assert gate.ask(messages=[chunk(b"13")]).status == 200  # 2 + 13 of them
    answer = gate.ask(messages=[chunk(b"14")])
    assert (answer.status, answer.code) == (429, "busy")


def test_a_slow_body_is_408():
    gate = Gate(limits=small(max_body_seconds=0.05))
    answer = gate.ask(messages=[chunk(b"x", True), 0.03, chunk(b"x", True), 0.03, chunk(b"x")])
    assert (answer.status, answer.code, answer.headers["connection"]) == (408, "body_timeout", "close")


def test_a_client_that_leaves_its_body_unfinished_is_gone(caplog):
    caplog.set_level(logging.INFO, "clip_hf.serving.access")
    gate = Gate()
    assert gate.ask(messages=[chunk(b"x", True), DISCONNECT]).status is None
    assert gate.metric("clip_hf_cancelled_total") == 1 and '"POST /v1/rank" 499' in caplog.text


# -------------------------------------------------------------------------------------------------- many, and for long


async def stall(scope, receive, send) -> None:
    """An app that never answers."""
    await asyncio.sleep(5)


def test_more_requests_than_allowed_are_429():
    gate = Gate(limits=ServingLimits(max_pending_requests=2))
    gate.traffic.requests = 2
    answer = gate.ask()
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "too_many_requests", "1")
    assert gate.metric("clip_hf_rejected_total") == 1
    assert gate.ask("/health/live").status == gate.ask("/metrics").status == 200
    gate.traffic.requests = 1
    assert gate.ask().status == 200


@pytest.mark.parametrize("messages", [[chunk()], [chunk(b"x", True), 5.0]])
def test_a_request_that_takes_too_long_is_503(messages):
    answer = Gate(stall, limits=ServingLimits(max_seconds=0.05)).ask(messages=messages)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "timeout", "1")
    assert "0.05 s" in answer.body.decode()


def test_a_time_out_of_the_app_itself_is_a_fault(caplog):
    async def app(scope, receive, send) -> None:
        raise TimeoutError

    assert Gate(app).ask().status == 500
    assert "TimeoutError" in caplog.text


def test_the_work_for_a_client_that_went_away_is_cancelled(caplog):
    caplog.set_level(logging.INFO, "clip_hf.serving.access")
    ended = []

    async def app(scope, receive, send) -> None:
        try:
            await stall(scope, receive, send)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    gate = Gate(app)
    answer = gate.ask(messages=[chunk(), 0.01, DISCONNECT])
    assert ended == [True] and (answer.status, answer.body) == (None, b"")
    assert gate.metric("clip_hf_cancelled_total") == 1
    assert gate.metric('clip_hf_requests_total{route="/v1/rank",status="499"}') == 1
    assert '"POST /v1/rank" 499' in caplog.text and "ERROR" not in caplog.text


def test_a_client_that_goes_away_after_the_answer_is_none_that_went_away():
    async def app(scope, receive, send) -> None:
        await echo(scope, receive, send)
        await asyncio.sleep(0.02)

    gate = Gate(app)
    assert gate.ask(messages=[chunk(b"x"), 0.001, DISCONNECT]).status == 200
    assert gate.metric("clip_hf_cancelled_total") == 0


def test_a_cancelled_server_lets_go():
    async def run() -> None:
        task = asyncio.create_task(Gate(stall).call())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_what_is_left_at_the_end_of_a_drain_is_503():
    async def run() -> Answer:
        gate = Gate(stall)
        task = asyncio.create_task(gate.call())
        await asyncio.sleep(0.01)
        gate.traffic.draining = True
        task.cancel()
        return await task

    answer = asyncio.run(run())
    assert (answer.status, answer.code, answer.headers["connection"]) == (503, "draining", "close")


def test_connections_close_while_draining_and_stay_otherwise():
    gate = Gate()
    assert "connection" not in gate.ask().headers
    gate.traffic.draining = True
    assert gate.ask().headers["connection"] == "close"


# -------------------------------------------------------------------------------------------- answers, log and metrics


@pytest.mark.parametrize("given", ["abc", "A.b-c_9", "x" * 64])
def test_the_clients_request_id_is_kept(given):
    assert Gate().ask(headers=[("X-Request-Id", given)]).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\nb", "\xe9", "a;b"])
def test_another_request_id_is_replaced(given):
    ids = {Gate().ask(headers=[("X-Request-Id", given)]).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2 and given not in ids and all(re.fullmatch("[0-9a-f]{16}", each) for each in ids)


def test_headers_of_answers():
    async def app(scope, receive, send) -> None:
        await asyncio.sleep(0.02)
        headers = [(b"cache-control", b"max-age=60"), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    headers = Gate(app).ask().headers
    assert (headers["cache-control"], headers["x-own"]) == ("max-age=60", "1")
    headers = Gate().ask().headers
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    timing = re.fullmatch(r"body;dur=(\d+\.\d), total;dur=(\d+\.\d)", Gate(app).ask().headers["server-timing"])
    assert float(timing[2]) >= 20 > float(timing[1])


def test_a_fault_of_the_app_is_500_and_says_nothing_of_it(caplog):
    async def app(scope, receive, send) -> None:
        raise KeyError("a secret")

    answer = Gate(app).ask(headers=[("X-Request-Id", "r1")])
    assert (answer.status, answer.code) == (500, "internal")
    assert b"r1" in answer.body and b"secret" not in answer.body and "request r1 failed" in caplog.text


def test_a_fault_after_the_answer_began_sends_no_second_one(caplog):
    async def app(scope, receive, send) -> None:
        await echo(scope, receive, send)
        raise KeyError

    assert Gate(app).ask(messages=[chunk(b"x")]).body == b"x"
    assert "KeyError" in caplog.text


def test_the_log_says_what_was_asked_and_nothing_of_its_contents(caplog):
    caplog.set_level(logging.INFO, "clip_hf.serving.access")

    async def app(scope, receive, send) -> None:
        scope["state"]["items"] = 7
        await echo(scope, receive, send)

    Gate(app, api_key=KEY).ask(
        headers=[("X-Request-Id", "r2"), ("Authorization", f"Bearer {KEY}")], messages=[chunk(b"a secret")]
    )
    (line,) = caplog.messages
    assert re.fullmatch(r'r2 "POST /v1/rank" 200 \d+\.\d ms, 7 items', line)
    caplog.clear()
    Gate().ask("/" + "x" * 500)
    (line,) = caplog.messages
    assert f'POST /{"x" * 199}..." 200' in line


@pytest.mark.parametrize(
    "path", ["/x\ny", '/x" 200 1.0 ms, 1 items r2 "GET /y', "/\x1b[31m", "/%0A", "/\u2028\xe9", "/\ud800"]
)
def test_no_path_imitates_a_line_of_the_log(path, caplog):
    caplog.set_level(logging.INFO, "clip_hf.serving.access")
    Gate().ask(path, headers=[("X-Request-Id", "r2")])
    (line,) = caplog.messages
    assert re.fullmatch(r'r2 "POST /[A-Za-z0-9%./_~-]*" 200 \d+\.\d ms, 0 items', line)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/rank", "/v1/rank"),
        ("/page/a.js", "/page/*"),
        ("/v1/models/me/x", "/v1/models/*"),
        ("/v1/hf/me/x", "/v1/hf/*"),
        ("/made-up", "other"),
    ],
)
def test_metrics_name_routes_not_what_clients_sent(path, route):
    gate = Gate()
    gate.ask(path)
    assert gate.metric(f'clip_hf_requests_total{{route="{route}",status="200"}}') == 1
    assert gate.metric(f'clip_hf_request_seconds_count{{route="{route}"}}') == 1


def test_other_protocols_pass():
    seen = []

    async def app(scope, receive, send) -> None:
        seen.append(scope)

    asyncio.run(Gate(app).middleware({"type": "lifespan"}, None, None))
    assert seen == [{"type": "lifespan"}]
