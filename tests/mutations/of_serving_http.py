# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in the server's routes, in what requests pass before them, and in its sockets."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "the key's beginning opens, too",
        "serving/server_middleware.py",
        'not hmac.compare_digest(self.headers.get(b"authorization", b""), key)',
        'not key.startswith(self.headers.get(b"authorization", b"?"))',
        "serving/test_server_middleware.py -k without_the_key",
    ),
    Mutation(
        "paths below an open one are open",
        "serving/server_middleware.py",
        "if path in _OPEN_PATHS or",
        "if path.startswith(tuple(_OPEN_PATHS - {'/'})) or",
        "serving/test_server_middleware.py -k without_the_key",
    ),
    Mutation(
        "a host that ends like this one is this one",
        "serving/server_middleware.py",
        "or name in allowed or is_loopback(name)",
        "or name.endswith(tuple(allowed)) or is_loopback(name)",
        "serving/test_server_middleware.py -k compared_whole",
    ),
    Mutation(
        "another port of this machine may send a browser here",
        "serving/server_middleware.py",
        'site not in (b"same-origin", b"none")',
        'site == b"cross-site"',
        "serving/test_server_middleware.py -k other_sites",
    ),
    Mutation(
        "an origin is compared without its port",
        "serving/server_middleware.py",
        "is_foreign = not slashes or origin_host != host",
        'is_foreign = not slashes or origin_host.partition(":")[0] != host.partition(":")[0]',
        "serving/test_server_middleware.py -k other_sites",
    ),
    Mutation(
        "bodies without a length are not bounded",
        "serving/server_middleware.py",
        "self._check_size(self.body_bytes + len(chunk), self.gate.traffic.body_bytes - self.body_bytes)",
        "pass",
        "serving/test_server_middleware.py -k body",
    ),
    Mutation(
        "bytes of a body that is refused are counted for ever",
        "serving/server_middleware.py",
        "            traffic.body_bytes -= self.body_bytes\n",
        "            traffic.body_bytes -= self.body_bytes if self.status == 200 else 0\n",
        "serving/test_server_middleware.py -k large_body",
    ),
    Mutation(
        "a client that went away is not noticed",
        "serving/server_middleware.py",
        "            self.is_gone = True\n            answering.cancel()\n",
        "            self.is_gone = True\n",
        "serving/test_server_middleware.py -k went_away",
    ),
    Mutation(
        "a client that has its answer counts as gone",
        "serving/server_middleware.py",
        "            self.is_complete = True\n",
        "            pass\n",
        "serving/test_server_middleware.py -k after_the_answer",
    ),
    Mutation(
        "metrics have what clients sent",
        "serving/server_middleware.py",
        '"other")',
        "path)",
        "serving/test_server_middleware.py -k metrics_name",
    ),
    Mutation(
        "base64 is big-endian",
        "serving/server_app.py",
        'astype("<f4"',
        'astype(">f4"',
        "serving/test_server_app.py -k base64",
    ),
    Mutation(
        "any model's name is answered",
        "serving/server_app.py",
        "if name != self.options.name:",
        "if False:",
        "serving/test_server_app.py -k another_model",
    ),
    Mutation(
        "a weight is lost",
        "serving/server_app.py",
        "terms += [(weight, item) for item in items]",
        "terms += [(1.0, item) for item in items]",
        "serving/test_server_app.py -k weights",
    ),
    Mutation(
        "numbers may be texts",
        "serving/request_schemas.py",
        "strict=True",
        "strict=False",
        "serving/test_server_app.py -k wrong_field",
    ),
    Mutation(
        "waiting connections are reset at the end",
        "serving/http_server.py",
        'if sys.platform != "linux":',
        "if True:",
        "serving/test_http_server.py -k takes_no_more_connections",
    ),
    Mutation(
        "used connections are closed while their clients send",
        "serving/http_server.py",
        "            await asyncio.sleep(_IDLE_SECONDS)\n",
        "",
        "serving/test_http_server.py -k 'not_ready_while or what_was_accepted'",
    ),
    Mutation(
        "headers may take for ever after an answer",
        "serving/http_server.py",
        'if between and "headers" not in self._waiting:',
        "if False:",
        "serving/test_http_server.py -k after_an_answer",
    ),
    Mutation(
        "a body counts as slow headers",
        "serving/http_server.py",
        '        self._stop_waiting("headers")\n        self._held_bytes = 0\n',
        "        self._held_bytes = 0\n",
        "serving/test_http_server.py -k in_time",
    ),
    Mutation(
        "a client that does not read holds its answer",
        "serving/http_server.py",
        '        self._wait("reading", self.limits.max_seconds)\n',
        "",
        "serving/test_http_server.py -k does_not_read",
    ),
    Mutation(
        "everyone may use a server on all addresses",
        "cli/serve.py",
        "if not is_local and key is None and not options.no_api_key:",
        "if False:",
        "cli/test_serve_command.py -k other_machines",
    ),
]
