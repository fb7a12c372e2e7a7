"""The cache of embeddings: bounded in bytes, the oldest goes first, and what a session asks of it."""

from __future__ import annotations

import numpy as np
from flood import POLICY, FloodEngine
from hypothesis import given
from hypothesis import strategies as st

from gstk.core.window import Window
from gstk.engines.base import Embedding
from gstk.session.embedding_cache import EmbeddingCache
from gstk.session.session import Session


def window(number: int) -> Window:
    return Window((float(number), 0.0, 0.0), (1.0, 1.0, 1.0), (8, 8, 8))


@given(
    limit=st.integers(1, 60),
    puts=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 20)), max_size=40),
)
def test_it_holds_the_newest_that_fit(limit: int, puts: list[tuple[int, int]]) -> None:
    cache = EmbeddingCache(limit)
    expected: list[tuple[int, int]] = []
    for number, size_bytes in puts:
        cache.put(window(number), Embedding(1, (8, 8, 8), number, size_bytes))
        expected = [(n, s) for n, s in expected if n != number] + [(number, size_bytes)]
        while sum(s for _, s in expected) > limit and len(expected) > 1:
            expected.pop(0)
        assert cache.size_bytes == sum(s for _, s in expected)
        assert len(cache) == len(expected)
    held = {number for number, _ in expected}
    for number in range(8):
        found = cache.get(window(number))
        assert (found is not None) == (number in held)
        assert found is None or found.handle == number
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_what_is_used_is_new_again() -> None:
    cache = EmbeddingCache(2)
    for number in (1, 2):
        cache.put(window(number), Embedding(1, (8, 8, 8), number, 1))
    cache.get(window(1))
    cache.put(window(3), Embedding(1, (8, 8, 8), 3, 1))
    assert cache.get(window(1)) is not None
    assert cache.get(window(2)) is None


def image_of_a_ball() -> np.ndarray:
    grid = np.indices((40, 40, 40))
    return np.where(((grid - 20) ** 2).sum(0) <= 64, 200, 20).astype(np.uint8)


def test_undo_objects_in_one_window_and_a_reset_encode_nothing_again() -> None:
    engine = FloodEngine()
    session = Session(engine, POLICY)  # type: ignore[arg-type]
    session.set_image(image_of_a_ball())
    session.add_point((20, 20, 20))
    session.add_point((20, 20, 24))
    encodes = len(engine.shapes)
    mask = session.mask.copy()
    session.undo()
    session.add_point((20, 20, 24))
    np.testing.assert_array_equal(session.mask, mask)
    session.reset()
    session.add_point((20, 20, 20), object_id=2)
    assert len(engine.shapes) == encodes == session.encodes


def test_another_image_forgets_and_a_small_cache_gives_the_same_masks() -> None:
    image, masks, counts = image_of_a_ball(), [], []
    for cache_bytes in (1, 2**30):
        engine = FloodEngine()
        session = Session(engine, POLICY, cache_bytes=cache_bytes)  # type: ignore[arg-type]
        session.set_image(image)
        for place in ((20, 20, 20), (5, 5, 5), (20, 20, 20)):
            session.reset()
            session.add_point(place)
        masks.append(session.mask)
        counts.append(session.encodes)
        before = session.encodes
        session.set_image(image)
        session.add_point((20, 20, 20))
        assert session.encodes > before
    np.testing.assert_array_equal(*masks)
    assert counts[0] > counts[1]


@given(
    limit=st.integers(1, 60),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 20)), max_size=40),
)
def test_images_share_a_limit_and_never_an_embedding(limit: int, steps: list[tuple[int, int, int]]) -> None:
    first = EmbeddingCache(limit)
    caches = [first, first.sibling(), first.sibling()]
    expected: list[tuple[int, int, int]] = []
    for owner, number, size_bytes in steps:
        cache = caches[owner]
        if size_bytes == 0:
            cache.clear()
            expected = [entry for entry in expected if entry[0] != owner]
        else:
            cache.put(window(number), Embedding(1, (8, 8, 8), (owner, number), size_bytes))
            expected = [entry for entry in expected if entry[:2] != (owner, number)] + [(owner, number, size_bytes)]
        while sum(entry[2] for entry in expected) > limit and len(expected) > 1:
            expected.pop(0)
        assert {cache.shared_bytes for cache in caches} == {sum(entry[2] for entry in expected)}
    for owner, cache in enumerate(caches):
        assert cache.size_bytes == sum(size for own, _, size in expected if own == owner)
        for number in range(4):
            found = cache.get(window(number))
            assert (found is not None) == ((owner, number) in [entry[:2] for entry in expected])
            assert found is None or found.handle == (owner, number)


def test_memory_is_freed_from_the_oldest_on_and_the_newest_stays() -> None:
    first = EmbeddingCache(100)
    second = first.sibling()
    for cache, number in ((first, 1), (second, 2), (first, 3)):
        cache.put(window(number), Embedding(1, (8, 8, 8), number, 10))
    assert first.free(5) == 10
    assert [window(1) in first, window(2) in second, window(3) in first] == [False, True, True]
    assert second.free(1000) == 10
    assert window(3) in first
    second.limit_bytes = 1
    assert first.limit_bytes == 1
