"""Resizing, padding, grey to colour, decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ddoq_plugin.data.transforms import decode_image, fit_arrays, resize_images, to_colour
from ddoq_plugin.errors import DataError


def test_28_pixels_are_padded_to_32_unless_28_is_asked_for():
    grey = torch.full((2, 1, 28, 28), 9, dtype=torch.uint8)
    padded = fit_arrays(grey, None)
    assert padded.shape == (2, 3, 32, 32)
    assert torch.equal(padded[:, :, 2:30, 2:30], torch.full((2, 3, 28, 28), 9, dtype=torch.uint8))
    assert padded.sum() == 2 * 3 * 28 * 28 * 9
    assert fit_arrays(grey, 28).shape == (2, 3, 28, 28)


def test_grey_is_repeated():
    grey = torch.arange(8, dtype=torch.uint8).view(2, 2, 2)
    assert torch.equal(to_colour(grey), grey[:, None].repeat(1, 3, 1, 1))


def test_halving_is_antialiased():
    board = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    board[..., ::2] = 200
    small = resize_images(board, 8)
    assert (small[..., 1:-1].int() - 100).abs().max() <= 1  # without antialiasing the stripes would alias to 0 or 200


def test_crop_keeps_the_centre_and_stretch_keeps_the_borders():
    wide = torch.zeros(1, 3, 4, 12, dtype=torch.uint8)
    wide[..., 4:8] = 100
    assert (resize_images(wide, 4, "crop") == 100).all()
    stretched = resize_images(wide, 4, "stretch")
    assert stretched[0, 0, 0, 0] < 50 < stretched[0, 0, 0, 1]


def test_arrays_and_files_are_resized_alike(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for mode in ("crop", "stretch"):
        ours = resize_images(torch.from_numpy(pixels).permute(2, 0, 1)[None], 16, mode)[0].permute(1, 2, 0).int()
        assert (ours - torch.from_numpy(decode_image(tmp_path / "x.png", 16, mode).astype(np.int32))).abs().max() <= 1


def test_images_that_are_not_square_need_a_size():
    with pytest.raises(DataError, match="20x10, not square; give image_size"):
        fit_arrays(torch.zeros(1, 3, 20, 10, dtype=torch.uint8), None)


def test_unknown_resize_is_named():
    with pytest.raises(DataError, match="resize='squash'"):
        resize_images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 4, "squash")


def test_orientation_of_a_photograph_is_applied(tmp_path):
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[0] = 255  # a white top row
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn clockwise to view"
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert decode_image(tmp_path / "x.png", 8, "crop")[:, -1].min() == 255


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_usual_mode_becomes_colour(tmp_path, mode):
    Image.new("RGB", (6, 6), (255, 255, 255)).convert(mode).save(tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}")
    decoded = decode_image(next(tmp_path.iterdir()), 6, "crop")
    assert decoded.shape == (6, 6, 3) and decoded.min() == 255


def test_sixteen_bit_images_are_refused_by_name(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="deep.png has mode I;16"):
        decode_image(tmp_path / "deep.png", 4, "crop")
