"""Right models, written by hand as users write them: plain formulas, with terms that cancel and sums of their own."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from closeness import as_dtype
from jax.scipy.special import digamma, gammaln, logsumexp, xlogy

import jaxem


class Case(NamedTuple):
    model: Any
    params: Any
    data: Any


def mixture(log_density, maximize, space):
    """A mixture of two, params = (weights, theta), from log_density(theta, x) (N, K) and maximize(r, x)."""

    def table(params, x):
        return jnp.log(params[0])[None, :] + log_density(params[1], x)

    def e_step(params, x):
        log_joint = table(params, x)
        return jnp.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))

    return jaxem.Model(
        e_step,
        lambda r, x: (r.mean(axis=0), maximize(r, x)),
        q_function=lambda params, r, x: (r * table(params, x)).sum(),
        entropy=lambda r, x: -xlogy(r, r).sum(),
        log_likelihood=lambda params, x: logsumexp(table(params, x), axis=1).sum(),
        divergence=lambda q, p, x: (xlogy(q, q) - xlogy(q, p)).sum(),
        constraints=(jaxem.Simplex(), space),
    )


def normal_density(theta, x):
    mean, variance = theta
    return (-0.5 * jnp.log(2 * jnp.pi * variance))[None, :] - (x[:, None] - mean[None, :]) ** 2 / (
        2 * variance[None, :]
    )


def two_passes(r, x):
    mean = r.T @ x / r.sum(axis=0)
    return mean, (r * (x[:, None] - mean[None, :]) ** 2).sum(axis=0) / r.sum(axis=0)


def one_pass(r, x):
    """The textbook's E[x^2] - E[x]^2."""
    mean = r.T @ x / r.sum(axis=0)
    return mean, r.T @ x**2 / r.sum(axis=0) - mean**2


NORMAL_SPACES = jaxem.Real(), jaxem.Positive()
NORMALS = mixture(normal_density, two_passes, NORMAL_SPACES)
ONE_PASS = mixture(normal_density, one_pass, NORMAL_SPACES)


def normals(dtype, offset=0.0, scale=1.0, n=61, model=NORMALS):
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(0, 1, n // 2), rng.normal(3, 0.5, n - n // 2)] * scale + offset
    theta = np.array([-0.5, 2.5]) * scale + offset, np.array([1.5, 0.8]) * scale**2
    return Case(model, as_dtype((np.array([0.4, 0.6]), theta), dtype), as_dtype(x, dtype))


def poisson_density(rate, x):
    """x log rate - rate - log x!, whose terms cancel at large counts."""
    return x[:, None] * jnp.log(rate)[None, :] - rate[None, :] - gammaln(x + 1)[:, None]


POISSONS = mixture(poisson_density, lambda r, x: r.T @ x / r.sum(axis=0), jaxem.Positive())


def poissons(dtype, rate=1.0, n=60):
    rng = np.random.default_rng(0)
    x = np.r_[rng.poisson(rate, n // 2), rng.poisson(3 * rate, n - n // 2)].astype(float)
    params = np.array([0.4, 0.6]), np.array([0.8, 2.5]) * rate
    return Case(POISSONS, as_dtype(params, dtype), as_dtype(x, dtype))


def _chain():
    """One sequence (T,), forward-backward in logs."""

    def log_b(p, y):
        return normal_density((p[2], p[3]), y)

    def e_step(p, y):
        b, log_a = log_b(p, y), jnp.log(p[1])

        def forward(a, b):
            a = logsumexp(a[:, None] + log_a, axis=0) + b
            return a, a

        def backward(beta, b):
            beta = logsumexp(log_a + (b + beta)[None, :], axis=1)
            return beta, beta

        first = jnp.log(p[0]) + b[0]
        alpha = jnp.concatenate([first[None], jax.lax.scan(forward, first, b[1:])[1]])
        last = jnp.zeros_like(first)
        beta = jnp.concatenate([jax.lax.scan(backward, last, b[1:], reverse=True)[1], last[None]])
        total = logsumexp(alpha[-1])
        pairs = alpha[:-1, :, None] + log_a[None] + (b[1:] + beta[1:])[:, None, :]
        return jnp.exp(alpha + beta - total), jnp.exp(pairs - total), total

    def m_step(q, y):
        gamma, pairs, _ = q
        moves = pairs.sum(axis=0)
        return gamma[0], moves / moves.sum(axis=1, keepdims=True), *two_passes(gamma, y)

    def q_function(p, q, y):
        gamma, pairs, _ = q
        moves = (pairs.sum(axis=0) * jnp.log(p[1])).sum()
        return (gamma[0] * jnp.log(p[0])).sum() + moves + (gamma * log_b(p, y)).sum()

    def entropy(q, y):
        gamma, pairs, _ = q
        return -xlogy(gamma[0], gamma[0]).sum() - (xlogy(pairs, pairs) - xlogy(pairs, gamma[:-1, :, None])).sum()

    def log_likelihood(p, y):
        b = jnp.exp(log_b(p, y))

        def step(carry, b):
            a = (carry[0] @ p[1]) * b
            return (a / a.sum(), carry[1] + jnp.log(a.sum())), None

        a = p[0] * b[0]
        return jax.lax.scan(step, (a / a.sum(), jnp.log(a.sum())), b[1:])[0][1]

    spaces = jaxem.Simplex(), jaxem.Simplex(), jaxem.Real(), jaxem.Positive()
    last = lambda q, y: q[2]
    return jaxem.Model(e_step, m_step, q_function, entropy, log_likelihood, log_normalizer=last, constraints=spaces)


CHAIN = _chain()


def chain(dtype, t=150):
    rng = np.random.default_rng(0)
    y = 3.0 * (np.cumsum(rng.random(t) < 0.2) % 2) + rng.normal(size=t)
    start = np.array([0.6, 0.4]), np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0.3, 2.5]), np.array([1.2, 0.9])
    return Case(CHAIN, as_dtype(start, dtype), as_dtype(y, dtype))


def _student(freedom=4.0):
    """Location and scale of a t: the weights are hidden, q is their expectation."""
    a = (freedom + 1) / 2

    def terms(w):
        log_w = digamma(a) - jnp.log(a / w)
        prior = freedom / 2 * math.log(freedom / 2) - gammaln(freedom / 2)
        return log_w, prior + (freedom / 2 - 1) * log_w - freedom / 2 * w

    def q_function(p, w, x):
        log_w, prior = terms(w)
        return (0.5 * (log_w - jnp.log(2 * jnp.pi * p[1])) - w * (x - p[0]) ** 2 / (2 * p[1]) + prior).sum()

    def m_step(w, x):
        mean = (w * x).sum() / w.sum()
        return mean, (w * (x - mean) ** 2).mean()

    def log_likelihood(p, x):
        constant = gammaln(a) - gammaln(freedom / 2) - 0.5 * jnp.log(freedom * jnp.pi * p[1])
        return (constant - a * jnp.log1p((x - p[0]) ** 2 / (freedom * p[1]))).sum()

    return jaxem.Model(
        lambda p, x: (freedom + 1) / (freedom + (x - p[0]) ** 2 / p[1]),
        m_step,
        q_function,
        lambda w, x: (a - jnp.log(a / w) + gammaln(a) + (1 - a) * digamma(a)).sum(),
        log_likelihood,
        constraints=NORMAL_SPACES,
    )


STUDENT = _student()


def student(dtype, offset=0.0, scale=1.0):
    x = np.random.default_rng(0).standard_t(4.0, size=60) * scale + offset
    params = np.array(0.2 * scale + offset), np.array(1.5 * scale**2)
    return Case(STUDENT, as_dtype(params, dtype), as_dtype(x, dtype))


def _with_missing(missing=50):
    """A normal of which some values are missing: Q and H count them, and belong to no row."""

    def m_step(q, x):
        n = x.shape[0] + missing
        mean = (x.sum() + missing * q[0]) / n
        return mean, (((x - mean) ** 2).sum() + missing * ((q[0] - mean) ** 2 + q[1])) / n

    def q_function(p, q, x):
        seen = -0.5 * ((x - p[0]) ** 2 / p[1] + jnp.log(2 * jnp.pi * p[1])).sum()
        return seen - 0.5 * missing * (jnp.log(2 * jnp.pi * p[1]) + ((q[0] - p[0]) ** 2 + q[1]) / p[1])

    return jaxem.Model(
        lambda p, x: p,
        m_step,
        q_function,
        lambda q, x: 0.5 * missing * jnp.log(2 * jnp.pi * jnp.e * q[1]),
        lambda p, x: -0.5 * ((x - p[0]) ** 2 / p[1] + jnp.log(2 * jnp.pi * p[1])).sum(),
        constraints=NORMAL_SPACES,
    )


WITH_MISSING = _with_missing()


def with_missing(dtype, offset=0.0):
    x = np.random.default_rng(0).normal(size=50) + offset
    return Case(WITH_MISSING, as_dtype((np.array(offset + 0.3), np.array(1.5)), dtype), as_dtype(x, dtype))


RIGHT = {
    "normals": normals,
    "normals at 100": lambda dtype: normals(dtype, offset=100.0),
    "normals of 1e-8": lambda dtype: normals(dtype, scale=1e-8),
    "normals of 1e8": lambda dtype: normals(dtype, scale=1e8),
    "normals, one pass, at 30": lambda dtype: normals(dtype, offset=30.0, model=ONE_PASS),
    "counts": poissons,
    "counts of 100": lambda dtype: poissons(dtype, 100.0),
    "student": student,
    "student of 1e-8 at 1e-6": lambda dtype: student(dtype, 1e-6, 1e-8),
    "values missing": with_missing,
}

# In single precision rounding hides something here; in double precision nothing.
ROUGH = {
    "normals at 1e6": lambda dtype: normals(dtype, offset=1e6),
    "normals, one pass, at 300": lambda dtype: normals(dtype, offset=300.0, model=ONE_PASS),
    "a chain": chain,  # its posterior sums to one to some 1e-5
    "counts of 1e5": lambda dtype: poissons(dtype, 1e5),
}
