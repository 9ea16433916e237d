"""Trials of unequal length with gaps: a hidden Markov model that uses what is known beforehand.

In each trial an animal rests, then waits for a cue, then moves; a sensor records one number a step and misses some.
It is known that the sensor reads 0 at rest, that an animal at rest does not move without waiting first, and that
states last. So one mean is held at 0, one transition is forbidden, and a sticky prior adds stays. Cross-validation
over whole trials chooses the number of states. A second model lets the cue drive the transitions.

The data are simulated, so that the truth is known.

Source: Rabiner (1989) for the chain; Fox, Sudderth, Jordan & Willsky (2011) for the sticky prior.
"""

from collections.abc import Sequence

import jax
import numpy as np
from _report import heading, output_folder, require

import jaxem
from jaxem.families import Normal
from jaxem.gates import Allowed, Softmax, Sticky
from jaxem.models import HMM
from jaxem.plot import COLOURS

MEANS, DEVIATION = np.array([0.0, 2.0, 5.0]), 0.8
NAMES = ("rest", "wait", "move")


def simulate() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """The readings of 16 trials (NaN in a gap), the cue at each step, and the true states."""
    rng = np.random.default_rng(1)
    readings, cues, paths = [], [], []
    for _ in range(16):
        length = int(rng.integers(40, 90))
        cue = (rng.random(length) < 0.25).astype(float)
        state, path = 0, []
        for t in range(length):
            path.append(state)
            go = 0.9 if cue[t] else 0.02  # from waiting to moving
            rows = np.array([[0.9, 0.1, 0.0], [0.04, 0.96 * (1 - go), 0.96 * go], [0.12, 0.0, 0.88]])
            state = int(rng.choice(3, p=rows[state]))
        x = MEANS[path] + DEVIATION * rng.normal(size=length)
        start = int(rng.integers(5, length - 12))
        x[start : start + 6] = np.nan  # the sensor drops out once a trial
        readings.append(x)
        cues.append(cue)
        paths.append(np.array(path))
    return readings, cues, paths


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    readings, cues, paths = simulate()
    data = jaxem.dataset(readings, missing="nan")

    heading("The number of states, by trials left out")
    scores = {}
    for k in (2, 3, 4):
        model = HMM(Normal(), k, transition=Sticky(stay=5.0))
        found = jaxem.inference.cross_validate(model, data, key=jax.random.key(0), folds=4, restarts=3)
        scores[k] = float(np.sum(found.held_out))
        print(f"{k} states: held-out log-likelihood {scores[k]:9.2f}")
    require(max(scores, key=lambda k: scores[k]) == 3, "three states predict left-out trials best")

    heading("Three states, one mean held at 0, no move from rest to movement, a sticky prior")
    allowed = np.array([[True, True, False], [True, True, True], [True, True, True]])
    model = HMM(Normal(), 3, transition=Allowed(allowed, stay=5.0))
    restricted = jaxem.restrict(model, fixed={"emissions.means[0]": 0.0})
    start = model.init(jax.random.key(0), data)
    emissions = start.emissions._replace(means=np.array([0.0, 1.5, 4.0]), variances=np.ones(3))
    fit = jaxem.check(jaxem.fit(restricted, start._replace(emissions=emissions), data))
    params = fit.params
    print(fit)
    durations = np.asarray(model.durations(params))
    for name, mean, steps in zip(NAMES, np.asarray(params.emissions.means), durations, strict=True):
        print(f"{name:<5} mean {mean:5.2f}, lasts {steps:4.1f} steps")
    require(float(params.emissions.means[0]) == 0.0, "the mean at rest is held")
    require(float(params.transition[0, 2]) == 0.0, "no move from rest to movement")

    heading("Decoding: the most probable path, and the share of true states that it finds")
    decoded = np.asarray(model.predict(params, data))
    right = np.concatenate([decoded[n, : len(path)] == path for n, path in enumerate(paths)])
    print(f"{right.mean():.1%} of {right.size} steps, the gaps among them")
    require(right.mean() > 0.9, "decoding finds nine states of ten")

    heading("The cue drives the moves")
    driven = HMM(Normal(), 3, transition=Softmax())
    by_cue = jaxem.dataset(readings, given=cues, missing="nan")
    first = driven.init(jax.random.key(0), by_cue)._replace(emissions=params.emissions)
    plain = HMM(Normal(), 3)
    open_start = plain.init(jax.random.key(0), data)._replace(emissions=params.emissions)
    without, with_cue = jaxem.fit(plain, open_start, data), jaxem.fit(driven, first, by_cue)
    gain = float(with_cue.objective - without.objective)
    print(f"log-likelihood {float(without.objective):.2f} without the cue, {float(with_cue.objective):.2f} with it")
    require(gain > 9, "six slopes are worth more than chance")

    heading("Forecast: the next 8 steps of the first trial, with a cue at the third")
    coming = np.zeros((len(readings), 8))
    coming[:, 2] = 1
    ahead = driven.forecast(with_cue, by_cue, 8, given=coming)
    for h, p in enumerate(np.asarray(ahead.probabilities[0]), 1):
        print(f"+{h}: " + "  ".join(f"{name} {share:.2f}" for name, share in zip(NAMES, p, strict=True)))

    heading("Picture")
    futures = model.forecast(params, data, 12)
    print(draw(readings[0], paths[0], decoded[0], np.asarray(params.emissions.means), futures, folder))


def draw(x, path, decoded, means, ahead, folder):
    """Draw one trial, the decoded states with their means, and the forecast after its end."""
    from matplotlib.figure import Figure

    t = np.arange(len(x))
    ax = Figure(figsize=(9.0, 4.2), dpi=150, layout="constrained").add_subplot()
    ax.plot(t, x, "o", color="#8a8a8a", markersize=4, label="readings")
    ax.step(t, MEANS[path], where="mid", color="#c9c9c9", linewidth=5, label="true state", zorder=0)
    ax.step(t, means[decoded[: len(x)]], where="mid", color=COLOURS[1], linewidth=1.8, label="decoded state (Viterbi)")
    later = np.arange(len(x), len(x) + ahead.means.shape[1])
    ax.plot(later, np.asarray(ahead.means[0]), "--", color=COLOURS[0], linewidth=2, label="forecast")
    gap = np.flatnonzero(np.isnan(x))
    ax.axvspan(gap[0] - 0.5, gap[-1] + 0.5, color="#eeeeee", zorder=-1)
    ax.text(gap.mean(), 7.0, "gap", ha="center", color="#6a6a6a")
    ax.set(xlabel="step of the first trial", ylabel="reading", ylim=(-3, 8))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left", ncols=4, fontsize=8)
    ax.figure.savefig(folder / "trials.png")
    return folder / "trials.png"


if __name__ == "__main__":
    main()
