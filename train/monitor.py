"""TensorBoard: what tells at a glance whether a fit goes well. Written by the first rank only."""

from pathlib import Path

import matplotlib
import numpy as np
from torch.utils.tensorboard import SummaryWriter

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Monitor:
    """Scalars and pictures of one run; does nothing on ranks that are not the first."""

    def __init__(self, folder: Path, first: bool, step: int):
        self._writer = SummaryWriter(str(folder), purge_step=step or None) if first else None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One point on every curve."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def profiles(
        self,
        step: int,
        observed: np.ndarray,
        radii_re: np.ndarray,
        truth: np.ndarray,
        samples: np.ndarray,
        names: list[str],
    ) -> None:
        """Observed maps (N, 8, P, P) beside true (N, K) and inferred (S, N, K) log10 M profiles."""
        if not self._writer:
            return
        figure, axes = plt.subplots(len(names), 5, figsize=(13, 2.5 * len(names)), squeeze=False, layout="constrained")
        for i, name in enumerate(names):
            for axis, channel, title in zip(
                axes[i], (1, 2, 5, 6), ("V stars", "sigma stars", "V gas", "sigma gas"), strict=False
            ):
                image = np.where(observed[i, channel - channel % 4 + 3] > 0, observed[i, channel], np.nan)
                shown = axis.imshow(image, origin="lower", cmap="RdBu_r" if title[0] == "V" else "viridis")
                figure.colorbar(shown, ax=axis, label="km/s")
                axis.set(title=title, xticks=[], yticks=[])
            low, middle, high = np.percentile(samples[:, i], [2.5, 50, 97.5], axis=0)
            axes[i, 4].fill_between(radii_re, low, high, alpha=0.3, label="95 %")
            axes[i, 4].plot(radii_re, middle, label="median")
            axes[i, 4].plot(radii_re, truth[i], "k--", label="true")
            axes[i, 4].set(xscale="log", xlabel="r / R_e", ylabel="log10 M(<r) [Msun]", title=name)
            axes[i, 4].legend()
        self._writer.add_figure("examples", figure, step)
        plt.close(figure)

    def close(self) -> None:
        """Flush what is left."""
        if self._writer:
            self._writer.close()
