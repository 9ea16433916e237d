"""Trials of unequal length with gaps: how many states, which ones, where is each trial now, and what comes next?

The readings are of a mouse that rests, walks or runs. Known beforehand: the mean reading at rest is 0, a mouse never
goes from rest to running without walking, and states last. A cue that is on or off is a covariate of the moves.
"""

import jax
import numpy as np

import jaxem
from jaxem.families import Normal
from jaxem.gates import Allowed, Softmax, Sticky
from jaxem.models import HMM

jax.config.update("jax_enable_x64", True)


def record(seed):
    """Readings of a trial (NaN: the sensor was off), and the cue at each step."""
    rng = np.random.default_rng(seed)
    length, state, readings = int(rng.integers(30, 60)), 0, []
    cue = (rng.random(length) < 0.3).astype(float)
    for t in range(length):
        readings.append([0.0, 2.0, 5.0][state] + 0.7 * rng.normal())
        up = 0.7 if cue[t] else 0.05  # of the move to the next step
        moves = [[1 - up, up, 0], [0.05, 0.95 * (1 - up), 0.95 * up], [0.1, 0.1, 0.8]][state]
        state = int(rng.choice(3, p=moves))
    x = np.array(readings)
    x[rng.random(length) < 0.1] = np.nan
    return x, cue


trials = [record(seed) for seed in range(20)]
data = jaxem.dataset([x for x, _ in trials], missing="nan")

print("Held-out log-likelihood by the number of states")
for k in (2, 3, 4):
    model = HMM(Normal(), k, transition=Sticky(stay=5.0))
    found = jaxem.inference.cross_validate(model, data, key=jax.random.key(0), folds=4, restarts=2)
    print(f"  {k}: {np.sum(found.held_out):9.2f}")

allowed = np.array([[True, True, False], [True, True, True], [True, True, True]])
model = HMM(Normal(), 3, transition=Allowed(allowed, stay=5.0))
held = jaxem.restrict(model, fixed={"emissions.means[0]": 0.0})
fit = jaxem.check(jaxem.fit_restarts(held, data, key=jax.random.key(1), restarts=5).best)
print(jaxem.summary(held, fit, data))
assert fit.params.transition[0, 2] == 0 and fit.params.emissions.means[0] == 0

path = np.asarray(held.predict(fit, data))
print("States of the first trial:", "".join(map(str, path[0][: len(trials[0][0])])))
ahead = held.forecast(fit, data, 3)
print("Its next three readings:", np.round(np.asarray(ahead.means[0]), 2))

cued = jaxem.dataset([x for x, _ in trials], given=[cue for _, cue in trials], missing="nan")
driven = HMM(Normal(), 3, transition=Softmax())
start = driven.init(jax.random.key(0), cued)._replace(emissions=fit.params.emissions)
with_cue = jaxem.check(jaxem.fit(driven, start, cued))
print(f"The cue adds {with_cue.objective - held.log_likelihood(fit, data):.1f} to the log-likelihood")
