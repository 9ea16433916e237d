"""Slow convergence of EM, and three faster algorithms: a mixture of two Poisson distributions that overlap strongly.

On 1096 days of 1910 to 1912 the London Times announced 0 to 9 deaths of women aged 80 and over. A mixture of two
Poisson distributions (a winter and a summer rate) loses 99.6 % of its information because the season of each day is
unknown. So each iteration of EM covers only 0.4 % of the remaining distance.

Source: Varadhan & Roland (2008) and Henderson & Varadhan (2019) use these data for the same purpose. Started from a
share of 0.3 and rates of 1.0 and 2.5, and stopped when the parameters move less than 1e-7, plain EM takes 2,055
iterations to a log-likelihood of -1989.94586.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _report import compare, heading, output_folder, require

import jaxem
from jaxem import datasets, plot
from jaxem.families import Poisson, PoissonParams
from jaxem.models import Mixture, MixtureParams


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ShortUpdate:
    """A user-defined stopping rule, that of the source: the share and the two rates together move less than 1e-7."""

    needs_objective = False

    def met(self, progress: Any) -> jax.Array:
        new, old = progress.params, progress.previous
        rates = new.components.rates - old.components.rates
        return (new.weights[0] - old.weights[0]) ** 2 + (rates**2).sum() < 1e-7**2


ALGORITHMS = {
    "EM": jaxem.EM(),
    "SQUAREM": jaxem.SQUAREM(),
    "Anderson": jaxem.Anderson(),
    "GEM, L-BFGS": jaxem.GEM(steps=20),
}


def climb(algorithm: Any, model: Any, start: Any, data: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of E-steps and the objective at each iteration. An algorithm has two functions, init and step."""

    def step(state: Any, _: None) -> tuple[Any, Any]:
        state = algorithm.step(model, state, data)
        return state, (state.evaluations, state.objective)

    first = algorithm.init(model, start, data, None)
    _, (evaluations, objectives) = jax.jit(lambda state: jax.lax.scan(step, state, length=steps))(first)
    return np.append(1, evaluations), np.append(first.objective, objectives)


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    deaths, days = datasets.london_times_deaths()
    data = jaxem.dataset(
        jnp.asarray(deaths, float), weights=jnp.asarray(days, float)
    )  # each value and how often it was observed
    model = Mixture(Poisson(), k=2)
    start = MixtureParams(jnp.array([0.3, 0.7]), PoissonParams(jnp.array([1.0, 2.5])))

    heading("The same start, the same rule, four algorithms")
    print(f"{'':<14}{'iterations':>10}{'E-steps':>10}{'fallbacks':>12}{'log-likelihood':>18}")
    fits = {}
    for name, algorithm in ALGORITHMS.items():
        fit = jaxem.fit(model, start, data, algorithm=algorithm, stop=ShortUpdate(), max_steps=3000)
        fits[name] = jaxem.check(fit)
        print(f"{name:<14}{fit.steps:>10}{fit.evaluations:>10}{fit.fallbacks:>12}{float(fit.objective):>18.8f}")

    plain = fits["EM"]
    compare(
        "the sources",
        [
            ("iterations of EM", "2055", float(plain.steps)),
            ("log-likelihood", "-1989.94586", float(plain.objective)),
        ],
    )
    slack = 32 * np.finfo(float).eps * abs(float(plain.objective))
    for name in ("SQUAREM", "Anderson"):
        fit = fits[name]
        trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
        require(int(fit.evaluations) <= 100, f"{name} needs at most 100 E-steps")
        require(abs(float(fit.objective - plain.objective)) < 1e-8, f"{name} reaches the same log-likelihood")
        require(bool((np.diff(trace) >= -slack).all()), f"{name} never falls")

    heading("Picture")
    from matplotlib.figure import Figure

    # Each algorithm runs far beyond the point where the rule stops it.
    ways = {
        name: climb(algorithm, model, start, data, 300 if name in ("SQUAREM", "Anderson") else 2500)
        for name, algorithm in ALGORITHMS.items()
    }
    top = max(objectives.max() for _, objectives in ways.values())
    axes = Figure(figsize=(7.0, 4.4), dpi=150, layout="constrained").subplots()
    for colour, (name, (evaluations, objectives)) in zip(plot.COLOURS, ways.items(), strict=False):
        gap = top - objectives
        shown = np.cumprod(gap > slack) > 0  # smaller gaps are rounding error
        style = {"marker": "."} if name in ("SQUAREM", "Anderson") else {"dashes": (4, 2)} if name != "EM" else {}
        axes.plot(evaluations[shown], gap[shown], color=colour, label=name, **style)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="E-steps paid for",
        ylabel="log-likelihood still to be won",
        title="Deaths in the London Times: two Poisson distributions",
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.savefig(folder / "acceleration.png")
    print(folder / "acceleration.png")


if __name__ == "__main__":
    main()
