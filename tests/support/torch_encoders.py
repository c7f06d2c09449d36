"""Encoders of PyTorch with weights that are neither 0 nor 1, and what they say of images.

The networks are torchvision's own classes; `narrow` changes their numbers of channels only.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
# What torchvision documents for its weights, and solo-learn's T_val for CIFAR-10.
EVALUATION = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)
OF_CIFAR = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)])
SMALL = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def narrow(block: type[nn.Module], layers: Sequence[int], base: int) -> ResNet:
    """torchvision's ResNet with `base` channels in the stem instead of 64, without a classifier."""
    model = ResNet(block, list(layers))
    model.inplanes = base
    model.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
    model.bn1 = nn.BatchNorm2d(base)
    for stage, count in enumerate(layers):
        stride = 1 if stage == 0 else 2
        group = model._make_layer(block, base * 2**stage, count, stride=stride)
        setattr(model, f"layer{stage + 1}", group)
    model.fc = nn.Identity()
    return model


def resnet18(base: int = 64) -> ResNet:
    return narrow(BasicBlock, (2, 2, 2, 2), base)


def resnet50(base: int = 64) -> ResNet:
    return narrow(Bottleneck, (3, 4, 6, 3), base)


def for_cifar(model: ResNet) -> ResNet:
    """The model with the stem of solo-learn's methods/base.py for CIFAR."""
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, 1, padding=2, bias=False)
    model.maxpool = nn.Identity()
    return model


def drawn(model: nn.Module, images: torch.Tensor, seed: int = 0) -> nn.Module:
    """Draws scales and offsets, lets the statistics follow the images, and turns to inference."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.momentum = 0.5
        model.train()
        for _ in range(4):
            model(images + 0.1 * torch.randn_like(images))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # As it would after other images.
                module.running_mean.add_(0.1 * torch.randn_like(module.running_mean))
                module.running_var.mul_(torch.empty_like(module.running_var).uniform_(0.8, 1.25))
    return model.eval()


def preprocessed(files: Sequence[pathlib.Path], transform) -> torch.Tensor:
    return torch.stack([transform(Image.open(file).convert("RGB")) for file in files])


def embedding(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(images).flatten(1).numpy()


def sequential(model: ResNet) -> nn.Sequential:
    """The network's children but the classifier, as lightly's examples make a backbone of one."""
    return nn.Sequential(*list(model.children())[:-1])
