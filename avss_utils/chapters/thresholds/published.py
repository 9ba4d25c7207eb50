"""Numbers of the papers, read off their figures: facts to compare with, not ours.

AVSS (arXiv 2411.02117), Figure 1, 32 layers: variance to 0.02, sparsity to 0.6e-6. Where the figure
shows only a range over several layers, or a fall between two values, the values here are spaced
evenly in it, and ``READ_OFF`` is False.
"""

import numpy as np

_FALL = np.linspace(11.7, 2.5, 15)

FIGURE_VARIANCE = np.array(
    [0.0] * 8
    + [0.02, 0.05, 0.07, 0.1]
    + [0.8, 0.9, 1.0, 1.0, 3.5]
    + list(np.linspace(4.0, 4.7, 9))
    + [5.2, 6.2, 8.2, 13.3, 16.0, 10.0]
)
_MICRO = (
    "210 154 109 81 66 55 51 42 40 34 33 31 26 24 23 20 17 17 16 12 13 12 11 10 8 7 6 4 4 3 3 2"
)
FIGURE_SPARSITY = 1e-6 * np.array([float(x) for x in _MICRO.split()])
FIGURE_PLOTTED = 1e-3 * np.array(
    [0.0] + [0.25] * 10 + [7.0, 5.6, 5.3, 5.3, 13.4] + list(_FALL) + [0.0]
)
READ_OFF = np.array([True] * 8 + [False] * 4 + [True] * 5 + [False] * 9 + [True] * 6)
