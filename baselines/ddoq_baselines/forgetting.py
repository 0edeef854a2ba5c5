"""Forgetting: images by how often training forgets them (Toneva et al., "An empirical study of example forgetting",
ICLR 2019, arXiv 1812.05159)."""

from __future__ import annotations

from .engine.scored import Scored


class Forgetting(Scored):
    """The images that are forgotten least (or most) often; one that is never learnt counts as most forgotten."""

    name = "forgetting"
    kind = "forgetting"
