# %% [markdown]
# # Error bars at an edge
#
# An estimate may lie at the edge of what is possible: a probability of 0, a variance of 0, a transition that never
# happens. At an inner maximum the log-likelihood is flat and its curvature gives the standard error. At an edge it need
# not be flat, and no standard error exists. `jaxem.summary` then prints NaN and names the parameter.
#
# The data are five items of a law school admission test, answered by 1,000 persons. The model has three classes of
# persons.

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
# In the smallest class nobody solves the first item or the last. These two probabilities have no standard error and are
# not counted as free parameters. The other standard errors hold *given that these two are 0*, as the table says below.
#
# ## How far from the edge could it be?
#
# Hold the probability at a value, fit everything else, and see how much log-likelihood is lost. The values that lose less
# than 1.35 are below a one-sided 95 % bound (1.35 is half of 2.71, the 90 % point of chi-squared with one degree of
# freedom). For the probability that the smallest class solves the first item:

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
print(f"the 95 % bound is at most {bound}")

# %% [markdown]
# ## A prior
#
# A weak prior excludes probabilities of exactly 0 and 1: `BetaPrior(2, 2)` weighs as much as one solved and one failed
# answer to each item in each class. All parameters then have standard errors. The objective is the log-likelihood plus
# the log-prior.

# %%
careful = Mixture(Bernoulli(prior=BetaPrior(2.0, 2.0)), k=3)
posterior = jaxem.check(jaxem.fit(careful, start, data, algorithm=jaxem.SQUAREM(), max_steps=3000))
found = jaxem.summary(careful, posterior, data)
print(found)
assert np.isfinite(found.standard_errors).all() and found.held == ()

# %% [markdown]
# ## Other routes
#
# * `jaxem.inference.bootstrap` gives percentile intervals, which need no curvature. Where every replicate is at the edge,
#   they are NaN too, because resampling cannot show what was never observed.
# * `jaxem.inference.profile_interval` does what was done above for a parameter near an edge but not at it. Its interval
#   need not be symmetric.
# * If a value is at an edge by design (a forbidden transition, a variance of 0), fix it by `jaxem.restrict` or by the gate
#   (`Allowed`). It is then not a parameter.
# * An `InformationError` means something else: the point is not a maximum, or some direction leaves the likelihood as it
#   is (factors that can be rotated, for example). The message names the direction.
