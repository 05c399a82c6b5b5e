"""Networks: their sizes as published, and what they return."""

import contextlib
import json
import sys

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlib.experiments import data, models
from mmlib.experiments.__main__ import main
from mmlib.experiments.arguments import to_arguments
from mmlib.experiments.evaluation import predict
from mmlib.experiments.methods import DenseMultiMix
from mmlib.experiments.methods.manifold_mixup import split_encoder
from mmlib.experiments.models.classifier import ImageClassifier
from mmlib.experiments.models.preact_resnet import PreActBlock


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_preactresnet18_has_the_published_size():
    encoder, d = models.MODELS["preactresnet18"](3, 32)
    classifier = models.Classifier(encoder, d, classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
    # 11,171,146 parameters: convolutions, normalisations inside the blocks, head; none after the last block.
    assert sum(p.numel() for p in classifier.parameters()) == 11_171_146
    assert classifier.features(torch.rand(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    assert classifier.features(torch.rand(1, 3, 64, 64)).shape == (1, 512, 8, 8)
    assert isinstance(classifier.encoder[-1][-1], PreActBlock)


def test_wrn16_8_has_the_published_size():
    encoder, d = models.MODELS["wrn16-8"](3, 32)
    classifier = models.Classifier(encoder, d, classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert sum(p.numel() for p in classifier.parameters()) == 10_961_370
    features = classifier.features(torch.rand(1, 3, 32, 32))
    assert features.shape == (1, 512, 8, 8)
    assert features.min() >= 0


def test_resnet50_is_torchvisions():
    from torchvision.models import resnet50

    torch.manual_seed(0)
    encoder, d = models.MODELS["resnet50"](3, 224)
    torch.manual_seed(0)
    whole = resnet50()
    # 25,557,032 parameters with the head of 1000 classes.
    assert sum(p.numel() for p in encoder.parameters()) == 25_557_032 - 1000 * (d + 1)
    whole.fc = nn.Identity()
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        features = encoder(images)
        assert features.shape == (2, 2048, 7, 7)
        torch.testing.assert_close(features.mean((2, 3)), whole(images))
        # What Manifold mixup takes for the first stage: the stem with the first three blocks.
        before, after = split_encoder(encoder, 1)
        assert before(images).shape == (2, 256, 56, 56)
        torch.testing.assert_close(after(before(images)), features)
    with pytest.raises(ValueError, match="channels of the images must be 3 for resnet50, got 1"):
        models.MODELS["resnet50"](1, 224)


@pytest.mark.parametrize(("size", "stages"), [(8, 2), (16, 3), (32, 4), (64, 5)])
def test_small_network_ends_in_a_4x4_map(size, stages):
    encoder, d = models.MODELS["preactresnet-small"](3, size)
    assert len(encoder) == 1 + stages
    assert encoder(torch.rand(2, 3, size, size)).shape == (2, d, 4, 4)


def test_classifier_has_its_interface_as_a_base():
    """Python 3.12 and later find no submodule where they look for an interface's attributes."""
    assert ImageClassifier in models.Classifier.__bases__


def test_block_is_pre_activated():
    torch.manual_seed(0)
    block = PreActBlock(4, 4, 1).eval()
    x = torch.randn(2, 4, 5, 5)
    residual = nn.functional.conv2d(block.norm1(x).relu(), block.conv1.weight, padding=1)
    residual = nn.functional.conv2d(block.norm2(residual).relu(), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), x + residual)


def test_shortcut_follows_the_first_activation():
    torch.manual_seed(0)
    block = PreActBlock(4, 8, 2).eval()
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
    embeddings, logits = predict(classifier, digits.test, batch_size=100)
    assert classifier.training
    images = digits.test.images.float() / 255
    with torch.no_grad():
        torch.testing.assert_close(classifier.eval()(images), logits)
        torch.testing.assert_close(classifier.features(images).mean((2, 3)), embeddings)


TIMM_WITHOUT = {"class_token": False, "global_pool": "avg", "fc_norm": False, "num_classes": 0}
TIMM = {
    "vit-tiny": {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4, "in_chans": 1},
    "vit-small-16": {"img_size": 48, "in_chans": 1},
}


@pytest.mark.parametrize("name", ["vit-tiny", "vit-small-16"])
def test_vit_is_timms(name):
    """Same initial weights from the same seed, and patch tokens in reading order."""
    expected = {"vit-tiny": "vit_tiny_patch16_224", "vit-small-16": "vit_small_patch16_224"}[name]
    size = TIMM[name]["img_size"]
    torch.manual_seed(0)
    encoder, d = models.MODELS[name](1, size)
    torch.manual_seed(0)
    whole = timm.create_model(expected, **TIMM[name], **TIMM_WITHOUT).eval()
    images = torch.rand(2, 1, size, size)
    with torch.no_grad():
        features, tokens = encoder.eval()(images), whole.forward_features(images)
    side = round(tokens.shape[1] ** 0.5)
    assert features.shape == (2, d, side, side)
    for row in range(side):
        for column in range(side):
            torch.testing.assert_close(features[:, :, row, column], tokens[:, row * side + column])
    classifier = models.Classifier(encoder, d, classes=10, mean=(0.0,), std=(1.0,))
    torch.testing.assert_close(classifier.embed(images), whole(images))


def test_vit_small_16_has_the_published_size():
    encoder, d = models.MODELS["vit-small-16"](3, 224)
    classifier = models.Classifier(encoder, d, classes=1000, mean=(0.5,) * 3, std=(0.2,) * 3)
    # timm's vit_small_patch16_224 has 22,050,664 parameters, two times 384 of them for the class token and its place.
    assert sum(p.numel() for p in classifier.parameters()) == 22_050_664 - 2 * 384
    assert classifier.features(torch.rand(1, 3, 224, 224)).shape == (1, 384, 14, 14)


@pytest.mark.parametrize("size", [8, 32, 64])
def test_vit_tiny_has_a_4x4_map(size):
    encoder, d = models.MODELS["vit-tiny"](3, size)
    assert encoder(torch.rand(2, 3, size, size)).shape == (2, d, 4, 4)


@pytest.mark.parametrize(("name", "size", "of"), [("vit-tiny", 10, 4), ("vit-small-16", 8, 16)])
def test_images_that_are_not_whole_patches_are_refused(name, size, of):
    with pytest.raises(ValueError, match=f"images must be a multiple of {of} pixels for this ViT, got {size}"):
        models.MODELS[name](3, size)


@pytest.mark.parametrize(("model", "package"), [("vit-tiny", "timm"), ("resnet50", "torchvision")])
def test_without_its_package_a_network_is_refused(monkeypatch, model, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"needs {package}, which cannot be imported"):
        models.MODELS[model](3, 32)


@pytest.mark.parametrize("method", ["dense_multimix", "manifold_mixup"])
def test_a_vit_runs_from_the_command_line(tmp_path, method):
    folder = tmp_path / "run"
    settings = {"dataset": "digits", "model": "vit-tiny", "method": method, "epochs": 2, "lr": 0.05}
    main(to_arguments(settings | {"attacked_per_class": 0, "out_sets": [], "folder": str(folder)}))
    assert json.loads((folder / "config.json").read_text())["model"] == "vit-tiny"
    assert json.loads((folder / "metrics.json").read_text())["accuracy"] > 5
    losses = [float(line.split(",")[2]) for line in (folder / "history.csv").read_text().splitlines()[1:]]
    assert len(losses) == 2
    assert all(1 < loss < 4 for loss in losses)


@pytest.mark.parametrize(("name", "size"), [("vit-tiny", 8), ("resnet50", 64)])
def test_every_weight_gets_a_gradient_from_dense_multimix(name, size):
    torch.manual_seed(0)
    images, labels = torch.rand(12, 3, size, size), torch.arange(12) % 4
    encoder, d = models.MODELS[name](3, size)
    classifier = models.Classifier(encoder, d, classes=4, mean=(0.5,) * 3, std=(0.3,) * 3)
    DenseMultiMix(classifier, num_mixtures=50, probability=1)(images, labels).backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0, name


def test_evaluation_mode_ends_with_the_block_and_leaves_every_submodule_its_own():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Dropout(), nn.Dropout())).train()
    network[0].eval()
    network[1][1].eval()
    before = [module.training for module in network.modules()]
    with contextlib.suppress(KeyboardInterrupt), models.eval_mode(network):
        assert not any(module.training for module in network.modules())
        raise KeyboardInterrupt
    assert [module.training for module in network.modules()] == before == [True, False, True, True, False]


def literal_preactresnet18_of_alignmixup(images, state):
    """Logits, layer by layer, from the parameters in the order in which a network is read."""
    values = iter(state)

    def norm(x):
        return nn.functional.batch_norm(x, None, None, next(values), next(values), training=True)

    x = nn.functional.conv2d(images, next(values), padding=1)
    x = norm(x).relu()
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            y = norm(x).relu()
            residual = nn.functional.conv2d(y, next(values), stride=stride, padding=1)
            residual = nn.functional.conv2d(norm(residual).relu(), next(values), padding=1)
            shortcut = y if inputs == outputs else nn.functional.conv2d(y, next(values), stride=stride)
            x, inputs = residual + shortcut, outputs
    logits = nn.functional.linear(x.mean((2, 3)), next(values), next(values))
    assert next(values, None) is None
    return logits


def test_preactresnet18_of_alignmixups_authors():
    torch.manual_seed(0)
    encoder, d = models.MODELS["preactresnet18-alignmixup"](3, 16)
    classifier = models.Classifier(encoder, d, classes=10, mean=(0.0,) * 3, std=(1.0,) * 3).double()
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.rand_like(parameter))
    images = torch.rand(4, 3, 16, 16, dtype=torch.double)
    logits = classifier(images)
    torch.testing.assert_close(logits, literal_preactresnet18_of_alignmixup(images, classifier.parameters()))
    # Two more vectors than He et al.'s, of the normalisation after the stem.
    assert sum(p.numel() for p in classifier.parameters()) == 11_171_146 + 2 * 64
    assert classifier.features(images).min() < 0
    small, d = models.MODELS["preactresnet-small-alignmixup"](3, 32)
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, d, 4, 4)


def test_small_network_with_a_stride_in_the_stem_costs_a_fifth():
    operations = {}
    for name in ("preactresnet-small", "preactresnet-small-s2"):
        encoder, d = models.MODELS[name](3, 32)
        with FlopCounterMode(display=False) as counter:
            assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, d, 4, 4)
        operations[name] = counter.get_total_flops()
    assert encoder[:2](torch.rand(2, 3, 32, 32)).shape == (2, 16, 16, 16)
    assert operations["preactresnet-small-s2"] / operations["preactresnet-small"] == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("name", ["vit-tiny", "preactresnet-small"])
def test_weight_decay_spares_position_embeddings_alone(name):
    encoder, d = models.MODELS[name](3, 32)
    classifier = models.Classifier(encoder, d, classes=2, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert classifier.no_weight_decay() == ({"encoder.0.pos_embed"} if name == "vit-tiny" else set())


def test_models_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"model must be .* got 'resnet18'"):
        models.build("resnet18", data.load("digits"))
