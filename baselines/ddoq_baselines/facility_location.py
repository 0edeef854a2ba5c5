"""Facility location: the images that cover their class best, one after another (k-medoids by greedy choice)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .engine.coreset import Coreset, WeightedConfig

if TYPE_CHECKING:
    import torch

    from .engine.selection import Choice


class FacilityLocationConfig(WeightedConfig):
    """Settings of facility location.

    similarity: ``rbf`` of the squared distance, ``cosine`` (DeepCore, arXiv 2204.08499) or ``distance`` (CRAIG, arXiv
    1906.01827). With ``weighting: counts`` an image stands for all that are nearest to it, as in CRAIG."""

    similarity: Literal["rbf", "cosine", "distance"] = "rbf"


class FacilityLocation(Coreset):
    """Greedy maximum of the sum of all images' similarities to the nearest one chosen; no draw at all."""

    name = "facility_location"
    uses_weights = True
    weight_settings = ("weighting", "alpha")
    Config = FacilityLocationConfig
    config: FacilityLocationConfig

    def label(self) -> str:
        return self.name if self.config.weighting == "uniform" else f"{self.name} {self.config.weighting}"

    def pick(self, features: torch.Tensor, ipc: int, seed: int, class_id: int) -> Choice:
        import torch

        from .engine.greedy import Similarity, facility_location, nearest_chosen

        similarity = Similarity(features, self.config.similarity)
        chosen = facility_location(similarity.rows, similarity.count, ipc)
        counts = torch.from_numpy(nearest_chosen(similarity.rows, chosen))
        return torch.from_numpy(chosen), self.config.masses(counts)
