"""What averaging over a view's mirror images is worth: of features, as networks do, of posteriors, or not at all.

  make demo SEEDS="0 1 2"
  cd demo/runs && python -m bench.looks --store ../maps.zarr --runs both both-seed1 both-seed2

A view and its mirror images, on the sky and along the line of sight, have the same mass. Of the test galaxies, for
the runs' views as they are (`none`), with the mean of the features of the mirror images (`features`, which is what
`kinmass` does) and with the mean of their posteriors (`posteriors`, a mixture): joint log density per view [nats],
dispersion of log10 M(<r) [dex], mean of ten radii, and the share of truths inside the central 68 %. Widths are those
of the runs' calibration, which is made with averaged features. Intervals in brackets: 16th to 84th percentiles of a
bootstrap over galaxies; all runs count alike.
"""

from pathlib import Path

import numpy as np
import torch

from bench import common
from bench.generalization import N_SAMPLES
from bench.mixture import HEADS, row
from kinmass import train
from kinmass.gen.storage import store
from kinmass.train.data.dataset import Views, read_views, usable
from kinmass.train.model.scaling import flip_sky
from kinmass.train.run.intervals import LEVELS, held
from kinmass.train.run.posterior import VIEWS_PER_BLOCK, Inference, Posterior

#: Of the 16 symmetries of `flip_sky`, those that the polar encoder does not have by itself.
IMAGES = (0, 4, 8, 12)


@torch.no_grad()
def posteriors_of_images(infer: Inference, views: Views) -> list[Posterior]:
    """Return the posteriors of all views from each mirror image by itself."""
    observed, r_e = views.observed(infer.instrument, told=infer.told), views.half_mass_radius_kpc
    (model,) = infer.models
    found = []
    for image in IMAGES:
        blocks = [
            model.features(flip_sky(maps, torch.full((len(maps),), image)), radii)
            for maps, radii in zip(observed.split(VIEWS_PER_BLOCK), r_e.split(VIEWS_PER_BLOCK), strict=True)
        ]
        features, log10_unit = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        found.append(Posterior([model], [features], log10_unit, r_e, views.names(), infer.scales[infer.tracer]))
    return found


def main() -> None:
    """Run the benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="map store")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="runs of single networks")
    args = parser.parse_args()
    found: dict[str, list[dict[str, np.ndarray]]] = {"none": [], "features": [], "posteriors": []}
    log_prob: dict[str, list[np.ndarray]] = {way: [] for way in found}
    for infer in map(train.load, args.runs):
        for suite in store.suites(args.store):
            views = read_views(args.store, suite, "test")
            for tracer in infer.models[0].tracers:
                views = views[usable(views, tracer, infer.instrument)]
            truth, images = views.log10_menc.numpy().astype(float), posteriors_of_images(infer, views)
            for way, posteriors in (("none", images[:1]), ("features", [infer(views)]), ("posteriors", images)):
                samples = np.concatenate([posterior.samples(N_SAMPLES) for posterior in posteriors])
                inside = held((samples < truth).sum(0), len(samples), LEVELS[0])
                d = np.median(samples, axis=0) - truth
                found[way].append({"galaxy": views.galaxy.astype(str), "d": d, "inside": inside})
                log_probs = [posterior.log_prob(views.log10_menc) for posterior in posteriors]
                log_prob[way].append(np.logaddexp.reduce(log_probs) - np.log(len(log_probs)))
    rows = [[*row(way, of_suites), f"{np.concatenate(log_prob[way]).mean():.2f}"] for way, of_suites in found.items()]
    common.table([*HEADS, "log p, joint [nats]"], rows)


if __name__ == "__main__":
    main()
