"""Compiled functions, whether or not there is a place to keep what was compiled."""

import pytest
from numba.core.caching import CacheImpl

from kinmass.gen.compiled import compiled


def summed(numbers):
    total = 0.0
    for number in range(numbers):
        total += number / 2
    return total


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_function_is_compiled_also_where_nothing_can_be_kept(is_kept, monkeypatch):
    """As from a read-only installation by a user without a home."""
    if not is_kept:
        monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    function = compiled()(summed)
    assert function(5) == summed(5) == 5.0
    assert function.nopython_signatures
