# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Addresses of stores: `postgresql://user@host/database?table=photos`, `milvus://host:19530?collection=photos`."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit


FORMS = {
    "postgresql": "postgresql://user@host/database?table=photos",
    "milvus": "milvus://host:19530?collection=photos or milvus:///folder/vectors.db?collection=photos",
}
"""The forms of addresses, by scheme."""
_TABLE_PARAMETERS = {"postgresql": "table", "milvus": "collection"}
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True)
class StoreUrl:
    """A parsed address. Its `repr` and `name` have no password.

    Args:
        scheme (`str`): `"postgresql"` or `"milvus"`.
        name (`str`): The address for messages.
        table (`str`): The table or collection.
        connection (`dict[str, str]`): What a connection needs: host, port, user, password, dbname, and the parameters.
        path (`str`): The path.
    """

    scheme: str
    name: str
    table: str
    connection: dict[str, str] = field(repr=False)
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> "StoreUrl":
        """Parse an address.

        Raises:
            ValueError: if it has another form.
        """
        scheme = url.partition(":")[0]
        forms = ", ".join(FORMS.values())
        if scheme not in FORMS or "://" not in url:
            # Only the scheme: what follows may hold a password.
            raise ValueError(f"No store has an address that begins with {scheme[:20]!r}. Write {forms}.")
        try:
            parts = urlsplit(url)
            port, parameters = parts.port, dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ValueError(f"The address of a store cannot be read. Write {FORMS[scheme]}.") from None
        if parts.fragment or "@" in url.partition("://")[2].removeprefix(parts.netloc):
            # The end of a password, if it has one of / ? #; nothing of it is shown.
            raise ValueError(
                f"The address of a store has # or, behind its host, @. Write {FORMS[scheme]}, and in users, passwords "
                "and values @ as %40, / as %2F, ? as %3F, # as %23."
            )
        parameter = _TABLE_PARAMETERS[scheme]
        table = parameters.pop(parameter, "")
        host = f"{parts.hostname or ''}{f':{port}' if port else ''}"
        user = f"{unquote(parts.username)}@" if parts.username else ""
        name = f"{scheme}://{user}{host}{parts.path}?{parameter}={table}"
        if not _TABLE.fullmatch(table):
            raise ValueError(
                f"The address of a store needs {parameter}=NAME, of letters, digits and _, at most 63, and no digit "
                f"first; it has {table!r}. Write {FORMS[scheme]}."
            )
        connection = {
            "host": parts.hostname,
            "port": port and str(port),
            "user": parts.username and unquote(parts.username),
            "password": parts.password and unquote(parts.password),
            **parameters,
        }
        return cls(
            scheme, name, table, {key: value for key, value in connection.items() if value}, unquote(parts.path)
        )
