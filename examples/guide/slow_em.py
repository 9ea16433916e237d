# %% [markdown]
# # My EM is slow
#
# EM takes many small steps where much information is missing: overlapping classes, small classes, tails. Near the end
# each step leaves the same share of the distance, the *rate*. The number of steps follows from it.
#
# The death notices in the London Times are the standard slow example: two Poisson classes that overlap.

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
# `convergence_rate` computes the rate at a fit, and the direction in which EM is slowest.

# %%
rate = jaxem.inference.convergence_rate(model, em, data)
print(rate)
print(f"steps for one more digit: {rate.iterations(0.1):.0f}")
assert rate.rate > 0.99

# %% [markdown]
# ## First remedy: an accelerator
#
# `SQUAREM()` and `Anderson()` put an extrapolation between two EM steps. A leap that would lower the objective is
# refused, so nothing is lost but its E-step (`fit.fallbacks` counts them). The end is the same.

# %%
for algorithm in (jaxem.SQUAREM(), jaxem.Anderson()):
    fit = jaxem.check(jaxem.fit(model, start, data, algorithm=algorithm))
    print(f"{type(algorithm).__name__:8} {fit.evaluations} E-steps, log-likelihood {fit.objective:.6f}")
    assert 10 * fit.evaluations < em.evaluations
    assert abs(float(fit.objective - em.objective)) < 1e-4

# %% [markdown]
# Where EM needs only some twenty steps an accelerator saves little. `Anderson()` is the better of the two where EM is
# very slow, such as the tails of a `StudentT` towards the normal distribution.
#
# ## Second remedy: stop when it no longer matters
#
# The default rule stops when about 1e-10 of log-likelihood is left per observed value. `fit.left` is the estimate of what
# is left in all; a hundredth would seldom change a conclusion.

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
# | many starts | `jaxem.fit_restarts`: short fits from all starts, the best few to the end |
# | many data sets | `jaxem.fit_many`: all of them in one program |
# | each pass over many rows | `jaxem.OnlineEM(...)` and `jaxem.IncrementalEM(...)`: an M-step after each batch |
# | a random walk of the noise | `jaxem.MonteCarloEM(...)` stops by `jaxem.fitting.plateau` |
# | the first call | it compiles. Equal shapes compile once; `jaxem.fitting.effort` trades compilation for speed |
# | an M-step without a closed form | `jaxem.GEM(...)` with an optax optimiser |
#
# `jaxem.explain` prints what a call would choose, and how to force something else.

# %%
print(jaxem.explain(model, start, data))
