"""The real data sets used by the examples."""

from importlib import resources

import numpy as np


def _table(name: str) -> np.ndarray:
    with resources.files(__name__).joinpath(name).open() as file:
        return np.loadtxt(file, delimiter=",", skiprows=1)


def old_faithful() -> np.ndarray:
    """Eruptions of the Old Faithful geyser.

    Returns:
        An array (272, 2): duration of each eruption and waiting time to the next one, in minutes.

    Source: Azzalini & Bowman (1990), as in R's ``faithful``.
    """
    return _table("old_faithful.csv")


def earthquakes() -> tuple[np.ndarray, np.ndarray]:
    """Yearly numbers of earthquakes of magnitude 7 or more, worldwide.

    Returns:
        The years 1900 to 2006, (107,), and the number of earthquakes in each, (107,), as whole numbers.

    Source: Zucchini, MacDonald & Langrock (2016), table 1.1.
    """
    years, counts = _table("earthquakes.csv").T
    return years.astype(int), counts.astype(int)


def london_times_deaths() -> tuple[np.ndarray, np.ndarray]:
    """Daily numbers of death notices of women aged 80 and over in the London *Times*, 1910 to 1912.

    Returns:
        The numbers of notices 0 to 9, (10,), and the number of days with so many notices, (10,), as whole numbers.

    Source: Hasselblad (1969), table 2; Titterington, Smith & Makov (1985).
    """
    deaths, days = _table("london_times_deaths.csv").T
    return deaths.astype(int), days.astype(int)


def galaxies() -> np.ndarray:
    """Recession velocities of 82 galaxies in the Corona Borealis region.

    Returns:
        An array (82,) of velocities in 1000 km/s, sorted.

    Source: Roeder (1990), from Postman, Huchra & Geller (1986); as in R's ``MASS``, where the 78th value is 26.69
    (26.96 in the paper).
    """
    return _table("galaxies.csv")


def election() -> dict[str, np.ndarray]:
    """A survey before the United States presidential election of 2000.

    Returns:
        The columns by name, each (1785,), with NaN where a question was not answered. Six traits of Gore and of Bush,
        from 1 "extremely well" to 4 "not well at all" describes him: ``moralg``, ``caresg``, ``knowg``, ``leadg``,
        ``dishong``, ``intelg``, and ``moralb`` to ``intelb``. ``vote3``: 1 Gore, 2 Bush, 3 other. ``age`` in years.
        ``educ``: schooling, from 1 "8 grades or less" to 7 "advanced degree". ``gender``: 1 male, 2 female. ``party``:
        from 1 "strong Democrat" to 7 "strong Republican".

    Source: American National Election Studies (2000), as ``election`` in R's poLCA (Linzer & Lewis 2011).
    """
    with resources.files(__name__).joinpath("election.csv").open() as file:
        table = np.genfromtxt(file, delimiter=",", names=True)
    return {name: table[name] for name in table.dtype.names or ()}


def lsat7() -> tuple[np.ndarray, np.ndarray]:
    """Answers of 1,000 persons to five items of the Law School Admission Test, section 7.

    Returns:
        The 32 patterns of answers, (32, 5), 1 where the answer is right; and the number of persons with each, (32,).

    Source: Bock & Lieberman (1970).
    """
    table = _table("lsat7.csv").astype(int)
    return table[:, :5], table[:, 5]


def iris() -> tuple[np.ndarray, np.ndarray]:
    """Measurements of 150 irises of three species.

    Returns:
        Sepal length, sepal width, petal length and petal width in cm, (150, 4); and the species, (150,): 0 setosa,
        1 versicolor, 2 virginica.

    Source: Anderson (1935), as in Fisher (1936).
    """
    table = _table("iris.csv")
    return table[:, :4], table[:, 4].astype(int)


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Blood measurements of 145 people without obesity, some of whom have diabetes.

    Returns:
        Glucose area (mg/100 ml h), insulin area (microU/ml h) and steady-state plasma glucose (mg/100 ml), (145, 3);
        and three classes 0 to 2 of a hierarchical clustering from which to start a fit, (145,).

    Source: Reaven & Miller (1979), as in R's ``mclust`` 6.0, whose clustering it is (Fraley & Raftery 2002).
    """
    table = _table("diabetes.csv")
    return table[:, :3], table[:, 3].astype(int)


def airquality() -> np.ndarray:
    """Daily measurements of the air in New York, May to September 1973; some are missing.

    Returns:
        An array (153, 4), NaN where missing: ozone in parts per billion, solar radiation in langleys, wind in miles an
        hour, and the highest temperature in degrees Fahrenheit.

    Source: Chambers, Cleveland, Kleiner & Tukey (1983), as in R's ``airquality``.
    """
    with resources.files(__name__).joinpath("airquality.csv").open() as file:
        return np.genfromtxt(file, delimiter=",", skip_header=1)


def nile() -> tuple[np.ndarray, np.ndarray]:
    """The yearly volume of the Nile at Aswan.

    Returns:
        The years 1871 to 1970, (100,), as whole numbers, and the flow in each, (100,), in 10^8 cubic metres.

    Source: Cobb (1978), as in Durbin & Koopman (2012), chapter 2, and in R's ``Nile``.
    """
    years, flow = _table("nile.csv").T
    return years.astype(int), flow


def speed() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three series of answers in a task where a person trades speed for accuracy.

    Returns:
        For each series the logarithm of the response time (in log milliseconds), and whether the answer was right, 1 or
        0. The series have 168, 134 and 137 trials.

    Source: Dutilh, Wagenmakers, Visser & van der Maas (2011), as ``speed`` in R's depmixS4 (Visser & Speekenbrink
    2010).
    """
    table = _table("speed.csv")
    ends = np.flatnonzero(np.diff(table[:, 2])) + 1
    return np.split(table[:, 0], ends), np.split(table[:, 1], ends)


def patents() -> dict[str, np.ndarray]:
    """Patents granted to 70 pharmaceutical and biomedical companies in 1976.

    Returns:
        The columns by name, each (70,): ``patents``, the number of patents; ``rds``, spending on research and
        development as a share of sales; ``lgrd``, the logarithm of that spending in millions of dollars.

    Source: Wang, Cockburn & Puterman (1998), as ``patent`` in R's flexmix (Gruen & Leisch 2008).
    """
    names = "patents", "rds", "lgrd"
    return dict(zip(names, _table("patents.csv").T, strict=True))


def gnp() -> np.ndarray:
    """Quarterly growth of the real gross national product of the United States, 1951 to 1984.

    Returns:
        An array (135,), in percent.

    Source: Hamilton (1989), table of data.
    """
    return _table("gnp.csv")
