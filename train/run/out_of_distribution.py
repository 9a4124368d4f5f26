"""Has a network seen anything like it? How far a view's features lie from those of the galaxies it was trained on.

A posterior is worth what it promises for views like those of the training suites alone. In the space of the features,
what is foreign lies outside the cloud of the training views (Mahalanobis' distance: Lee et al. 2018, arXiv:1807.03888;
for misspecified simulators: Schmitt et al. 2023, arXiv:2112.08866). The distance is told as a share: of validation
views, galaxies of the same suites that were not trained on, how many lie nearer. A run, or an ensemble as a whole,
keeps what this takes per tracer in ood.pt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# N views, F features, M members, D distances
#: Share of validation views above which a view is called out of distribution: false alarms are the rest.
OOD_THRESHOLD = 0.95
#: Variance added to every standardised feature: so that no direction has nearly none.
_RIDGE = 1e-4
_MOST_DISTANCES = 1000


@dataclass(frozen=True)
class TrainingFeatures:
    """The cloud of training features, per member, and how far from it validation views lie."""

    mean: list[torch.Tensor]  # (F,)
    whiten: list[torch.Tensor]  # (F, F)
    distances: torch.Tensor  # (D,) rising

    def distance(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N,) Mahalanobis distance of features (N, F), root mean square over members."""
        each = [
            ((f.double().cpu() - m) @ w.T).square().sum(-1)
            for f, m, w in zip(features, self.mean, self.whiten, strict=True)
        ]
        return torch.stack(each).mean(0).sqrt()

    def ood_score(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N,) share of validation views that lie nearer: uniform in 0 to 1 for views of the training suites."""
        below = torch.searchsorted(self.distances, self.distance(features))
        return (below + 0.5) / (len(self.distances) + 1)


def learn(training: Sequence[torch.Tensor], validation: Sequence[torch.Tensor]) -> TrainingFeatures | None:
    """From each member's features (N, F) of training and of validation views; None without two of either."""
    if min(len(training[0]), len(validation[0])) < 2:
        return None
    means, whitens = [], []
    for features in training:
        features = features.double().cpu()
        spread = features.std(0).clamp(min=1e-12)
        correlation = torch.cov((features / spread).T) + _RIDGE * torch.eye(features.shape[1], dtype=torch.float64)
        means.append(features.mean(0))
        whitens.append(torch.linalg.inv(torch.linalg.cholesky(correlation)) / spread)
    distances = TrainingFeatures(means, whitens, torch.empty(0)).distance(validation).sort().values
    if len(distances) > _MOST_DISTANCES:
        distances = torch.quantile(distances, torch.linspace(0, 1, _MOST_DISTANCES, dtype=torch.float64))
    return TrainingFeatures(means, whitens, distances)
