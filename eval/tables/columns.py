"""What every column of the evaluation tables means, in one table that the site and the tests read."""

#: Tables of a results folder: what one row is about.
TABLES = {
    "table": "one estimator on one suite at one radius",
    "bins": "the same for views of one bin of `column`: stellar mass, inclination, gas fraction or rotation support",
    "summary": "one estimator on one suite, averaged over the radii at which it is defined: the table to quote",
    "beside": "one network beside one classical estimator, on the views and at the radii that both answer",
    "ratios": "best single tracer over both, on views that all three can use",
    "gains": "the same at each radius and in each bin",
    "gap": "a run on a suite that it never saw, over the run that was trained on that suite alone",
    "closed": "how far what varied in training takes runs on all suites but one towards the run of the suite left out",
    "calibration": "one bin of the histograms of PIT (per radius) and of TARP (no radius)",
}

#: Columns by their names without `_lo` and `_hi`.
MEANINGS = {
    "estimator": "network, or classical estimator; `+...` names what varied in a network's training",
    "instrument": "through which the views are seen",
    "tracer": "gas, stars or both",
    "train": "suites trained on, joined by `+`; empty for classical estimators",
    "test": "suite tested on; `all` pools them",
    "suites": "suites left out",
    "radius": "of the enclosed mass [R_e]; in `gains` and `bins`, see `column`",
    "column": "what the bins are of; in `gains` also `radius`",
    "low": "lower end of the bin",
    "high": "upper end of the bin",
    "count": "views in the bin, of all seeds together",
    "n_seeds": "runs that differ in nothing but `--seed`; measures are means over them",
    "n_galaxies": "galaxies of which a view is used; in `beside` those that both answer",
    "n_views": "views with a prediction at that radius; in `summary` at the radius with the fewest",
    "n_missing": "views whose prediction is not finite, or where the estimator is not defined",
    "n_left_out": "views in which too little is seen, or whose truth is nil at one of the radii",
    "answered": "share of all views, also of those left out, with a prediction at that radius",
    "answered_min": "least share answered over the radii from `radius_min` to `radius_max`",
    "answered_max": "largest share answered over these radii",
    "radius_min": "first radius with an answer [R_e]",
    "radius_max": "last radius with an answer [R_e]",
    "bias": "mean of d [dex]",
    "bias_median": "median of d [dex]",
    "dispersion": "standard deviation of d [dex]; empty where a single galaxy has an answer",
    "dispersion_robust": "half the range from the 16th to the 84th percentile of d [dex]",
    "outliers": "share of views with d farther than 3 `dispersion_robust` from its median",
    "rmse": "root of the mean of d^2 [dex]",
    "crps": "continuous ranked probability score [dex]; mean of |d| for a point estimate. Smaller is better, and only "
    "honest posteriors make it small; it does not depend on the number of samples",
    "log_prob": "log density per dex at the truth, the other radii integrated out",
    "log_prob_joint": "log density of the whole profile per dex^10",
    "coverage_68": "share of truths inside the central 68.27 % of the posterior",
    "coverage_95": "share of truths inside the central 95.45 %",
    "width_68": "sharpness: half the width of the central 68.27 % [dex]",
    "width_95": "half the width of the central 95.45 % [dex]",
    "pit_off": "how far the cumulative distribution of PIT is from a uniform one, at the worst radius: 0 is perfect, "
    "with N galaxies chance alone gives about 1 / sqrt(N)",
    "tarp_off": "the same of TARP, a test of the whole profile",
    "ood_share": "share of views less like the training galaxies than 95 % of validation galaxies are: .05 where "
    "nothing has changed. Where it is large, do not trust the posterior. Empty of runs with fewer than ten "
    "validation views",
    "ood_auc": "area under the ROC curve that tells these views from validation views: .5 where nothing has changed",
    "beyond": "share of samples that were masses no galaxy has and were held: 0 of a network that is trained",
    "beside": "the classical estimator",
    "dispersion_beside": "its dispersion [dex]",
    "bias_beside": "its bias [dex]",
    "rmse_beside": "its RMSE [dex]",
    "crps_beside": "its mean |d| [dex]",
    "ratio": "in `beside` the classical dispersion over the network's; in `ratios` and `gains` the dispersion of the "
    "best single tracer over that of both. Replicates draw the same lineages for all of them",
    "lo": "lower end of the ratio's 68 % interval",
    "hi": "upper end of the ratio's 68 % interval",
    "above_1": "share of bootstrap replicates in which the ratio exceeds 1; empty where fewer than six lineages have "
    "an answer, of which chance alone often favours the same side",
    "rmse_ratio": "RMSE over that at home",
    "rmse_home": "RMSE of the plain run that was trained on the test suite alone [dex]",
    "rmse_plain": "RMSE of the plain run on all suites but one [dex]",
    "coverage_68_home": "coverage of the run trained on the test suite alone",
    "log_prob_loss": "joint log density at home less that here [nats]",
    "closed": "share of the gap from `rmse_plain` to `rmse_home` that is closed; empty where there is no gap",
    "gain": "RMSE of the best single tracer over that of both, on the suites left out",
}


def meaning(column: str) -> str:
    """Return what a column means. Raises KeyError for a column that no table has.

    >>> meaning("rmse_lo")
    'lower end of the 68 % interval of `rmse`'
    """
    if column in MEANINGS:
        return MEANINGS[column]
    name, _, end = column.rpartition("_")
    if name not in MEANINGS or end not in ("lo", "hi"):
        raise KeyError(column)
    return f"{'lower' if end == 'lo' else 'upper'} end of the 68 % interval of `{name}`"
