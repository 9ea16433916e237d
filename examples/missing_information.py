"""Observed, complete and missing information in Rao's genetic linkage data.

The first of four classes of animals combines two classes (see ``genetic_linkage.py``). If they were observed
separately, the data would hold the complete information about t. The share of it that is missing determines how slow EM
is: it is the share of the distance to the maximum that remains after an iteration.

Source: Louis (1982), *Finding the observed information matrix when using the EM algorithm*: complete information
435.3, missing 57.8, observed 377.5; Dempster, Laird & Rubin (1977) for the rate, 0.1328.
"""

import jax
import jax.numpy as jnp
import numpy as np
from _report import compare, heading, require

import jaxem


def e_step(theta, counts):
    """The expected number of animals in the hidden fifth class."""
    return counts[0] * theta / (2.0 + theta)


def m_step(z, counts):
    return (z + counts[3]) / (z + counts[1:].sum())


def q_function(theta, z, counts):
    """E_q log p(x, z | t), up to terms that do not depend on t."""
    return (z + counts[3]) * jnp.log(theta) + (counts[1] + counts[2]) * jnp.log1p(-theta)


def log_likelihood(theta, counts):
    return counts @ jnp.log(jnp.stack([2 + theta, 1 - theta, 1 - theta, theta]) / 4)


def main():
    jax.config.update("jax_enable_x64", True)
    counts = jnp.array([125.0, 18.0, 20.0, 34.0])
    model = jaxem.Model(e_step, m_step, q_function=q_function, log_likelihood=log_likelihood)
    fit = jaxem.check(jaxem.fit(model, 0.5, counts, tol=1e-14))

    heading("Missing information = complete - observed (Orchard & Woodbury 1972)")
    information = jaxem.inference.information(model, fit.params, counts)
    print(information)

    heading("Three routes to one standard error")
    routes = {
        "hessian": "the second derivative of log p(x | t)",
        "oakes": "the second derivative of Q, also through the E-step (Oakes 1999)",
        "sem": "complete information and the derivative of one EM iteration (Meng & Rubin 1991)",
    }
    errors = {}
    for route, what in routes.items():
        errors[route] = float(jaxem.inference.standard_errors(model, fit.params, counts, route=route))
        print(f"{errors[route]:.7f}  {what}")

    samples = 2000
    animals = np.random.default_rng(0).multinomial(197, np.asarray(counts) / 197, samples).astype(float)
    again = jaxem.check(jax.vmap(lambda counts: jaxem.fit(model, 0.5, counts))(jnp.asarray(animals)))
    bootstrap = float(again.params.std(ddof=1))
    print(f"{bootstrap:.4f}     the standard deviation of {samples} fits to resampled animals (Efron 1979)")
    require(abs(bootstrap / errors["hessian"] - 1) < 4 / (2 * samples) ** 0.5, "the bootstrap agrees, within its error")

    heading("The rate of convergence of EM is the share of missing information")
    rate = jaxem.inference.convergence_rate(model, fit.params, counts, fit=fit)
    print(rate)

    heading("Comparison with the papers")
    observed, complete, missing = (
        float(part[0, 0]) for part in (information.observed, information.complete, information.missing)
    )
    rows = [
        ("t", "0.6268215", float(fit.params)),
        ("observed information", "377.5", observed),
        ("complete information", "435.3", complete),
        ("missing information", "57.8", missing),
        ("missing / complete", "0.1328", missing / complete),
        ("rate of EM", "0.1328", float(rate.rate)),
        *((f"standard error, {route}", "0.0515", error) for route, error in errors.items()),
    ]
    compare("the papers", rows)

    heading("Intervals of 95 %")
    logit = jaxem.Model(
        e_step, m_step, q_function=q_function, log_likelihood=log_likelihood, constraints=jaxem.UnitInterval()
    )
    for name, interval in (
        ("Wald, in t", jaxem.inference.confidence_intervals(model, fit.params, counts)),
        ("Wald, in the logit of t", jaxem.inference.confidence_intervals(logit, fit.params, counts)),
        ("profile likelihood", jaxem.inference.profile_interval(model, fit.params, counts, jnp.asarray)),
    ):
        print(f"{name:<26}{float(interval.lower):.4f} to {float(interval.upper):.4f}")


if __name__ == "__main__":
    main()
