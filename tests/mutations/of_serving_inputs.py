# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in what a server reads from requests and fetches from URLs."""

from .mutation import Mutation


FETCHING, INPUTS = "serving/image_fetching.py", "serving/request_inputs.py"
FETCHING_TESTS, INPUTS_TESTS = "serving/test_image_fetching.py", "serving/test_request_inputs.py"

MUTATIONS = [
    Mutation(
        "the name is dialled, not the checked address",
        FETCHING,
        "host=address, port=target.port",
        "host=target.name, port=target.port",
        f"{FETCHING_TESTS} -k checked_one",
    ),
    Mutation(
        "one public address is enough",
        FETCHING,
        "if not all(map(self._is_allowed_address, addresses)):",
        "if not any(map(self._is_allowed_address, addresses)):",
        f"{FETCHING_TESTS} -k 'address_is_refused and after'",
    ),
    Mutation(
        "a redirect is not checked",
        FETCHING,
        "if not any(_covers(allowed, name, port) for allowed in self._allowed):",
        "if where and not any(_covers(allowed, name, port) for allowed in self._allowed):",
        f"{FETCHING_TESTS} -k redirect_is_refused",
        more={"target = self._check_url(answer, where)": 'target = self._check_url(answer, "")'},
    ),
    Mutation(
        "a wildcard covers names that end alike",
        FETCHING,
        """name.endswith(f".{allowed['name']}")""",
        """name.endswith(allowed["name"])""",
        f"{FETCHING_TESTS} -k url_is_refused",
    ),
    Mutation(
        "addresses inside addresses are not looked at",
        FETCHING,
        "return address.ipv4_mapped or address.sixtofour",
        "return address.ipv4_mapped",
        f"{FETCHING_TESTS} -k address_is_refused",
    ),
    Mutation(
        "special networks that Python leaves out",
        FETCHING,
        "and not any(found in network for network in _NOT_PUBLIC)",
        "",
        f"{FETCHING_TESTS} -k address_is_refused",
    ),
    Mutation(
        "the certificate is checked for the address",
        FETCHING,
        '"sni_hostname": target.name, ',
        "",
        f"{FETCHING_TESTS} -k certificate",
    ),
    Mutation(
        "proxies of the environment",
        FETCHING,
        "httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False)",
        "httpx.AsyncClient(verify=self._tls)",
        f"{FETCHING_TESTS} -k proxies",
        more={
            "transport.handle_async_request(_build_request(target, address))": (
                "transport.send(_build_request(target, address), stream=True)"
            )
        },
    ),
    Mutation(
        "files are decompressed",
        FETCHING,
        "response.aiter_raw()",
        "response.aiter_bytes()",
        f"{FETCHING_TESTS} -k decompressed",
    ),
    Mutation(
        "bytes are counted only when they are announced",
        FETCHING,
        "        budget.take(len(chunk), where)\n",
        "",
        f"{FETCHING_TESTS} -k 'endless or share'",
    ),
    Mutation(
        "each image of a request has the whole budget",
        INPUTS,
        "fetcher.fetch(image.text, image.where, budget)",
        "fetcher.fetch(image.text, image.where, ByteBudget(limits.max_body_bytes))",
        f"{INPUTS_TESTS} -k share_the_bytes",
    ),
    Mutation(
        "a text may be half of a surrogate pair",
        INPUTS,
        "        text.encode()\n",
        '        text.encode(errors="surrogatepass")\n',
        f"{INPUTS_TESTS} -k refused",
    ),
    Mutation(
        "letters outside base64 are skipped",
        INPUTS,
        "base64.b64decode(text, validate=True)",
        "base64.b64decode(text)",
        f"{INPUTS_TESTS} -k refused",
    ),
    Mutation(
        "large images are decoded on the event loop",
        INPUTS,
        "for image in encoded) > _LARGE:",
        "for image in encoded) > 10**12:",
        f"{INPUTS_TESTS} -k event_loop",
    ),
    Mutation(
        "large forms are taken apart on the event loop",
        INPUTS,
        "if len(chunk) > _LARGE:",
        "if False:",
        f"{INPUTS_TESTS} -k event_loop",
    ),
    Mutation(
        "a form may end early",
        INPUTS,
        "if not self._is_complete:",
        "if False:",
        f"{INPUTS_TESTS} -k damaged_forms",
    ),
    Mutation(
        "a form may have any number of parts",
        INPUTS,
        "if len(self._parts) == self._max_parts:",
        "if False:",
        f"{INPUTS_TESTS} -k forms_that_are_refused",
    ),
    Mutation(
        "a client reads what the decoder said",
        "serving/image_messages.py",
        "return _SENTENCES.get(error.kind, _OTHER)",
        "return _SENTENCES.get(error.kind, str(error))",
        "serving/test_image_messages.py",
    ),
]
