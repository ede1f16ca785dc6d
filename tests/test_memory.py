"""The collector pauses for a run and is as it was afterwards; memory is given back where that is worth it."""

import gc
import weakref

import numpy as np
import pytest

from equiquant.io import memory_managed, release_memory


def test_collections_pause_and_go_on() -> None:
    assert gc.isenabled()
    with memory_managed():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        with memory_managed():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(RuntimeError), memory_managed():
        raise RuntimeError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with memory_managed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_objects_frozen_by_others_stay_frozen() -> None:
    gc.freeze()
    try:
        with memory_managed():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


class Knot:
    """Something only the collector can free."""

    def __init__(self) -> None:
        self.itself = self
        self.weight = np.zeros(1)


def test_what_was_there_at_the_last_collection_is_freed_if_it_is_known_to_be_large() -> None:
    with memory_managed():
        knot = Knot()
        release_memory(1 << 30)
        gone = weakref.ref(knot)
        del knot
        release_memory()  # the process has not grown since
        assert gone() is not None
        release_memory(1 << 30)
        assert gone() is None
