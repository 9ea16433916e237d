# %% [markdown]
# # How many classes?
#
# A further class never lowers the maximum of the likelihood, so the likelihood cannot choose. A criterion adds a penalty
# for each parameter, a test asks whether the gain could be chance, and cross-validation asks whether rows that were left
# out are predicted better. None of them finds how many classes there *are*; they say how many the data support.
#
# The example is the velocities of 82 galaxies, in 1000 km/s.

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
# Read the column "found" first: it counts the starts that reached the best fit. If only one did, there may be a better
# fit, with a lower criterion. The floor under the variances keeps a class from shrinking onto a single galaxy.
#
# | criterion | its penalty | use it |
# |---|---|---|
# | `bic` | log n per parameter | to choose the number of classes; the default |
# | `icl` | that of `bic`, plus twice the entropy of the classes | where classes should be well separated |
# | `aic` | 2 per parameter | for density estimates and prediction; it tends to more classes |
# | `aicc` | that of `aic`, corrected for few rows | below about 40 rows per parameter |
#
# All are -2 log-likelihood plus the penalty: lower is better, and differences below 2 say little. The differences from
# the lowest BIC:

# %%
values = {one.model.k: one.criteria["bic"] for one in table.candidates}
print({k: round(float(value - min(values.values())), 1) for k, value in values.items()})

# %% [markdown]
# ## Cross-validation
#
# Cross-validation needs no approximation for large samples. Rows are left out at random, or whole sequences. The cost is
# one fit for each fold and start.

# %%
held_out = {}
for name in ("2 classes", "3 classes"):
    found = jaxem.inference.cross_validate(models[name], x, key=jax.random.key(1), folds=5, restarts=3)
    held_out[name] = np.asarray(found.held_out)
gain = held_out["3 classes"] - held_out["2 classes"]  # of each fold; the folds are the same for both
error = np.sqrt(len(gain)) * gain.std(ddof=1)
print(f"three classes predict better by {gain.sum():.1f}, with a standard error of {error:.1f}")
assert abs(gain.sum()) < 2 * error

# %% [markdown]
# The difference is less than two standard errors: 82 galaxies do not decide between two classes and three, although BIC
# does.

# %% [markdown]
# ## A test
#
# The likelihood ratio of k against k + 1 classes does not have the chi-squared distribution of textbooks, because the
# smaller model lies on the edge of the larger one. The parametric bootstrap draws data sets from the smaller fit and fits
# both models to each.

# %%
one, two = models["1 classes"], models["2 classes"]
test = jaxem.inference.likelihood_ratio_test(one, two, x, key=jax.random.key(2), replicates=19, restarts=2)
print(test)
assert test.p_value == 1 / 20  # none of the 19 replicates has as large a ratio

# %% [markdown]
# ## Then look at the classes
#
# Two classes whose means differ by less than a standard deviation may be one class with a shape that the family does not
# have. Before you add a class, try another family: `StudentT()` for outliers, another covariance form
# (`MultivariateNormal("VVE")`), or a `Regression` where the mean depends on a covariate.

# %%
best = table.best
print(jaxem.summary(best.model, jaxem.inference.canonical(best.model, best.fit.params), x))
