"""How far networks are off for the galaxies of a suite and for each of their views, from what `kinmass tables` kept."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from kinmass.eval.tables.predictions import PREDICTED


@dataclass(frozen=True)
class Scores:
    """What one network's kept predictions say of the galaxies of a suite, NaN where they say nothing.

    error_of_view, ood_of_view (G, V): root mean square over radii of the median's offset from the truth [dex], and the
    score. error, ood (G,): the same over all views, and their mean. worst, worst_view and strangest, strangest_view
    (G,): the largest error and score of one view, and its number, -1 where none is known.
    """

    error_of_view: np.ndarray
    ood_of_view: np.ndarray
    error: np.ndarray
    ood: np.ndarray
    worst: np.ndarray
    worst_view: np.ndarray
    strangest: np.ndarray
    strangest_view: np.ndarray

    @classmethod
    def unknown(cls, galaxies: int, views: int) -> "Scores":
        """Scores of galaxies of which nothing is known."""
        return cls.of_views(
            np.full((galaxies, views), np.nan, np.float32), np.full((galaxies, views), np.nan, np.float32)
        )

    @classmethod
    def of_views(cls, error: np.ndarray, ood: np.ndarray) -> "Scores":
        """Scores of galaxies from those of their views (G, V)."""
        return cls(error, ood, np.sqrt(_mean(error**2)), _mean(ood), *_largest(error), *_largest(ood))

    def take_in(self, numbers: np.ndarray, other: "Scores") -> None:
        """Put the scores of some galaxies into the places of these numbers."""
        for each in fields(self):
            getattr(self, each.name)[numbers] = getattr(other, each.name)


def scores_of(kept: Mapping[str, np.ndarray], views: int) -> Scores:
    """Return scores of galaxies from what is kept of their views; NaN where a view has no answer.

    kept: as of `KeptPredictions.read_summary`, `views` rows for each galaxy.
    """
    used = kept["state"] == PREDICTED
    error = np.sqrt(((kept["median"] - kept["log10_menc_true"]) ** 2).mean(1))
    return Scores.of_views(*(np.where(used, x, np.nan).reshape(-1, views) for x in (error, kept["ood_score"])))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean (G,) over the views (G, V) that are finite, NaN where there are none."""
    used = np.isfinite(values)
    return np.where(used, values, 0.0).sum(1) / np.where(used.any(1), used.sum(1), np.nan)


def _largest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest finite of values (G, V) and its place, two arrays (G,); NaN and -1 where there is none."""
    used = np.isfinite(values)
    place = np.where(used, values, -np.inf).argmax(1)
    known = used.any(1)
    return np.where(known, values[np.arange(len(values)), place], np.nan), np.where(known, place, -1)
