"""Time encoding and generation against D4M's way, one image at a time through the stock pipelines, in one process.

    python benchmarks/generation.py                                            # small pipelines, seconds
    python benchmarks/generation.py --published dit_xl_2_256 --device cuda     # full size, random weights
    python benchmarks/generation.py --published stable_diffusion_1_5 --dtype bfloat16 --passes    # single passes, CPU

The settings are D4M's (suduo94/D4M): strength 0.7 of 50 steps, so 35 are run, and guidance 8. Its way is
``StableDiffusionImg2ImgPipeline`` on one latent after another. ``DiTPipeline`` cannot start from a latent: it is
called for as many steps from noise, which is the same work. Rounds of both ways alternate, and the median counts.
"Of the matmul rate" is the counted FLOPs of the networks over the time, as a share of what a large square product
of the same dtype reaches on the same device in the same process.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from matmul_rate import matmul_rate, timed
from random_pipelines import byte_tokenizer, random_pipeline
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ddoq_plugin.planning.model_cards import PUBLISHED
from ddoq_plugin.priors.autoencoder import AutoencoderPrior
from ddoq_plugin.priors.dit import DiTPrior
from ddoq_plugin.priors.networks import seeded
from ddoq_plugin.priors.pipelines import freeze
from ddoq_plugin.priors.stable_diffusion import wrap_stable_diffusion

STRENGTH, GUIDANCE, STEPS = 0.7, 8.0, 50
RUN = int(STRENGTH * STEPS)
CLASSES = [str(number) for number in range(1000)]


@dataclass
class Subject:
    """One pipeline: ours (a prior) and the stock way, over the same networks."""

    name: str
    prior: AutoencoderPrior
    stock: Callable[[Tensor, int, int], object]  # latent [1, ...], class, seed -> PIL image


def main() -> None:
    options = arguments()
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    print(f"{machine(device)}; torch {torch.__version__}, diffusers {diffusers.__version__}, {dtype}\n")
    for subject in subjects(options, device, dtype):
        # before and after, and the better one: on a shared machine either may be disturbed
        before = matmul_rate(device, dtype)
        show = (passes if options.passes else compare)(subject, options)
        rate = max(before, matmul_rate(device, dtype))
        show(rate)
        print(f"\nMatmul {rate / 1e12:.2f} TFLOP/s; batch sizes of ours: {batch_sizes(subject.prior)}\n", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", choices=sorted(PUBLISHED), action="append", default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: bfloat16 on CUDA")
    parser.add_argument("--images", type=int, default=128, help="images of a round of ours")
    parser.add_argument("--stock-images", type=int, default=8, help="images of a round one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", default="auto", type=lambda text: text if text == "auto" else int(text))
    parser.add_argument("--compile", action="store_true", help="torch.compile of the denoiser (ours alone)")
    parser.add_argument("--passes", action="store_true", help="one pass of each network instead of the comparison")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    return parser.parse_args()


def subjects(options: argparse.Namespace, device: torch.device, dtype: torch.dtype):
    """Yield the pipelines to be measured, one in memory at a time."""
    speed = {"compile": options.compile}
    for name in options.published:
        pipeline = random_pipeline(name, None, dtype)
        wrap = of_stable_diffusion if PUBLISHED[name].registry_name == "stable_diffusion" else of_dit
        yield wrap(name, freeze(pipeline, dtype, device), device, options.batch_size, speed)
        del pipeline
    if not options.published:
        with seeded(0):
            dit, stable = small_dit(), small_stable_diffusion()
        yield of_dit("DiT, small", freeze(dit, dtype, device), device, options.batch_size, speed)
        yield of_stable_diffusion("SD, small", freeze(stable, dtype, device), device, options.batch_size, speed)


def of_dit(name: str, pipeline, device: torch.device, batch_size, speed: dict) -> Subject:
    pipeline.set_progress_bar_config(disable=True)
    prior = DiTPrior(pipeline, [], None, None, "0", 0.0, device, batch_size, **speed)
    prior.bind_classes(CLASSES)

    def stock(latent: Tensor, class_id: int, seed: int) -> object:
        own = torch.Generator(device).manual_seed(seed)
        return pipeline([class_id], guidance_scale=GUIDANCE, generator=own, num_inference_steps=RUN).images[0]

    return Subject(name, prior, stock)


def of_stable_diffusion(name: str, pipeline, device: torch.device, batch_size, speed: dict) -> Subject:
    image_to_image = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    image_to_image.set_progress_bar_config(disable=True)
    prior = wrap_stable_diffusion(pipeline, "0", device, batch_size, **speed)
    prior.bind_classes(CLASSES)

    def stock(latent: Tensor, class_id: int, seed: int) -> object:
        return image_to_image(
            prompt=CLASSES[class_id],
            negative_prompt=prior.negative_prompt,
            image=latent.to(device, prior.unet.dtype),
            strength=STRENGTH,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]

    return Subject(name, prior, stock)


def small_autoencoder(channels: tuple[int, ...], size: int):
    levels = len(channels)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=size,
    )


def small_dit():
    """The size of the embedded prior of the digits (16 pixels), with the 1000 classes that the stock call assumes."""
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=3, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=3, sample_size=4,
        patch_size=1, num_embeds_ada_norm=1000,
    )  # fmt: skip
    vae = small_autoencoder((16, 32, 32), 16)
    return diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=diffusers.DDIMScheduler())


def small_stable_diffusion():
    """A U-Net of two levels for 32 pixels, and a text encoder of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=598, eos_token_id=599, pad_token_id=599,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    )  # fmt: skip
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear")
    return diffusers.StableDiffusionPipeline(
        vae=small_autoencoder((16, 32, 32), 32), text_encoder=CLIPTextModel(text), unet=unet, scheduler=scheduler,
        tokenizer=byte_tokenizer(600, 77), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def compare(subject: Subject, options: argparse.Namespace) -> Callable[[float], None]:
    """Time encode and generate, ours and one at a time; what is returned prints the table, given the matmul rate."""
    prior, many, few = subject.prior, options.images, options.stock_images
    size = prior.image_size
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (many, 3, size, size), generator=chance, dtype=torch.uint8)
    latents = torch.randn(many, *prior.latent_shape, generator=chance)
    classes = torch.arange(many) % len(CLASSES)
    settings = {"strength": STRENGTH, "guidance_scale": GUIDANCE, "steps": STEPS}

    def ours_encode() -> None:
        prior.encode(images)

    def stock_encode() -> None:
        for image in images[:few]:
            pixels = (image[None].to(prior.device, prior.vae.dtype) / 127.5) - 1
            (prior.vae.encode(pixels).latent_dist.sample() * prior.scale).cpu()

    def ours_generate() -> None:
        prior.generate(latents, classes, seeds=range(many), **settings)

    def stock_generate() -> None:
        for index in range(few):
            subject.stock(latents[index : index + 1], int(classes[index]), index)

    encode, denoise, decode = counted_flops(subject)
    work = {"encode": encode, "generate": 2 * RUN * denoise + decode}
    rows = []
    for what, ours, stock in (
        ("encode", ours_encode, stock_encode),
        ("generate", ours_generate, stock_generate),
    ):
        ours(), stock()  # kernels are chosen, memory is taken, and the batch size is found, in the first call
        reset_peak(prior.device)
        rounds = [(timed(stock, prior.device), timed(ours, prior.device)) for _ in range(options.rounds)]
        slow = few / statistics.median(a for a, _ in rounds)
        fast = many / statistics.median(b for _, b in rounds)
        rows.append((what, slow, fast, peak(prior.device)))

    def show(rate: float) -> None:
        print(f"## {subject.name}: {size} pixels, latents {list(prior.latent_shape)}; {parameters(prior)}")
        print(f"GFLOP an image: {', '.join(f'{k} {v / 1e9:.4g}' for k, v in work.items())}\n")
        print("| | one at a time, images/s | ours, images/s | ratio | of the matmul rate, theirs / ours | peak GiB |")
        print("|---|---|---|---|---|---|")
        for what, slow, fast, memory in rows:
            shares = f"{slow * work[what] / rate:.1%} / {fast * work[what] / rate:.1%}"
            print(f"| {what} | {slow:.4g} | {fast:.4g} | {fast / slow:.1f} | {shares} | {memory:.2f} |")

    return show


def passes(subject: Subject, options: argparse.Namespace) -> Callable[[float], None]:
    """Time one pass of each network for one image; what is returned prints the table, given the matmul rate."""
    prior = subject.prior
    encode, denoise, decode = counted_flops(subject)
    latent = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0)).to(prior.device)
    image = torch.rand(1, 3, prior.image_size, prior.image_size).to(prior.device)
    both, one = prior._predictor(torch.tensor([0]), GUIDANCE), prior._predictor(torch.tensor([0]), 1.0)
    now = torch.tensor(500)
    rows, held = [], resident()
    for what, call, flops in (
        ("denoiser, one image, two branches of guidance", lambda: both(latent[:1], now), 2 * denoise),
        ("denoiser, one image, guidance 1", lambda: one(latent[:1], now), denoise),
        ("encode one image", lambda: prior._encode(image, None), encode),
        ("decode one image", lambda: prior._decode(latent[:1]), decode),
        ("decode two images, batch size chosen by memory", lambda: prior.decode(latent.cpu()), 2 * decode),
    ):
        if not torch.isfinite(call()).all():
            raise RuntimeError(f"{what}: the result is not finite")
        before = resident() if prior.device.type == "cpu" else torch.cuda.memory_allocated(prior.device) / 2**30
        reset_peak(prior.device)
        rows.append((what, timed(call, prior.device), flops, peak(prior.device) - before))

    def show(rate: float) -> None:
        print(f"## {subject.name}: {prior.image_size} pixels; {parameters(prior)}; {held:.2f} GiB resident\n")
        print("| pass | seconds | TFLOP/s | of the matmul rate | peak over resident, GiB |\n|---|---|---|---|---|")
        for what, seconds, flops, memory in rows:
            speed = flops / seconds
            print(f"| {what} | {seconds:.2f} | {speed / 1e12:.2f} | {speed / rate:.0%} | {memory:.2f} |")

    return show


def batch_sizes(prior: AutoencoderPrior) -> dict[str, int]:
    return {stage: prior.batching.size(stage) for stage in ("encode", "denoise", "decode")}


def counted_flops(subject: Subject) -> tuple[int, int, int]:
    """Return the FLOPs of one image's encoding, of a branch of the denoiser and of decoding; two a multiply-add."""
    if subject.name in PUBLISHED:
        facts = PUBLISHED[subject.name]
        return facts.encode_flops, facts.forward_flops, facts.decode_flops
    prior = subject.prior
    latent = torch.zeros(1, *prior.latent_shape)
    predict = prior._predictor(torch.tensor([0]), 1.0)
    found = []
    for call in (
        lambda: prior._encode(torch.zeros(1, 3, prior.image_size, prior.image_size), None),
        lambda: predict(latent, torch.tensor(500)),
        lambda: prior._decode(latent),
    ):
        with FlopCounterMode(display=False) as counter:
            call()
        found.append(counter.get_total_flops())
    return tuple(found)


def parameters(prior: AutoencoderPrior) -> str:
    denoiser = prior.transformer if isinstance(prior, DiTPrior) else prior.unet
    count = [sum(p.numel() for p in network.parameters()) / 1e6 for network in (denoiser, prior.vae)]
    return f"denoiser {count[0]:.4g} M parameters, auto-encoder {count[1]:.4g} M"


def resident() -> float:
    """GiB that the process holds (on Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set


def peak(device: torch.device) -> float:
    """GiB at most since the last reset: of tensors on CUDA, of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 2**20


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].split(":")[1].strip() if models else platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
