# %% [markdown]
# # Which covariates move people between states?
#
# A panel: 150 people, asked in twelve months in how many of the last four weeks they worked. Behind the answers are two
# states, out of work and in work. Does a course help people into work? Does it keep them there? Does age matter?
#
# The data are drawn from the model itself, so that the truth is known. A row of coefficients is the intercept, the
# course, and age; each is the change in the log-odds of moving to work.

# %%
import jax
import numpy as np

import jaxem
from jaxem.families import Binomial, BinomialParams
from jaxem.gates import Softmax, SoftmaxParams
from jaxem.models import HMM, HMMParams

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
n, t = 150, 12
training = (rng.random((n, t)) < 0.3).astype(float)  # a course this month
age = np.repeat(rng.normal(0, 1, (n, 1)), t, axis=1)  # in standard deviations
given = {"training": training, "age": age}

model = HMM(Binomial(4), k=2, transition=Softmax(on=("training", "age")))
into_work = np.array([-1.5, 1.5, -0.3])  # from out of work
stay_in_work = np.array([2.0, 0.0, 0.0])  # from in work


def coefficients(*log_odds):  # of two states that sum to zero: minus and plus half of the log-odds
    return np.stack([np.stack([-each / 2, each / 2]) for each in log_odds])


truth = HMMParams(
    np.array([0.5, 0.5]), SoftmaxParams(coefficients(into_work, stay_in_work)), BinomialParams(np.array([0.1, 0.9]))
)
blank = jaxem.dataset(np.zeros((n, t)), given=given)
data = model.sample_like(jax.random.key(1), truth, blank)

# %% [markdown]
# ## The fit
#
# `Softmax` makes each row of the transition matrix a multinomial regression. The covariates at a step drive the move
# *from* that step to the next.

# %%
start = HMMParams(
    np.array([0.5, 0.5]),
    SoftmaxParams(coefficients(np.array([-1.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0]))),
    BinomialParams(np.array([0.2, 0.8])),
)
fit = jaxem.check(jaxem.fit(model, start, data))
errors = jaxem.inference.standard_errors(model, fit, data)
print(f"weeks of four worked, by state: {np.round(4 * fit.params.emissions.probabilities, 1)}")

# %% [markdown]
# The coefficients of the states sum to zero, so that neither is a reference. With two states the log-odds of one against
# the other are twice its coefficients, and so are their errors; of more states, subtract two rows.

# %%
effects = 2 * np.asarray(fit.params.transition.coefficients)[:, 1]
widths = 2 * np.asarray(errors.transition.coefficients)[:, 1]
for name, effect, width in zip(("out of work", "in work"), effects, widths, strict=True):
    for cause, e, w in zip(("intercept", "course", "age"), effect, width, strict=True):
        print(f"{name:>11}, {cause:9}  {e:5.2f} +- {w:.2f}   odds x {np.exp(e):.2f}")
assert (np.abs(effects - np.stack([into_work, stay_in_work])) < 3 * widths).all()
assert effects[0, 1] > 3 * widths[0, 1]  # a course helps into work

# %% [markdown]
# ## Is the course needed at all?
#
# The model without it has one coefficient less in each row. Twice the gain in log-likelihood is a chi-squared number with
# two degrees of freedom if the course does nothing; BIC agrees.

# %%
plain = HMM(Binomial(4), k=2, transition=Softmax(on=("age",)))
drop = SoftmaxParams(start.transition.coefficients[:, :, [0, 2]])
without = jaxem.check(jaxem.fit(plain, start._replace(transition=drop), data))
print(f"twice the gain: {2 * (fit.objective - without.objective):.1f}, beside 6.0 by chance in one of twenty cases")
print(f"BIC {jaxem.inference.bic(model, fit, data):.1f} with, {jaxem.inference.bic(plain, without, data):.1f} without")
assert 2 * float(fit.objective - without.objective) > 13.8  # one of a thousand cases

# %% [markdown]
# ## Related
#
# * The first state may depend on covariates too: `initial=Softmax(on=...)`.
# * Classes that do not change over time: `Mixture(family, k, gate=Softmax(on=...))`.
# * What is seen depends on covariates, rather than the moves: `Regression` as the family.
# * A move that cannot be: `Allowed(...)`, or `jaxem.restrict(model, fixed={"transition[0, 2]": 0.0})`.
# * A covariate that is missing: covariates are conditioned on and never modelled. Fill it in, or model it as a column.
