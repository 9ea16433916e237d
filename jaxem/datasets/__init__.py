"""The real data of the examples."""

from importlib import resources

import numpy as np


def _table(name: str) -> np.ndarray:
    with resources.files(__name__).joinpath(name).open() as file:
        return np.loadtxt(file, delimiter=",", skiprows=1)


def old_faithful() -> np.ndarray:
    """Eruptions of the Old Faithful geyser: duration and waiting time to the next, in minutes, (272, 2).

    Source: Azzalini & Bowman (1990), as in R's ``faithful``.
    """
    return _table("old_faithful.csv")


def earthquakes() -> tuple[np.ndarray, np.ndarray]:
    """Years 1900 to 2006 and the number of earthquakes of magnitude 7 or more in each, (107,) and (107,).

    Source: Zucchini, MacDonald & Langrock (2016), table 1.1.
    """
    years, counts = _table("earthquakes.csv").T
    return years.astype(int), counts.astype(int)


def london_times_deaths() -> tuple[np.ndarray, np.ndarray]:
    """Death notices of women of 80 and more in the London *Times* on each day of 1910 to 1912: the numbers 0 to 9,
    and on how many days each was seen, (10,) and (10,).

    Source: Hasselblad (1969), table 2; Titterington, Smith & Makov (1985).
    """
    deaths, days = _table("london_times_deaths.csv").T
    return deaths.astype(int), days.astype(int)


def galaxies() -> np.ndarray:
    """Velocities at which 82 galaxies of the Corona Borealis region recede, in 1000 km/s, (82,), sorted.

    Source: Roeder (1990), from Postman, Huchra & Geller (1986); as in R's ``MASS``, where the 78th is 26.69 (26.96 in
    the paper).
    """
    return _table("galaxies.csv")


def iris() -> tuple[np.ndarray, np.ndarray]:
    """Sepal length and width, petal length and width of 150 irises in cm, (150, 4), and their species, (150,).

    Species: 0 setosa, 1 versicolor, 2 virginica. Source: Anderson (1935), as in Fisher (1936).
    """
    table = _table("iris.csv")
    return table[:, :4], table[:, 4].astype(int)
