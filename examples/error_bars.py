"""Standard errors of a mixture of two normal distributions, compared with a bootstrap, and regions for its means.

The data are the eruptions of the Old Faithful geyser (see ``old_faithful.py``). EM gives an estimate; the curvature of
the log-likelihood at the estimate, by automatic differentiation, gives its precision. The bootstrap estimates the
precision from the data alone: it resamples 272 eruptions with replacement, which gives each eruption a random weight,
and fits again. All these fits run in one program.

Source: Basford, Greenway, McLachlan & Peel (1997), *Standard errors of fitted component means of normal mixtures*, who
compare the two.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _report import heading, output_folder, require
from jax.flatten_util import ravel_pytree

import jaxem
from jaxem import datasets, plot
from jaxem.families import MultivariateNormal
from jaxem.models import Mixture

SAMPLES = 400


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    x = jnp.asarray(datasets.old_faithful())  # (272, 2): duration and waiting time to the next eruption, in minutes
    model = Mixture(MultivariateNormal(covariance="full"), k=2)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x))

    heading("Estimates, standard errors and intervals")
    print(jaxem.summary(model, fit, x))

    heading(f"Comparison with a bootstrap of {SAMPLES} samples")
    n = len(x)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), SAMPLES).astype(float)
    # Each fit starts at the estimate, so that the classes keep their numbers.
    refit = jax.vmap(lambda w: jaxem.fit(model, fit.params, jaxem.dataset(x, weights=w), tol=1e-8, max_steps=100))
    samples = refit(jnp.asarray(weights))
    require(bool(samples.converged.all()), "every sample converges")
    estimates = np.asarray(jax.vmap(lambda params: ravel_pytree(params)[0])(samples.params))
    bootstrap = estimates.std(axis=0, ddof=1)
    information, sandwich = (
        np.asarray(ravel_pytree(jaxem.inference.standard_errors(model, fit.params, x, robust=robust))[0])
        for robust in (False, True)
    )
    means = slice(2, 6)  # the means follow the two weights
    names = [f"components.means[{k}, {d}]" for k in (0, 1) for d in (0, 1)]
    print(f"{'':<24}{'information':>12}{'sandwich':>12}{'bootstrap':>12}")
    for name, i in zip(["weights[0]", *names], [0, 2, 3, 4, 5], strict=True):
        print(f"{name:<24}" + "".join(f"{part[i]:>12.4f}" for part in (information, sandwich, bootstrap)))
    # A standard deviation of S samples has a relative standard error of 1 / sqrt(2 S); four of them are allowed.
    worst = np.abs(bootstrap[means] / sandwich[means] - 1).max()
    print(f"the bootstrap and the sandwich differ by at most {100 * worst:.0f} %")
    require(worst < 4 / (2 * SAMPLES) ** 0.5, "bootstrap and sandwich agree on the means, within the bootstrap's error")

    heading("Picture")
    draw(
        folder / "error_bars.png",
        model,
        fit.params,
        x,
        np.asarray(jaxem.inference.covariance(model, fit.params, x)),
        estimates,
    )


def draw(path: Path, model: Mixture, params, x, covariance: np.ndarray, estimates: np.ndarray) -> None:
    """Draw the fit over the data, and each mean with its 95 % region over the bootstrap means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 4.2), dpi=150, layout="constrained")
    whole, *close = figure.subplots(1, 3)
    plot.mixture(model, params, x, ax=whole)
    whole.set(xlabel="eruption, minutes", ylabel="waiting to the next, minutes", title="The two kinds of eruption")
    angle = np.linspace(0, 2 * np.pi, 181)
    radius = np.sqrt(-2 * np.log(0.05))  # contains 95 % of a standard normal distribution in two dimensions
    for k, ax in enumerate(close):
        at = slice(2 + 2 * k, 4 + 2 * k)
        factor = np.linalg.cholesky(covariance[at, at])
        region = np.asarray(params.components.means)[k][:, None] + radius * factor @ [np.cos(angle), np.sin(angle)]
        ax.plot(*estimates[:, at].T, ".", color="#8a8a8a", markersize=4, label="bootstrap")
        ax.plot(*region, color=plot.COLOURS[k], linewidth=2, label="95 %, from the curvature")
        ax.plot(*np.asarray(params.components.means)[k], "+", color="#222222", markersize=12, markeredgewidth=2)
        ax.set(xlabel="mean eruption, minutes", ylabel="mean waiting, minutes", title=f"Where the mean of class {k} is")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="upper left", frameon=False, fontsize="small")
        ax.margins(0.12, 0.2)
    figure.savefig(path)
    print(path)


if __name__ == "__main__":
    main()
