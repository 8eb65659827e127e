"""The quantiles are those of scipy.stats, to the last digit."""

import numpy as np
import pytest
from scipy import stats

from scepsy.steady.student import chi2_quantile, t_quantile, t_tail


@pytest.mark.parametrize("degrees", [1, 2, 19, 63, 400, 12.5])
def test_quantiles_and_tails_are_those_of_scipy(degrees: float) -> None:
    for probability in (0.005, 0.05, 0.5, 0.9, 0.975, 0.9995):
        assert t_quantile(probability, degrees) == float(stats.t.ppf(probability, degrees))
        assert chi2_quantile(probability, degrees) == float(stats.chi2.ppf(probability, degrees))
    for t in (-7.0, -1.0, 0.0, 0.3, 2.0, 9.0, np.inf):
        assert t_tail(t, degrees) == float(stats.t.sf(t, degrees))
