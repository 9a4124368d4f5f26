"""Measures how far a view is from the views that a network was trained on.

A posterior can only be trusted for views like those of the training suites. In the space of a network's features,
other views lie outside the cloud of the training views (Mahalanobis distance: Lee et al. 2018, arXiv:1807.03888; for
misspecified simulators: Schmitt et al. 2023, arXiv:2112.08866). Of a network that is told how a view was taken, the
cloud is that of views that were taken alike: its middle, and the distances in it, follow what is told, because a view
with the largest errors of all training views is no strange one. The distance is given as a share: how many of the
validation views, of galaxies of the same suites that were not trained on, lie nearer. A run, or an ensemble as a
whole, keeps the data for this per tracer in ood.pt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kinmass.train.model.scaling import (
    ERRORS_TOLD,
    LEAST_VELOCITY_SCALE_KMS,
    NUMBERS_TOLD,
    split,
    told_inputs,
    velocity_scale,
)

# N views, F features, C numbers of how a view was seen, M members, D distances
#: A view with a larger score is called out of distribution; the remaining 5 % of validation views are false alarms.
OOD_THRESHOLD = 0.95
#: Of fewer validation views the farthest would not be above OOD_THRESHOLD: nothing would ever be out of distribution.
FEWEST_DISTANCES = 10
#: Variance that is added to every standardised feature, so that no direction has almost no variance.
_RIDGE = 1e-4
#: Most validation distances that a run keeps; of more, their quantiles.
_MOST_DISTANCES = 1000
#: What is smaller counts as nil.
_LEAST = 1e-12
#: How many numbers say how a tracer was seen (`how_seen`).
HOW_SEEN = 1 + ERRORS_TOLD + NUMBERS_TOLD
#: Numbers of how views were seen that scatter by less are the same for all, but for rounding.
_SEEN_ALIKE = 1e-4
#: Weight, in views, of the assumption that a distance does not depend on how a view was seen.
_PRIOR_VIEWS = 100


def how_seen(observed: torch.Tensor, tracers: tuple[str, ...]) -> torch.Tensor:
    """Return numbers (N, C) of how views were seen, from observed maps (N, 18, Q, Q) with what is told.

    HOW_SEEN of each tracer: log10 of how many pixels are valid, the means over these of `told_inputs`' channels, and
    its numbers. Of maps (N, 8, Q, Q), of which nothing is told, there are none.
    """
    if observed.shape[1] == 8:
        return observed.new_zeros(len(observed), 0)
    unit_kms = velocity_scale(observed, tracers).clamp(min=LEAST_VELOCITY_SCALE_KMS)[:, None, None]
    columns: list[torch.Tensor] = []
    for tracer in tracers:
        n_valid = split(observed, tracer)[3].sum((1, 2))
        errors, numbers = told_inputs(observed, tracer, unit_kms)
        means = [error.sum((1, 2)) / n_valid.clamp(min=1) for error in errors]
        columns += [torch.log10(1 + n_valid), *means, *numbers.unbind(1)]
    return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class SeenViews:
    """What networks make of N views, and how these were seen: each member's features (N, F), and `how_seen` (N, C)."""

    features: Sequence[torch.Tensor]
    how_seen: torch.Tensor

    def __len__(self) -> int:
        return len(self.how_seen)

    @classmethod
    def joined(cls, parts: Sequence["SeenViews"]) -> "SeenViews":
        """Join what the same networks made of several sets of views."""
        of_members = zip(*(part.features for part in parts), strict=True)
        return cls([torch.cat(features) for features in of_members], torch.cat([part.how_seen for part in parts]))


def _is_finite(value: object, *shape: int) -> bool:
    """Whether something is a tensor of finite floats, and of that shape."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.shape != shape:
        return False
    return bool(value.isfinite().all())


@dataclass(frozen=True)
class TrainingFeatures:
    """The distribution of the training views' features, per member, and how far validation views are from it.

    how_seen of a view, in units of `unit` from `middle` and no farther than `ends`, moves the middle of the cloud by
    `slope`, and the logarithm of a distance, and of its scatter, as `expected` says of 1, these numbers and their
    squares: a distance grows towards either end of what was seen in training.
    """

    mean: list[torch.Tensor]  # (F,)
    whiten: list[torch.Tensor]  # (F, F)
    slope: list[torch.Tensor]  # (C, F)
    middle: torch.Tensor  # (C,)
    unit: torch.Tensor  # (C,)
    ends: torch.Tensor  # (2, C)
    expected: torch.Tensor  # (1 + 2 C, 2)
    distances: torch.Tensor  # (D,) rising: log distances of validation views from what is expected, over their scatter

    @classmethod
    def as_kept(cls, fields: dict[str, Any]) -> "TrainingFeatures":
        """Return it from its fields as kept in a file. Those of before know distances alone, which nothing moves.

        Raises TypeError or ValueError where it has other fields.
        """
        if "expected" not in fields:
            none = torch.zeros(0, dtype=torch.float64)
            fields = fields | {
                "slope": [none.new_zeros(0, len(mean)) for mean in fields["mean"]],
                "middle": none,
                "unit": none,
                "ends": none.new_zeros(2, 0),
                "expected": none.new_zeros(1, 2),
                "distances": torch.as_tensor(fields["distances"]).clamp(min=_LEAST).log(),
            }
        return cls(**fields)

    def is_of(self, members: int, n_features: int, n_how_seen: int) -> bool:
        """Whether these are numbers of as many members, features and numbers of how a view was seen, in their order.

        Those of before, which know nothing of how a view was seen, are of any run.
        """
        n_how_seen = len(self.middle) and n_how_seen
        of_members = (
            (self.mean, (n_features,)), (self.whiten, (n_features, n_features)), (self.slope, (n_how_seen, n_features)),
        )  # fmt: skip
        others = (
            (self.middle, (n_how_seen,)), (self.unit, (n_how_seen,)), (self.ends, (2, n_how_seen)),
            (self.expected, (1 + 2 * n_how_seen, 2)),
        )  # fmt: skip
        distances = self.distances
        return (
            all(isinstance(tensors, list) and len(tensors) == members for tensors, _ in of_members)
            and all(_is_finite(tensor, *shape) for tensors, shape in of_members for tensor in tensors)
            and all(_is_finite(tensor, *shape) for tensor, shape in others)
            and isinstance(distances, torch.Tensor)
            and distances.numel() > 0
            and _is_finite(distances, distances.numel())
            and bool((distances.diff() >= 0).all())
        )

    def distance(self, views: SeenViews) -> torch.Tensor:
        """Return how far views (N,) are out, beyond what is expected of such as were seen alike.

        The logarithm of the Mahalanobis distance of each member's features, root mean square over members, from what is
        expected of it, over its scatter.
        """
        how = _within(views.how_seen, self.middle, self.unit, self.ends)
        squared_distances = [
            ((features.double().cpu() - mean - how @ slope) @ whiten.T).square().sum(-1)
            for features, mean, whiten, slope in zip(views.features, self.mean, self.whiten, self.slope, strict=True)
        ]
        logarithm = torch.stack(squared_distances).mean(0).clamp(min=_LEAST).log() / 2
        level, log_scatter = (_with_squares(how) @ self.expected).unbind(1)
        return (logarithm - level) / log_scatter.exp()

    def ood_score(self, views: SeenViews) -> torch.Tensor:
        """Return the share (N,) of validation views that lie nearer: uniform in 0 to 1 for the training suites.

        NaN where there are fewer than FEWEST_DISTANCES of these.
        """
        n_nearer = torch.searchsorted(self.distances, self.distance(views))
        scores = (n_nearer + 0.5) / (len(self.distances) + 1)
        return scores if len(self.distances) >= FEWEST_DISTANCES else torch.full_like(scores, torch.nan)


def learn_training_features(training: SeenViews, validation: SeenViews) -> TrainingFeatures | None:
    """Make TrainingFeatures from training and validation views.

    Returns None where there are fewer than two views of either.
    """
    if min(len(training), len(validation)) < 2:
        return None
    seen = training.how_seen.double().cpu()
    middle, unit = seen.mean(0), (seen - seen.mean(0)).square().mean(0).sqrt().clamp(min=_SEEN_ALIKE)
    ends = torch.stack([(seen.amin(0) - middle) / unit, (seen.amax(0) - middle) / unit])
    basis = _with_ones(_within(training.how_seen, middle, unit, ends))
    means, whitenings, slopes = [], [], []
    for features in training.features:
        features = features.double().cpu()
        coefficients = _regression(basis, features)
        features = features - basis @ coefficients
        spread = features.std(0).clamp(min=1e-12)
        correlation = torch.cov((features / spread).T) + _RIDGE * torch.eye(features.shape[1], dtype=torch.float64)
        means.append(coefficients[0])
        slopes.append(coefficients[1:])
        whitenings.append(torch.linalg.inv(torch.linalg.cholesky(correlation)) / spread)
    expected = torch.zeros(1 + 2 * len(middle), 2, dtype=torch.float64)
    cloud = TrainingFeatures(means, whitenings, slopes, middle, unit, ends, expected, torch.empty(0))
    basis = _with_squares(_within(validation.how_seen, middle, unit, ends))
    logarithm = cloud.distance(validation)
    expected[:, 0], of_others = _regression_by_others(basis, logarithm)
    apart = logarithm - of_others
    log_scatter = apart.abs().clamp(min=max(1e-3 * float(apart.abs().mean()), _LEAST)).log()
    expected[:, 1], of_others = _regression_by_others(basis, log_scatter)
    distances = (apart / of_others.exp()).sort().values
    if len(distances) > _MOST_DISTANCES:
        distances = torch.quantile(distances, torch.linspace(0, 1, _MOST_DISTANCES, dtype=torch.float64))
    return replace(cloud, distances=distances)


def _within(how: torch.Tensor, middle: torch.Tensor, unit: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return numbers (N, C) of how views were seen in units of training's, no farther out than any of these was."""
    return ((how.double().cpu()[:, : len(middle)] - middle) / unit).clamp(*ends)


def _with_ones(numbers: torch.Tensor) -> torch.Tensor:
    """Return 1 and numbers (N, C) as (N, 1 + C)."""
    return torch.cat([numbers.new_ones(len(numbers), 1), numbers], dim=1)


def _with_squares(numbers: torch.Tensor) -> torch.Tensor:
    """Return 1, numbers (N, C) and their squares as (N, 1 + 2 C)."""
    return _with_ones(torch.cat([numbers, numbers**2], dim=1))


def _regression_by_others(basis: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return coefficients (B,) of `_regression` of values (N,), and what those of all other views say of each (N,).

    A regression is nearer to the values that it was made of than to new ones (Allen 1974, Technometrics 16, 125).
    """
    coefficients = _regression(basis, values)
    own_share = (torch.linalg.solve(_normal(basis), basis.T).T * basis).sum(1)
    return coefficients, values - (values - basis @ coefficients) / (1 - own_share).clamp(min=_LEAST)


def _regression(basis: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return coefficients (B, ...) of values (N, ...) on a basis (N, B) whose first column is 1: a ridge regression."""
    return torch.linalg.solve(_normal(basis), basis.T @ values)


def _normal(basis: torch.Tensor) -> torch.Tensor:
    """Return the matrix (B, B) of the normal equations; all but the first are shrunk as by _PRIOR_VIEWS views."""
    ridge = _PRIOR_VIEWS * torch.eye(basis.shape[1], dtype=basis.dtype)
    ridge[0, 0] = 0
    return basis.T @ basis + ridge
