# %% [markdown]
# # How many classes?
#
# More classes always fit better. A criterion charges for them; a test asks whether the gain is more than chance;
# cross-validation asks whether rows that were left out are predicted better. None of them knows how many classes there
# *are*: they say how many the data can support.
#
# The velocities of 82 galaxies, in 1000 km/s.

# %%
import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import Normal
from jaxem.models import Mixture

jax.config.update("jax_enable_x64", True)
x = datasets.galaxies()
models = {f"{k} classes": Mixture(Normal(floor=0.01), k) for k in (1, 2, 3, 4)}
table = jaxem.select(models, x, key=jax.random.key(0), restarts=8, max_steps=500)
print(table)
assert table.best.name == "3 classes"

# %% [markdown]
# Read the column "found" first: how many starts found the best fit. A fit that one start found may not be the best there
# is, and its criterion is then too high. The floor keeps single galaxies from becoming classes.
#
# | criterion | its penalty | use it |
# |---|---|---|
# | `bic` | log n per parameter | to choose the number of classes; the default |
# | `icl` | and the entropy of the classes | where classes should be well separated |
# | `aic` | 2 per parameter | for density and prediction; it tends to more classes |
# | `aicc` | as AIC, corrected for few rows | below some 40 rows per parameter |
#
# All are -2 log-likelihood plus a penalty: lower is better, and differences below 2 say little.

# %%
values = {one.model.k: one.criteria["bic"] for one in table.candidates}
print({k: round(float(value - min(values.values())), 1) for k, value in values.items()})

# %% [markdown]
# ## Cross-validation
#
# It needs no theory. Rows are left out at random; of sequences, whole ones. It costs a fit per fold and start.

# %%
held_out = {}
for name in ("2 classes", "3 classes"):
    found = jaxem.inference.cross_validate(models[name], x, key=jax.random.key(1), folds=5, restarts=3)
    held_out[name] = np.asarray(found.held_out)
gain = held_out["3 classes"] - held_out["2 classes"]  # by folds, which are the same for both
error = np.sqrt(len(gain)) * gain.std(ddof=1)
print(f"three classes predict better by {gain.sum():.1f}, with a standard error of {error:.1f}")
assert abs(gain.sum()) < 2 * error

# %% [markdown]
# The difference is smaller than its error: 82 galaxies do not decide between two classes and three, which is worth knowing
# before BIC is quoted.

# %% [markdown]
# ## A test
#
# The likelihood ratio of k against k + 1 classes does not follow the chi-square distribution of textbooks, since the
# smaller model lies on the edge of the larger one. The parametric bootstrap draws data from the smaller fit and repeats
# both fits.

# %%
one, two = models["1 classes"], models["2 classes"]
test = jaxem.inference.likelihood_ratio_test(one, two, x, key=jax.random.key(2), replicates=19, restarts=2)
print(test)
assert test.p_value == 1 / 20  # none of 19 replicates comes near

# %% [markdown]
# ## Then look at the classes
#
# Two classes that differ by less than a standard deviation are one class with a shape that the family does not have.
# Before a further class, try another family: `StudentT()` where classes have tails, another covariance form
# (`MultivariateNormal("VVE")`), or a `Regression` where the mean moves with a covariate.

# %%
best = table.best
print(jaxem.summary(best.model, jaxem.inference.canonical(best.model, best.fit.params), x))
