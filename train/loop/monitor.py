"""TensorBoard: curves and pictures that show whether a fit goes well. Only the first rank writes them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from kinmass.gen.look.style import own_style
from kinmass.train.run.records import FitSettings

# TensorBoard and matplotlib are imported where they are used, because only the first rank needs them.

#: The scalars by which TensorBoard compares runs.
METRICS = ("loss/val", "dispersion/mean", "bias/mean", "coverage/mean")
#: The charts of the one page under CUSTOM SCALARS: title, and the curves in it as regular expressions.
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
    """Writes scalars and pictures of one run; does nothing on ranks other than the first.

    Curves go on after `step`, that of the checkpoint: points that a killed process wrote after it are purged.
    Points that cannot be written (a full disk) are written with the next ones; a warning is printed once.
    """

    def __init__(self, folder: Path, is_first_rank: bool, step: int, settings: FitSettings):
        self._folder, self._is_first_rank, self._purge_step, self._settings = folder, is_first_rank, step + 1, settings
        self._writer: Any = None
        self._unwritten_points: list[tuple[int, dict[str, float]]] = []
        self._has_warned = False

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        if self._writer is None:
            is_new_run = not any(self._folder.glob("events.*"))
            self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)
            if is_new_run:
                self._writer.add_custom_scalars(
                    {"at a glance": {title: ["Multiline", curves] for title, curves in GLANCE.items()}}
                )
                # Not by add_hparams, which would write them as another run in a folder of its own.
                hyperparameters = {
                    name: value if isinstance(value, bool | int | float | str) else str(value)
                    for name, value in self._settings.items()
                }
                for summary in hparams(hyperparameters, dict.fromkeys(METRICS, 0.0))[:2]:
                    self._writer._get_file_writer().add_summary(summary)
        return self._writer

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add one point to every curve; the points are on the disk when this returns."""
        if not self._is_first_rank:
            return
        self._unwritten_points.append((step, values))
        try:
            writer = self._open()
            for point_step, points in self._unwritten_points:
                for name, value in points.items():
                    writer.add_scalar(name, value, point_step)
            writer.flush()
            self._unwritten_points, self._purge_step = [], step + 1
        except OSError as error:
            self._warn_once(error)

    def _warn_once(self, error: OSError) -> None:
        if not self._has_warned:
            print(
                f"kinmass fit: TensorBoard's curves wait, {self._folder} cannot be written ({error})", file=sys.stderr
            )
        self._has_warned, self._writer = True, None

    @own_style()
    def profiles(
        self,
        step: int,
        observed: np.ndarray,
        radii_re: np.ndarray,
        truth: np.ndarray,
        samples: np.ndarray,
        names: list[str],
    ) -> None:
        """Draw observed maps (N, 8, P, P) beside true (N, K) and inferred (S, N, K) profiles of log10 M(<r) [Msun].

        radii_re (K,) in units of R_e; names (N,) of the views.
        """
        from matplotlib.figure import Figure  # without pyplot, which keeps a figure that is not closed

        height = 2.5 * len(names) + 0.5  # inches
        figure = Figure(figsize=(13, height))
        edges = {"left": 0.01, "right": 0.99, "bottom": 0.6 / height, "top": 1 - 0.4 / height}
        grid = figure.add_gridspec(len(names), 2, width_ratios=(4, 1), wspace=0.1, hspace=0.35, **edges)
        _draw_maps(figure.add_subplot(grid[:, 0]), observed)
        for i, name in enumerate(names):
            axis = figure.add_subplot(grid[i, 1])
            lowest, median, highest = np.percentile(samples[:, i], [2.5, 50, 97.5], axis=0)
            axis.fill_between(radii_re, lowest, highest, alpha=0.3, label="95 %")
            axis.plot(radii_re, median, label="median")
            axis.plot(radii_re, truth[i], "k--", label="true")
            axis.set(ylabel="log10 M(<r) [Msun]", title=name)
        axis.set(xlabel="r / R_e")
        axis.legend()
        try:
            writer = self._open()
            writer.add_figure("examples", figure, step)
            writer.flush()
        except OSError as error:
            self._warn_once(error)

    def close(self) -> None:
        """Write what is still in memory and close the file."""
        if self._writer:
            try:
                self._writer.close()
            except OSError as error:
                self._warn_once(error)


def _draw_maps(axis: Any, observed: np.ndarray) -> None:
    """Draw V and sigma of stars and gas of each view (N, 8, P, P) in one pair of axes, which take long to draw."""
    from matplotlib import colormaps

    side, gap = observed.shape[-1], observed.shape[-1] // 4
    canvas = np.ones((len(observed) * (side + gap), 4 * (side + gap), 3))
    for i, view in enumerate(observed):
        for j, (channel, title) in enumerate(((1, "V stars"), (2, "sigma stars"), (5, "V gas"), (6, "sigma gas"))):
            top, left = i * (side + gap) + gap, j * (side + gap)
            is_seen = view[channel - channel % 4 + 3] > 0
            limit_kms = float(np.abs(view[channel][is_seen]).max(initial=0)) or 1.0
            lowest_kms, colours = (-limit_kms, "RdBu_r") if title[0] == "V" else (0.0, "viridis")
            image = colormaps[colours]((view[channel] - lowest_kms) / (limit_kms - lowest_kms))[::-1, :, :3]
            image[~is_seen[::-1]] = 1
            canvas[top : top + side, left : left + side] = image
            text = f"{title}, to {limit_kms:.0f} km/s"
            axis.text(left + side / 2, top - gap / 4, text, ha="center", fontsize="small")
    axis.imshow(canvas, interpolation="nearest", aspect="equal", extent=(0, canvas.shape[1], canvas.shape[0], 0))
    axis.set_axis_off()
