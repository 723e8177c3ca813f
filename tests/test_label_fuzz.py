"""Label files of every format, mutated at random: reading one ends in a result or one clear line, and never hangs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_writers import WRITERS
from test_label_formats import IMAGES

from config import DataConfig
from data.labels import read_labels

TOKENS = [b"nan", b"-1", b"1e999", b"inf", b"#", b"\n", b"\x00", b"\xff\xfe", b"9" * 30, b"9" * 400, b"0x1", b"1_0"]
TOKENS += [b"{", b"]", b"<", b"&a;", b'"', b" ", b"[" * 5000]


def mutate(data: bytes, randomness: random.Random) -> bytes:
    """A file with some bytes flipped, dropped, repeated, moved or replaced by something nasty."""
    content = bytearray(data)
    for _ in range(randomness.randint(1, 4)):
        at, end = sorted((randomness.randint(0, len(content)), randomness.randint(0, len(content))))
        end = min(end, at + randomness.choice([1, 3, 30, 1000]))
        kind = randomness.randrange(6)
        if kind == 0 and content:
            content[min(at, len(content) - 1)] = randomness.randrange(256)
        elif kind == 1:
            del content[at:end]
        elif kind == 2:
            content[at:at] = content[at:end] * randomness.choice([1, 2, 50])
        elif kind == 3:
            content[at:at] = randomness.choice(TOKENS)
        elif kind == 4:
            content[at:end] = randomness.choice(TOKENS)
        else:
            del content[at:]
    return bytes(content)


def read_mutants(folder: Path, form: str, seed: int) -> int:
    """Read one mutated file leniently and strictly; 1 where it still could be read strictly."""
    randomness = random.Random(seed)
    path = WRITERS[form](folder, IMAGES)
    victims = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in (".xml", ".txt"))
    victim = randomness.choice(victims)
    original = victim.read_bytes()
    victim.write_bytes(mutate(original, randomness))
    config = DataConfig(format=randomness.choice(["auto", form]))    # type: ignore[arg-type]
    strict = 0
    for complain in ({}, {"complain": [].append}):
        try:
            records = read_labels(path, config=config, **complain)    # type: ignore[arg-type]
        except ValueError as error:
            message = str(error)
            if not message or "\n" in message:
                raise AssertionError(f"not one clear line: {message!r}") from error
        else:
            strict += not complain
            assert all(np.isfinite(record.boxes).all() and np.isfinite(record.landmarks).all() for record in records)
    victim.write_bytes(original)
    return strict


@pytest.mark.parametrize("form", WRITERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_mutated_file_ends_in_a_result_or_a_clear_error(form: str, seed: int, tmp_path: Path) -> None:
    assert read_mutants(tmp_path, form, seed) in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("form", WRITERS)
def test_thousands_of_mutated_files_end_in_a_result_or_a_clear_error(form: str, tmp_path: Path) -> None:
    """3,400 of each of the six formats."""
    readable = 0

    @settings(max_examples=3400, database=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**64 - 1))
    def fuzz(seed: int) -> None:
        nonlocal readable
        readable += read_mutants(tmp_path, form, seed)

    fuzz()
    assert 30 < readable < 3000    # the mutants are neither all dead nor all harmless
