from ddoq_plugin import Distiller, DistillerConfig
from ddoq_plugin.seeding import generator


class KCenterConfig(DistillerConfig):
    start: int | None = None  # index of the first image of each class; None: drawn from the seed


class KCenter(Distiller):
    """Greedy k-center: each next image is the one farthest from those already chosen."""

    makes_images = False
    Config = KCenterConfig

    def distill(self, context, ipc, *, clusters=None, seed=0):
        import torch

        self.check(context, ipc, None)
        images = []
        for class_id in range(context.num_classes):
            latents = context.latents(class_id).flatten(1)
            first = self.config.start
            if first is None:
                first = int(torch.randint(len(latents), (), generator=generator("k-center", seed, class_id)))
            chosen = [first]
            while len(chosen) < ipc:
                distances = torch.cdist(latents, latents[chosen]).amin(1)
                distances[chosen] = -1
                chosen.append(int(distances.argmax()))
            images.append(context.images(class_id)[chosen])
        labels = torch.arange(context.num_classes).repeat_interleave(ipc)
        return context.finish(self, torch.cat(images), labels, ipc=ipc, clusters=None, seed=seed)
