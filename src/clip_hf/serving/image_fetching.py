# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Fetch images from the URLs that clients send, without lending them the server's place in its network.

One strict pattern takes a URL apart; what it does not match is refused, and its parts are what is dialled, so that no
second parser may read the URL in another way (CVE-2026-24779). A name is resolved once, all its addresses must be
public, and the connection goes to one of these addresses as numbers (DNS rebinding). Redirects go through all of it
again. Proxies of the environment are not used, and nothing is decompressed.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import urljoin

import httpx

from .request_errors import RequestError
from .serving_limits import ServingLimits


_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label begins with a letter: `127.1`, `2130706433` and `0x7f.1` are addresses to some parsers.
# `*+` does not try again with less, which would take seconds for a long URL.
_NAME = rf"(?:{_LABEL}\.)*+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?"
_HOST = re.compile(rf"(?P<wildcard>\*\.)?(?P<name>{_NAME})(?::(?P<port>[0-9]{{1,5}}))?")
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<name>{_NAME})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<path>[/?][!$-;=?-\[\]^-~]*+)?(?:#[!-\[\]-~]*+)?",
    re.IGNORECASE | re.ASCII,
)
_MAX_URL_CHARACTERS = 8192
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 3
_MAX_CONNECTIONS = 16
_CONNECT_SECONDS = 5.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Those of IANA's registries of special addresses that `is_global` of some Python versions leaves out.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "3fff::/20")
]


@dataclass(frozen=True)
class _Target:
    scheme: str
    name: str
    port: int
    path: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        return self.name if self.port == _PORTS[self.scheme] else f"{self.name}:{self.port}"


class ByteBudget:
    """Bytes that all images of one request may still have together."""

    def __init__(self, limit: int):
        self.limit = self.left = limit

    def check(self, count: int, where: str) -> None:
        """Raise [`RequestError`] if this many bytes are too many."""
        if count > self.left:
            raise RequestError(
                413,
                f"The images that `{where}` and others name by their URLs have more than the {self.limit:,} bytes "
                "that a request may have. Send fewer or smaller ones.",
                code="images_too_large",
                param=where,
            )

    def take(self, count: int, where: str) -> None:
        """Use up some bytes."""
        self.check(count, where)
        self.left -= count


class ImageFetcher:
    """Fetches images from allowed hosts.

    Args:
        allowed_hosts (`Sequence[str]`): Names such as `"example.com"`, `"*.example.org"` (all names below it) and
            `"example.com:8443"` (that port alone; otherwise 80 and 443). If empty, no URL is fetched.
        limits ([`ServingLimits`]): `max_body_bytes` bounds the files, `max_body_seconds` the time of each.
        resolve (`Callable`, *optional*): `resolve(name, port)` gives the addresses of a name. For tests.
        is_allowed_address (`Callable`, *optional*): Whether an address may be dialled. For tests.

    Raises:
        ValueError: if an allowed host is no name of a host.
    """

    def __init__(
        self,
        allowed_hosts: Sequence[str],
        limits: ServingLimits,
        *,
        resolve: Callable[[str, int], Awaitable[list[str]]] | None = None,
        is_allowed_address: Callable[[str], bool] | None = None,
    ):
        self._allowed = [_parse_allowed_host(host) for host in allowed_hosts]
        self._limits = limits
        self._resolve = resolve or self._resolve_host
        self._is_allowed_address = is_allowed_address or is_public_address
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)
        # Threads of their own: slow name servers must not hold up what else uses asyncio's.
        self._resolvers = ThreadPoolExecutor(_MAX_CONNECTIONS, thread_name_prefix="resolve")
        self._tls = httpx.create_ssl_context() if self._allowed else None

    async def fetch(self, url: str, where: str, budget: ByteBudget | None = None) -> bytes:
        """Fetch a file.

        Args:
            url (`str`): Its URL.
            where (`str`): The place of the URL in the request, such as `"input[3]"`.
            budget ([`ByteBudget`], *optional*): What all images of the request may have together.

        Raises:
            RequestError: 400 if the URL is not allowed or cannot be fetched, 413 if the file is too large.
        """
        target = self._check_url(url, where)
        budget = budget or ByteBudget(self._limits.max_body_bytes)
        try:
            async with asyncio.timeout(self._limits.max_body_seconds), self._slots:
                for _ in range(_MAX_REDIRECTS + 1):
                    answer = await self._get(target, where, budget)
                    if isinstance(answer, bytes):
                        return answer
                    target = self._check_url(answer, where)
        except TimeoutError:
            raise _failure(where, f"it took longer than {self._limits.max_body_seconds:g} seconds") from None
        raise _failure(where, f"it leads to more than {_MAX_REDIRECTS} redirects")

    def close(self) -> None:
        """End the threads that resolve names."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    def _check_url(self, url: str, where: str) -> _Target:
        if not self._allowed:
            raise RequestError(
                400,
                f"`{where}` is a URL, and this server does not fetch URLs. Send the image itself, as a data URI or "
                "base64 text.",
                code="url_not_allowed",
                param=where,
            )
        match = _URL.fullmatch(url) if len(url) <= _MAX_URL_CHARACTERS else None
        if match is None:
            raise _refusal(
                where,
                "it must read http(s)://name/path, at most 8,192 characters of ASCII, with a host's name instead of "
                "its address, and without user names, spaces and backslashes",
            )
        scheme, name = match["scheme"].lower(), match["name"].lower()
        port = int(match["port"] or _PORTS[scheme])
        if not any(_covers(allowed, name, port) for allowed in self._allowed):
            raise _refusal(where, "its host (or port) is none of those that this server fetches from")
        path = match["path"] or "/"
        return _Target(scheme, name, port, path if path.startswith("/") else f"/{path}")

    async def _resolve_host(self, name: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(entry[4][0] for entry in found))

    async def _get(self, target: _Target, where: str, budget: ByteBudget) -> bytes | str:
        """The bytes of a file, or the URL to which its server redirects."""
        try:
            addresses = await self._resolve(target.name, target.port)
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise _failure(where, "its host has no address")
        if not all(map(self._is_allowed_address, addresses)):
            raise _refusal(where, "its host has an address that is not public")
        for address in addresses:
            async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
                try:
                    response = await transport.handle_async_request(_build_request(target, address))
                    async with aclosing(response):
                        return await _read(response, target, where, budget)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    continue  # with the next address
                except httpx.HTTPError:
                    raise _failure(where, "the connection broke, or the answer is not valid HTTP") from None
        raise _failure(where, "its host does not answer, or its certificate is not valid")


def is_public_address(address: str) -> bool:
    """Whether an address is one of the public internet, and so is each address that it stands for."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # such as an IPv6 address with a zone that is not valid
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None:
            return False
        inner = _inner_address(found)
        if inner is not None:
            return is_public_address(str(inner))
        if found not in _GLOBAL_UNICAST:
            return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _NOT_PUBLIC)


def _inner_address(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address in one of IPv6 that a gateway translates: mapped, 6to4 or NAT64."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _parse_allowed_host(text: str) -> re.Match:
    match = _HOST.fullmatch(text.lower())
    if match is None or (match["wildcard"] and "." not in match["name"]):
        raise ValueError(
            f"{text!r} is not a host that images may come from. Write a name (example.com), a name and a port "
            "(example.com:8443), or all names below one (*.example.org); addresses are not taken."
        )
    return match


def _covers(allowed: re.Match, name: str, port: int) -> bool:
    ports = [int(allowed["port"])] if allowed["port"] else _PORTS.values()
    is_named = name.endswith(f".{allowed['name']}") if allowed["wildcard"] else name == allowed["name"]
    return is_named and port in ports


def _build_request(target: _Target, address: str) -> httpx.Request:
    """A request to an address, for the host that the URL names: in `Host`, and for the certificate."""
    return httpx.Request(
        "GET",
        httpx.URL(scheme=target.scheme, host=address, port=target.port, raw_path=target.path.encode("ascii")),
        headers={
            "Host": target.authority,
            "User-Agent": "clip_hf",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        },
        extensions={"sni_hostname": target.name, "timeout": {"connect": _CONNECT_SECONDS}},
    )


async def _read(response: httpx.Response, target: _Target, where: str, budget: ByteBudget) -> bytes | str:
    location = response.headers.get("Location")
    if response.status_code in _REDIRECTS and location:
        try:
            return urljoin(target.url, location)
        except ValueError:
            raise _failure(where, "its server redirects to what is no URL") from None
    if response.status_code != 200:
        raise _failure(where, f"its server answered with status {response.status_code}")
    budget.check(int(response.headers.get("Content-Length", 0)), where)
    data = bytearray()
    async for chunk in response.aiter_raw():  # as sent: nothing is decompressed
        budget.take(len(chunk), where)
        data += chunk
    return bytes(data)


def _refusal(where: str, reason: str) -> RequestError:
    return RequestError(400, f"The URL at `{where}` is not fetched: {reason}.", code="url_not_allowed", param=where)


def _failure(where: str, reason: str) -> RequestError:
    return RequestError(
        400, f"The URL at `{where}` could not be fetched: {reason}.", code="url_not_fetched", param=where
    )
