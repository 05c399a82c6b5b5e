"""Networks: their sizes as published, and what they return."""

import pytest
import torch
from torch import nn

from mmlib import data, models


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_preactresnet18_has_the_published_size():
    encoder, d = models.preactresnet18(3, 32)
    classifier = models.Classifier(encoder, d, classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
    # 11,171,146 parameters: convolutions, normalisations inside the blocks, head; none after the last block.
    assert sum(p.numel() for p in classifier.parameters()) == 11_171_146
    assert classifier.features(torch.rand(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    assert isinstance(classifier.encoder[-1][-1], models.PreActBlock)


def test_wrn16_8_has_the_published_size():
    encoder, d = models.wrn16_8(3, 32)
    classifier = models.Classifier(encoder, d, classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert sum(p.numel() for p in classifier.parameters()) == 10_961_370
    features = classifier.features(torch.rand(1, 3, 32, 32))
    assert features.shape == (1, 512, 8, 8)
    assert features.min() >= 0


@pytest.mark.parametrize(("size", "stages"), [(8, 2), (16, 3), (32, 4), (64, 5)])
def test_small_network_ends_in_a_4x4_map(size, stages):
    encoder, d = models.preactresnet_small(3, size)
    assert len(encoder) == 1 + stages
    assert encoder(torch.rand(2, 3, size, size)).shape == (2, d, 4, 4)


def test_block_is_pre_activated():
    torch.manual_seed(0)
    block = models.PreActBlock(4, 4, 1).eval()
    x = torch.randn(2, 4, 5, 5)
    residual = nn.functional.conv2d(block.norm1(x).relu(), block.conv1.weight, padding=1)
    residual = nn.functional.conv2d(block.norm2(residual).relu(), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), x + residual)


def test_shortcut_follows_the_first_activation():
    torch.manual_seed(0)
    block = models.PreActBlock(4, 8, 2).eval()
    x = torch.randn(2, 4, 6, 6)
    torch.nn.init.zeros_(block.conv2.weight)
    expected = nn.functional.conv2d(block.norm1(x).relu(), block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), expected)


def test_images_are_normalised_inside(digits):
    classifier = models.build("preactresnet-small", digits)
    pixels = digits.train.images.double() / 255
    torch.testing.assert_close(classifier.mean.flatten().double(), pixels.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(classifier.std.flatten().double(), pixels.std((0, 2, 3)), rtol=1e-3, atol=1e-4)
    images = pixels[:4].float()
    expected = classifier.eval().encoder((images - classifier.mean) / classifier.std)
    torch.testing.assert_close(classifier.features(images), expected)


def test_predict_is_in_evaluation_mode_and_leaves_the_mode(digits):
    classifier = models.build("preactresnet-small", digits).train()
    embeddings, logits = models.predict(classifier, digits.test, batch_size=100)
    assert classifier.training
    images = digits.test.images.float() / 255
    with torch.no_grad():
        torch.testing.assert_close(classifier.eval()(images), logits)
        torch.testing.assert_close(classifier.features(images).mean((2, 3)), embeddings)
