"""MTT: matching training trajectories (Cazenavette et al., "Dataset Distillation by Matching Training Trajectories",
CVPR 2022, arXiv 2203.11932; code GeorgeCazenavette/mtt-distillation, distill.py)."""

from .engine.trajectories import TrajectoryMatcher


class MTT(TrajectoryMatcher):
    """Images on which a student's training goes where that of experts went, with a learnt learning rate.

    Pixels stay in [0, 1] without ZCA, where the code lets them leave it. All seeds share the experts, as in the paper:
    differences between seeds are those of the images alone."""

    name = "mtt"
