"""The published priors at full size: what they cost. ``benchmarks/random_pipelines.py`` builds their architectures."""

from collections.abc import Mapping
from dataclasses import dataclass

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_DIT = {"transformer": 749_826_464, "vae": 83_653_863}
_VAE_512 = {"encode_flops": 1_116_658_466_816, "decode_flops": 2_514_518_933_504}
_DIT_SOURCE = (
    "facebook/DiT-XL-2-{size} (Peebles & Xie, 2023, table 1: 675 M parameters, {gmac} GMAC a forward pass; diffusers "
    "keeps a copy of the embedders of time and class in each of the 28 blocks, hence 750 M)"
)
_COUNTED = "FLOPs: torch.utils.flop_counter on the meta device, one image, two a multiply-add"


@dataclass(frozen=True)
class PublishedPrior:
    """Facts of a published prior.

    ``components`` are the parameters of each network as diffusers keeps it, ``parameters`` their sum.
    ``forward_flops`` is one forward pass of the denoiser for one image and one branch (with guidance above 1 an image
    takes two), ``encode_flops`` and ``decode_flops`` the auto-encoder's for one image of ``image_size`` pixels,
    ``text_flops`` the text encoder's for one prompt (0 without one); a multiply-add counts as two."""

    registry_name: str
    image_size: int
    latent_shape: tuple[int, int, int]
    components: Mapping[str, int]
    forward_flops: int
    encode_flops: int
    decode_flops: int
    text_flops: int
    source: str

    @property
    def parameters(self) -> int:
        return sum(self.components.values())

    @property
    def weights_gb(self) -> dict[str, float]:
        """Size of the weights on disk and in memory by dtype, in 10^9 bytes."""
        return {dtype: self.parameters * width / 1e9 for dtype, width in _BYTES.items()}


PUBLISHED: dict[str, PublishedPrior] = {
    "dit_xl_2_256": PublishedPrior(
        "dit", 256, (4, 32, 32), _DIT, forward_flops=237_333_676_032, encode_flops=272_722_165_760,
        decode_flops=622_187_282_432, text_flops=0,
        source=f"{_DIT_SOURCE.format(size=256, gmac=118.6)}; {_COUNTED}",
    ),
    "dit_xl_2_512": PublishedPrior(
        "dit", 512, (4, 64, 64), _DIT, forward_flops=1_049_167_429_632, **_VAE_512, text_flops=0,
        source=f"{_DIT_SOURCE.format(size=512, gmac=524.6)}; {_COUNTED}",
    ),
    "stable_diffusion_1_5": PublishedPrior(
        "stable_diffusion", 512, (4, 64, 64), {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
        forward_flops=803_273_441_280, **_VAE_512, text_flops=13_298_503_680,
        source=f"stable-diffusion-v1-5 (Rombach et al., 2022; its component configs); {_COUNTED}",
    ),
}  # fmt: skip
