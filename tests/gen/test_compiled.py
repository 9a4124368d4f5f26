"""Compiled functions, whether or not there is a place to keep what was compiled."""

import errno

import numba
import pytest
from numba.core.caching import CacheImpl, IndexDataCacheFile

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


@pytest.mark.parametrize("end", ["nbi", "nbc"])
def test_what_was_kept_and_is_damaged_is_compiled_anew(end, tmp_path, monkeypatch):
    """A power cut leaves files with a name and no content: every command would end in an EOFError from then on."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert compiled()(summed)(5) == 5.0
    (file,) = tmp_path.glob(f"*/*.{end}")
    whole = file.read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        file.write_bytes(content)
        assert compiled()(summed)(5) == 5.0
        again = compiled()(summed)
        assert again(5) == 5.0
        assert again.stats.cache_hits  # what was made anew is kept


def test_where_a_disk_is_full_nothing_is_kept(tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", "~/.cache/numba")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    assert compiled()(summed)(5) == 5.0
    assert not list(tmp_path.glob("*/*.nbc"))
