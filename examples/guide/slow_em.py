# %% [markdown]
# # My EM is slow
#
# EM takes many small steps where the data say little about what is hidden, for example where classes overlap. Near the
# maximum each step leaves the same share of the remaining distance, the *rate*, and the rate determines the number of
# steps.
#
# The death notices in the London Times are a standard example: two Poisson classes that overlap.

# %%
import jax
import jax.numpy as jnp

import jaxem
from jaxem import datasets
from jaxem.families import Poisson, PoissonParams
from jaxem.models import Mixture, MixtureParams

jax.config.update("jax_enable_x64", True)
deaths, days = datasets.london_times_deaths()
data = jaxem.dataset(deaths.astype(float), weights=days.astype(float))
model = Mixture(Poisson(), k=2)
start = MixtureParams(jnp.array([0.3, 0.7]), PoissonParams(jnp.array([1.0, 2.5])))

em = jaxem.fit(model, start, data, max_steps=5000)
print(f"EM: {em.evaluations} E-steps, {jaxem.Status(int(em.status)).name}, log-likelihood {em.objective:.6f}")

# %% [markdown]
# ## How slow, and why
#
# `convergence_rate` computes the rate, and the direction in the parameters in which EM is slowest.

# %%
rate = jaxem.inference.convergence_rate(model, em, data)
print(rate)
print(f"steps that reduce the distance to a tenth: {rate.iterations(0.1):.0f}")
assert rate.rate > 0.99

# %% [markdown]
# ## First remedy: an accelerator
#
# `SQUAREM()` and `Anderson()` extrapolate from EM steps. An extrapolation that would lower the objective is refused, which
# costs one E-step (`fit.fallbacks` counts them). The maximum reached here is the same. Where a hundred iterations of EM
# would take a second or more, `fit` chooses `SQUAREM()` by itself; `algorithm=jaxem.EM()` is plain EM at any size.

# %%
for algorithm in (jaxem.SQUAREM(), jaxem.Anderson()):
    fit = jaxem.check(jaxem.fit(model, start, data, algorithm=algorithm))
    print(f"{type(algorithm).__name__:8} {fit.evaluations} E-steps, log-likelihood {fit.objective:.6f}")
    assert 10 * fit.evaluations < em.evaluations
    assert abs(float(fit.objective - em.objective)) < 1e-4

# %% [markdown]
# Where EM needs only about twenty steps, an accelerator saves little.
#
# ## Second remedy: a larger tolerance
#
# By default a fit stops when the log-likelihood is estimated to be within 1e-10 per observed value of its maximum.
# `fit.left` is the estimate of the whole difference. A difference of 0.01 seldom changes a conclusion.

# %%
early = jaxem.fit(model, start, data, tol=1e-6)
print(
    f"tol=1e-6: {early.evaluations} E-steps, about {early.left:.1g} left; in truth {em.objective - early.objective:.1g}"
)
assert early.evaluations < em.evaluations

# %% [markdown]
# ## Other remedies
#
# | what is slow | what to do |
# |---|---|
# | many starts | `jaxem.fit_restarts`: short fits from all starts, of which the best few are continued |
# | many data sets | `jaxem.fit_many`: all of them in one program |
# | each pass over many rows | `jaxem.OnlineEM(...)` and `jaxem.IncrementalEM(...)`: an M-step after each batch |
# | `jaxem.MonteCarloEM(...)`, whose objective is noisy | it stops where only noise moves the objective; `stop=jaxem.fitting.plateau(window)` looks at more or fewer steps |
# | the first call, which compiles | data of equal shapes compile once; `jaxem.fitting.effort` trades compilation for speed |
# | an M-step without a closed form | `jaxem.GEM(...)` with an optax optimiser |
#
# `jaxem.explain` prints what `fit` chooses for a model and data, and how to choose otherwise.

# %%
print(jaxem.explain(model, start, data))
