"""Writes tests/golden/weights: narrow encoders in each format, and their frameworks' embeddings.

    PYTHONPATH=tests/support python tests/support/make_weights.py tests/golden/weights

It needs the extra weights-test. The files were made with the versions in versions.json.
"""

import argparse
import importlib.metadata
import json
import pathlib
import sys

import haiku_encoders as in_haiku
import numpy as np
import safetensors.torch
import torch
import torch_encoders as in_torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = [ROOT / f"examples/images/test/{name}/0003.jpg" for name in ("bird", "ship")]
SEED = 20


def lightning(modules: dict[str, nn.Module]) -> dict:
    """A checkpoint as PyTorch Lightning writes it, with objects that only its user's code has."""
    state = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": state,
        "hyper_parameters": argparse.Namespace(method="byol", size=torch.Size([32])),
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
    }


def head(features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    embeddings = {}

    def model(build, transform, name, seed):
        images = in_torch.preprocessed(FILES, transform)
        made = in_torch.drawn(build, images, seed)
        embeddings[name] = in_torch.embedding(made, images)
        return made

    name = "torchvision-resnet18.pth"
    plain = model(in_torch.resnet18(2), in_torch.EVALUATION, name, SEED)
    torch.save(plain.state_dict(), folder / name)

    name = "torchvision-resnet50.safetensors"
    bottleneck = model(in_torch.resnet50(2), in_torch.EVALUATION, name, SEED + 1)
    safetensors.torch.save_file(bottleneck.state_dict(), folder / name)

    name = "lightly-resnet18.ckpt"
    backbone = model(in_torch.sequential(in_torch.resnet18(2)), in_torch.EVALUATION, name, SEED + 2)
    heads = {"projection_head": head(16), "prediction_head": head(4)}
    target = in_torch.sequential(in_torch.resnet18(2))
    modules = {"backbone": backbone, "backbone_momentum": target, **heads}
    torch.save(lightning(modules), folder / name)

    name = "lightly-generator-resnet9.pth"
    from lightly.models import ResNetGenerator

    children = list(ResNetGenerator("resnet-9", width=1 / 32).children())[:-1]
    generated = nn.Sequential(*children, nn.AdaptiveAvgPool2d(1))
    model(generated, in_torch.SMALL, name, SEED + 3)
    torch.save(
        {"state_dict": {f"backbone.{k}": v for k, v in generated.state_dict().items()}},
        folder / name,
    )

    name = "solo-learn-resnet18.ckpt"
    backbone = model(in_torch.for_cifar(in_torch.resnet18(2)), in_torch.OF_CIFAR, name, SEED + 4)
    others = {"classifier": nn.Linear(16, 10), "projector": head(16), "predictor": head(4)}
    others["momentum_backbone"] = in_torch.for_cifar(in_torch.resnet18(2))
    torch.save(lightning({"backbone": backbone, **others}), folder / name)

    images = in_haiku.preprocessed(FILES)
    for network, base in ((in_haiku.ResNet18, 2), (in_haiku.ResNet50, 1)):
        name = f"deepmind-{network.__name__.lower()}.pkl"
        encoder = in_haiku.drawn(network, base, images, SEED + base)
        encoder.save(folder / name)
        embeddings[name] = encoder.embedding(images)

    np.savez(folder / "embeddings.npz", **embeddings)
    packages = ("torch", "torchvision", "lightly", "safetensors", "jax", "dm-haiku", "dill")
    record = {package: importlib.metadata.version(package) for package in packages}
    record["images"] = [str(file.relative_to(ROOT)) for file in FILES]
    (folder / "versions.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
