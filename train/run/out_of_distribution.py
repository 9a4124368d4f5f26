"""Measures how far a view is from the views that a network was trained on.

A posterior can only be trusted for views like those of the training suites. In the space of a network's features,
other views lie outside the cloud of the training views (Mahalanobis distance: Lee et al. 2018, arXiv:1807.03888; for
misspecified simulators: Schmitt et al. 2023, arXiv:2112.08866). The distance is given as a share: how many of the
validation views, of galaxies of the same suites that were not trained on, lie nearer. A run, or an ensemble as a
whole, keeps the data for this per tracer in ood.pt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# N views, F features, M members, D distances
#: A view with a larger score is called out of distribution; the remaining 5 % of validation views are false alarms.
OOD_THRESHOLD = 0.95
#: Of fewer validation views the farthest would not be above OOD_THRESHOLD: nothing would ever be out of distribution.
FEWEST_DISTANCES = 10
#: Variance that is added to every standardised feature, so that no direction has almost no variance.
_RIDGE = 1e-4
#: Most validation distances that a run keeps; of more, their quantiles.
_MOST_DISTANCES = 1000


def _is_finite(value: object, *shape: int) -> bool:
    """Whether something is a tensor of finite floats, and of that shape."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.shape != shape:
        return False
    return bool(value.isfinite().all())


@dataclass(frozen=True)
class TrainingFeatures:
    """The distribution of the training views' features, per member, and the distances of validation views from it."""

    mean: list[torch.Tensor]  # (F,)
    whiten: list[torch.Tensor]  # (F, F)
    distances: torch.Tensor  # (D,) rising

    def is_of(self, members: int, n_features: int) -> bool:
        """Whether these are numbers of as many members and features as a run's networks have, in their order."""

        of_members = ((self.mean, (n_features,)), (self.whiten, (n_features, n_features)))
        distances = self.distances
        return (
            all(isinstance(tensors, list) and len(tensors) == members for tensors, _ in of_members)
            and all(_is_finite(tensor, *shape) for tensors, shape in of_members for tensor in tensors)
            and isinstance(distances, torch.Tensor)
            and distances.numel() > 0
            and _is_finite(distances, distances.numel())
            and bool((distances.diff() >= 0).all())
        )

    def distance(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the Mahalanobis distance (N,) of each member's features (N, F), root mean square over members."""
        squared_distances = [
            ((member_features.double().cpu() - mean) @ whiten.T).square().sum(-1)
            for member_features, mean, whiten in zip(features, self.mean, self.whiten, strict=True)
        ]
        return torch.stack(squared_distances).mean(0).sqrt()

    def ood_score(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the share (N,) of validation views that lie nearer: uniform in 0 to 1 for the training suites.

        NaN where there are fewer than FEWEST_DISTANCES of these.
        """
        n_nearer = torch.searchsorted(self.distances, self.distance(features))
        scores = (n_nearer + 0.5) / (len(self.distances) + 1)
        return scores if len(self.distances) >= FEWEST_DISTANCES else torch.full_like(scores, torch.nan)


def learn_training_features(
    training: Sequence[torch.Tensor], validation: Sequence[torch.Tensor]
) -> TrainingFeatures | None:
    """Make TrainingFeatures from each member's features (N, F) of training and of validation views.

    Returns None where there are fewer than two views of either.
    """
    if min(len(training[0]), len(validation[0])) < 2:
        return None
    means, whitenings = [], []
    for features in training:
        features = features.double().cpu()
        spread = features.std(0).clamp(min=1e-12)
        correlation = torch.cov((features / spread).T) + _RIDGE * torch.eye(features.shape[1], dtype=torch.float64)
        means.append(features.mean(0))
        whitenings.append(torch.linalg.inv(torch.linalg.cholesky(correlation)) / spread)
    distances = TrainingFeatures(means, whitenings, torch.empty(0)).distance(validation).sort().values
    if len(distances) > _MOST_DISTANCES:
        distances = torch.quantile(distances, torch.linspace(0, 1, _MOST_DISTANCES, dtype=torch.float64))
    return TrainingFeatures(means, whitenings, distances)
