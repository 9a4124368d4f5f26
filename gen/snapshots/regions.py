"""Fields of regions of a snapshot, all in one request to yt, which reads the positions anew for every request."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kinmass.gen.formats import SnapshotError
from kinmass.gen.formats.base import Slot, may_be_damaged_file


class Regions:
    """Some regions of a yt dataset, each with the particle types that lie in it; together they hold each particle once.

    names: the fields of each type that are asked for together. counts: particles of each type in the whole snapshot.
    Bytes are read inside `slot()`.
    """

    def __init__(
        self,
        path: Path,
        parts: list[tuple[Any, list[str]]],
        names: Mapping[str, list[str]],
        counts: Mapping[str, int],
        slot: Slot,
    ):
        self.path, self._parts, self._counts, self._slot = path, parts, counts, slot
        self._read: dict[tuple[str, str], list[np.ndarray]] = {}
        wanted = [[(ptype, name) for ptype in types for name in names[ptype]] for _, types in parts]
        with slot():
            for (region, _), keys in zip(parts, wanted, strict=True):
                try:
                    region.get_data(keys)
                    values = [region.field_data.pop(key).d for key in keys]
                except Exception:  # read one by one they say which of them is at fault
                    self._read.clear()
                    break
                for key, value in zip(keys, values, strict=True):
                    self._read.setdefault(key, []).append(value)
        self._forget()

    def field(self, ptype: str, name: str, unit: float = 1.0) -> np.ndarray:
        """Return a field of one type in all regions, times unit; a second call reads it again.

        Raises SnapshotError for values that are missing, NaN or infinite.
        """
        parts = self._read.pop((ptype, name), None) or self._read_alone(ptype, name)
        values = np.array(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=np.float64, order="F")
        del parts
        if self._parts[0][0]._type_name == "region" and len(values) != self._counts[ptype]:
            raise SnapshotError(
                f"{self.path}: {len(values)} of the {self._counts[ptype]} values of {ptype}/{name} could be read; "
                "is the file damaged? Get it again"
            )
        with np.errstate(over="ignore"):
            values *= unit
        if not np.isfinite(values).all():
            raise SnapshotError(
                f"{self.path}: NaN or infinite values in {ptype}/{name}; is the file damaged? Get it again"
            )
        return values

    def _read_alone(self, ptype: str, name: str) -> list[np.ndarray]:
        try:
            with self._slot():
                return [region[ptype, name].d for region, types in self._parts if ptype in types]
        except SnapshotError as error:
            raise error if str(self.path.parent) in str(error) else SnapshotError(f"{self.path}: {error}") from error
        except Exception as error:
            if not may_be_damaged_file(error):
                raise
            if isinstance(error, KeyError):  # the field is in a list that was made of all files together
                raise SnapshotError(
                    f"{self.path}: {ptype} has {name} in some of its files and not in all; get them all from one run"
                ) from error
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SnapshotError(
                f"{self.path}: cannot read {ptype}/{name} ({why}); is the file damaged? Get it again"
            ) from error
        finally:
            self._forget()

    def _forget(self) -> None:
        for region, _ in self._parts:
            region.clear_data()  # yt keeps no second copy


def images(centre_kpc: np.ndarray, radius_kpc: float, extent_kpc: np.ndarray, box_kpc: float | None) -> np.ndarray:
    """List the periodic images (n, 3) [kpc] of a centre (3,) whose spheres of radius_kpc reach into a cuboid.

    extent_kpc (2, 3) holds the cuboid's lowest and highest corner.
    """
    if box_kpc is None:
        return centre_kpc[None]
    low_kpc, high_kpc = extent_kpc
    first = np.ceil((low_kpc - radius_kpc - centre_kpc) / box_kpc)
    last = np.floor((high_kpc + radius_kpc - centre_kpc) / box_kpc)
    steps = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    centres_kpc = centre_kpc + box_kpc * np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    beyond_kpc = np.maximum(low_kpc - centres_kpc, centres_kpc - high_kpc).clip(min=0)
    return centres_kpc[np.einsum("ij,ij->i", beyond_kpc, beyond_kpc) <= radius_kpc**2]
