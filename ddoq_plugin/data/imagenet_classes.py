"""ImageNet's WordNet ids and readable names, and which of them make up the usual subsets."""

import functools
import re

WNID = re.compile(r"n\d{8}")

# ImageNette, ImageWoof: fastai, github.com/fastai/imagenette. ImageMeow, ImageSquawk, ImageFruit, ImageYellow: the
# class lists of MTT (Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022; its
# utils.py). ImageNet-100: imagenet100.txt of CMC (Tian et al., "Contrastive Multiview Coding", ECCV 2020); other papers
# use other lists under this name: give theirs as `classes` of imagenet. The class order is that of the sorted ids.
_SUBSETS = """
imagenette n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257
imagewoof n02086240 n02087394 n02088364 n02089973 n02093754 n02096294 n02099601 n02105641 n02111889 n02115641
imagemeow n02123045 n02123159 n02123394 n02123597 n02124075 n02127052 n02128757 n02128925 n02129165 n02129604
imagesquawk n01518878 n01614925 n01806143 n01818515 n01819313 n01843383 n01860187 n02007558 n02051845 n02056570
imagefruit n07718472 n07720875 n07742313 n07745940 n07747607 n07749582 n07753113 n07753275 n07753592 n07768694
imageyellow n01531178 n01773157 n02129165 n02206856 n03530642 n04146614 n07749582 n07753592 n12057211 n12144580
imagenet100 n01558993 n01692333 n01729322 n01735189 n01749939 n01773797 n01820546 n01855672 n01978455 n01980166
  n01983481 n02009229 n02018207 n02085620 n02086240 n02086910 n02087046 n02089867 n02089973 n02090622
  n02091831 n02093428 n02099849 n02100583 n02104029 n02105505 n02106550 n02107142 n02108089 n02109047
  n02113799 n02113978 n02114855 n02116738 n02119022 n02123045 n02138441 n02172182 n02231487 n02259212
  n02326432 n02396427 n02483362 n02488291 n02701002 n02788148 n02804414 n02859443 n02869837 n02877765
  n02974003 n03017168 n03032252 n03062245 n03085013 n03259280 n03379051 n03424325 n03492542 n03494278
  n03530642 n03584829 n03594734 n03637318 n03642806 n03764736 n03775546 n03777754 n03785016 n03787032
  n03794056 n03837869 n03891251 n03903868 n03930630 n03947888 n04026417 n04067472 n04099969 n04111531
  n04127249 n04136333 n04229816 n04238763 n04336792 n04418357 n04429376 n04435653 n04485082 n04493381
  n04517823 n04589890 n04592741 n07714571 n07715103 n07753275 n07831146 n07836838 n13037406 n13040303
"""
SUBSETS: dict[str, tuple[str, ...]] = {
    name: tuple(ids.split()) for name, ids in re.findall(r"(image\w+)((?:\s+n\d{8})+)", _SUBSETS)
}


@functools.cache
def imagenet_names() -> dict[str, str]:
    """Return {WordNet id: readable name} of the 1000 classes, in class order (sorted ids).

    The ids are timm's, the names torchvision's (short, and all different), which its pretrained models carry."""
    from timm.data import ImageNetInfo
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), _IMAGENET_CATEGORIES, strict=True))


def readable_names(folders: list[str]) -> list[str] | None:
    """Return readable names when every folder is called by the id of an ImageNet class, otherwise None."""
    if not all(WNID.fullmatch(folder) for folder in folders):
        return None
    names = imagenet_names()
    return [names[folder] for folder in folders] if all(folder in names for folder in folders) else None
