# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tables on a terminal, and what a pipe or a file gets of them."""

import os
import pty
import subprocess
import sys

import pytest

from clip_hf.utils.terminal_tables import draw_table, wrap_lines


COLUMNS = ("metric", "value", "note [x]")
ROWS = (("top1", "54.30%", "a"), ("median_rank", "-", "b [bold]"), ("ensemble_gain", "+1.20 points", "c" * 90))


def test_a_pipe_gets_aligned_text_that_is_never_wrapped():
    lines = draw_table("A title", COLUMNS, ROWS).splitlines()
    assert lines[0] == "A title" and lines[2] == "-" * len(lines[2])
    assert lines[1] == "metric                 value   note [x]"
    assert lines[3] == "top1                  54.30%   a"
    assert lines[4] == "median_rank                -   b [bold]"
    assert lines[5] == "ensemble_gain   +1.20 points   " + "c" * 90
    assert "\n".join(lines).isascii() and "\x1b" not in "\n".join(lines)


LINES = f"A sentence of more than sixty signs, with a path: {'/path-of-folders' * 6}/x.\n\nAnother one."


def shown_on_a_terminal(program: str, width: int) -> str:
    """What a Python program that ends with `print` shows on a terminal of this width."""
    reading, writing = pty.openpty()
    environment = os.environ | {"COLUMNS": str(width), "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", program], stdout=writing, env=environment, check=True)
    os.close(writing)
    shown = b""
    while True:
        try:
            shown += (part := os.read(reading, 65536))
        except OSError:  # what Linux says at the end of a pseudo-terminal
            break
        if not part:
            break
    os.close(reading)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_a_terminal_gets_bold_and_no_line_beyond_its_width():
    program = f"from clip_hf.utils.terminal_tables import draw_table; print(draw_table('T', {COLUMNS}, {ROWS}))"
    text = shown_on_a_terminal(program, 60)
    assert "\x1b[1m" in text and "─" in text
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, plain.splitlines())) <= 60 and plain.count("c") == 90 + "metric note".count("c")


@pytest.mark.slow
def test_lines_break_at_the_width_of_a_terminal_and_not_in_a_path():
    assert wrap_lines(LINES) == LINES  # of a pipe
    text = shown_on_a_terminal(
        f"from clip_hf.utils.terminal_tables import wrap_lines; print(wrap_lines({LINES!r}))", 60
    )
    first, *rest = text.splitlines()
    assert first == "A sentence of more than sixty signs, with a path:"
    assert rest == [f"{'/path-of-folders' * 6}/x.", "", "Another one."]
