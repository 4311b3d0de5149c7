# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in the clients of the server, in `--server`, and in the replicas on Ray."""

from .mutation import Mutation


_CLIENT = "serving/test_serving_client.py -k"

MUTATIONS = [
    Mutation(
        "what the server refuses is sent again",
        "serving/client_protocol.py",
        "return status in _TRY_AGAIN and problem[1] not in _FINAL",
        "return problem[1] not in _FINAL",
        f"{_CLIENT} final",
    ),
    Mutation(
        "the error of a proxy is final",
        "serving/client_protocol.py",
        "return status in _TRY_AGAIN or status >= 500",
        "return status in _TRY_AGAIN",
        f"{_CLIENT} may_pass",
    ),
    Mutation(
        "what takes too long is computed again and again",
        "serving/client_protocol.py",
        "return status in _TRY_AGAIN and problem[1] not in _FINAL",
        "return status in _TRY_AGAIN",
        f"{_CLIENT} final",
    ),
    Mutation(
        "the server's wait is not kept",
        "serving/client_protocol.py",
        "wait = max(delay * random.uniform(0.5, 1), _retry_after(outcome))",
        "wait = delay * random.uniform(0.5, 1)",
        f"{_CLIENT} wait_is_kept",
    ),
    Mutation(
        "tries are not bounded by time",
        "serving/client_protocol.py",
        "if retry == self.max_retries or is_late or not",
        "if retry == self.max_retries or not",
        f"{_CLIENT} by_time",
    ),
    Mutation(
        "a bad item has its place in the request",
        "serving/client_protocol.py",
        "ItemError(batch.first + place, batch.kind, message)",
        "ItemError(place, batch.kind, message)",
        f"{_CLIENT} bad_item_is_named",
    ),
    Mutation(
        "answers are taken as they come",
        "serving/client_protocol.py",
        'rows = sorted(_read_data(response), key=lambda row: row["index"])',
        "rows = _read_data(response)",
        f"{_CLIENT} batches_keep",
    ),
    Mutation(
        "the key goes where the answer says",
        "serving/client_protocol.py",
        'if not all(url is None or (url.startswith("/") and _PICTURES in url) for url in urls):',
        "if False:",
        f"{_CLIENT} queries",
    ),
    Mutation(
        "batches are not bounded by bytes",
        "serving/client_items.py",
        "(len(batch) == max_items or size + length > MAX_BATCH_BYTES)",
        "len(batch) == max_items",
        f"{_CLIENT} by_bytes",
    ),
    Mutation(
        "a pause waits for a whole batch",
        "serving/client_items.py",
        "            yield None\n            continue",
        "            continue",
        f"{_CLIENT} pause",
    ),
    Mutation(
        "the orientation is lost",
        "serving/client_items.py",
        'image.save(file, "PNG", compress_level=1, exif=exif)',
        'image.save(file, "PNG", compress_level=1)',
        f"{_CLIENT} orientation",
    ),
    Mutation(
        "a stream reads all of its input",
        "serving/serving_client.py",
        "while len(waiting) >= self.max_in_flight or (dialogue is None and waiting):",
        "while dialogue is None and waiting:",
        f"{_CLIENT} reads_no_more",
    ),
    Mutation(
        "a proxy leads to this machine",
        "serving/serving_client.py",
        '"trust_env": trusts_env}',
        '"trust_env": True}',
        f"{_CLIENT} no_proxy",
    ),
    Mutation(
        "requests of a stream are sent one by one",
        "serving/serving_client.py",
        "pool = ThreadPoolExecutor(self.max_in_flight,",
        "pool = ThreadPoolExecutor(1,",
        f"{_CLIENT} batches_keep",
    ),
    Mutation(
        "a forked process uses the threads of its parent",
        "serving/serving_client.py",
        "if self._opened is None or self._opened[0] != os.getpid():",
        "if self._opened is None:",
        "serving/test_client_inputs.py -k forked",
    ),
    Mutation(
        "an event loop uses the connections of another",
        "serving/serving_client.py",
        "if self._opened is None or self._opened[0] is not loop:",
        "if self._opened is None:",
        "serving/test_client_inputs.py -k one_event_loop",
    ),
    Mutation(
        "too many items are not halved",
        "serving/client_protocol.py",
        "(error.status == 413 or error.code in _TOO_MUCH)",
        "error.status == 413",
        f"{_CLIENT} halves",
    ),
    Mutation(
        "an image is sent in a mode that changes it",
        "serving/client_items.py",
        '"RGBX": "RGB"}',
        '"RGBX": "RGB", "HSV": "RGB"}',
        "serving/test_client_inputs.py -k mode",
    ),
    Mutation(
        "the first word of a query is lost",
        "cli/on_server.py",
        "            terms,\n            picture_edge",
        "            terms[1:] or terms,\n            picture_edge",
        "cli/test_on_server.py -m 'not slow'",
    ),
    Mutation(
        "images are named after others",
        "cli/on_server.py",
        "path = sent.popleft()",
        "path = sent.pop()",
        "cli/test_on_server.py -m 'not slow'",
    ),
]
