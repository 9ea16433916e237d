# %% [markdown]
# # Is my own E-step right?
#
# A wrong E-step or M-step seldom crashes; often the fit converges to a wrong result. `jaxem.verify` checks your functions
# by automatic differentiation against laws that hold for every correct EM, and names the law that fails.
#
# In the example waiting times are exponential, with one of two rates. The E-step and the M-step are enough for a fit. The
# three other functions (the expected log-joint, the entropy and the log-likelihood) define what the two should do, and
# `verify` compares them with it.

# %%
import jax
import jax.numpy as jnp

import jaxem

jax.config.update("jax_enable_x64", True)


def log_joint(params, x):  # (N, 2): log p(x_n, z_n = k)
    weights, rates = params
    return jnp.log(weights)[None, :] + jnp.log(rates)[None, :] - rates[None, :] * x[:, None]


def e_step(params, x):
    return jax.nn.softmax(log_joint(params, x), axis=1)


def m_step(r, x):
    n = r.sum(axis=0)
    return n / n.sum(), n / (r * x[:, None]).sum(axis=0)


def q_function(params, r, x):
    return (r * log_joint(params, x)).sum()


def entropy(r, x):
    return jax.scipy.special.entr(r).sum()


def log_likelihood(params, x):
    return jax.nn.logsumexp(log_joint(params, x), axis=1).sum()


spaces = (jaxem.Simplex(), jaxem.Positive())
model = jaxem.Model(e_step, m_step, q_function, entropy, log_likelihood, constraints=spaces)

slow = jax.random.bernoulli(jax.random.key(0), 0.4, (300,))
x = jax.random.exponential(jax.random.key(1), (300,)) * jnp.where(slow, 5.0, 1.0)
start = jnp.array([0.5, 0.5]), jnp.array([2.0, 0.5])
fit = jaxem.check(jaxem.fit(model, start, x))
certificate = jaxem.verify(model, fit, x)
print(certificate)
assert certificate.ok

# %% [markdown]
# ## A mistake in the M-step
#
# The rates are computed from the number of all rows, where it should be the expected number in each class. The fit ends
# with the status `DECREASED` because the objective fell, and the certificate says why.

# %%


def wrong_m_step(r, x):
    n = r.sum(axis=0)
    return n / n.sum(), len(x) / (r * x[:, None]).sum(axis=0)


wrong = jaxem.Model(e_step, wrong_m_step, q_function, entropy, log_likelihood, constraints=spaces)
print(jaxem.Status(int(jaxem.fit(wrong, start, x).status)).name)
print(jaxem.verify(wrong, start, x).violated)
assert "M-step stationary" in jaxem.verify(wrong, start, x).violated

# %% [markdown]
# ## A mistake in the E-step
#
# The weights are left out. The M-step is still right for the posterior that it gets, but the bound no longer touches the
# log-likelihood.

# %%


def wrong_e_step(params, x):
    _, rates = params
    return e_step((jnp.ones(2), rates), x)


wrong = jaxem.Model(wrong_e_step, m_step, q_function, entropy, log_likelihood, constraints=spaces)
print(jaxem.verify(wrong, start, x).violated)
assert not jaxem.verify(wrong, start, x).ok

# %% [markdown]
# In a test, `verify(..., strict=True)` raises `LawViolationError` where a law fails. A law that needs a function which you
# did not write is reported as not checked.
#
# ## Fewer functions, fewer mistakes
#
# With one discrete latent variable per observation the log-joint density of a row defines the model.
# `jaxem.from_log_joint` derives the E-step, the bound and the likelihood from it.

# %%
row = lambda params, y: log_joint(params, y[None])[0]
derived = jaxem.from_log_joint(row, constraints=spaces, m_step=lambda q, x: m_step(q.probabilities, x))
again = jaxem.check(jaxem.fit(derived, start, x))
print(f"log-likelihood {fit.objective:.6f} by five functions, {again.objective:.6f} by two")
assert abs(float(fit.objective - again.objective)) < 1e-6
assert jaxem.verify(derived, again, x).ok
