"""The picture of EM for your own model: lower bounds that touch the log-likelihood.

Five times one of two coins is drawn and thrown ten times. The E-step and the M-step are enough for a fit; the picture
and the certificate also need the expected log-joint, the entropy and the log-likelihood.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxem

jax.config.update("jax_enable_x64", True)
heads, throws = jnp.array([7.0, 2.0, 8.0, 3.0, 7.0]), 10.0


def joint(theta, x):
    """log p(x_n, coin k | theta) without the binomial coefficient, (N, 2); the coins are equally frequent."""
    return jnp.log(0.5) + x[:, None] * jnp.log(theta) + (throws - x[:, None]) * jnp.log1p(-theta)


def e_step(theta, x):
    return jax.nn.softmax(joint(theta, x), axis=1)


def m_step(r, x):
    return r.T @ x / (throws * r.sum(axis=0))


def q_function(theta, r, x):
    return (r * joint(theta, x)).sum()


def entropy(r, x):
    return jax.scipy.special.entr(r).sum()


model = jaxem.Model(
    e_step,
    m_step,
    q_function=q_function,
    entropy=entropy,
    log_likelihood=lambda theta, x: jax.nn.logsumexp(joint(theta, x), axis=1).sum(),
    constraints=jaxem.UnitInterval(),
)
start = jnp.array([0.6, 0.5])
fit = jaxem.check(jaxem.fit(model, start, heads))
print(fit)
assert jaxem.verify(model, fit, heads).ok

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", type=Path, default=Path("output"))
output = parser.parse_args().output
output.mkdir(parents=True, exist_ok=True)
jaxem.plot.bound(model, start, heads).figure.savefig(output / "own_bound.png")
print(output / "own_bound.png")
