# %% [markdown]
# # Which covariates move people between states?
#
# In each of twelve months 150 people are asked in how many of the last four weeks they worked. The answers depend on two
# hidden states, out of work and in work. Does a course help people into work? Does it keep them there? Does age matter?
#
# The data are drawn from the model itself, so that the truth is known. For each state there are three coefficients of
# the log-odds of being in work next month: an intercept, the effect of a course, and the effect of age.

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
into_work = np.array([-1.5, 1.5, -0.3])  # of those who are out of work
stay_in_work = np.array([2.0, 0.0, 0.0])  # of those who are in work


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
# The coefficients sum to zero over the states, so that no state is a reference. With two states the log-odds of the
# second against the first are twice its coefficients, with twice the standard errors. With more states, the log-odds of
# one state against another are the difference of their coefficients.

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
# The model without it has one coefficient fewer for each state. If the course does nothing, twice the gain in
# log-likelihood has approximately a chi-squared distribution with two degrees of freedom, which exceeds 6.0 in one case
# of twenty. Here it is far beyond, and BIC agrees: it is lower with the course.

# %%
plain = HMM(Binomial(4), k=2, transition=Softmax(on=("age",)))
drop = SoftmaxParams(start.transition.coefficients[:, :, [0, 2]])
without = jaxem.check(jaxem.fit(plain, start._replace(transition=drop), data))
print(f"twice the gain: {2 * (fit.objective - without.objective):.1f}")
bic = [float(jaxem.inference.bic(*each, data)) for each in ((model, fit), (plain, without))]
print(f"BIC {bic[0]:.1f} with the course, {bic[1]:.1f} without")
assert 2 * float(fit.objective - without.objective) > 13.8  # exceeded in one case of a thousand
assert bic[0] < bic[1]

# %% [markdown]
# ## Related
#
# * The first state may depend on covariates too: `initial=Softmax(on=...)`.
# * For classes that do not change over time: `Mixture(family, k, gate=Softmax(on=...))`.
# * If the observations depend on covariates, rather than the moves, take `Regression` as the family.
# * For a move that is impossible: `Allowed(...)`, or `jaxem.restrict(model, fixed={"transition[0, 2]": 0.0})`.
# * A covariate must not be missing, because covariates are conditioned on and never modelled. Fill it in beforehand, or
#   make it a column of the observations.
