# %% [markdown]
# # Choose a model
#
# A model says what is hidden (a class, a chain of states, a factor) and how the observations are distributed given that.
# For classes and states you choose the two separately: any *family* of distributions below goes into `Mixture` and `HMM`.
# Models of factors, abilities and time series bring their own distribution.
#
# ## What is hidden
#
# | question | model | more |
# |---|---|---|
# | Which kinds of rows are there? | `Mixture(family, k)` | [How many classes?](how_many_classes.py) |
# | Which kinds, depending on what I know of each row? | `Mixture(family, k, gate=Softmax(on=...))` | |
# | Which state is a process in, and when does it change? | `HMM(family, k)` | `examples/earthquakes.py` |
# | What moves it between states? | `HMM(family, k, transition=Softmax(on=...))` | [Covariates](covariates_and_states.py) |
# | As `HMM`, with states that last or follow an order | `transition=Sticky(...)`, `LeftToRight()`, `Cyclic()` | `examples/trials.py` |
# | As `HMM`, with moves that are impossible | `transition=Allowed(moves)` | `examples/trials.py` |
# | Which few factors explain many columns? | `FactorAnalysis(k)` | |
# | How able is each person, and how hard is each item? | `ItemResponse("2pl")` | |
# | What are the level, trend and seasons of a noisy series? | `local_level()`, `local_trend()`, `seasonal(period)` | `examples/nile.py` |
# | Which few movements do many series share? | `dynamic_factors(k, outputs)` | |
# | Which regime is a series in (boom or recession)? | `SwitchingAutoregression(k, order)` | |
# | Which kinds of whole sequences are there? | `Mixture(Component(HMM(family, j)), k)` | |
# | None of these | `jaxem.from_log_joint`, `jaxem.Model` | [Is my own E-step right?](own_e_step.py) |
#
# ## What is seen
#
# | an observation is | family |
# |---|---|
# | a number; with outliers; positive and skewed | `Normal()`; `StudentT()`; `LogNormal()`, `Gamma()` |
# | several numbers; with outliers | `MultivariateNormal(...)`; `MultivariateStudentT(...)` |
# | a count; with more spread than Poisson; with more zeros | `Poisson()`; `NegativeBinomial()`; `ZeroInflated(Poisson())` |
# | successes among trials; counts with a given total | `Binomial(trials)`; `Multinomial()` |
# | yes or no; one of several answers | `Bernoulli()`; `Categorical(levels)` |
# | a lifetime, censored for some rows | `Censored(Weibull())` |
# | a share; an angle; a sector of the compass | `Beta()`; `VonMises()`; `Censored(VonMises())` |
# | a response with covariates | `Regression(family, on=...)` |
# | columns of several kinds | `Product({"age": Normal(), "answers": Bernoulli()})` |
# | a different kind in each class | `PerClass([...])` |
#
# Most lines of the two tables as code:

# %%
import jax
import numpy as np

import jaxem
from jaxem import datasets, families, models
from jaxem.gates import Allowed, LeftToRight, Softmax, Sticky
from jaxem.models import HMM, Component, Mixture

jax.config.update("jax_enable_x64", True)
moves = Softmax(on="u"), Sticky(5.0), LeftToRight(), Allowed(np.array([[True, True], [False, True]]))
built = [
    Mixture(families.MultivariateNormal("VVE"), 3),
    Mixture(families.Categorical((2, 5)), 3, gate=Softmax(on="age")),
    *(HMM(families.Poisson(), 2, transition=kind) for kind in moves),
    models.FactorAnalysis(2),
    models.ItemResponse("2pl"),
    models.local_level(),
    models.local_trend(),
    models.seasonal(12),
    models.dynamic_factors(2, 8),
    models.SwitchingAutoregression(2, 4),
    Mixture(Component(HMM(families.Poisson(), 2)), 3),
]
names = "Normal StudentT LogNormal Gamma MultivariateNormal MultivariateStudentT Beta VonMises Poisson NegativeBinomial"
seen = [getattr(families, name)() for name in (names + " Multinomial Bernoulli").split()]
seen += [families.ZeroInflated(families.Poisson()), families.Censored(families.Weibull())]
seen += [families.Binomial(10), families.Categorical((3,)), families.Regression(families.Poisson(), on="x")]
seen += [families.PerClass([families.Normal()] * 2), families.Product({"a": families.Normal()})]
built += [Mixture(family, 2) for family in seen]

# %% [markdown]
# ## What a model can do
#
# Every model is fitted, verified and summarised by the same functions. `jaxem.core.capabilities` lists what a model
# offers and what it lacks.

# %%
for model in built:
    able = jaxem.core.capabilities(model)
    assert able.lacking["bound"] == able.lacking["sums"] == ()
print(jaxem.core.capabilities(built[0]))

# %% [markdown]
# ## Then
#
# The steps are the same for every model: prepare the data ([a frame](frames_and_names.py), perhaps [with
# gaps](gaps.py)), fit from several starts, look at [the status](what_a_fit_tells.py), at standard errors (and
# [what they mean at an edge](edges.py)) and at a picture, and [save the fit](save_load_serve.py).

# %%
years, quakes = datasets.earthquakes()
x = quakes[None].astype(float)
chain = HMM(families.Poisson(), 2)
found = jaxem.fit_restarts(chain, x, key=jax.random.key(0), restarts=4)
best = jaxem.check(found.best)
print(f"log-likelihood {best.objective:.4f}, found by {found.times_best_found} of 4 starts")
