"""An M-step without a closed form, by any optax optimiser: negative-binomial regression of earthquakes on time.

The yearly number of great earthquakes varies more than a Poisson variable would. So each year n gets a hidden rate:

    count_n ~ Poisson(mu_n lambda_n),   lambda_n ~ Gamma(r, r),   log mu_n = b_0 + b_1 t_n + b_2 t_n^2 .

The E-step is exact: lambda_n given count_n ~ Gamma(r + count_n, r + mu_n). The M-step is a Poisson regression and an
equation in digamma functions; neither has a closed-form solution. With lambda integrated out the counts are negative
binomial, which gives the log-likelihood independently of the E-step.

Source: Zucchini, MacDonald & Langrock (2016), table 1.1, for the counts; Meng & Rubin (1993) and Liu & Rubin (1994) for
M-steps by groups of parameters (ECM and ECME).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _report import heading, output_folder, require
from jax import Array
from jax.scipy.special import digamma, gammaln

import jaxem
from jaxem import datasets, plot


class Regression(NamedTuple):
    coefficients: Array  # (3,), of 1, t, t^2
    shape: Array  # (), r: the smaller it is, the more the rates of the years vary


class Gammas(NamedTuple):
    """q(lambda_n) = Gamma(shape_n, rate_n)."""

    shape: Array  # (N,)
    rate: Array  # (N,)


class Years(NamedTuple):
    design: Array  # (N, 3)
    counts: Array  # (N,)


def e_step(params: Regression, data: Years) -> Gammas:
    mu = jnp.exp(data.design @ params.coefficients)
    return Gammas(params.shape + data.counts, params.shape + mu)


def q_function(params: Regression, q: Gammas, data: Years) -> Array:
    log_mu, y, r = data.design @ params.coefficients, data.counts, params.shape
    mean, mean_log = q.shape / q.rate, digamma(q.shape) - jnp.log(q.rate)
    given = y * (log_mu + mean_log) - jnp.exp(log_mu) * mean - gammaln(y + 1)
    prior = r * jnp.log(r) - gammaln(r) + (r - 1) * mean_log - r * mean
    return (given + prior).sum()


def entropy(q: Gammas, data: Years) -> Array:
    a, b = q
    return (a - jnp.log(b) + gammaln(a) + (1 - a) * digamma(a)).sum()


def log_prob(params: Regression, data: Years) -> Array:
    """The negative-binomial log-probability of each count, (N,)."""
    y, r, mu = data.counts, params.shape, jnp.exp(data.design @ params.coefficients)
    ways = gammaln(y + r) - gammaln(r) - gammaln(y + 1)
    return ways + r * jnp.log(r / (r + mu)) + y * jnp.log(mu / (r + mu))


def log_likelihood(params: Regression, data: Years) -> Array:
    return log_prob(params, data).sum()


MODEL = jaxem.Model(
    e_step,
    q_function=q_function,
    entropy=entropy,
    log_likelihood=log_likelihood,
    log_prob=log_prob,
    constraints=Regression(jaxem.Real(), jaxem.Positive()),
)

ALGORITHMS = {
    "L-BFGS": jaxem.GEM(),
    "Adam, cosine schedule": jaxem.GEM(optax.adam(optax.cosine_decay_schedule(0.3, 1000)), steps=10),
    "Adam, learning rate 1000": jaxem.GEM(optax.adam(1000.0), steps=10),
    "batches of 32": jaxem.GEM(optax.adam(0.01), steps=10, batch_size=32),
    "ECM": jaxem.GEM(groups=(jaxem.algorithms.Group("coefficients"), jaxem.algorithms.Group("shape"))),
    "ECME": jaxem.GEM(
        groups=(jaxem.algorithms.Group("coefficients"), jaxem.algorithms.Group("shape", likelihood=True))
    ),
    "SQUAREM of L-BFGS": jaxem.SQUAREM(jaxem.GEM()),
}


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    years, counts = datasets.earthquakes()
    t = (years - years.mean()) / 50.0
    data = Years(jnp.asarray(np.stack([np.ones_like(t), t, t**2], axis=1)), jnp.asarray(counts, float))
    start = Regression(jnp.array([np.log(counts.mean()), 0.0, 0.0]), jnp.array(1.0))

    heading("The same model and start with seven kinds of M-step")
    print(f"{'':<26}{'status':<12}{'iterations':>10}{'E-steps':>9}{'log-likelihood':>16}")
    fits = {}
    for name, algorithm in ALGORITHMS.items():
        fit = jaxem.fit(MODEL, start, data, algorithm=algorithm, max_steps=1000, key=jax.random.key(0))
        fits[name] = fit
        status = jaxem.Status(int(fit.status)).name
        print(f"{name:<26}{status:<12}{fit.steps:>10}{fit.evaluations:>9}{float(fit.objective):>16.6f}")
        trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
        slack = 32 * np.finfo(float).eps * (abs(float(fit.objective)) + len(counts))
        require(bool((np.diff(trace) >= -slack).all()), f"{name} never falls")

    best = jaxem.check(fits["SQUAREM of L-BFGS"])
    for name, fit in fits.items():
        # A step that lowers the objective is refused, so that the noise of batches moves nothing away from the optimum.
        require(bool(fit.converged), f"{name} converges")
        require(abs(float(fit.objective - best.objective)) < 1e-4, f"{name} arrives where the others do")

    heading("The certificate: each law of EM, measured at this fit")
    certificate = jaxem.verify(MODEL, best.params, data)
    print(certificate)
    require(bool(certificate.ok), "the certificate")
    poisson = Regression(best.params.coefficients, jnp.array(1e8))
    gain = float(best.objective - log_likelihood(poisson, data))
    mu = np.exp(np.asarray(data.design @ best.params.coefficients))
    r = float(best.params.shape)
    print(f"The same curve without hidden rates (r = infinity) has a log-likelihood that is lower by {gain:.1f}.")
    print(f"r = {r:.2f}: the variance of a yearly count is {1 + mu.mean() / r:.2f} times that of a Poisson variable.")
    require(gain > 10, "the counts vary more than Poisson numbers")

    heading("Picture")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    spread = 2 * np.sqrt(mu + mu**2 / r)
    left.fill_between(years, np.maximum(mu - spread, 0), mu + spread, color=plot.COLOURS[0], alpha=0.15, lw=0)
    left.plot(years, mu, color=plot.COLOURS[0], label="mean, and two standard deviations")
    left.plot(years, counts, ".", color="#222222")
    left.set(xlabel="year", ylabel="earthquakes of magnitude 7 or more", title="Negative-binomial regression")
    left.legend(frameon=False)
    top = max(float(fit.objective) for fit in fits.values())
    for colour, (name, fit) in zip((*plot.COLOURS, "#222222"), fits.items(), strict=True):
        gap = top - np.asarray(fit.trace)[: int(fit.steps) + 1]
        shown = gap > 1e-10
        right.plot(np.arange(len(gap))[shown] + 1, gap[shown], color=colour, label=name)
    right.set(xscale="log", yscale="log", xlabel="iteration + 1", ylabel="log-likelihood still to be won")
    right.set_title("M-steps by optax")
    right.legend(frameon=False, fontsize=8)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "gem_optax.png")
    print(folder / "gem_optax.png")


if __name__ == "__main__":
    main()
