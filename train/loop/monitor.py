"""TensorBoard: what tells at a glance whether a fit goes well. Written by the first rank only."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

# TensorBoard and matplotlib are imported where they are used: ranks that are not the first need neither.

#: What runs are compared by.
METRICS = ("loss/val", "dispersion/mean", "bias/mean", "coverage/mean")
#: One page of what matters, under CUSTOM SCALARS: title and the curves in it, as regular expressions.
GLANCE = {
    "loss [nats]": ["loss/.*"],
    "dispersion [dex]": ["dispersion/.*"],
    "bias [dex]": ["bias/.*"],
    "coverage of the 68 % interval": ["coverage/.*"],
    "learning rate": ["learning_rate"],
    "gradient norm": ["gradient_norm"],
    "views per second": ["samples_per_second"],
    "share of time waiting for maps": ["data_wait"],
}


class Monitor:
    """Scalars and pictures of one run; does nothing on ranks that are not the first.

    Curves go on behind `step`, the one of the checkpoint: points that a killed process wrote after it are purged.
    What cannot be written (a full disk) is said once and tried again with the next points.
    """

    def __init__(self, folder: Path, first: bool, step: int, config: dict[str, Any]):
        self._folder, self._first, self._next, self._config = folder, first, step + 1, config
        self._writer: Any = None
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._said = False

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        if self._writer is None:
            new = not any(self._folder.glob("events.*"))
            self._writer = SummaryWriter(str(self._folder), purge_step=self._next)
            if new:
                self._writer.add_custom_scalars({"at a glance": {t: ["Multiline", c] for t, c in GLANCE.items()}})
                # add_hparams would make another run of it, in a folder of its own.
                shown = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in self._config.items()}
                for summary in hparams(shown, dict.fromkeys(METRICS, 0.0))[:2]:
                    self._writer._get_file_writer().add_summary(summary)
        return self._writer

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One point on every curve, on the disk when this returns."""
        if not self._first:
            return
        self._waiting.append((step, values))
        try:
            writer = self._open()
            for at, points in self._waiting:
                for name, value in points.items():
                    writer.add_scalar(name, value, at)
            writer.flush()
            self._waiting, self._next = [], step + 1
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if not self._said:
            print(
                f"kinmass fit: TensorBoard's curves wait, {self._folder} cannot be written ({error})", file=sys.stderr
            )
        self._said, self._writer = True, None

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
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(len(names), 5, figsize=(13, 2.5 * len(names)), squeeze=False, layout="constrained")
        for i, name in enumerate(names):
            for axis, channel, title in zip(
                axes[i], (1, 2, 5, 6), ("V stars", "sigma stars", "V gas", "sigma gas"), strict=False
            ):
                valid = observed[i, channel - channel % 4 + 3] > 0
                image = np.where(valid, observed[i, channel], np.nan)
                top = float(np.abs(observed[i, channel]).max()) or 1.0
                low = -top if title[0] == "V" else 0.0
                axis.imshow(image, origin="lower", cmap="RdBu_r" if low else "viridis", vmin=low, vmax=top)
                axis.set(title=f"{title}, to {top:.0f} km/s", xticks=[], yticks=[])
            low, middle, high = np.percentile(samples[:, i], [2.5, 50, 97.5], axis=0)
            axes[i, 4].fill_between(radii_re, low, high, alpha=0.3, label="95 %")
            axes[i, 4].plot(radii_re, middle, label="median")
            axes[i, 4].plot(radii_re, truth[i], "k--", label="true")
            axes[i, 4].set(xscale="log", xlabel="r / R_e", ylabel="log10 M(<r) [Msun]", title=name)
            axes[i, 4].legend()
        try:
            writer = self._open()
            writer.add_figure("examples", figure, step)
            writer.flush()
        except OSError as error:
            self._failed(error)
        plt.close(figure)

    def close(self) -> None:
        """Flush what is left."""
        if self._writer:
            try:
                self._writer.close()
            except OSError as error:
                self._failed(error)
