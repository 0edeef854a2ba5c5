"""What networks cost: FLOPs, parameters and saved activations, counted on torch's meta device."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import PriorConfig
from ..errors import ConfigError, DDOQError
from ..priors import load_recipe
from .model_cards import PUBLISHED
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
    prior of another kind, of which nothing can be known without loading it."""
    if config is None or config.name == "pixel":
        size = (config.options().get("image_size") if config else None) or image_size
        return PriorCard(config.name if config else "none", size, (3, size, size), 0, 0, 0, 0, "float32")
    options = config.options()
    dtype, asked = options.get("dtype") or ("float16" if gpu else "float32"), options.get("image_size")
    precision: Precision = "half" if str(dtype) in HALF else "float32"
    if config.train is not None:
        return _of_recipe(config.train, image_size, classes, precision)
    folder = Path(str(config.path)).expanduser()
    if config.name == "autoencoder":
        return _of_autoencoder(folder, asked, image_size, precision)
    if config.name not in ("dit", "stable_diffusion"):
        raise ConfigError(f"a plan cannot know what the prior {config.name!r} costs; plan with dit or stable_diffusion")
    name = published_name(config)
    if name is None:
        return _of_folder(config.name, folder, precision)
    facts = PUBLISHED[name]
    size = asked or facts.image_size
    scale = (size / facts.image_size) ** 2  # attention grows faster; a size that is not the published one is rare
    channels, height, _ = facts.latent_shape
    side = round(height * size / facts.image_size)
    forward, encode, decode = (
        round(one * scale) for one in (facts.forward_flops, facts.encode_flops, facts.decode_flops)
    )
    weights = round(facts.weights_gb[str(dtype)] * 1e9)
    return PriorCard(name, size, (channels, side, side), forward, encode, decode, weights, precision)


def published_name(config: PriorConfig) -> str | None:
    """Return the published prior that a config means, by its folder's configuration or else by its name.

    None for another architecture. A folder that is not there is taken for the published prior of its kind."""
    folder = Path(str(config.path)).expanduser()
    if config.name == "stable_diffusion":
        unet = _component(folder, "unet")
        found = (unet.get("cross_attention_dim"), tuple(unet.get("block_out_channels", ())))
        return "stable_diffusion_1_5" if not unet or found == (768, (320, 640, 1280, 1280)) else None
    if config.name != "dit":
        return None
    transformer = _component(folder, "transformer")
    if transformer:
        shape = [transformer.get(key) for key in ("num_layers", "num_attention_heads", "patch_size", "sample_size")]
        return {(28, 16, 2, 32): "dit_xl_2_256", (28, 16, 2, 64): "dit_xl_2_512"}.get(tuple(shape))
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
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return StudentCard(count_flops(model, images) // 2, parameters, _kept_bytes(model, images) // 2)


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


def _of_recipe(name: str, image_size: int, classes: int, precision: Precision) -> PriorCard:
    import torch

    from ..priors.networks import build_autoencoder, build_denoiser

    recipe = load_recipe(name)
    side, channels = recipe.latent_size(image_size), recipe.autoencoder.latent_channels
    with torch.device("meta"):
        autoencoder = build_autoencoder(recipe.autoencoder, image_size, 0)
        denoiser = build_denoiser(recipe.denoiser, channels, side, classes, 0)
    return _counted(f"dit {name}", image_size, (channels, side, side), precision, autoencoder, denoiser)


def _of_folder(name: str, folder: Path, precision: Precision) -> PriorCard:
    autoencoder = _built(_component(folder, "vae"))
    denoiser = _built(_component(folder, "unet" if name == "stable_diffusion" else "transformer"))
    side = denoiser.config.sample_size
    size = side * 2 ** (len(autoencoder.config.block_out_channels) - 1)
    shape = (denoiser.config.in_channels, side, side)
    return _counted(f"{name} {folder.name}", size, shape, precision, autoencoder, denoiser)


def _of_autoencoder(folder: Path, chosen: int | None, data_size: int, precision: Precision) -> PriorCard:
    import torch

    settings = _component(folder, ".") or _component(folder, "vae")
    if not settings:
        raise ConfigError(f"there is no auto-encoder in {folder}; give prior.path the folder with its config.json")
    size, network = chosen or settings.get("sample_size") or data_size, _built(settings)
    _, _, height, width = network.encoder(torch.zeros(1, 3, size, size, device="meta")).shape
    shape = (network.config.latent_channels, height, width)
    return _counted(f"autoencoder {folder.name}", size, shape, precision, network)


def _counted(
    label: str, size: int, shape: tuple[int, int, int], precision: Precision, autoencoder: Any, denoiser: Any = None
) -> PriorCard:
    import torch

    networks, forward = [autoencoder.eval()], 0
    with torch.device("meta"):
        images, latents, time = torch.zeros(1, 3, size, size), torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64)
        if denoiser is not None:
            networks.append(denoiser.eval())
            width = getattr(denoiser.config, "cross_attention_dim", None)
            text = {"class_labels": time} if width is None else {"encoder_hidden_states": torch.zeros(1, 77, width)}
            forward = count_flops(denoiser, latents, timestep=time, **text)
    encode, decode = count_flops(autoencoder.encoder, images), count_flops(autoencoder.decoder, latents)
    numbers = sum(parameter.numel() for network in networks for parameter in network.parameters())
    return PriorCard(
        label, size, shape, forward, encode, decode, numbers * (2 if precision == "half" else 4), precision
    )


def _built(settings: dict[str, Any]) -> Any:
    """Return the network of a diffusers configuration on the meta device."""
    import diffusers
    import torch

    with torch.device("meta"):
        return getattr(diffusers, settings["_class_name"]).from_config(settings)


def _component(folder: Path, part: str) -> dict[str, Any]:
    file = folder / part / "config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
