"""Training of the embedded prior: stock diffusers modules, saved as a ``DiTPipeline``."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

from ..compute.onednn import use_onednn
from ..errors import PriorError
from ..progress import track
from ..seeding import derive_seed, generator
from ..store.artifacts import write_atomic
from .base import pick_device
from .binding import SIDECAR
from .loop import batch_indices, train_resumably
from .networks import build_autoencoder, build_denoiser, build_scheduler, fold_standardisation
from .recipe import AutoencoderRecipe, DenoiserRecipe, PriorRecipe

if TYPE_CHECKING:
    from ..data import ImageData
    from ..data.base import Split

REPORT = "prior_report.json"
ENCODE_BATCH = 256
PSNR_IMAGES = 2048
Moments: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def train_prior(
    data: ImageData,
    folder: str | Path,
    recipe: PriorRecipe,
    seed: int,
    progress: bool = True,
    *,
    device: str = "auto",
    checkpoint_seconds: float = 20.0,
) -> None:
    """Train a class-conditional latent diffusion prior on ``data.train`` and save it in ``folder``.

    The folder gets the layout of a ``DiTPipeline``, ``class_names.json`` (the names in the order of the class ids) and
    ``prior_report.json`` (peak signal-to-noise ratio on ``data.val`` in dB, seconds, recipe). While it trains, the
    subfolder ``checkpoint`` holds its state: after a kill the same call goes on and gives the same bits (on the same
    machine, with the same number of threads). A folder that is finished for this call is left as it is. On a CUDA
    device the networks run in bfloat16 autocast.

    Raises PriorError where recipe and image size do not fit, where the folder holds another prior, and where the
    training diverges."""
    folder, chosen = Path(folder), pick_device(device)
    recipe.latent_size(data.image_size)  # PriorError where they do not fit
    call = {
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "torch": torch.__version__,
    }
    if _finished(folder, call):
        return
    checkpoint = _checkpoint_folder(folder, call)
    options = {"checkpoint_seconds": checkpoint_seconds, "progress": progress}

    file = checkpoint / "autoencoder.pt"
    vae, autoencoder_seconds = _train_autoencoder(data, recipe.autoencoder, seed, chosen, file, options)
    moments = _standardise(vae, _encode_moments(vae, data.train, chosen, progress))
    psnr = _psnr(vae, data.val, chosen)
    file = checkpoint / "denoiser.pt"
    denoiser, denoiser_seconds = _train_denoiser(data, moments, recipe.denoiser, seed, chosen, file, options)
    report = {
        **call,
        "psnr_val_db": psnr,
        "autoencoder_seconds": round(autoencoder_seconds, 1),
        "denoiser_seconds": round(denoiser_seconds, 1),
        "autoencoder_parameters": sum(p.numel() for p in vae.parameters()),
        "denoiser_parameters": sum(p.numel() for p in denoiser.parameters()),
        "device": str(device),
    }
    pipeline = DiTPipeline(transformer=denoiser.cpu(), vae=vae.cpu(), scheduler=build_scheduler(recipe.denoiser))
    classes = {"class_names": list(data.class_names)}
    if data.wnids is not None:
        classes["wordnet_ids"] = list(data.wnids)
    _save(pipeline, classes, report, folder)
    shutil.rmtree(checkpoint)


def _train_autoencoder(
    data: ImageData, settings: AutoencoderRecipe, seed: int, device: torch.device, file: Path, options: dict
) -> tuple[AutoencoderKL, float]:
    vae = build_autoencoder(settings, data.image_size, derive_seed("prior autoencoder", seed)).to(device)
    order = derive_seed("prior autoencoder batches", seed)

    def step(t: int) -> torch.Tensor:
        picked = batch_indices(len(data.train), settings.batch_size, t, order)
        images = _signed(data.train.images(picked), device)
        noise = generator("prior autoencoder noise", seed, t, device=str(device))
        with _autocast(device):
            posterior = vae.encode(images).latent_dist
            latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise, device=device)
            restored = vae.decode(latents).sample
        error = (restored.float() - images).square().mean()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return error + settings.kl_weight * divergence

    seconds = train_resumably("prior: auto-encoder", step, {"vae": vae}, settings, file, **options)
    return vae.eval().requires_grad_(False), seconds


def _train_denoiser(
    data: ImageData,
    moments: Moments,
    settings: DenoiserRecipe,
    seed: int,
    device: torch.device,
    file: Path,
    options: dict,
) -> tuple[DiTTransformer2DModel, float]:
    mean, std = moments
    first = derive_seed("prior denoiser", seed)
    model = build_denoiser(settings, mean.shape[1], mean.shape[2], data.num_classes, first).to(device)
    use_onednn(model)
    average = copy.deepcopy(model).requires_grad_(False)
    scheduler = build_scheduler(settings)
    order = derive_seed("prior denoiser batches", seed)
    labels = data.train.labels

    def step(t: int) -> torch.Tensor:
        picked = batch_indices(len(labels), settings.batch_size, t, order)
        chance = generator("prior denoiser noise", seed, t, device=str(device))
        shape = (len(picked), *mean.shape[1:])
        clean = mean[picked].to(device) + std[picked].to(device) * torch.randn(shape, generator=chance, device=device)
        noise = torch.randn(shape, generator=chance, device=device)
        times = torch.randint(scheduler.config.num_train_timesteps, shape[:1], generator=chance, device=device)
        dropped = torch.rand(shape[:1], generator=chance, device=device) < settings.label_dropout
        classes = labels[picked].to(device).masked_fill(dropped, data.num_classes)
        noisy = scheduler.add_noise(clean, noise, times)
        target = noise if settings.prediction == "epsilon" else scheduler.get_velocity(clean, noise, times)
        with _autocast(device):
            predicted = model(noisy, timestep=times, class_labels=classes).sample
        return (predicted.float() - target).square().mean()

    @torch.no_grad()
    def follow(t: int) -> None:
        # early weights are far from the last ones: the mean starts short and lengthens
        decay = min(settings.ema_decay, (1 + t) / (10 + t))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)

    modules = {"model": model, "average": average}
    seconds = train_resumably("prior: denoiser", step, modules, settings, file, after_step=follow, **options)
    return average.eval(), seconds


@torch.no_grad()
def _encode_moments(vae: AutoencoderKL, split: Split, device: torch.device, progress: bool) -> Moments:
    """Return the posterior means and standard deviations of all images (float32 [N, C, H, W] each, on the CPU)."""
    means, stds = [], []
    for picked in track(torch.arange(len(split)).split(ENCODE_BATCH), "prior: latents", show=progress):
        posterior = vae.encode(_signed(split.images(picked), device)).latent_dist
        means.append(posterior.mean.cpu())
        stds.append(posterior.std.cpu())
    return torch.cat(means), torch.cat(stds)


def _standardise(vae: AutoencoderKL, moments: Moments) -> Moments:
    """Fold mean and standard deviation of the sampled latents into ``vae`` and return the moments in the new scale."""
    mean, std = moments
    centre = mean.mean(dim=(0, 2, 3))
    # variance of a sample = variance of the posterior means + mean posterior variance
    spread = (mean.var(dim=(0, 2, 3)) + std.square().mean(dim=(0, 2, 3))).sqrt()
    fold_standardisation(vae, centre.to(vae.device), spread.to(vae.device))
    return (mean - centre[:, None, None]) / spread[:, None, None], std / spread[:, None, None]


@torch.no_grad()
def _psnr(vae: AutoencoderKL, split: Split, device: torch.device) -> float | None:
    """Return the mean over (at most 2048 evenly spaced) images of -10 log10(mean squared error), pixels in [0, 1]."""
    if len(split) == 0:
        return None
    values = []
    for picked in torch.arange(0, len(split), max(1, len(split) // PSNR_IMAGES)).split(ENCODE_BATCH):
        images = _signed(split.images(picked), device)
        restored = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        values.append(-10 * ((restored - images) / 2).square().mean(dim=(1, 2, 3)).clamp_min(1e-10).log10())
    return round(float(torch.cat(values).mean()), 2)


def _finished(folder: Path, call: dict) -> bool:
    report = folder / REPORT
    if not report.is_file():
        if (folder / "model_index.json").is_file() and not (folder / "checkpoint").is_dir():
            raise PriorError(f"the folder {folder} holds a pipeline already: give an empty folder to train a prior in")
        return False
    made = json.loads(report.read_text())
    if differing := " and ".join(name for name, value in call.items() if made.get(name) != value):
        raise PriorError(f"the folder {folder} holds a prior made with another {differing}: give another folder")
    return True


def _checkpoint_folder(folder: Path, call: dict) -> Path:
    """Return the folder for checkpoints, emptied where it was left by a call with other arguments."""
    checkpoint = folder / "checkpoint"
    note = checkpoint / "call.json"
    text = json.dumps(call, indent=1)
    if checkpoint.is_dir() and not (note.is_file() and note.read_text() == text):
        warnings.warn(f"{checkpoint} was left by a call with other arguments: training starts anew", stacklevel=3)
        shutil.rmtree(checkpoint)
    checkpoint.mkdir(parents=True, exist_ok=True)
    write_atomic(note, text)
    return checkpoint


def _save(pipeline: DiTPipeline, classes: dict, report: dict, folder: Path) -> None:
    """Write the pipeline beside its place and move it in, the report last: a folder with a report is whole."""
    partial = folder / "checkpoint" / "pipeline"
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.save_pretrained(partial)
    write_atomic(partial / SIDECAR, json.dumps(classes, indent=1, ensure_ascii=False))
    for made in partial.iterdir():
        place = folder / made.name
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(made, place)
    write_atomic(folder / REPORT, json.dumps(report, indent=1))


def _autocast(device: torch.device):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _signed(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 images as floats in [-1, 1], the range of the auto-encoder."""
    return images.to(device).float() / 127.5 - 1
