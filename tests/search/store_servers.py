# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Databases that the tests start: a PostgreSQL server with pgvector, and Milvus Lite in a folder."""

import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg


PASSWORD_USER = "needs_password"
"""A user of the server who must give the password `right`."""


class PostgresServer:
    """A PostgreSQL server of the package pgserver in a folder of its own."""

    def __init__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR
            import pgserver
        # A socket's path is at most 107 bytes long, and pytest's folders are longer.
        self.folder = Path(tempfile.mkdtemp(prefix="clip_hf-pg-"))
        self._server = pgserver.get_server(self.folder)
        rules = self.folder / "pg_hba.conf"
        rules.write_text(f"local all {PASSWORD_USER} scram-sha-256\n{rules.read_text()}")
        self.run(f"CREATE ROLE {PASSWORD_USER} LOGIN PASSWORD 'right'", "CREATE ROLE guest LOGIN")
        # No power fails here, and killed processes lose nothing of what they wrote.
        self.run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")

    def url(self, table: str, user: str = "postgres", database: str = "postgres") -> str:
        """The address of a table."""
        return f"postgresql://{user}@/{database}?host={self.folder}&table={table}"

    def run(self, *statements: str) -> list[tuple] | None:
        """Run statements; returns the rows of the last one."""
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def wait_for(self, statement: str) -> None:
        """Wait until a statement gives a row."""
        wait_until(lambda: self.run(statement))

    def kill(self) -> None:
        """Kill all its processes at once, and start it again."""
        main = psutil.Process(self._server.get_pid())
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=20)
        wait_until(lambda: not main.is_running() or main.status() == psutil.STATUS_ZOMBIE)
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop it, and remove its folder."""
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(is_so: Callable[[], object], seconds: float = 30) -> None:
    """Wait until `is_so` gives something true."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def fork(work: Callable[[], object]) -> int:
    """Do `work` in a copy of this process; returns its number. Its exit status is 0, or 1 after an exception."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child
