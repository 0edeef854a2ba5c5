"""Graph cut: images that are similar to all of their class and not to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .engine.coreset import Coreset, CoresetConfig

if TYPE_CHECKING:
    import torch

    from .engine.selection import Choice


class GraphCutConfig(CoresetConfig):
    """Settings of graph cut. similarity: as of facility location; DeepCore's is ``cosine``."""

    similarity: Literal["rbf", "cosine", "distance"] = "rbf"


class GraphCut(Coreset):
    """Greedy maximum of the similarity to all images less that among the chosen (DeepCore, arXiv 2204.08499)."""

    name = "graph_cut"
    Config = GraphCutConfig
    config: GraphCutConfig

    def pick(self, features: torch.Tensor, ipc: int, seed: int, class_id: int) -> Choice:
        import torch

        from .engine.greedy import Similarity, graph_cut

        similarity = Similarity(features, self.config.similarity)
        return torch.from_numpy(graph_cut(similarity.rows, similarity.count, ipc)), None
