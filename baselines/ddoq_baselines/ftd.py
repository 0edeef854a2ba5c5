"""FTD: trajectories of flat minima, and the average of the images on the way (Du et al., "Minimizing the Accumulated
Trajectory Error to Improve Dataset Distillation", CVPR 2023, arXiv 2211.11004; code AngusDujw/FTD-distillation)."""

from __future__ import annotations

from .engine.learning import Momentum, Rates
from .engine.trajectories import ExpertConfig, TrajectoryConfig, TrajectoryMatcher


class FTDConfig(TrajectoryConfig):
    """Settings of FTD; the defaults are those of its table for CIFAR-10 at IPC 10.

    average: the set is the moving average of the images over the iterations, with this decay (0: the images at the
    end). The learnt rate is not averaged."""

    experts: ExpertConfig = ExpertConfig(optimiser="gsam", rho=0.01, alpha=0.3)
    rate: Rates = 0.001
    average: Momentum | dict[int, Momentum] = 0.9995


class FTD(TrajectoryMatcher):
    """MTT on experts trained with GSAM, whose set is the average of the images on the way."""

    name = "ftd"
    Config = FTDConfig
    quick = {**TrajectoryMatcher.quick, "experts": {"count": 1, "epochs": 2, "batch": 32, "optimiser": "gsam"}}

    def decay(self, ipc: int) -> float:
        return float(self.config.at(ipc).average)
