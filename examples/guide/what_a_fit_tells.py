# %% [markdown]
# # What a fit tells
#
# A `Fit` has the parameters, the objective at exactly these parameters, and a status that says how the fit ended. Only
# `CONVERGED` means convergence. `jaxem.check` returns a converged fit as it is, and raises `FitError` with the likely
# causes for any other.

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
# `objective` is the log-likelihood, plus the log-prior where the model has one. `trace` holds the objective after each
# step. `left` estimates how far the objective is below its maximum. `evaluations` counts E-steps (it is printed where it
# differs from `steps + 1`), and `fallbacks` counts steps that were refused because the objective would have fallen.

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
# | `INVALID` | bad input under `jit` or `vmap`, where no error can be raised | call without them: the error says where |
# | `SCREENED` | `fit_restarts` stopped this start because others were ahead | nothing, or raise `finalists` |
# | `INTERRUPTED` | Ctrl-C in a watched run | `jaxem.resume` |
#
# ## Too few steps

# %%
short = jaxem.fit(model, start, x, max_steps=5)
print(jaxem.Status(int(short.status)).name, f"with about {short.left:.1g} still to gain")
longer = jaxem.fit(model, short.params, x, max_steps=200)  # continues where the other ended
assert short.status == jaxem.Status.MAX_STEPS
assert longer.converged and abs(float(longer.objective - fit.objective)) < 1e-6

# %% [markdown]
# ## A class that shrinks onto a point
#
# The likelihood of this mixture is unbounded: it grows without limit as a class shrinks onto one observation. A start near
# such a point ends `DEGENERATE`, with the last good parameters. A floor under the variances, or a prior, makes the
# objective bounded.

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
# If all classes are equal at the start, EM keeps them equal. The fit converges, usually to a saddle point, and a warning
# says so.

# %%
same = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.full(2, 20.0), np.full(2, 20.0)))
print(jaxem.fit(model, same, x, max_steps=200).warnings)
assert jaxem.fit(model, same, x, max_steps=200).coincident

# %% [markdown]
# ## Is it the best optimum?
#
# The status cannot say, because EM finds a local maximum. `jaxem.fit_restarts` tries many starts, and `times_best_found`
# counts those that reached the best maximum. If only one did, there may be a better one.
