# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Addresses of stores are parsed, refused with words that help, and never show a password."""

import os
import sys

import pytest

from clip_hf.search import open_store
from clip_hf.search.store_urls import StoreUrl


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://user:s3cret@host/x", "begins with 'mysql'. Write postgresql://user@host/database"),
        ("s3cret", "Write postgresql"),
        ("postgresql:s3cret", "Write postgresql"),
        ("postgresql://user:s3cret@host/database", "needs table=NAME.*it has ''"),
        ("postgresql://user:s3cret@host/x?table=a;DROP", "it has 'a;DROP'"),
        ("postgresql://user:s3cret@host/x?table=1a", "it has '1a'"),
        ("postgresql://user:s3cret@host:port/x?table=a", "cannot be read"),
        ("milvus://user:s3cret@host?collection=a&speed=1", "has speed; allowed are collection, database and tls=true"),
        ("milvus://user:s3cret@host?collection=a&tls=maybe", "has tls=maybe"),
        ("milvus:///folder/vectors?collection=a", "has no host and no folder that ends in .db"),
        ("postgresql://user:s3cret@localhost/x?table=a&speed=1", 'invalid connection option "speed"'),
        ("postgresql://user:s3cret@localhost/x?table=a&connect_timeout=s", "connect_timeout"),
        ("postgresql://user:s3cret@localhost/x?table=a&autocommit=false", 'invalid connection option "autocommit"'),
        ("postgresql://user:s3cret@localhost/x?table=a&row_factory=1", 'invalid connection option "row_factory"'),
        ("postgresql://user:12/s3cret@host/x?table=a", "has # or, behind its host, @.*/ as %2F"),
        ("postgresql://user:12?table=s3cret@host/x", "has # or, behind its host, @"),
        ("postgresql://user:12#s3cret@host/x?table=a", "has # or, behind its host, @"),
        ("postgresql://user@host/x?table=a#s3cret", "has # or, behind its host, @"),
        ("milvus://user:12/s3cret@host?collection=a", "has # or, behind its host, @"),
        ("milvus://user:s3cret@host/pictures?collection=a", "has a path behind its host"),
    ],
)
def test_bad_addresses_are_explained(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_store(url)
    if url != "s3cret":
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["postgresql://user:s3cret@localhost:1/x?table=photos", "milvus://user:s3cret@localhost:1?collection=photos"],
)
def test_a_store_that_is_down_is_named(url):
    with pytest.raises(ConnectionError, match="user@localhost:1.*Check that the server runs") as caught:
        open_store(url)
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "message"),
    [
        ("postgresql://h/x?table=a", "psycopg", r"psycopg is not installed.*`postgres`"),
        ("milvus://h?collection=a", "pymilvus", r"pymilvus is not installed.*`milvus`"),
    ],
)
def test_missing_packages_name_the_extra(url, module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        open_store(url)


def test_passwords_are_not_shown():
    parsed = StoreUrl.parse("postgresql://me:s%40cret@host:5433/my%20db?table=photos&sslmode=require")
    assert parsed.name == "postgresql://me@host:5433/my%20db?table=photos"
    assert "cret" not in repr(parsed)
    assert parsed.connection == {
        "host": "host",
        "port": "5433",
        "user": "me",
        "password": "s@cret",
        "sslmode": "require",
    }
    assert (parsed.path, parsed.table) == ("/my db", "photos")


def test_opening_makes_no_folder(tmp_path):
    url = f"milvus://{tmp_path}/vectors.db?collection=photos"
    with open_store(url) as store:
        assert (len(store), store.layout) == (0, None)
    assert not os.path.exists(f"{tmp_path}/vectors.db")
    with pytest.raises(ValueError, match="There is no folder .*/pictures, where .* would lie"):
        open_store(url.replace("vectors.db", "pictures/vectors.db"))
