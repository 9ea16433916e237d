# %% [markdown]
# # Error bars at an edge
#
# An estimate may lie at the edge of what is possible: a probability of 0, a variance of 0, a transition that never
# happens. There the log-likelihood has a slope and no curvature, so a standard error does not exist. jaxem then prints
# NaN and names the parameter, rather than a number that looks like an error.
#
# Five items of a law school admission test, 1,000 persons; three classes of persons.

# %%
import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import Bernoulli, BernoulliParams, BetaPrior
from jaxem.models import Mixture, MixtureParams

jax.config.update("jax_enable_x64", True)
answers, persons = datasets.lsat7()
data = jaxem.dataset(answers.astype(float), weights=persons.astype(float))
model = Mixture(Bernoulli(), k=3)
items = np.array([[0.1, 0.6, 0.2, 0.1, 0.1], [0.7, 0.3, 0.5, 0.4, 0.8], [0.9, 0.8, 0.9, 0.7, 0.9]])
start = MixtureParams(np.array([0.03, 0.27, 0.7]), BernoulliParams(items))
fit = jaxem.check(jaxem.fit(model, start, data, algorithm=jaxem.SQUAREM(), max_steps=3000))
table = jaxem.summary(model, fit, data)
print(table)
assert len(table.held) == 2

# %% [markdown]
# In the smallest class nobody solves the first item or the last. These two probabilities have no error bar and are not
# counted as free parameters. The other errors are *given that these two are 0*, as the last line of the table says.
#
# ## How far from the edge could it be?
#
# Ask the likelihood: hold the probability at a value, fit everything else, and see how much is lost. Values that lose less
# than 1.35 (half of 2.71) are inside a one-sided 95 % bound. The chance of a first item solved in the smallest class:

# %%
name = "components.probabilities[0, 0]"


def lost(value):
    held = jaxem.restrict(model, fixed={name: value}, params=fit.params)
    params = fit.params._replace(components=BernoulliParams(fit.params.components.probabilities.at[0, 0].set(value)))
    again = jaxem.fit(held, params, data, algorithm=jaxem.SQUAREM(), max_steps=3000)
    return float(fit.objective - jaxem.check(again).objective)


losses = {value: lost(value) for value in (0.1, 0.2, 0.3, 0.4)}
for value, loss in losses.items():
    print(f"{value:.1f}: {loss:.2f}")
bound = min(value for value, loss in losses.items() if loss > 1.35)
print(f"the 95 % bound is below {bound}")

# %% [markdown]
# ## A prior
#
# A weak prior says that no probability is exactly 0 or 1: `BetaPrior(2, 2)` is worth one solved and one failed answer in
# each class. All parameters then have errors; the objective is the log-likelihood plus the log-prior.

# %%
careful = Mixture(Bernoulli(prior=BetaPrior(2.0, 2.0)), k=3)
posterior = jaxem.check(jaxem.fit(careful, start, data, algorithm=jaxem.SQUAREM(), max_steps=3000))
found = jaxem.summary(careful, posterior, data)
print(found)
assert np.isfinite(found.standard_errors).all() and found.held == ()

# %% [markdown]
# ## Other routes
#
# * `jaxem.inference.bootstrap` gives percentile intervals without curvature. Where no replicate leaves the edge, it says
#   NaN too, as resampling knows nothing of what was never seen.
# * `jaxem.inference.profile_interval` is the same idea as above for a parameter inside its space: an interval that is not
#   symmetric, near an edge.
# * A parameter that is at an edge by design (a forbidden transition, a variance that is 0) belongs into
#   `jaxem.restrict` or the gate (`Allowed`), and is then not a parameter at all.
# * `InformationError` is another matter: the point is not a maximum, or labels or factors can turn freely. It names the
#   direction.
