"""A mixture of two normal distributions with full covariances: fitted, verified and drawn.

The data are the eruptions of the Old Faithful geyser, which are of two kinds: short ones followed by a short waiting
time, and long ones followed by a long one.

Source: the R package mclust (Scrucca, Fop, Murphy & Raftery 2016), model "VVV" with two components, 11 parameters, on
the same 272 observations: log-likelihood -1130.264, BIC -2322.192, classes of 97 and 175.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from _report import compare, heading, output_folder, require

import jaxem
from jaxem import datasets, plot
from jaxem.families import MultivariateNormal, MultivariateNormalParams
from jaxem.models import Mixture, MixtureParams


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    x = datasets.old_faithful()  # (272, 2): duration and waiting time to the next eruption, in minutes
    model = Mixture(MultivariateNormal(covariance="full"), k=2)
    start = model.init(jax.random.key(0), x)

    fit = jaxem.check(jaxem.fit(model, start, x))
    heading("The fit")
    print(fit)

    heading("The two kinds of eruption")
    labels, means = np.asarray(model.predict(fit.params, x)), np.asarray(fit.params.components.means)
    for k in means[:, 0].argsort():
        minutes, waiting = means[k]
        share = 100 * float(fit.params.weights[k])
        print(
            f"{share:.1f} % of eruptions last {minutes:.2f} minutes and are followed by {waiting:.1f} minutes of quiet "
            f"({int((labels == k).sum())} of {len(x)} observations)"
        )

    heading("The certificate: each law of EM, measured at this fit")
    certificate = jaxem.verify(model, fit.params, x)
    print(certificate)
    require(bool(certificate.ok), "the certificate")

    heading("Comparison with mclust")
    sizes = np.sort(np.bincount(labels))
    rows = [
        ("log-likelihood", "-1130.264", float(fit.objective)),
        ("BIC, 2 L - 11 log N", "-2322.192", 2 * float(fit.objective) - 11 * math.log(len(x))),
        ("in the smaller class", "97", float(sizes[0])),
        ("in the larger class", "175", float(sizes[1])),
    ]
    compare("mclust", rows)

    heading("Pictures")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.mixture(model, fit.params, x, ax=left)
    left.set(xlabel="eruption, minutes", ylabel="waiting to the next, minutes", title="The two kinds of eruption")
    plot.trace(fit, gap=True, ax=right)
    right.set(title="The climb: log-likelihood still to be won", ylabel="log-likelihood below the final one")
    figure.savefig(folder / "old_faithful.png")
    print(folder / "old_faithful.png")

    # With this start, two close classes with equal covariances, the fit takes enough iterations to be shown.
    means, spread = np.quantile(x, [0.3, 0.7], axis=0), np.cov(x.T)
    slow = MixtureParams(np.full(2, 0.5), MultivariateNormalParams(means, np.stack([spread, spread])))
    ax = plot.bound(model, slow, x, steps=4)
    ax.figure.savefig(folder / "old_faithful_bound.png")
    print(folder / "old_faithful_bound.png")


if __name__ == "__main__":
    main()
