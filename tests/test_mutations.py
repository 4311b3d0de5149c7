# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The tables of mutations fit the source, and a run of them tells what is noticed from what is not."""

import shlex

import pytest

from mutations import Mutation, all_mutations
from mutations.__main__ import print_score
from mutations.mutation import SOURCE, TESTS
from mutations.running import run_tests


def test_there_are_enough():
    mutations = all_mutations()
    assert len(mutations) >= 200
    assert len({(one.file, one.name) for one in mutations}) == len(mutations)


@pytest.mark.parametrize("file", sorted({one.file for one in all_mutations()}))
def test_the_mutations_of_a_file_fit_it(file):
    content = (SOURCE / file).read_text(encoding="utf-8")
    for mutation in all_mutations():
        if mutation.file == file:
            mutated = mutation.mutate(content)
            assert mutated != content, mutation.name
            compile(mutated, file, "exec")


def test_the_tests_of_mutations_are_there():
    for mutation in all_mutations():
        files = [word for word in shlex.split(mutation.tests) if ".py" in word]
        assert files and all((TESTS / file.partition("::")[0]).is_file() for file in files), mutation.name


def test_a_text_that_is_not_there_as_often_is_an_error():
    for content in ("", "x = 1\nx = 1\n"):
        with pytest.raises(ValueError, match="it must be 1"):
            Mutation("one", "a.py", "x = 1", "x = 2", "utils/test_atomic.py").mutate(content)


def test_the_score_fails_for_a_survivor_that_nobody_judged(capsys):
    noticed = Mutation("a", "a.py", "x", "y", "test_a.py")
    judged = Mutation("b", "b.py", "x", "y", "test_a.py", survives="the same values")
    failed, passed = (1, "FAILED test_a.py::test_x - assert"), (0, "")
    assert print_score([noticed] * 20, [failed] * 20) == 0
    assert "20 of 20 mutations noticed" in capsys.readouterr().out
    assert print_score([*[noticed] * 19, judged], [*[failed] * 19, passed]) == 0
    assert "survives: b.py: b: the same values" in capsys.readouterr().out
    assert print_score([*[noticed] * 19, noticed], [*[failed] * 19, passed]) == 1
    assert print_score([*[noticed] * 18, judged, judged], [*[failed] * 18, passed, passed]) == 1
    assert print_score([noticed], [(5, "no tests ran")]) == 1


@pytest.mark.slow
def test_a_run_tells_a_fault_from_none():
    tests = "model/test_loss_clip_hf.py -k zero"
    fault = next(one for one in all_mutations() if one.file == "model/loss_clip_hf.py")
    assert run_tests(fault.tests)[0] == 0
    assert run_tests(fault.tests, fault)[0] == 1
    assert run_tests(tests)[0] == 0
