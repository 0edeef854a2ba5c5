"""EL2N: images by the norm of their error early in training (Paul et al., "Deep learning on a data diet", NeurIPS
2021, arXiv 2107.07075)."""

from __future__ import annotations

from .engine.scored import Scored


class EL2N(Scored):
    """The images of the smallest (or largest) error. The hardest are the paper's, for keeping most of the data; at a
    few images a class they are outliers."""

    name = "el2n"
    kind = "el2n"
