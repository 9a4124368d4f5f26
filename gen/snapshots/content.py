"""Tells a snapshot from another of its name by a sample of its bytes, wherever it lies and whenever it was copied."""

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

#: How many of the largest files are looked into, and how many blocks of each, of so many bytes: all of a small file.
FILES, BLOCKS, BLOCK_BYTES = 2, 256, 4096
#: Begins a digest: those of other ways to sample are not compared with it.
WAY = "3-"
#: Texts of up to so many bytes, which name fields or have units, are read whole.
TEXT_BYTES = 65_536


def sampled(files: Sequence[tuple[Path, int]], facts: Sequence[object]) -> str:
    """Digest the sizes of a snapshot's files, blocks of the largest, all of small texts, and facts from headers.

    files: each with its size. Equal snapshots have equal digests; others differ unless all that differs lies between
    the blocks: a dataset that was written anew is seen where it takes more than a 256th of its file. Returns "" where a
    file cannot be read.
    """
    largest = sorted(files, key=lambda file: (-file[1], file[0].name))[:FILES]
    texts = sorted(path for path, size in files if path.suffix == ".txt" and size <= TEXT_BYTES)
    digest = blake2b(repr((sorted(size for _, size in files), list(facts))).encode(), digest_size=16)
    try:
        for path, size in largest:
            with open(path, "rb", buffering=0) as file:
                for place in (size * k // BLOCKS for k in range(BLOCKS)):
                    digest.update(os.pread(file.fileno(), BLOCK_BYTES, place))
        for path in texts:
            digest.update(path.read_bytes())
    except OSError:
        return ""
    return WAY + digest.hexdigest()
