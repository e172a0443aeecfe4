"""The masked pixel loss by hand, patches as inverses, and heads that fill holes with a token."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.encoder_cnn import EncoderOutput
from modeling_rcmstr.reconstruction import (
    CNNReconstructionHead,
    ResNet45ReconstructionHead,
    ViTReconstructionHead,
    build_reconstruction_head,
    masked_pixel_loss,
    patch_targets,
)


def random_visible(batch: int, rows: int, columns: int) -> Tensor:
    visible = torch.rand(batch, 1, rows, columns) < 0.4
    visible[:, :, 0, 0], visible[:, :, 0, 1] = True, False
    return visible


def patch_rows(images: np.ndarray, size: int) -> np.ndarray:
    """(B, C, H, W) images to (B, h, w, pixels) with slices and loops."""
    batch, _, height, width = images.shape
    rows = [
        [
            [
                images[b, :, i : i + size, j : j + size].reshape(-1)  # colour, row, column
                for j in range(0, width, size)
            ]
            for i in range(0, height, size)
        ]
        for b in range(batch)
    ]
    return np.array(rows)


@pytest.mark.parametrize("width", [100, 128])
def test_patches_are_the_images_pixels_and_come_back(width: int) -> None:
    images = torch.randn(2, 3, 32, width)
    targets = patch_targets(images, 4, normalize=False)
    assert targets.values.shape == (2, 48, 8, width // 4)
    assert np.array_equal(targets.values.permute(0, 2, 3, 1).numpy(), patch_rows(images.numpy(), 4))
    assert torch.equal(F.pixel_shuffle(targets.values * targets.deviation + targets.mean, 4), images)


def test_normalised_patches_have_mean_0_and_variance_1() -> None:
    images = 3 * torch.randn(2, 3, 32, 100) + 5
    targets = patch_targets(images, 4, normalize=True)
    rows = patch_rows(images.double().numpy(), 4)
    expected = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(targets.values.permute(0, 2, 3, 1).numpy(), expected, atol=2e-5)
    back = F.pixel_shuffle(targets.values * targets.deviation + targets.mean, 4)
    torch.testing.assert_close(back, images, rtol=1e-5, atol=1e-5)


def test_flat_patches_stay_finite() -> None:
    targets = patch_targets(torch.full((1, 3, 4, 4), 0.7), 4, normalize=True)
    assert float(targets.values.abs().max()) < 1e-3


def test_loss_is_the_mean_over_hidden_patches_of_all_words_together() -> None:
    prediction, target, visible = torch.randn(3, 48, 2, 5), torch.randn(3, 48, 2, 5), random_visible(3, 2, 5)
    errors = [
        np.mean((prediction[b, :, i, j] - target[b, :, i, j]).numpy().astype(np.float64) ** 2)
        for b in range(3)
        for i in range(2)
        for j in range(5)
        if not visible[b, 0, i, j]
    ]
    assert float(masked_pixel_loss(prediction, target, visible)) == pytest.approx(np.mean(errors), rel=1e-5)


def test_loss_looks_at_hidden_patches_only() -> None:
    target, visible = torch.randn(2, 48, 2, 5), random_visible(2, 2, 5)
    prediction = torch.where(visible, torch.randn(2, 48, 2, 5), target).requires_grad_()
    loss = masked_pixel_loss(prediction, target, visible)
    assert float(loss.detach()) == 0.0
    edited = torch.where(visible, torch.inf, prediction.detach() + 1).requires_grad_()
    loss = masked_pixel_loss(edited, target, visible)
    assert float(loss.detach()) == pytest.approx(1.0)
    loss.backward()
    assert edited.grad is not None
    assert not torch.where(visible, edited.grad, 0.0).any()
    assert bool(torch.where(visible, torch.ones(()), edited.grad).all())


def test_nothing_hidden_is_no_loss() -> None:
    zeros = torch.zeros(1, 48, 2, 2)
    assert float(masked_pixel_loss(zeros + 1, zeros, torch.ones(1, 1, 2, 2, dtype=torch.bool))) == 0.0


def cnn_maps(config: RCMSTRConfig, width: int, batch: int = 2) -> tuple[Tensor, ...]:
    """Maps as the CNN makes them: stem, then four stages."""
    columns = width // 4
    assert config.hidden_sizes is not None
    _, second, third, last = config.hidden_sizes
    shapes = [(4, 2, 2), (4, 2, 2), (second, 8, columns), (third, 4, columns + 1), (last, 1, columns + 1)]
    return tuple(torch.randn(batch, *shape) for shape in shapes)


def cnn_activity(width: int, batch: int = 2) -> tuple[Tensor, ...]:
    columns = width // 4
    shapes = [(2, 2), (2, 2), (8, columns), (4, columns + 1), (1, columns + 1)]
    return tuple((torch.rand(batch, 1, *shape) < 0.6).float() for shape in shapes)


@pytest.mark.parametrize("width", [100, 128])
def test_cnn_head_returns_to_the_grid_of_patches(tiny_config: Callable[..., Any], width: int) -> None:
    config = tiny_config("rcmstr", "cnn", reconstruction_size=16)
    head = build_reconstruction_head(config)
    assert isinstance(head, CNNReconstructionHead)
    maps = cnn_maps(config, width)
    patches = head(EncoderOutput(maps[-1], hidden_states=maps, active=cnn_activity(width)))
    assert patches.shape == (2, 48, 8, width // 4)
    assert F.pixel_shuffle(patches, 4).shape == (2, 3, 32, width)
    shapes: list[tuple[int, ...]] = []
    for layer in head.upsampling:
        layer.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[2:])))
    head(EncoderOutput(maps[-1], hidden_states=maps))
    assert shapes == [(2, width // 4 + 2), (4, width // 4 + 1), (8, width // 4)]


def test_cnn_head_reads_a_token_where_nothing_was_active(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config("rcmstr", "cnn", reconstruction_size=16)
    head = CNNReconstructionHead(config).eval()
    for token in head.mask_tokens:
        torch.nn.init.normal_(token)
    maps, active = cnn_maps(config, 100), cnn_activity(100)
    output = head(EncoderOutput(maps[-1], hidden_states=maps, active=active))
    # What stands at inactive positions is not read.
    edited = tuple(
        torch.where(a > 0, m, torch.full_like(m, torch.nan))
        for m, a in zip(maps[2:], active[2:], strict=True)
    )
    assert torch.equal(
        output, head(EncoderOutput(edited[-1], hidden_states=(*maps[:2], *edited), active=active))
    )
    # The token is: written there by hand, the same head on dense maps gives the same patches.
    tokens = [head.mask_tokens[2], head.mask_tokens[1], head.mask_tokens[0]]
    filled = tuple(m * a + t.detach() * (1 - a) for m, a, t in zip(maps[2:], active[2:], tokens, strict=True))
    dense = head(EncoderOutput(filled[-1], hidden_states=(*maps[:2], *filled)))
    torch.testing.assert_close(output, dense)
    output.square().sum().backward()
    assert all(bool(token.grad.any()) for token in head.mask_tokens if token.grad is not None)
    assert all(token.grad is not None for token in head.mask_tokens)


def test_every_map_reaches_the_cnn_heads_output(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config("rcmstr", "cnn", reconstruction_size=16)
    maps = tuple(m.requires_grad_() for m in cnn_maps(config, 100))
    CNNReconstructionHead(config)(EncoderOutput(maps[-1], hidden_states=maps)).square().sum().backward()
    assert [m.grad is not None and bool(m.grad.any()) for m in maps] == [False, False, True, True, True]


def test_resnet45_head_is_the_specifications() -> None:
    """Specification 4.5: token 512, 3x3 convolution to 256 with norm, 1x1 to 48."""
    head = build_reconstruction_head(RCMSTRConfig(cnn_type="resnet45", image_size=(32, 128)))
    assert isinstance(head, ResNet45ReconstructionHead)
    assert sum(p.numel() for p in head.parameters()) == 512 + 512 * 256 * 9 + 2 * 256 + 256 * 48 + 48
    patches = head(EncoderOutput(torch.randn(2, 512, 8, 32)))
    assert patches.shape == (2, 48, 8, 32)
    assert F.pixel_shuffle(patches, 4).shape == (2, 3, 32, 128)


def test_resnet45_head_reads_a_token_where_nothing_was_active() -> None:
    config = RCMSTRConfig(cnn_type="resnet45", hidden_sizes=(4, 4, 4, 4, 16), reconstruction_size=8)
    head = ResNet45ReconstructionHead(config).eval()
    (token,) = head.mask_tokens
    torch.nn.init.normal_(token)
    feature_map, active = torch.randn(2, 16, 8, 25), random_visible(2, 8, 25).float()
    unread = torch.where(active > 0, feature_map, torch.nan)
    output = head(EncoderOutput(unread, active=(active,)))
    filled = feature_map * active + token.detach() * (1 - active)
    torch.testing.assert_close(output, head(EncoderOutput(filled)))
    output.square().sum().backward()
    assert token.grad is not None
    assert bool(token.grad.all())


def test_vit_head_is_digs_pixel_decoder(tiny_config: Callable[..., Any]) -> None:
    """384 → 192 → 192, norm, GELU, → 48: 120,624 parameters; each token for itself."""
    config = tiny_config("rcmstr", "vit", hidden_size=384, num_attention_heads=6)
    head = build_reconstruction_head(config)
    assert isinstance(head, ViTReconstructionHead)
    assert sum(p.numel() for p in head.parameters()) == 120_624
    tokens = torch.randn(2, 384, 8, 32)
    patches = head(EncoderOutput(tokens))
    assert patches.shape == (2, 48, 8, 32)
    assert F.pixel_shuffle(patches, 4).shape == (2, 3, 32, 128)
    torch.testing.assert_close(head(EncoderOutput(tokens[:, :, 3:4, 7:8])), patches[:, :, 3:4, 7:8])
