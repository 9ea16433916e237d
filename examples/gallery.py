"""A gallery: every picture of jaxem.plot, each from a few lines.

A fit gives parameters; a picture takes the model, the fit and the data. Names come from the columns of a data frame.
Every function draws on one ``ax``, so that pictures are put together as usual in matplotlib.

Source: the data are those of the other examples; see ``jaxem.datasets``.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from _report import heading, output_folder, require
from matplotlib.figure import Figure
from PIL import Image

import jaxem
from jaxem import datasets, inference, plot
from jaxem.families import Bernoulli, MultivariateNormal, Poisson
from jaxem.models import HMM, ItemResponse, Mixture, local_level


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    for draw in (mixtures, profiles, states, a_level, a_test):
        heading(draw.__name__.replace("_", " ").capitalize())
        draw(folder)


def save(figure: Figure, folder: Path, name: str) -> None:
    path = folder / f"gallery_{name}.png"
    figure.savefig(path, dpi=80)
    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)  # a small file
    print(path)


def panels(width: float, height: float, columns: int, **options) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    return figure, figure.subplots(1, columns, **options)


def mixtures(folder: Path) -> None:
    """Old Faithful in two dimensions, irises in four: which model, its classes, and how sure it is of them."""
    frame = pd.DataFrame(datasets.old_faithful(), columns=["eruption", "waiting"])
    model = Mixture(MultivariateNormal("full"), k=2)
    data = jaxem.dataset(frame)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data), data))
    print(fit)
    figure, (left, right) = panels(10.0, 4.2, 2)
    params = inference.canonical(model, fit.params)  # classes in the order of their first column
    plot.mixture(model, params, data, names=["short", "long"], ax=left)
    left.set(xlabel="eruption, minutes", ylabel="waiting to the next, minutes")
    plot.convergence(fit, ax=right)
    save(figure, folder, "mixture")

    summary = jaxem.summary(model, params, data)
    save(plot.intervals(summary, only="eruption").figure, folder, "intervals")

    columns = ["sepal length", "sepal width", "petal length", "petal width"]
    irises = jaxem.dataset(pd.DataFrame(datasets.iris()[0], columns=columns))
    models = [Mixture(MultivariateNormal(form), k) for form in ("full", "diag") for k in (1, 2, 3, 4)]
    table = jaxem.select(models, irises, key=jax.random.key(0), restarts=5)
    print(table)
    save(plot.selection(table).figure, folder, "selection")

    model, fit = models[2], table.candidates[2].fit
    save(plot.pairs(model, fit, irises)[0, 0].figure, folder, "pairs")
    figure, (left, middle, right) = panels(13.0, 3.0, 3)
    plot.responsibilities(model, fit, irises, ax=left)
    plot.certainty(model, fit, irises, ax=middle)
    separation = inference.separation(model, fit, irises)
    print(separation)
    plot.separation(separation, ax=right)
    save(figure, folder, "classes")


def profiles(folder: Path) -> None:
    """How well six traits describe Gore and Bush, in three classes of voters; some answers are missing."""
    frame = pd.DataFrame(datasets.election())
    traits = frame[frame.columns[:12]]  # levels 1 and 2 of 4 say that it describes him extremely or quite well
    data = jaxem.dataset((traits <= 2).astype(float).where(traits.notna()), missing="nan")
    model = Mixture(Bernoulli(), k=3)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(1), data), data))
    profile = inference.profile(model, inference.canonical(model, fit.params), data)
    print(profile)
    figure, axes = panels(13.0, 5.2, 3)
    for ax, kind in zip(axes, ("points", "bars", "map"), strict=True):
        plot.profile(profile, kind=kind, ax=ax)
    save(figure, folder, "profile")


def states(folder: Path) -> None:
    """Earthquakes in years of three kinds: decoded, explained, and checked."""
    years, counts = datasets.earthquakes()
    model, names = HMM(Poisson(), k=3), ["calm", "busy", "violent"]
    start = model.init(jax.random.key(0), counts[None])
    fit = jaxem.check(jaxem.fit(model, start, counts[None]))
    params = inference.canonical(model, fit.params)  # states in the order of their rates
    print(params)
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    plot.path(model, params, counts[None], times=years, names=names, ax=above)
    plot.states(model, params, counts[None], times=years, names=names, ax=below)
    above.set(ylabel="earthquakes", xlabel="")
    save(figure, folder, "states")

    figure, (left, right) = panels(9.6, 4.4, 2)
    plot.transitions(model, params, names=names, ax=left)
    plot.transitions(model, params, kind="map", names=names, ax=right)
    save(figure, folder, "transitions")

    residuals = inference.residuals(model, params, counts[None])
    print(residuals)
    require(residuals.distance < 1.358 / len(counts) ** 0.5, "three states explain the counts")
    figure, (left, middle, right) = panels(13.0, 4.0, 3, width_ratios=(3, 2, 2))
    plot.residuals(residuals, ax=left)
    plot.pp(residuals, ax=middle)
    plot.qq(residuals, ax=right)
    save(figure, folder, "residuals")


def a_level(folder: Path) -> None:
    """The Nile with twenty years cut out, and ten to come."""
    years, flow = datasets.nile()
    gap = np.where((years >= 1891) & (years <= 1910), np.nan, flow)
    data = jaxem.dataset(gap[None, :, None], missing="nan")
    model = local_level()
    fit = jaxem.fit(model, model.init(jax.random.key(0), data), data, algorithm=jaxem.SQUAREM())
    print(fit)
    ax = plot.smoothed(model, fit, data, horizon=10, times=years)
    ax.set(ylabel="flow of the Nile, $10^8$ m$^3$", xlabel="year")
    save(ax.figure, folder, "smoothed")


def a_test(folder: Path) -> None:
    """Five items of a law school test: what they ask of a person, where they measure well, and who took it."""
    patterns, persons = datasets.lsat7()
    data, model = jaxem.dataset(patterns, weights=persons), ItemResponse()
    fit = jaxem.fit(model, model.init(jax.random.key(0), data), data, algorithm=jaxem.SQUAREM())
    print(fit)
    figure, (left, middle, right) = panels(14.0, 3.8, 3)
    plot.item_curves(model, fit, ax=left)
    plot.item_information(model, fit, ax=middle)
    plot.abilities(model, fit, data, ax=right)
    save(figure, folder, "test")


if __name__ == "__main__":
    main()
