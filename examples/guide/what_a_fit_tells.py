# %% [markdown]
# # What a fit tells
#
# A `Fit` has the parameters, the objective at exactly these parameters, and a status that says how it ended. Only
# `CONVERGED` is convergence. `jaxem.check` returns the fit if it converged and raises `FitError` with the likely causes if
# not; use it where a failed fit must not pass unseen.

# %%
import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import Normal, NormalParams
from jaxem.models import Mixture, MixtureParams

jax.config.update("jax_enable_x64", True)
x = datasets.galaxies()
model = Mixture(Normal(), k=2)
start = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.array([18.0, 24.0]), np.array([20.0, 20.0])))
fit = jaxem.check(jaxem.fit(model, start, x, max_steps=200))
print(fit)

# %% [markdown]
# `objective` is the log-likelihood, plus the log-prior where the model has one. `trace` holds that of each iterate.
# `left` estimates how much of it is still to gain: the fit stopped because that no longer matters. `evaluations`, shown
# where it differs from `steps + 1`, counts E-steps, and `fallbacks` the steps that were refused.

# %%
steps = int(fit.steps)
trace = np.asarray(fit.trace)[: steps + 1]
assert trace[-1] == fit.objective
assert (np.diff(trace) >= -1e-10).all()  # EM never lowers the objective
assert fit.left < 1e-6

# %% [markdown]
# ## The statuses, and what to do
#
# | status | what happened | what to do |
# |---|---|---|
# | `CONVERGED` | the stopping rule was met | go on; try several starts |
# | `MAX_STEPS` | `max_steps` came first | raise it, or [accelerate](slow_em.py); see `fit.left` |
# | `PRECISION` | only rounding error still moves the parameters | 64 bits; centre or scale the data |
# | `DEGENERATE` | a class emptied, or shrank onto a point | fewer classes, another start, a prior, `floor=` |
# | `DECREASED` | the objective fell | your own step is wrong: [`jaxem.verify`](own_e_step.py) says where |
# | `NON_FINITE` | NaN or infinity in parameters or objective | look for impossible data, a division by zero |
# | `INVALID` | input that a trace cannot refuse | call without `jit` or `vmap`: the error says where |
# | `SCREENED` | another start was ahead | nothing; raise `finalists` to run more of them |
# | `INTERRUPTED` | Ctrl-C in a watched run | `jaxem.resume` |
#
# ## Too few steps

# %%
short = jaxem.fit(model, start, x, max_steps=5)
print(jaxem.Status(int(short.status)).name, f"with about {short.left:.1g} still to gain")
longer = jaxem.fit(model, short.params, x, max_steps=200)  # a fit goes on from another's end
assert short.status == jaxem.Status.MAX_STEPS
assert longer.converged and abs(float(longer.objective - fit.objective)) < 1e-6

# %% [markdown]
# ## A class that shrinks onto a point
#
# The likelihood of a normal mixture has no maximum: a class that sits on one observation has a density without bound. A start
# near such a point ends `DEGENERATE`, with the last good parameters. A floor under the variances, or a prior,
# removes these points.

# %%
lonely = x[77]  # far from its neighbours
near = MixtureParams(np.array([0.02, 0.98]), NormalParams(np.array([lonely, 20.0]), np.array([0.01, 20.0])))
failed = jaxem.fit(model, near, x, max_steps=200)
try:
    jaxem.check(failed)
except jaxem.FitError as error:
    print(error)
assert failed.status == jaxem.Status.DEGENERATE

floored = Mixture(Normal(floor=0.1), k=2)
mended = jaxem.check(jaxem.fit(floored, near, x, max_steps=200))
print("with a floor: variances", np.round(mended.params.components.variances, 2))

# %% [markdown]
# ## Classes that are the same
#
# A start in which all classes are equal is a saddle: EM cannot part them. The fit converges, and a warning says so.

# %%
same = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.full(2, 20.0), np.full(2, 20.0)))
print(jaxem.fit(model, same, x, max_steps=200).warnings)
assert jaxem.fit(model, same, x, max_steps=200).coincident

# %% [markdown]
# ## Is it the best optimum?
#
# A status cannot tell: EM climbs to the next summit. `jaxem.fit_restarts` tries many starts; `times_best_found` says how
# often the best was found. If only one start found it, there may be better ones.
