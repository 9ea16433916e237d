"""Your own model with a deliberate mistake, which the certificate shows; mended, it is accelerated and differentiated.

Light bulbs of two kinds burn for exponential times. The mistake is a likely one: the M-step divides by the number of
all bulbs instead of the number of bulbs of each kind.
"""

import jax
import jax.numpy as jnp

import jaxem

jax.config.update("jax_enable_x64", True)
kinds = jax.random.bernoulli(jax.random.key(0), 0.3, (400,))
hours = jax.random.exponential(jax.random.key(1), (400,)) * jnp.where(kinds, 10.0, 1.0)
start = (jnp.array([0.5, 0.5]), jnp.array([0.5, 5.0]))  # shares, mean times


def log_joint(params, x):
    """log p(x, kind | params) of one bulb, (2,)."""
    shares, means = params
    return jnp.log(shares) - jnp.log(means) - x / means


def model(m_step):
    return jaxem.from_log_joint(log_joint, m_step=m_step, constraints=(jaxem.Simplex(), jaxem.Positive()))


def wrong(q, x):
    """Means over all bulbs."""
    r = q.probabilities  # (N, 2)
    return r.mean(axis=0), r.T @ x / len(x)


def right(q, x):
    """Means over the bulbs of each kind."""
    r = q.probabilities
    return r.mean(axis=0), r.T @ x / r.sum(axis=0)


print("The wrong M-step:", jaxem.Status(int(jaxem.fit(model(wrong), start, hours).status)).name)
certificate = jaxem.verify(model(wrong), start, hours)
print(certificate)
assert not certificate.ok

assert jaxem.verify(model(right), start, hours).ok
fit = jaxem.check(jaxem.fit(model(right), start, hours, algorithm=jaxem.SQUAREM()))
print(jaxem.summary(model(right), fit, hours))

# The gradient through the fit: how the longer mean time depends on the longest observation.
longest = jnp.argmax(hours)
slope = jax.grad(lambda x: jaxem.fit(model(right), start, x, algorithm=jaxem.SQUAREM()).params[1].max())(hours)
print(f"one hour more for the longest bulb adds {slope[longest]:.4f} hours to the longer mean")
