"""DSA: gradient matching under one augmentation of real and made images (Zhao & Bilen, "Dataset Condensation with
Differentiable Siamese Augmentation", ICML 2021, arXiv 2102.08259; code VICO-UoE/DatasetCondensation, main.py)."""

from ddoq_plugin.evaluation.dsa_strategy import STRATEGY

from .dc import DC, DCConfig


class DSA(DC):
    """DC from real images, with an augmentation drawn for each class and step.

    ``align_corners`` is True, as in the torch 1.2 of the paper; a newer torch gives the code another rotation."""

    name = "dsa"
    Config = DCConfig.preset(init="real", dsa=STRATEGY)
