# %% [markdown]
# # My data have gaps
#
# A missing cell is a hidden variable like any other: EM fills in what it needs of it (its mean and variance given the
# cells that were seen), and the fit maximises the likelihood of what was seen. No row is dropped and no value is
# invented. The assumption is that a cell is *missing at random*: whether it is missing may depend on what was seen, not
# on the value that is missing.
#
# The air of New York on 153 days: ozone, radiation, wind and temperature. 42 days lack the ozone or the radiation.

# %%
import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal, Poisson, PoissonParams
from jaxem.models import HMM, HMMParams, Mixture

jax.config.update("jax_enable_x64", True)
air = datasets.airquality()
air[:, 0] = np.log(air[:, 0])
print(f"{np.isnan(air).any(axis=1).sum()} of {len(air)} days have a gap")

# %% [markdown]
# NaN is refused until you say that it means "missing", since NaN is as often a fault as a gap.

# %%
model = Mixture(MultivariateNormal(), k=1)
try:
    model.init(jax.random.key(0), air)
except ValueError as error:
    print(error)

# %%
data = jaxem.dataset(air, missing="nan")
fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data), data))
print(f"log-likelihood {fit.objective:.4f}")
assert abs(float(fit.objective) + 1896.1715) < 1e-4  # that of R's lavaan, by direct maximisation

# %% [markdown]
# ## What the rows with gaps are worth
#
# The alternative is to drop them. Every mean then has a larger standard error, also those of the columns that were never
# missing.

# %%
whole = air[~np.isnan(air).any(axis=1)]
errors = jaxem.inference.standard_errors(model, fit, data).components.means[0]
alone = whole.std(axis=0) / np.sqrt(len(whole))
print("all days:       ", "  ".join(f"{error:.3f}" for error in errors))
print("whole days only:", "  ".join(f"{error:.3f}" for error in alone))
assert (errors < alone).all()

# %% [markdown]
# ## Values in the gaps
#
# `jaxem.impute` fills in means given what was seen. They are too regular to be analysed as if they were data; for that,
# draw several completed data sets with `key=` and combine what they say (multiple imputation).

# %%
filled = jaxem.impute(model, fit, data)
drawn = jaxem.impute(model, fit, data, key=jax.random.key(1))
print(f"day 5: ozone {np.exp(filled[4, 0]):.0f} expected, {np.exp(drawn[4, 0]):.0f} drawn; not measured")
assert not np.isnan(filled).any()
assert np.array_equal(filled[~np.isnan(air)], air[~np.isnan(air)])

# %% [markdown]
# ## Gaps in a sequence
#
# The same, and whole steps may be missing. The path goes through them. Here the years 1940 to 1949 of the earthquakes
# are hidden.

# %%
years, counts = datasets.earthquakes()
seen = np.where((years >= 1940) & (years < 1950), np.nan, counts)
sequence = jaxem.dataset(seen[None], missing="nan")
chain = HMM(Poisson(), k=2)
start = HMMParams(np.full(2, 0.5), np.array([[0.9, 0.1], [0.1, 0.9]]), PoissonParams(np.array([15.0, 25.0])))
found = jaxem.check(jaxem.fit(chain, start, sequence))
states = chain.predict_proba(found, sequence)[0]
print("P(second state), 1939 to 1950:", np.round(states[39:51, 1], 2))
assert np.allclose(states.sum(axis=1), 1)

# %% [markdown]
# ## Other forms of "missing"
#
# * Data frames: `None`, `NA` and NaN count as gaps with `missing="nan"`, in numbers and in categories.
# * Parts: `jaxem.dataset({"age": ..., "items": ...}, missing="nan")` for a `Product`, with gaps in any part.
# * Sequences of unequal length are not gaps: give a list of arrays.
# * A value known to lie in an interval: `Censored`. Values below a limit never recorded: `Truncated`.
# * Missing because of the value itself (the rich hide their income): no setting mends that; it needs a model of who
#   answers.
