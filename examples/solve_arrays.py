"""Solve a fixed point over NumPy arrays; the row function is compiled by numba.

Kepler's equation E = M + e sin E, for many orbits at once.
"""

import numpy as np

from deqcert.solvers import StopRule, arrays

mean_anomaly = np.linspace(0.0, 3.0, 1000)
eccentricity = np.full(1000, 0.7)
orbits = np.stack([mean_anomaly, eccentricity], axis=1)

kepler = arrays.rowwise(lambda anomaly, orbit: orbit[0] + orbit[1] * np.sin(anomaly))
result = arrays.solve(
    kepler, mean_anomaly[:, None], orbits, method="anderson", stop=StopRule(tol=1e-10, max_nfe=60)
)

error = result.z[:, 0] - eccentricity * np.sin(result.z[:, 0]) - mean_anomaly
print(f"{(result.status == 0).mean():.0%} converged, {result.nfe.mean():.1f} evaluations per row")
print(f"largest error of Kepler's equation: {np.abs(error).max():.1e}")
