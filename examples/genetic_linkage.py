"""EM in two functions: Rao's genetic linkage data.

197 animals fall into four classes with probabilities 1/2 + t/4, (1 - t)/4, (1 - t)/4, t/4. The first class combines two
classes of probability 1/2 and t/4; the number of its animals that belong to the second of them is hidden.

Source: Dempster, Laird & Rubin (1977), *Maximum likelihood from incomplete data via the EM algorithm*, section 1. The
estimate is t = 0.626821, and each iteration leaves 0.1328 of the distance to it.
"""

import jax
import jax.numpy as jnp
from _report import compare, heading, require
from jax.scipy.special import gammaln, xlogy

import jaxem


def e_step(theta, counts):
    """The expected number of animals in the hidden fifth class."""
    return counts[0] * theta / (2.0 + theta)


def m_step(z, counts):
    """The share of the classes of probability t/4 among the classes whose probability depends on t."""
    return (z + counts[3]) / (z + counts[1:].sum())


# The same model with all its parts, so that jaxem can verify it. The hidden count is binomial, z ~ B(n, p) with
# n = counts[0]. The probabilities of x omit 197! / (125! 18! 20! 34!), which depends on neither t nor z.


def posterior(theta, counts):
    """The probability p that an animal of the first class belongs to its hidden part; p describes q."""
    return theta / (2.0 + theta)


def maximize(p, counts):
    """The M-step above with E[z] = n p."""
    return m_step(counts[0] * p, counts)


def table(counts):
    """All values 0, 1, ..., n of the hidden count z, and log n! / (z! (n - z)!) for each."""
    n, z = counts[0], jnp.arange(126, dtype=counts.dtype)
    return z, gammaln(n + 1) - gammaln(z + 1) - gammaln(n - z + 1)


def log_q(p, counts):
    """log q(z) for every z, normalised so that the rounding errors of the factorials do no harm."""
    z, ways = table(counts)
    return jax.nn.log_softmax(ways + xlogy(z, p) + xlogy(counts[0] - z, 1 - p))


def q_function(theta, p, counts):
    """E_q log p(x, z | t), as an exact sum over z that includes the binomial coefficients."""
    z, ways = table(counts)
    first = ways + xlogy(z, theta / 4) + xlogy(counts[0] - z, 0.5)
    others = xlogy(counts[1] + counts[2], (1 - theta) / 4) + xlogy(counts[3], theta / 4)
    return (jnp.exp(log_q(p, counts)) * first).sum() + others


def entropy(p, counts):
    """-E_q log q(z), as an exact sum over z."""
    return -(jnp.exp(log_q(p, counts)) * log_q(p, counts)).sum()


def divergence(p, other, counts):
    """The KL divergence of B(n, p) from B(n, other), in closed form."""
    return counts[0] * (p * jnp.log(p / other) + (1 - p) * jnp.log((1 - p) / (1 - other)))


def log_likelihood(theta, counts):
    """log p(x | t), from the probabilities of the four observed classes."""
    return xlogy(counts, jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])).sum()


def main():
    jax.config.update("jax_enable_x64", True)
    counts = jnp.array([125.0, 18.0, 20.0, 34.0])

    model = jaxem.Model(e_step, m_step)
    fit = jaxem.check(jaxem.fit(model, 0.5, counts))
    heading("Two functions: an E-step and an M-step")
    print(fit)

    heading("The iterations")
    print("step      theta   distance   share left")
    theta, shares = 0.5, []
    for step in range(8):
        distance = fit.params - theta
        theta = jaxem.core.em_map(model, theta, counts)
        shares.append((fit.params - theta) / distance)
        print(f"{step:>4} {fit.params - distance:>10.6f} {distance:>10.1e} {shares[-1]:>12.4f}")
    rate = jax.grad(lambda theta: jaxem.core.em_map(model, theta, counts))(fit.params)

    heading("Comparison with the paper")
    rows = [
        ("theta", "0.626821", float(fit.params)),
        ("rate, from the iterations", "0.1328", float(shares[5])),
        ("rate, the derivative of one EM iteration", "0.1328", float(rate)),
    ]
    compare("Dempster et al.", rows)

    full = jaxem.Model(
        posterior,
        maximize,
        q_function=q_function,
        entropy=entropy,
        log_likelihood=log_likelihood,
        divergence=divergence,
        constraints=jaxem.UnitInterval(),
    )
    again = jaxem.check(jaxem.fit(full, 0.5, counts))
    heading("The model with all its parts: the same answer, and a certificate")
    print(again)
    print()
    certificate = jaxem.verify(full, again.params, counts)
    print(certificate)
    require(bool(certificate.ok), "the certificate")
    require(abs(float(again.params - fit.params)) < 1e-6, "both models give the same answer")


if __name__ == "__main__":
    main()
