# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a server fetches from URLs, and above all what it does not: one case for each way to misuse it."""

import asyncio
import gzip
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from clip_hf.serving import ServingLimits
from clip_hf.serving.image_fetching import ByteBudget, ImageFetcher, is_public_address
from clip_hf.serving.request_errors import RequestError


CERTIFICATE = Path(__file__).with_name("images_example.pem")  # of images.example, signed by itself, with its key
LIMITS = ServingLimits(max_body_bytes=100_000, max_body_seconds=1.0)
PUBLIC = "93.184.216.34"
ALLOWED = ["images.example", "*.cdn.example", "ported.example:8443"]


class Resolver:
    """Answers like a name server, a list of addresses each time, and keeps the names it was asked for."""

    def __init__(self, *answers: list[str]):
        self.answers, self.asked = list(answers), []

    async def __call__(self, name: str, port: int) -> list[str]:
        self.asked.append(name)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def dialled(monkeypatch) -> list[httpx.Request]:
    """The requests that would go out; each is answered with two bytes, or by the next of `dialled.answers`."""

    class Requests(list):
        answers: list[httpx.Response] = []

    requests = Requests()
    requests.answers = []

    async def answer(self, request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return requests.answers.pop(0) if requests.answers else httpx.Response(200, stream=httpx.ByteStream(b"ok"))

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    return requests


def fetch(url: str, resolver: Resolver | None = None, allowed=ALLOWED) -> bytes:
    return asyncio.run(ImageFetcher(allowed, LIMITS, resolve=resolver or Resolver([PUBLIC])).fetch(url, "input[3]"))


def redirect(location: str, status: int = 302) -> httpx.Response:
    return httpx.Response(status, headers={"Location": location})


# -------------------------------------------------------------------------------------------------- what is allowed


@pytest.mark.parametrize(
    ("url", "scheme", "host", "target"),
    [
        ("http://images.example/a/cat.png", "http", "images.example", "/a/cat.png"),
        ("https://images.example", "https", "images.example", "/"),
        ("HTTPS://IMAGES.EXAMPLE/Cat.png", "https", "images.example", "/Cat.png"),
        ("https://images.example:443/cat.png?size=2&a=[b]#part", "https", "images.example", "/cat.png?size=2&a=[b]"),
        ("http://images.example?id=5", "http", "images.example", "/?id=5"),
        ("http://images.example:443/", "http", "images.example:443", "/"),
        ("https://a.b.cdn.example/x", "https", "a.b.cdn.example", "/x"),
        ("https://ported.example:8443/%2e%2e/@x:y", "https", "ported.example:8443", "/%2e%2e/@x:y"),
    ],
)
def test_the_checked_address_is_dialled_for_the_name(url, scheme, host, target, dialled):
    resolver = Resolver([PUBLIC])
    assert fetch(url, resolver) == b"ok"
    (request,) = dialled
    assert (request.url.scheme, request.url.host, request.url.raw_path.decode()) == (scheme, PUBLIC, target)
    assert request.headers["Host"] == host
    name = host.partition(":")[0]
    assert request.extensions["sni_hostname"] == name
    assert resolver.asked == [name]


def test_an_address_of_version_6_is_dialled(dialled):
    assert fetch("http://images.example/", Resolver(["2606:2800:220:1:248:1893:25c8:1946"])) == b"ok"
    assert dialled[0].url.host == "2606:2800:220:1:248:1893:25c8:1946"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_to_allowed_hosts(status, dialled):
    dialled.answers = [redirect("/b?c=d", status), redirect("//x.cdn.example/e", status)]
    assert fetch("https://images.example/a") == b"ok"
    assert [(each.headers["Host"], each.url.raw_path) for each in dialled] == [
        ("images.example", b"/a"),
        ("images.example", b"/b?c=d"),
        ("x.cdn.example", b"/e"),
    ]


# ------------------------------------------------------------------------------------------ URLs that are not dialled

REFUSED_URLS = {
    "no host of the list": "http://evil.example/",
    "a name that ends like an allowed one": "http://evilimages.example/",
    "an allowed name as a part": "http://images.example.evil.example/",
    "the parent of a wildcard": "http://cdn.example/",
    "a wildcard's end without its dot": "http://evilcdn.example/",
    "another port": "http://images.example:8080/",
    "port 22": "http://images.example:22/",
    "port 0": "http://images.example:0/",
    "the default port of a host with a port": "https://ported.example/",
    "a port too large": "http://images.example:65616/",
    "an empty port": "http://images.example:/",
    "a signed port": "http://images.example:+80/",
    "metadata of clouds": "http://169.254.169.254/latest/meta-data/",
    "metadata by name": "http://metadata.google.internal/computeMetadata/v1/",
    "loopback": "http://127.0.0.1/",
    "loopback by name": "http://localhost/",
    "loopback in short": "http://127.1/",
    "loopback as one number": "http://2130706433/",
    "loopback in hexadecimal": "http://0x7f.1/",
    "loopback in one hexadecimal number": "http://0x7f000001/",
    "loopback in octal": "http://0177.0.0.1/",
    "all addresses": "http://0.0.0.0/",
    "zero": "http://0/",
    "loopback in version 6": "http://[::1]/",
    "loopback mapped into version 6": "http://[::ffff:127.0.0.1]/",
    "version 6 with a zone": "http://[fe80::1%25eth0]/",
    "a public address": f"http://{PUBLIC}/",
    "user name that looks like the host": "http://images.example@evil.example/",
    "user name and password": "http://images.example:80@evil.example/",
    "user name for an allowed host": "http://user:password@images.example/",
    "an empty user name": "http://@images.example/",
    "host after a fragment": "http://evil.example#@images.example/",
    "host after a query": "http://evil.example?@images.example/",
    "backslash before the at sign": "http://images.example\\@evil.example/",
    "backslashes for slashes": "http:\\\\images.example\\",
    "backslash in the path": "http://images.example/\\evil.example/",
    "three slashes": "http:///images.example/",
    "one slash": "http:/images.example/",
    "no slash": "http:images.example/",
    "trailing dot": "http://images.example./",
    "two dots": "http://images..example/",
    "leading dot": "http://.images.example/",
    "ideographic full stop": "http://images。example/",
    "full-width letters": "http://ｉmages.example/",
    "Cyrillic letter": "http://imаges.example/",
    "sharp s": "http://imageß.example/",
    "Kelvin sign": "http://Kimages.example/",
    "long s": "http://imageſ.example/",
    "soft hyphen": "http://ima\u00adges.example/",
    "percent-encoded host": "http://images%2eexample/",
    "percent-encoded slash in the host": "http://evil.example%2f@images.example/",
    "null byte": "http://images.example\x00.evil.example/",
    "tab": "http://ima\tges.example/",
    "line break": "http://images.example/\r\nHost: evil.example",
    "line break at the end": "http://images.example/\n",
    "space before": " http://images.example/",
    "space in the path": "http://images.example/a b",
    "letters beyond ASCII in the path": "http://images.example/é",
    "half of a surrogate pair": "http://images.example/\ud800",
    "underscore": "http://ima_ges.example/",
    "comma": "http://images.example,evil.example/",
    "two hosts": "http://images.example http://evil.example/",
    "file": "file:///etc/passwd",
    "file with a host": "file://images.example/etc/passwd",
    "ftp": "ftp://images.example/",
    "gopher": "gopher://images.example:80/_GET",
    "unknown scheme": "httpx://images.example/",
    "chained schemes": "url:http://images.example/",
    "data": "data:image/png;base64,AAAA",
    "no scheme": "//images.example/",
    "no URL": "images.example",
    "empty": "",
    "too long": "http://images.example/" + "a" * 10_000,
}


@pytest.mark.parametrize("url", REFUSED_URLS.values(), ids=REFUSED_URLS)
def test_a_url_is_refused(url, dialled):
    resolver = Resolver([PUBLIC])
    with pytest.raises(RequestError) as error:
        fetch(url, resolver)
    assert (error.value.status, error.value.code, error.value.param) == (400, "url_not_allowed", "input[3]")
    assert (dialled, resolver.asked) == ([], [])


@pytest.mark.parametrize("rest", ["a." * 4000, "/?" + "?" * 8000 + "\\", "/a?" + "a?" * 4000 + " ", "#" * 8000 + " "])
def test_a_long_url_is_refused_quickly(rest):
    start = time.perf_counter()
    with pytest.raises(RequestError):
        fetch(f"http://images.example{rest}")
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("url", ["http://images.example/", "http://127.0.0.1/", "file:///etc/passwd"])
def test_nothing_is_fetched_by_default(url, dialled):
    resolver = Resolver([PUBLIC])
    with pytest.raises(RequestError, match="does not fetch URLs. Send the image itself") as error:
        fetch(url, resolver, allowed=[])
    assert error.value.code == "url_not_allowed"
    assert (dialled, resolver.asked) == ([], [])


# -------------------------------------------------------------------------------------- addresses that are not dialled

REFUSED_ADDRESSES = {
    "loopback": "127.0.0.1",
    "another loopback": "127.8.8.8",
    "all addresses": "0.0.0.0",
    "this network": "0.1.2.3",
    "metadata of AWS, Azure and Google": "169.254.169.254",
    "metadata of AWS for containers": "169.254.170.2",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Oracle": "192.0.0.192",
    "metadata of AWS, version 6": "fd00:ec2::254",
    "private, class A": "10.0.0.1",
    "private, class B": "172.16.0.1",
    "private, class C": "192.168.1.1",
    "carrier's network": "100.64.0.1",
    "benchmarks": "198.18.0.1",
    "documentation": "203.0.113.5",
    "relay of 6to4": "192.88.99.1",
    "multicast": "224.0.0.1",
    "multicast of the internet": "233.252.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "loopback, version 6": "::1",
    "unspecified, version 6": "::",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:a9fe:a9fe",
    "mapped private": "::ffff:10.0.0.1",
    "compatible loopback": "::127.0.0.1",
    "NAT64 of loopback": "64:ff9b::7f00:1",
    "NAT64 of metadata": "64:ff9b::a9fe:a9fe",
    "NAT64 of the local network": "64:ff9b:1::1",
    "6to4 of loopback": "2002:7f00:1::",
    "6to4 of a private one": "2002:a00:1::1",
    "Teredo": "2001:0:5ef5:79fb:0:0:80ff:fffe",
    "link, version 6": "fe80::1",
    "link with a zone": "fe80::1%eth0",
    "public with a zone": "2606:2800:220:1::1%eth0",
    "site": "fec0::1",
    "unique local": "fd12:3456:789a::1",
    "documentation, version 6": "2001:db8::1",
    "new documentation, version 6": "3fff::1",
    "benchmarks, version 6": "2001:2::1",
    "segment routing": "5f00::1",
    "multicast, version 6": "ff02::1",
    "multicast of the internet, version 6": "ff0e::1",
    "discard": "100::1",
    "no address": "images.example",
}


@pytest.mark.parametrize("address", REFUSED_ADDRESSES.values(), ids=REFUSED_ADDRESSES)
@pytest.mark.parametrize("place", ["alone", "after a public one"])
def test_an_address_is_refused(address, place, dialled):
    with pytest.raises(RequestError, match="an address that is not public") as error:
        fetch("http://images.example/", Resolver([address] if place == "alone" else [PUBLIC, address]))
    assert (error.value.status, error.value.code) == (400, "url_not_allowed")
    assert address not in error.value.message or address == "images.example"
    assert dialled == []


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "1.1.1.1", "2606:4700::1111", f"::ffff:{PUBLIC}", "64:ff9b::5db8:d822", "2002:5db8:d822::1"],
)
def test_a_public_address_is_public(address):
    assert is_public_address(address)


def test_a_name_that_changes_its_address_is_dialled_at_the_checked_one(dialled):
    """DNS rebinding: the second answer is never asked for."""
    resolver = Resolver([PUBLIC], ["127.0.0.1"])
    assert fetch("http://images.example/", resolver) == b"ok"
    assert [each.url.host for each in dialled] == [PUBLIC]
    assert resolver.asked == ["images.example"]


def test_a_name_that_changes_its_address_between_redirects_is_refused(dialled):
    dialled.answers = [redirect("http://images.example/again")]
    with pytest.raises(RequestError, match="an address that is not public"):
        fetch("http://images.example/", Resolver([PUBLIC], ["127.0.0.1"]))
    assert [each.url.host for each in dialled] == [PUBLIC]


REFUSED_REDIRECTS = {
    "loopback": "http://127.0.0.1/",
    "metadata": "http://169.254.169.254/latest/meta-data/iam/",
    "mapped loopback": "http://[::ffff:127.0.0.1]/",
    "another host": "http://evil.example/",
    "another host without a scheme": "//evil.example/",
    "another port": "http://images.example:8080/",
    "file": "file:///etc/passwd",
    "ftp": "ftp://images.example/",
    "gopher": "gopher://images.example/",
    "data": "data:image/png;base64,AAAA",
    "user name": "http://images.example@evil.example/",
    "backslashes": "http://images.example\\@evil.example/",
    "backslashes without a scheme": "\\\\evil.example/",
    "a bracket": "http://[evil/",
}


@pytest.mark.parametrize("location", REFUSED_REDIRECTS.values(), ids=REFUSED_REDIRECTS)
@pytest.mark.parametrize("hops", [1, 2])
def test_a_redirect_is_refused(location, hops, dialled):
    dialled.answers = [redirect("https://a.cdn.example/")] * (hops - 1) + [redirect(location)]
    with pytest.raises(RequestError) as error:
        fetch("http://images.example/")
    assert error.value.status == 400
    assert len(dialled) == hops
    assert all(each.url.host == PUBLIC for each in dialled)


def test_redirects_without_end_are_refused(dialled):
    dialled.answers = [redirect(f"/{index}") for index in range(10)]
    with pytest.raises(RequestError, match="more than 3 redirects"):
        fetch("http://images.example/")
    assert len(dialled) == 4


@pytest.mark.parametrize("resolver", [Resolver([]), ImageFetcher([], LIMITS)._resolve_host])
def test_a_name_without_address_is_refused(resolver, dialled):
    with pytest.raises(RequestError, match="its host has no address") as error:
        fetch("http://gone.cdn.example/", resolver)
    assert error.value.code == "url_not_fetched"
    assert dialled == []


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    data, _ = fetch_from(answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    assert data == b"ok"


@pytest.mark.parametrize(
    "host",
    ["*", "*.com", "http://images.example", "images.example/", "127.0.0.1", "[::1]", "a b", "", "*images.example"]
    + ["user@images.example", "images.example:", "imagés.example", "images.*.example", "images.example."],
)
def test_an_allowed_host_must_be_a_name(host):
    with pytest.raises(ValueError, match="is not a host that images may come from. Write a name"):
        ImageFetcher([host], LIMITS)


# ---------------------------------------------------------------------------------------------- servers that misbehave


def answer_with(data: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


def fetch_from(
    answer: Callable, tls: ssl.SSLContext | None = None, name: str = "images.example"
) -> tuple[bytes, bytes]:
    """Fetch from a server on the loopback interface; the bytes, and the head of the request that the server got."""

    async def run() -> tuple[bytes, bytes]:
        heads = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                await answer(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        fetcher = ImageFetcher(
            [f"{name}:{port}"],
            LIMITS,
            resolve=Resolver(["127.0.0.1"]),
            is_allowed_address=lambda address: address == "127.0.0.1",
        )
        try:
            return await fetcher.fetch(f"http{'s' if tls else ''}://{name}:{port}/cat.png", "input"), heads[0]
        finally:
            server.close()

    return asyncio.run(run())


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", *lines, "")).encode()


async def send_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(head("Content-Type: image/png"))
    while True:
        writer.write(b"\0" * 10_000)
        await writer.drain()


async def send_chunks_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(head("Transfer-Encoding: chunked"))
    while True:
        writer.write(b"5\r\nhello\r\n" * 1000)
        await writer.drain()


async def send_headers_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def send_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(head("Content-Length: 1000"))
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


MISBEHAVIOUR = {
    "huge content-length": (answer_with(head("Content-Length: 99999999999")), 413, "more than the 100,000 bytes"),
    "content-length one too large": (answer_with(head("Content-Length: 100001")), 413, "more than the 100,000 bytes"),
    "content-length of 5,000 digits": (answer_with(head(f"Content-Length: {'9' * 5000}")), 400, "not valid HTTP"),
    "negative content-length": (answer_with(head("Content-Length: -1")), 400, "not valid HTTP"),
    "two content-lengths": (answer_with(head("Content-Length: 1", "Content-Length: 2")), 400, "not valid HTTP"),
    "too short a body": (answer_with(head("Content-Length: 5") + b"ab"), 400, "the connection broke"),
    "endless body": (send_without_end, 413, "more than the 100,000 bytes"),
    "endless chunks": (send_chunks_without_end, 413, "more than the 100,000 bytes"),
    "endless headers": (send_headers_without_end, 400, "not valid HTTP"),
    "slow body": (send_slowly, 400, "longer than 1 seconds"),
    "no answer": (say_nothing, 400, "longer than 1 seconds"),
    "closed at once": (answer_with(b""), 400, "the connection broke"),
    "another protocol": (answer_with(b"SSH-2.0-OpenSSH_9.2\r\n"), 400, "not valid HTTP"),
    "random bytes": (answer_with(b"\x80" * 1000), 400, "not valid HTTP"),
    "status 404": (answer_with(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), 400, "with status 404"),
    "a part only": (answer_with(b"HTTP/1.1 206 Partial\r\nContent-Length: 2\r\n\r\nok"), 400, "with status 206"),
    "redirect to nowhere": (answer_with(b"HTTP/1.1 302 F\r\nContent-Length: 0\r\n\r\n"), 400, "with status 302"),
}


@pytest.mark.parametrize(("answer", "status", "message"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_a_server_that_misbehaves(answer, status, message):
    start = time.monotonic()
    with pytest.raises(RequestError, match=message) as error:
        fetch_from(answer)
    assert error.value.status == status
    assert time.monotonic() - start < 5


def test_a_file_comes_as_it_was_sent():
    """Its type may be a lie: only the bytes are looked at. No cookie, user or language goes out."""
    data, request = fetch_from(answer_with(head("Content-Type: text/html", "Content-Length: 3") + b"\x89PN"))
    assert data == b"\x89PN"
    lines = request.decode().split("\r\n")
    assert lines[0] == "GET /cat.png HTTP/1.1"
    assert {line.partition(":")[0] for line in lines[1:-2]} == {
        *("Host", "User-Agent", "Accept", "Accept-Encoding", "Connection")
    }
    assert "Accept-Encoding: identity" in lines


def test_nothing_is_decompressed():
    bomb = gzip.compress(b"\0" * 10_000_000)
    data, _ = fetch_from(answer_with(head("Content-Encoding: gzip", f"Content-Length: {len(bomb)}") + bomb))
    assert data == bomb
    assert len(data) < 100_000


def test_the_images_of_a_request_share_their_bytes(dialled):
    async def run() -> int:
        fetcher, budget = ImageFetcher(ALLOWED, LIMITS, resolve=Resolver([PUBLIC])), ByteBudget(5)
        await fetcher.fetch("http://images.example/", "input[0]", budget)
        await fetcher.fetch("http://images.example/", "input[1]", budget)
        with pytest.raises(RequestError) as error:
            await fetcher.fetch("http://images.example/", "input[2]", budget)
        assert (error.value.status, error.value.code, error.value.param) == (413, "images_too_large", "input[2]")
        return budget.left

    assert asyncio.run(run()) == 1


def tls_server() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_a_certificate_is_checked_for_the_name(monkeypatch):
    answer = answer_with(head("Content-Length: 2") + b"ok")
    with pytest.raises(RequestError, match="its host does not answer"):  # signed by nobody who is known
        fetch_from(answer, tls_server())
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    assert fetch_from(answer, tls_server())[0] == b"ok"
    with pytest.raises(RequestError, match="its host does not answer"):
        fetch_from(answer, tls_server(), "other.example")


def test_the_next_address_is_tried_where_one_does_not_answer(monkeypatch):
    asked = []

    async def answer(self, request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if len(asked) == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, stream=httpx.ByteStream(b"ok"))

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    assert fetch("http://images.example/", Resolver([PUBLIC, "1.1.1.1"])) == b"ok"
    assert asked == [PUBLIC, "1.1.1.1"]


def test_a_server_refuses_its_own_machine_even_if_it_is_allowed(make_client):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        host = f"localhost:{listening.getsockname()[1]}"
        client = make_client(allow_image_hosts=[host])
        answer = client.post("/v1/embeddings", json={"input": ["a", {"image": f"http://{host}/cat.png"}]})
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("url_not_allowed", "input[1]")
    assert "an address that is not public" in error["message"]
