# %% [markdown]
# # My data have gaps
#
# EM treats a missing cell as one more hidden variable, and maximises the likelihood of the cells that were observed. No
# row is dropped, and no value is put in place of a missing one. The assumption is that cells are *missing at random*:
# whether a cell is missing may depend on observed values, but not on the value that is missing.
#
# The example is the air of New York on 153 days: ozone, radiation, wind and temperature. On 42 days the ozone or the
# radiation is missing.

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
# NaN is refused until you say that it means "missing", because it may as well come from a mistake.

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
# The alternative is to drop them. Here every mean then has a larger standard error, even of the columns without gaps.

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
# `jaxem.impute` fills in the conditional means given the observed cells. They vary less than data do, so do not analyse
# them as data: draw several completed data sets with `key=`, analyse each, and combine the results (multiple
# imputation).

# %%
filled = jaxem.impute(model, fit, data)
drawn = jaxem.impute(model, fit, data, key=jax.random.key(1))
print(f"day 5: ozone {np.exp(filled[4, 0]):.0f} expected, {np.exp(drawn[4, 0]):.0f} drawn; not measured")
assert not np.isnan(filled).any()
assert np.array_equal(filled[~np.isnan(air)], air[~np.isnan(air)])

# %% [markdown]
# ## Gaps in a sequence
#
# Sequences work in the same way, and whole steps may be missing: the model still has a state there. Here the earthquakes
# of the years 1940 to 1949 are hidden.

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
# ## Other kinds of missing data
#
# * In data frames `None`, `NA` and NaN count as gaps with `missing="nan"`, in numbers and in categories.
# * A `Product` may have gaps in any part: `jaxem.dataset({"age": ..., "items": ...}, missing="nan")`.
# * Sequences of unequal length have no gaps: give a list of arrays.
# * For a value that is known to lie in an interval, or an angle on an arc, use `Censored`. Where rows beyond a limit never
#   came into the data, use `Truncated`.
# * If a value is missing because of what it is (high incomes are not reported), the results are biased. That needs a model
#   of who answers, which is beyond this page.
