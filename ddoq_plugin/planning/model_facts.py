"""What networks cost: FLOPs, parameters and saved activations, counted on torch's meta device."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import PriorConfig
from ..errors import ConfigError, DDOQError
from .rates import Precision

if TYPE_CHECKING:
    import torch

    from ..evaluation.protocol import Execution

HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class StudentCard:
    """For one image: ``forward_flops`` (a multiply-add counts as two) and ``activation_bytes``, what the backward pass
    keeps in float32; and the number of ``parameters``."""

    forward_flops: int
    parameters: int
    activation_bytes: int


@dataclass(frozen=True)
class PriorCard:
    """For one image of a prior: FLOPs of a denoiser's forward pass, of encoding and of decoding."""

    label: str
    image_size: int
    latent_shape: tuple[int, int, int]
    forward_flops: int
    encode_flops: int
    decode_flops: int
    weights_bytes: int
    precision: Precision


@functools.lru_cache
def student_facts(name: str, classes: int, image_size: int) -> StudentCard:
    """Return what a student costs at this size. Raises the errors of ``build_student``.

    A network that does not run on the meta device (some ask for the kind of their device) takes two images on the CPU.
    """
    try:
        return _student_on("meta", name, classes, image_size)
    except DDOQError:
        raise
    except Exception:
        return _student_on("cpu", name, classes, image_size)


def student_precision(execution: Execution, student: str, *, gpu: bool) -> Precision:
    """Return the number format of a student's products; every GPU with stated rates multiplies bfloat16 natively."""
    from ..evaluation.runtime import resolve
    from ..evaluation.students.build import flag_of

    if not gpu or execution.precision != "auto":
        precision = resolve(execution, student, "cpu").precision
    else:
        precision = "bfloat16" if flag_of(student, "bfloat16", "cuda") else "float32"
    return "half" if precision in HALF else "float32"


def prior_facts(config: PriorConfig | None, image_size: int, classes: int, *, gpu: bool) -> PriorCard:
    """Return what a config's prior costs for a dataset of this image size.

    A published prior's numbers are those of :mod:`.model_cards`; a recipe's and an unknown folder's are
    counted from their configurations; "pixel" and no prior cost nothing, their latents are the pixels. DDOQError for a
    prior of another kind, of which nothing can be known without loading it.
    """
    if config is None or config.name == "pixel":
        size = (config.options().get("image_size") if config else None) or image_size
        return PriorCard(config.name if config else "none", size, (3, size, size), 0, 0, 0, 0, "float32")
    dtype = config.options().get("dtype") or ("float16" if gpu else "float32")
    precision: Precision = "half" if str(dtype) in HALF else "float32"
    if config.train is not None:
        return _of_recipe(config, image_size, classes, precision)
    folder = Path(str(config.path)).expanduser()
    if config.name == "autoencoder":
        return _of_autoencoder(folder, config.options().get("image_size"), image_size, precision)
    if config.name not in ("dit", "stable_diffusion"):
        raise ConfigError(f"a plan cannot know what the prior {config.name!r} costs; plan with dit or stable_diffusion")
    published = published_name(config, folder)
    if published is not None:
        return _of_published(published, config, dtype, precision)
    return _of_folder(config, folder, precision)


def published_name(config: PriorConfig, folder: Path) -> str | None:
    """Return the published prior that a config means, by its folder's configuration or else by its name.

    None for another architecture. A folder that is not there is taken for the published prior of its kind.
    """
    if config.name == "stable_diffusion":
        unet = _component(folder, "unet")
        same = not unet or (unet.get("cross_attention_dim"), tuple(unet.get("block_out_channels", ()))) == (
            768, (320, 640, 1280, 1280),
        )  # fmt: skip
        return "stable_diffusion_1_5" if same else None
    if config.name != "dit":
        return None
    found = _component(folder, "transformer")
    if found:
        shape = tuple(found.get(key) for key in ("num_layers", "num_attention_heads", "patch_size", "sample_size"))
        return {(28, 16, 2, 32): "dit_xl_2_256", (28, 16, 2, 64): "dit_xl_2_512"}.get(shape)
    return "dit_xl_2_512" if "512" in folder.name else "dit_xl_2_256"


def count_flops(network: torch.nn.Module, *inputs: Any, **named: Any) -> int:
    """Return the FLOPs of one call of a network."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs, **named)
    return counter.get_total_flops()


def _student_on(device: str, name: str, classes: int, image_size: int) -> StudentCard:
    import torch

    from ..evaluation import build_student

    with torch.device(device):
        model = build_student(name, classes, image_size, seed=0).train()
        images = torch.zeros(2, 3, image_size, image_size)
    return StudentCard(
        forward_flops=count_flops(model, images) // 2,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        activation_bytes=_kept_bytes(model, images) // 2,
    )


def _kept_bytes(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Return the bytes of the distinct tensors that a forward pass keeps for the backward one, weights left out."""
    import torch

    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    return sum(size for address, size in kept.items() if address not in own)


def _of_published(name: str, config: PriorConfig, dtype: str, precision: Precision) -> PriorCard:
    from .model_cards import PUBLISHED

    facts = PUBLISHED[name]
    size = config.options().get("image_size") or facts.image_size
    scale = (size / facts.image_size) ** 2  # attention grows faster; a size that is not the published one is rare
    channels, height, width = facts.latent_shape
    side = round(height * size / facts.image_size)
    return PriorCard(
        label=name,
        image_size=size,
        latent_shape=(channels, side, side),
        forward_flops=round(facts.forward_flops * scale),
        encode_flops=round(facts.encode_flops * scale),
        decode_flops=round(facts.decode_flops * scale),
        weights_bytes=round(facts.weights_gb[str(dtype)] * 1e9),
        precision=precision,
    )


def _of_recipe(config: PriorConfig, image_size: int, classes: int, precision: Precision) -> PriorCard:
    import torch

    from ..priors import load_recipe
    from ..priors.networks import build_autoencoder, build_denoiser

    recipe = load_recipe(config.train)
    side, channels = recipe.latent_size(image_size), recipe.autoencoder.latent_channels
    with torch.device("meta"):
        autoencoder = build_autoencoder(recipe.autoencoder, image_size, 0)
        denoiser = build_denoiser(recipe.denoiser, channels, side, classes, 0)
    return _counted(f"dit {config.train}", autoencoder, denoiser, image_size, (channels, side, side), precision)


def _of_folder(config: PriorConfig, folder: Path, precision: Precision) -> PriorCard:
    import diffusers
    import torch

    denoiser_folder = "unet" if config.name == "stable_diffusion" else "transformer"
    built = []
    for part in ("vae", denoiser_folder):
        settings = _component(folder, part)
        with torch.device("meta"):
            built.append(getattr(diffusers, settings["_class_name"]).from_config(settings))
    autoencoder, denoiser = built
    side = denoiser.config.sample_size
    size = side * 2 ** (len(autoencoder.config.block_out_channels) - 1)
    shape = (denoiser.config.in_channels, side, side)
    return _counted(f"{config.name} {folder.name}", autoencoder, denoiser, size, shape, precision)


def _of_autoencoder(folder: Path, chosen: int | None, data_size: int, precision: Precision) -> PriorCard:
    import diffusers
    import torch

    settings = _component(folder, ".") or _component(folder, "vae")
    if not settings:
        raise ConfigError(f"there is no auto-encoder in {folder}; give prior.path the folder with its config.json")
    image_size = chosen or settings.get("sample_size") or data_size
    with torch.device("meta"):
        network = getattr(diffusers, settings["_class_name"]).from_config(settings).eval()
        images = torch.zeros(1, 3, image_size, image_size)
        latents = network.encoder(images)[:, : network.config.latent_channels]
    return PriorCard(
        label=f"autoencoder {folder.name}",
        image_size=image_size,
        latent_shape=tuple(latents.shape[1:]),
        forward_flops=0,
        encode_flops=count_flops(network.encoder, images),
        decode_flops=count_flops(network.decoder, latents),
        weights_bytes=sum(p.numel() for p in network.parameters()) * (2 if precision == "half" else 4),
        precision=precision,
    )


def _counted(
    label: str,
    autoencoder: torch.nn.Module,
    denoiser: torch.nn.Module,
    size: int,
    shape: tuple[int, int, int],
    precision: Precision,
) -> PriorCard:
    import torch

    with torch.device("meta"):
        images, latents = torch.zeros(1, 3, size, size), torch.zeros(1, *shape)
        time, width = torch.zeros(1, dtype=torch.int64), getattr(denoiser.config, "cross_attention_dim", None)
        text = None if width is None else torch.zeros(1, 77, width)
        condition = {"class_labels": time} if text is None else {"encoder_hidden_states": text}
    vae: Any = autoencoder
    numbers = sum(p.numel() for network in (autoencoder, denoiser) for p in network.parameters())
    return PriorCard(
        label=label,
        image_size=size,
        latent_shape=shape,
        forward_flops=count_flops(denoiser.eval(), latents, timestep=time, **condition),
        encode_flops=count_flops(vae.encoder.eval(), images),
        decode_flops=count_flops(vae.decoder.eval(), latents),
        weights_bytes=numbers * (2 if precision == "half" else 4),
        precision=precision,
    )


def _component(folder: Path, part: str) -> dict[str, Any]:
    file = folder / part / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
