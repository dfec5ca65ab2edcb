"""Mutations of bytes and of JSON, for tests that read hostile files: hypothesis changes valid seeds, tests/fuzz/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SEEDS = Path(__file__).parent / "fuzz"


def seed(name: str) -> str:
    return (SEEDS / name).read_text(encoding="utf-8")


@cache
def tokens() -> tuple[bytes, ...]:
    lines = seed("tokens.txt").splitlines()
    meant = [json.loads(f'"{line}"') for line in lines if line.startswith("\\u")]
    return tuple(text.encode(errors="surrogatepass") for text in [*lines, *meant])


PLACE = st.floats(0, 1)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "delete", "repeat", "flip", "cut"]),
        PLACE,
        st.integers(0, 40),
        st.sampled_from(range(100)) | st.binary(max_size=6),
    ),
    min_size=1,
    max_size=5,
)


def mutated(content: bytes, edits: list[tuple[str, float, int, int | bytes]]) -> bytes:
    """The bytes after a few edits: tokens or bytes inserted, pieces deleted or repeated, bits flipped."""
    for how, where, length, what in edits:
        at = int(where * len(content))
        piece, rest = content[at : at + length], content[at + length :]
        new = what if isinstance(what, bytes) else tokens()[what % len(tokens())]
        middle = {
            "insert": new + piece,
            "replace": new,
            "delete": b"",
            "repeat": piece * 5,
            "flip": bytes(byte ^ (1 << length % 8) for byte in piece),
            "cut": b"",
        }[how]
        content = content[:at] + middle + (b"" if how == "cut" else rest)
    return content


def bytes_like(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Mutations of one of the seeds."""
    return st.builds(mutated, st.sampled_from(seeds), EDITS)


WILD: st.SearchStrategy[Any] = st.sampled_from([
    None, True, -1, 0, 2**63, 10**99, 1e308, 0.5, "", "../x", "/x", "\x1b[2J", "\ud800", "a\nb", [], {}, [[]], {"a": []}
])  # fmt: skip


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, place) inside nested dicts and lists."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from nodes(value[key])


def changed(text: str, edits: list[tuple[float, str, Any]]) -> bytes:
    """JSON with some of its values replaced, deleted or duplicated."""
    value = json.loads(text)
    for where, how, new in edits:
        places = list(nodes(value))
        if not places:
            break
        container, key = places[int(where * (len(places) - 1))]
        if how == "replace":
            container[key] = deepcopy(new)
        elif how == "delete":
            del container[key]
        elif isinstance(container, list):
            container.append(deepcopy(container[key]))
        else:
            container[str(new)] = deepcopy(container[key])
    return json.dumps(value).encode()


def json_like(text: str) -> st.SearchStrategy[bytes]:
    """Mutations of a JSON text; three out of four change its values, the others its bytes."""
    how = st.sampled_from(["replace", "delete", "repeat"])
    values = st.builds(changed, st.just(text), st.lists(st.tuples(PLACE, how, WILD), min_size=1, max_size=4))
    return values | values | values | bytes_like(text.encode())
