"""Real images through a small pretrained auto-encoder: encode, quantise, decode, look, and train students.

    python benchmarks/real_images.py --npz images.npz --encoder taef2_encoder.pth --decoder taef2_decoder.pth \\
        --output runs/real_images [--teacher squeezenet1_0.pt --teacher-classes 0,217,482,491,497,566,569,571,574,701]

The auto-encoder is TAEF2 (madebyollin/taesd on GitHub, MIT), whose two state dicts are options. The file is also a
plugin: ``ddoq sweep CONFIG --plugin benchmarks/real_images.py`` with ``prior: {name: taef2, path: FOLDER, image_size:
64}`` has the prior in any sweep, and shows how a network of one's own becomes a prior.

Without a denoiser the methods are run at strength 0: centroids are decoded as they are. Every set is written with a
contact sheet; the table has W2 in the latent space and the accuracy of ConvNet-3 students (width 32, at 32 pixels).
With ``--teacher`` (a torchvision SqueezeNet 1.0 for ImageNet, whose logits of the classes are taken) the students learn
from its logits of each distilled image, otherwise from class labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddoq_plugin import DistilledSet
from ddoq_plugin.data import ImageData, load_data
from ddoq_plugin.distiller import DistillContext
from ddoq_plugin.errors import PriorError
from ddoq_plugin.priors import Prior, load_prior
from ddoq_plugin.priors.base import pick_device
from ddoq_plugin.priors.pipelines import pick_dtype
from ddoq_plugin.registry import PRIORS
from ddoq_plugin.store.artifacts import Store, hash_key, hash_tensors

WIDTH, LATENT_CHANNELS, DOWNSAMPLING = 64, 32, 8
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Block(nn.Module):
    """Three 3x3 convolutions beside an identity skip; at the lowest resolution a normalised 1x1 branch comes first."""

    def __init__(self, normalised: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])
        self.pool = None
        if normalised:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class Bounded(nn.Module):
    """Latents beyond about 3 are squashed before they are decoded."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def encoder() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), Block(False)]
    for level in range(3):
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=2, bias=False))
        layers += [Block(normalised=level == 2) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, LATENT_CHANNELS, 3, padding=1))


def decoder() -> nn.Sequential:
    layers: list[nn.Module] = [Bounded(), nn.Conv2d(LATENT_CHANNELS, WIDTH, 3, padding=1), nn.ReLU()]
    for level in range(3):
        layers += [Block(normalised=level == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, Block(False), nn.Conv2d(WIDTH, 3, 3, padding=1))


class Taef2(Prior):
    """An auto-encoder of images in [0, 1] without a denoiser."""

    name = "taef2"
    can_denoise = False

    def __init__(self, networks: dict[str, nn.Module], image_size: int, device: torch.device, batch_size) -> None:
        super().__init__(device, batch_size)
        if image_size % DOWNSAMPLING:
            raise PriorError(f"image_size is {image_size}: TAEF2 takes a multiple of {DOWNSAMPLING} pixels")
        self.networks, self.image_size = networks, image_size
        self.latent_shape = (LATENT_CHANNELS, image_size // DOWNSAMPLING, image_size // DOWNSAMPLING)
        self.dtype = next(networks["encoder"].parameters()).dtype
        weights = [weight for part in networks.values() for weight in part.state_dict().values()]
        self.fingerprint = hash_key(["taef2", hash_tensors(*weights), image_size, str(self.dtype)])

    def _match(self, class_names: tuple[str, ...], wordnet_ids: tuple[str, ...] | None) -> None:
        pass  # decoding needs no condition

    def _encode(self, images: Tensor, generators: list[torch.Generator] | None) -> Tensor:
        return self.networks["encoder"](images.to(self.dtype))

    def _decode(self, latents: Tensor) -> Tensor:
        return self.networks["decoder"](latents.to(self.dtype))

    def _image_bytes(self, stage: str) -> int:
        return 4 * WIDTH * self.image_size**2 * self.dtype.itemsize


def load_taef2(
    path: object = None,
    device: str | torch.device = "auto",
    dtype: object = None,
    batch_size: int | str = "auto",
    *,
    image_size: int,
    encoder_file: str | None = None,
    decoder_file: str | None = None,
) -> Taef2:
    """Load TAEF2 from a folder with ``taef2_encoder.pth`` and ``taef2_decoder.pth``, or from two files."""
    given = {"encoder": encoder_file, "decoder": decoder_file}
    files = {part: file or f"{path}/taef2_{part}.pth" for part, file in given.items()}
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    networks = {"encoder": encoder(), "decoder": decoder()}
    for part, file in files.items():
        if not Path(file).is_file():
            raise PriorError(f"there is no file {file}: give the state dict of TAEF2's {part}")
        networks[part].load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        networks[part].to(device, dtype).eval().requires_grad_(False)
    return Taef2(networks, image_size, device, batch_size)


PRIORS.register("taef2", load_taef2, summary="a tiny pretrained auto-encoder", needs_path=False, can_denoise=False)


METHODS = {
    "Voronoi, sqrt weights": ("ddoq", {"strength": 0.0}),
    "Voronoi, equal weights": ("centroid", {}),
    "balanced": ("ddoq", {"strength": 0.0, "masses": "balanced", "weighting": "uniform"}),
    "D4M (one pass)": ("d4m", {"strength": 0.0}),
    "medoids, real": ("k_medoids", {}),
    "random, real": ("random", {}),
}


def main() -> None:
    options = arguments()
    data = load_data("npz", path=options.npz)
    files = {"encoder_file": options.encoder, "decoder_file": options.decoder}
    prior = load_prior("taef2", image_size=data.image_size, device=options.device, **files)
    print(f"{data.name}: {len(data.train)} training images, {data.num_classes} classes, {data.image_size} pixels")
    print(f"Round trip of the test images: PSNR {psnr(prior, data):.1f} dB\n")
    context = DistillContext(data, prior, Store(options.output / "store"))
    begun = time.perf_counter()
    sets = make_sets(context, options)
    print(f"Sets made in {time.perf_counter() - begun:.0f} s\n")
    for (name, ipc), made in sets.items():
        draw(made, options.output / f"{name.replace(', ', ' ').replace(' ', '_')}_ipc{ipc}.png")
    table(sets, data, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", required=True, help="images: x_train, y_train, x_test, y_test, class_names")
    parser.add_argument("--encoder", required=True, help="taef2_encoder.pth")
    parser.add_argument("--decoder", required=True, help="taef2_decoder.pth")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--teacher", help="state dict of a torchvision squeezenet1_0 for ImageNet: soft labels")
    parser.add_argument("--teacher-classes", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def psnr(prior: Prior, data: ImageData) -> float:
    images = data.test.images(range(0, len(data.test), 5))
    error = (prior.decode(prior.encode(images)) - images.float() / 255).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


def make_sets(context: DistillContext, options: argparse.Namespace) -> dict[tuple[str, int], DistilledSet]:
    from ddoq_plugin.distiller import make_distiller

    sets = {}
    for ipc in options.ipc:
        for name, (method, settings) in METHODS.items():
            sets[name, ipc] = make_distiller(method, settings).distill(context, ipc)
        real = sets["medoids, real", ipc]
        decoded = context.prior.decode(context.prior.encode(real.images))
        sets["medoids, decoded", ipc] = dataclasses.replace(real, images=(decoded * 255).round().to(torch.uint8))
    return sets


def draw(made: DistilledSet, path: Path) -> None:
    from ddoq_plugin.report.figures import contact_sheet

    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(made, path)


def table(sets: dict[tuple[str, int], DistilledSet], data: ImageData, options: argparse.Namespace) -> None:
    """Print W2 and the accuracy of students, mean and standard deviation over seeds."""
    from ddoq_plugin.evaluation import load_protocol, train_student
    from ddoq_plugin.evaluation.protocol import Mixing
    from ddoq_plugin.evaluation.training import TrainingSet

    teacher = None
    protocol = load_protocol("hard_short").model_copy(update={"image_size": 32})
    if options.teacher:
        teacher = squeezenet(options.teacher)
        soft = protocol.loss.model_copy(update={"name": "kl", "temperature": 4.0})
        # logits of whole images: they say nothing of a mix
        protocol = protocol.model_copy(update={"label_mode": "soft_fixed", "loss": soft, "mixing": Mixing()})
        chosen = data.test.images(range(0, len(data.test), 3))
        right = teacher(chosen)[:, options.teacher_classes].argmax(1) == data.test.labels[::3]
        print(f"The teacher has {right.float().mean():.1%} of every third test image right.\n")
    print(f"ConvNet-3 of width 32, {'soft labels' if teacher else 'class labels'}, top-1 on the test split, %")
    print("| set | IPC | W2 used | effective sample size | top-1 |\n|---|---|---|---|---|")
    for (name, ipc), made in sets.items():
        logits = teacher(made.images)[:, options.teacher_classes] if teacher else None
        train = TrainingSet(made.images, made.labels, made.weights, logits)
        scores = [
            train_student(train, "convnet3_w32", protocol, data, seed=seed, device=options.device).top1
            for seed in range(options.seeds)
        ]
        stats = made.provenance["stats"]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        figures = f"{stats.get('w2_used', float('nan')):.2f} | {stats.get('effective_sample_size', ipc):.2f}"
        print(f"| {name} | {ipc} | {figures} | {statistics.mean(scores):.1f} +- {spread:.1f} |", flush=True)


def squeezenet(file: str):
    """Return a function from uint8 images to the thousand logits of a SqueezeNet at 224 pixels."""
    from torchvision.models import squeezenet1_0

    model = squeezenet1_0()
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    model.float().eval().requires_grad_(False)
    mean, std = (torch.tensor(IMAGENET[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))

    def label(images: Tensor) -> Tensor:
        rows = []
        for part in images.split(32):
            large = F.interpolate(part.float() / 255, size=(224, 224), mode="bilinear", antialias=True).clamp(0, 1)
            rows.append(model((large - mean) / std))
        return torch.cat(rows)

    return label


if __name__ == "__main__":
    main()
