"""A hidden Markov model: calm, middling and violent periods of great earthquakes.

The data are the yearly numbers of earthquakes of magnitude 7 or more, 1900 to 2006. They are modelled as Poisson counts
whose rate follows a Markov chain of three states. The initial distribution is free, so the chain need not start in
equilibrium.

Source: Zucchini, MacDonald & Langrock (2016), *Hidden Markov Models for Time Series*, chapter 4. Their fit by EM, which
does not assume stationarity, has minus the log-likelihood 328.5275; their stationary model has 329.4603.
"""

from collections.abc import Sequence

import jax
import numpy as np
from _report import compare, heading, output_folder

import jaxem
from jaxem import datasets
from jaxem.families import Poisson
from jaxem.models import HMM
from jaxem.plot import COLOURS


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    years, counts = datasets.earthquakes()
    x = counts[None].astype(float)  # one sequence of 107 years
    model = HMM(Poisson(), k=3)

    restarts = jaxem.fit_restarts(model, x, key=jax.random.key(0), restarts=20)
    fit = jaxem.check(restarts.best)
    heading("The best fit from 20 starts")
    print(restarts)

    heading("The three states")
    path = np.asarray(jax.jit(model.predict)(fit.params, x))[0]  # Viterbi
    rates, transition = np.asarray(fit.params.emissions.rates), np.asarray(fit.params.transition)
    for name, k in zip(("calm", "middling", "violent"), rates.argsort(), strict=True):
        years_in = int((path == k).sum())
        print(
            f"{name:<9}{rates[k]:5.1f} a year, stays with probability {transition[k, k]:.2f}, {years_in} years of 107"
        )

    heading("Comparison with the book")
    compare("Zucchini et al.", [("minus the log-likelihood", "328.5275", -float(fit.objective))])

    heading("Picture")
    print(draw(years, counts, rates[path], folder))


def draw(years, counts, means, folder):
    """Draw the counts, and as a step line the mean of the most probable state of each year."""
    from matplotlib.figure import Figure

    ax = Figure(figsize=(9.0, 4.2), dpi=150, layout="constrained").add_subplot()
    ax.plot(years, counts, "o", color="#8a8a8a", markersize=4, label="earthquakes in the year")
    ax.step(years, means, where="mid", color=COLOURS[1], linewidth=2.2, label="mean of the decoded state (Viterbi)")
    ax.set(xlabel="year", ylabel="earthquakes of magnitude 7 or more", ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    ax.figure.savefig(folder / "earthquakes.png")
    return folder / "earthquakes.png"


if __name__ == "__main__":
    main()
