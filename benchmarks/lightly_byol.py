"""Trains lightly's published CIFAR-10 recipe of BYOL, to compare with cifar10:lightly.

    python -m venv torch-env && torch-env/bin/pip install lightly==1.6.0 torch torchvision
    torch-env/bin/python benchmarks/lightly_byol.py --train_dir=cifar10/train --run_dir=runs/theirs

The numbers are those of lightly's docs/source/getting_started/benchmarks/cifar10_benchmark.py
(class BYOLModel): SGD of 0.06 per 128 images, momentum 0.9, decay 5e-4 of every parameter, a cosine
by epochs, τ 0.99, heads of 1024 and 256, BYOLTransform without blur. Network, heads, loss, views
and moving average are lightly's own; added are a width, bfloat16, channels_last (faster on a CPU,
the same sums) and checkpoints: order and views of an epoch are drawn from (seed, epoch), so the
same command continues a run that was killed. TensorFlow and byol_tf are not needed.

The run folder gets `init.pth`, `encoder-EPOCH.pth` (byol-import reads both), `last.pt` and
`history.csv`; the loss there is lightly's, (ours - 4) / 4.
"""

import argparse
import copy
import csv
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import torch
from lightly.data import LightlyDataset
from lightly.loss import NegativeCosineSimilarity
from lightly.models import ResNetGenerator, utils
from lightly.models.modules import heads
from lightly.transforms.byol_transform import (
    BYOLTransform,
    BYOLView1Transform,
    BYOLView2Transform,
)
from torch import nn

TAU = 0.99


class BYOL(nn.Module):
    """The networks of lightly's BYOLModel, under the same names, for a ResNet-18 of any width."""

    def __init__(self, width: float):
        super().__init__()
        resnet = ResNetGenerator("resnet-18", width=width)
        self.backbone = nn.Sequential(*list(resnet.children())[:-1], nn.AdaptiveAvgPool2d(1))
        self.projection_head = heads.BYOLProjectionHead(resnet.linear.in_features, 1024, 256)
        self.prediction_head = heads.BYOLPredictionHead(256, 1024, 256)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        utils.deactivate_requires_grad(self.backbone_momentum)
        utils.deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prediction_head(self.projection_head(self.backbone(x).flatten(start_dim=1)))

    def forward_momentum(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection_head_momentum(
            self.backbone_momentum(x).flatten(start_dim=1)
        ).detach()

    def loss(self, x0: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
        """Moves the target, then returns lightly's loss, -1 at best."""
        utils.update_momentum(self.backbone, self.backbone_momentum, m=TAU)
        utils.update_momentum(self.projection_head, self.projection_head_momentum, m=TAU)
        p0, z0 = self.forward(x0), self.forward_momentum(x0)
        p1, z1 = self.forward(x1), self.forward_momentum(x1)
        return 0.5 * (
            self.criterion(p0.float(), z1.float()) + self.criterion(p1.float(), z0.float())
        )


class Trainer:
    """Model, optimizer and schedule of a run."""

    def __init__(self, width: float, epochs: int, batch_size: int, precision: str, seed: int):
        torch.manual_seed(seed)
        self.model = BYOL(width).to(memory_format=torch.channels_last).train()
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.SGD(
            trained, lr=6e-2 * batch_size / 128, momentum=0.9, weight_decay=5e-4
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, epochs)
        self.half = precision == "bfloat16"

    def step(self, x0: torch.Tensor, x1: torch.Tensor) -> float:
        """Trains a step and returns its loss."""
        x0, x1 = (x.contiguous(memory_format=torch.channels_last) for x in (x0, x1))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss = self.model.loss(x0, x1)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def views(train_dir: str, size: int = 32, blur: tuple[float, float] = (0.0, 0.0)) -> LightlyDataset:
    """Returns the images of a folder as pairs of views."""
    transform = BYOLTransform(
        view_1_transform=BYOLView1Transform(input_size=size, gaussian_blur=blur[0]),
        view_2_transform=BYOLView2Transform(input_size=size, gaussian_blur=blur[1]),
    )
    return LightlyDataset(input_dir=train_dir, transform=transform)


def batches(dataset: LightlyDataset, batch_size: int, workers: int, seed: int, epoch: int):
    """Returns the batches of one epoch, drawn from (seed, epoch)."""
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch),
    )


def save(content: dict, path: pathlib.Path) -> None:
    """Writes a file of PyTorch as a whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    torch.save(content, unfinished)
    os.replace(unfinished, path)


def train(args: argparse.Namespace) -> None:
    """Trains a run to its last epoch, from its checkpoint if there is one."""
    run_dir = pathlib.Path(args.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args.width, args.epochs, args.batch_size, args.precision, args.seed)
    last, history, rows = run_dir / "last.pt", run_dir / "history.csv", []
    state = {name: getattr(trainer, name) for name in ("model", "optimizer", "schedule")}
    settings = {
        name: value for name, value in vars(args).items() if name not in ("run_dir", "serve")
    }
    if last.exists():
        saved = torch.load(last, weights_only=True)
        if saved["settings"] != settings:
            raise SystemExit(f"{run_dir} has a run of other settings: {saved['settings']}")
        for name, part in state.items():
            part.load_state_dict(saved[name])
        rows = saved["rows"]
    else:
        save(trainer.model.state_dict(), run_dir / "init.pth")
    dataset = views(args.train_dir)
    for epoch in range(len(rows), args.epochs):
        start, losses, rate = time.perf_counter(), [], trainer.schedule.get_last_lr()[0]
        for (x0, x1), _, _ in batches(dataset, args.batch_size, args.workers, args.seed, epoch):
            losses.append(trainer.step(x0, x1))
        trainer.schedule.step()
        rows.append(
            {
                "epoch": epoch + 1,
                "loss": sum(losses) / len(losses),
                "lr": rate,
                "steps": len(losses),
                "seconds": round(time.perf_counter() - start, 2),
            }
        )
        if (epoch + 1) % args.keep_every == 0 or epoch + 1 == args.epochs:
            save(trainer.model.state_dict(), run_dir / f"encoder-{epoch + 1:04d}.pth")
        parts = {name: part.state_dict() for name, part in state.items()}
        save(parts | {"rows": rows, "settings": settings}, last)
        with (run_dir / "history.tmp").open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        os.replace(run_dir / "history.tmp", history)
        print(rows[-1], flush=True)


def serve(args: argparse.Namespace) -> None:
    """Trains the number of steps on each line of standard input and prints the seconds."""
    trainer = Trainer(args.width, args.epochs, args.batch_size, args.precision, args.seed)
    dataset = views(args.train_dir)

    def endless() -> Iterator:
        epoch = 0
        while True:
            yield from batches(dataset, args.batch_size, args.workers, args.seed, epoch)
            epoch += 1

    answer_lines(endless(), lambda batch: trainer.step(*batch[0]))


def answer_lines(source: Iterator, use: Callable) -> None:
    """Uses as many batches as each line of standard input says, and prints the seconds."""
    for _ in range(3):
        use(next(source))
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            use(next(source))
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def main() -> None:
    """Trains a run, or steps for a measurement of speed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_dir", required=True, help="images in class folders")
    parser.add_argument("--run_dir", help="folder of the run")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--workers", type=int, default=2, help="processes that make views")
    parser.add_argument("--keep_every", type=int, default=5, help="epochs between kept encoders")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
    elif args.run_dir:
        train(args)
    else:
        parser.error("give --run_dir")


if __name__ == "__main__":
    main()
