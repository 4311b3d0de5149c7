# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in the copies of an index that lie in databases."""

from .mutation import Mutation


TESTS = "search/test_vector_stores.py -m 'not slow' -k"
URLS = "search/test_store_urls.py -k"
LAYOUTS = "search/test_store_layouts.py"

MUTATIONS = [
    Mutation(
        "the order of the database is trusted",
        "search/store_base.py",
        "is_certain = len(order) == k and best[-1] > answer.scores.min() + rounding_bound(len(query))",
        "is_certain = True",
        f"{TESTS} near_ties",
    ),
    Mutation(
        "rounding of the database is left out",
        "search/store_base.py",
        "return 2 * (dim + 5) * unit / (1 - (dim + 5) * unit)",
        "return unit",
        f"{LAYOUTS} -k below_the_bound",
    ),
    Mutation(
        "ties in any order",
        "search/store_base.py",
        "np.lexsort((answer.places, -scores))",
        "np.lexsort((-answer.places, -scores))",
        f"{TESTS} near_ties",
    ),
    Mutation(
        "an exact search keeps the plan of another",
        "search/pgvector_store.py",
        ", prepare=False",
        "",
        f"{TESTS} does_not_use_hnsw",
    ),
    Mutation(
        "an exact search may use HNSW",
        "search/pgvector_store.py",
        'cursor.execute("SET LOCAL enable_indexscan = off")',
        "pass",
        f"{TESTS} does_not_use_hnsw",
    ),
    Mutation(
        "a batch is no transaction",
        "search/pgvector_store.py",
        "with self._explained(), self._connection.transaction(), self._connection.cursor() as cursor:",
        "with self._explained(), self._connection.cursor() as cursor:",
        f"{TESTS} killed_in_a_batch",
    ),
    Mutation(
        "texts compare by the server's language",
        "search/pgvector_store.py",
        "sql.SQL(kind), sql.SQL(collation)",
        'sql.SQL(kind), sql.SQL(collation.replace("C", "en-x-icu"))',
        f"{TESTS} filters_are",
    ),
    Mutation(
        "changed metadata are not noticed",
        "search/vector_store.py",
        "vector.tobytes() + repr(values).encode()",
        "vector.tobytes()",
        f"{TESTS} only_changes",
    ),
    Mutation(
        "changed vectors are not noticed",
        "search/vector_store.py",
        "vector.tobytes() + repr(values).encode()",
        "repr(values).encode()",
        f"{TESTS} only_changes",
    ),
    Mutation(
        "a row that moved keeps its place",
        "search/vector_store.py",
        "if old_digest == digest and old_place > last:",
        "if old_digest == digest:",
        f"{TESTS} order_of_ties",
    ),
    Mutation(
        "rows of another model are mixed in",
        "search/vector_store.py",
        "if _identity(wanted) != _identity(found):",
        "if False:",
        f"{TESTS} another_index",
    ),
    Mutation(
        "a pattern for the database is too narrow",
        "search/store_filters.py",
        'return "%".join(',
        'return "_".join(',
        f"{TESTS} filters_are",
    ),
    Mutation(
        "special characters of a pattern are sent",
        "search/store_filters.py",
        '_SPECIAL.sub("_", part)',
        "part",
        f"{TESTS} filters_are",
    ),
    Mutation(
        "the password is in messages",
        "search/store_urls.py",
        'name = f"{scheme}://{user}{host}{parts.path}?{parameter}={table}"',
        'name = f"{scheme}://{parts.netloc}{parts.path}?{parameter}={table}"',
        f"{URLS} 'passwords or is_down'",
    ),
    Mutation(
        "quotes of Milvus' strings are not escaped",
        "search/milvus_store.py",
        """('"', '\\\\"'), """,
        "",
        f"{TESTS} filters_are",
    ),
    Mutation(
        "the end of a password is taken for a path",
        "search/store_urls.py",
        'if parts.fragment or "@" in url.partition("://")[2].removeprefix(parts.netloc):',
        "if False:",
        f"{URLS} bad_addresses",
    ),
    Mutation(
        "rows of another source are replaced",
        "search/vector_store.py",
        "if wanted.source != found.source:",
        "if False:",
        f"{TESTS} one_source",
    ),
    Mutation(
        "indexes without a source are all one",
        "search/vector_store.py",
        "str(location or index.folder)",
        "str(location)",
        f"{TESTS} one_source",
    ),
    Mutation(
        "models without a fingerprint are all one",
        "search/vector_store.py",
        'layout.model.get("fingerprint") or layout.model',
        'layout.model.get("fingerprint")',
        f"{TESTS} differ_by_name",
    ),
    Mutation(
        "a percent sign in a name begins a parameter",
        "search/pgvector_store.py",
        'name.replace("%", "%%")',
        "name",
        f"{TESTS} names_that_databases_use",
    ),
    Mutation(
        "no number differs from NaN",
        "search/pgvector_store.py",
        'if sign == "<>" and value != value:',
        "if False:",
        f"{TESTS} nan_and_infinity",
    ),
    Mutation(
        "an address sets what programs set",
        "search/pgvector_store.py",
        "conninfo.make_conninfo(**options)",
        "**options",
        f"{URLS} bad_addresses",
    ),
    Mutation(
        "two copies write at once",
        "search/vector_store.py",
        "with store.writing():",
        "if True:",
        f"{TESTS} second_copy_waits",
    ),
    Mutation(
        "a copy does not see the table that another made",
        "search/pgvector_store.py",
        "self.layout = self._read_layout()  # the other one may have made the table",
        "pass",
        f"{TESTS} second_copy_waits",
    ),
    Mutation(
        "words of Milvus' expressions are names of fields",
        "search/milvus_store.py",
        'return column if column == ID else f"metadata_{column}"',
        "return column",
        f"{TESTS} names_that_databases_use",
    ),
    Mutation(
        "looking for a folder of Milvus Lite makes it",
        "search/milvus_store.py",
        'if "host" not in url.connection and not os.path.lexists(url.path):',
        "if False:",
        f"{URLS} makes_no_folder",
    ),
    Mutation(
        "a damaged layout is taken",
        "search/store_base.py",
        "if layout.dim < 1 or layout.id_type not in ID_TYPES:",
        "if False:",
        LAYOUTS,
    ),
]
