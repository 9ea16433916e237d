"""The number of components of a mixture, by criteria and a bootstrap test: the velocities of 82 galaxies.

Galaxies that are close together recede at similar velocities, so clusters in space appear as clusters of velocities. A
mixture of normal distributions describes these clusters; its number of components k has to be chosen.

Source: Roeder (1990), who finds three to seven clusters. The log-likelihoods of one to four components with unequal
variances are those of the R package sBIC with 100 random starts (Drton & Plummer 2017, section 6.2), to two decimals,
as its EM stops up to 0.008 below the maximum. BIC chooses three components there, too. McLachlan & Peel (2000,
chapter 6) test one component against two, two against three, and so on. Beyond three components that takes many starts:
the best fit of four is rarely found (see the column "found"), and a test is only as good as the fits that it compares.
"""

from collections.abc import Sequence

import jax
import numpy as np
from _report import compare, heading, output_folder, require

import jaxem
from jaxem import datasets
from jaxem.families import Normal
from jaxem.models import Mixture
from jaxem.plot import COLOURS

PUBLISHED = ["-240.34", "-220.24", "-203.18", "-197.46"]
RUN = {"restarts": 8, "max_steps": 500, "stop": jaxem.fitting.aitken(1e-8)}


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    x = datasets.galaxies()  # (82,), in 1000 km/s
    models = [Mixture(Normal(), k) for k in range(1, 5)]

    heading("Criteria")
    table = jaxem.select(models, x, key=jax.random.key(0), **RUN)
    print(table)

    heading("Comparison with sBIC")
    found = {one.model.k: one for one in table.candidates}
    rows = [(f"k = {k}", figure, found[k].log_likelihood) for k, figure in enumerate(PUBLISHED, 1)]
    compare("sBIC", [*rows, ("the best by BIC", "3", table.best.model.k)])

    heading("Test of two components against three, by fits of both to data drawn from the fit of two")
    test = jaxem.inference.likelihood_ratio_test(models[1], models[2], x, key=jax.random.key(1), replicates=99, **RUN)
    print(f"2 against 3: {test}")
    require(float(test.p_value) <= 0.05, "two components are too few")

    heading("The components of the best fit")
    best = jaxem.inference.canonical(table.best.model, table.best.fit.params)
    for share, mean, variance in zip(best.weights, best.components.means, best.components.variances, strict=True):
        print(f"{100 * share:4.1f} % of the galaxies recede at {mean:5.2f} +- {variance**0.5:.2f} thousand km/s")

    heading("Picture")
    print(draw(table, x, folder))


def draw(table, x, folder):
    """Draw the histogram, and the fitted densities of two, three and four components."""
    from matplotlib.figure import Figure

    ax = Figure(figsize=(9.0, 4.4), dpi=150, layout="constrained").add_subplot()
    ax.hist(x, bins=np.arange(8, 36, 0.75), density=True, color="#dddddd", edgecolor="white", label="82 galaxies")
    ax.plot(x, np.full_like(x, -0.006), "|", color="#8a8a8a", markersize=7)
    grid = np.linspace(7, 37, 800)
    for one, colour in zip(table.candidates[1:], (COLOURS[5], COLOURS[1], COLOURS[0]), strict=True):
        winner = one is table.best
        name = f"{one.model.k} components, BIC {one.criteria['bic']:.1f}" + (" (lowest)" if winner else "")
        density = np.exp(one.model.log_prob(one.fit.params, grid))
        ax.plot(grid, density, color=colour, linewidth=2.6 if winner else 1.6, label=name)
    ax.set(xlabel="velocity, 1000 km/s", ylabel="density", xlim=(7, 37), ylim=(-0.012, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    ax.figure.savefig(folder / "how_many_components.png")
    return folder / "how_many_components.png"


if __name__ == "__main__":
    main()
