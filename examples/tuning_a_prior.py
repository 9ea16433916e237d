"""The strength of a prior, tuned on held-out data by the gradient through the fit.

A mixture of the two kinds of eruption of the Old Faithful geyser is fitted to only 20 eruptions. Covariances estimated
from so few points are too small. A prior adds a sum of squares Lambda to that of each kind, and the score of the other
252 eruptions decides how large Lambda should be. The score depends on Lambda through the whole fit; its gradient
follows from the fixed point of EM, by the implicit function theorem.

Source: Blondel et al. (2022), *Efficient and modular implicit differentiation*; Fraley & Raftery (2007) for the prior
and its defaults.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _report import heading, output_folder, require

import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal, NormalInverseWishart
from jaxem.models import Mixture
from jaxem.plot import COLOURS

SEEN, STEPS = 20, 15


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    x = datasets.old_faithful()
    order = np.random.default_rng(0).permutation(len(x))
    seen, unseen = jnp.asarray(x[order[:SEEN]]), jnp.asarray(x[order[SEEN:]])
    default = NormalInverseWishart.from_data(seen, 2)

    def with_strength(log_strength):
        """The mixture with the default prior, whose sum of squares is multiplied by exp(log_strength)."""
        prior = default._replace(scale=default.scale * jnp.exp(log_strength))
        return Mixture(MultivariateNormal("full", prior), k=2)

    origin = jnp.zeros(())  # the default prior
    start = with_strength(origin).init(jax.random.key(0), seen)

    def score(log_strength):
        """The mean log-density of the held-out eruptions."""
        model = with_strength(log_strength)
        fit = jaxem.fit(model, start, seen)
        return model.log_prob(fit.params, unseen).mean()

    score_and_slope = jax.jit(jax.value_and_grad(score))

    heading("The gradient through the fit, compared with a central difference")
    (_, gradient), h = score_and_slope(origin), 1e-3
    difference = (score_and_slope(origin + h)[0] - score_and_slope(origin - h)[0]) / (2 * h)
    print(f"implicit function theorem  {gradient:.6f}\ncentral difference         {difference:.6f}")
    # The central difference has an error of order h^2, and one of the stopping rule's error of two fits divided by h.
    require(abs(float(gradient - difference)) <= 1e-5 * abs(float(gradient)), "the gradient agrees")

    heading("Tuning")
    optimizer = optax.sgd(4.0)
    path, values, state = [origin], [], optimizer.init(origin)
    for _ in range(STEPS):
        value, gradient = score_and_slope(path[-1])
        update, state = optimizer.update(-gradient, state)
        path.append(path[-1] + update)
        values.append(value)
    value, gradient = score_and_slope(path[-1])
    values.append(value)
    for name, i in (("before", 0), ("after", -1)):
        strength = float(jnp.exp(path[i]))
        print(f"{name:<8}strength {strength:5.2f}   mean log-density of held-out eruptions {values[i]:.4f}")
    require(bool(values[-1] > values[0]) and abs(float(gradient)) < 0.01, "the tuned prior is the best one")

    heading("Picture")
    print(draw(score_and_slope, np.asarray(jnp.stack(path)), np.asarray(jnp.stack(values)), folder))


def draw(score_and_slope, path, values, folder):
    """Draw the score against the strength, with the steps of the gradient ascent."""
    from matplotlib.figure import Figure

    grid = np.linspace(np.log(0.05), np.log(12), 40)
    curve = [float(score_and_slope(jnp.asarray(at))[0]) for at in grid]
    ax = Figure(figsize=(7.5, 4.4), dpi=150, layout="constrained").add_subplot()
    ax.plot(np.exp(grid), curve, color="#8a8a8a", linewidth=1.8, zorder=1)
    ax.plot(np.exp(path), values, "o", color=COLOURS[0], markersize=5, alpha=0.6, label="steps of the gradient")
    ax.plot(np.exp(path[0]), values[0], "o", color=COLOURS[1], markersize=9, label="the default prior")
    ax.plot(np.exp(path[-1]), values[-1], "*", color=COLOURS[2], markersize=16, label="the tuned prior")
    ax.set(
        xscale="log",
        xlabel="strength of the prior: its sum of squares, relative to the default",
        ylabel="log-density of an unseen eruption",
        title=f"A prior for {SEEN} eruptions, tuned by the gradient through the fit",
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left")
    ax.figure.savefig(folder / "tuning_a_prior.png")
    return folder / "tuning_a_prior.png"


if __name__ == "__main__":
    main()
