"""The PyTorch rival of train_step.py: the same networks, loss, LARS and moving average.

It is written as PyTorch's users would write it.
"""

import copy
import time

import torch
from torch import nn
from torch.nn import functional as F

DEPTHS = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}


def conv_bn(inputs, outputs, kernel, stride=1):
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    def __init__(self, inputs, channels, stride, bottleneck):
        super().__init__()
        outputs = channels * (4 if bottleneck else 1)
        if bottleneck:
            self.branch = nn.Sequential(
                conv_bn(inputs, channels, 1),
                nn.ReLU(True),
                conv_bn(channels, channels, 3, stride),
                nn.ReLU(True),
                conv_bn(channels, outputs, 1),
            )
        else:
            self.branch = nn.Sequential(
                conv_bn(inputs, channels, 3, stride), nn.ReLU(True), conv_bn(channels, outputs, 3)
            )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x):
        return F.relu(self.branch(x) + self.shortcut(x))


def resnet(depth, width, stem):
    blocks, bottleneck = DEPTHS[depth]
    channels = int(64 * width)
    if stem == "imagenet":
        layers = [conv_bn(3, channels, 7, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]
    else:
        layers = [conv_bn(3, channels, 3), nn.ReLU(True)]
    inputs = channels
    for stage, count in enumerate(blocks):
        for index in range(count):
            layers.append(
                Block(inputs, channels * 2**stage, 2 if stage and not index else 1, bottleneck)
            )
            inputs = channels * 2**stage * (4 if bottleneck else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs


def mlp(inputs):
    return nn.Sequential(
        nn.Linear(inputs, 4096),
        nn.BatchNorm1d(4096),
        nn.ReLU(True),
        nn.Linear(4096, 256, bias=False),
    )


def trainer(depth, width, size, stem, batch_size, precision, compiled):
    """Returns a function that trains `n` steps and returns the seconds they took."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    encoder, features = resnet(depth, width, stem)
    online = nn.Sequential(encoder, mlp(features)).to(device, memory_format=torch.channels_last)
    target = copy.deepcopy(online).requires_grad_(False)
    predictor = mlp(256).to(device)
    weights = [*online.parameters(), *predictor.parameters()]
    buffers = [torch.zeros_like(w) for w in weights]
    pairs = list(zip(target.parameters(), online.parameters(), strict=True))
    views = torch.randn(2, batch_size, 3, size, size, device=device)
    views = [view.contiguous(memory_format=torch.channels_last) for view in views]

    def regression(q, z):
        return (F.normalize(q.float(), dim=1) - F.normalize(z.float(), dim=1)).square().sum(1)

    def loss_of(v1, v2):
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            with torch.no_grad():
                z1, z2 = target(v1), target(v2)
            q1, q2 = predictor(online(v1)), predictor(online(v2))
        return (regression(q1, z2) + regression(q2, z1)).mean()

    if compiled:
        loss_of = torch.compile(loss_of)

    def step():
        loss = loss_of(*views)
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient, buffer in zip(weights, gradients, buffers, strict=True):  # LARS
                if weight.ndim > 1:
                    gradient = gradient + 1e-6 * weight
                    norms = weight.norm(), gradient.norm()
                    gradient *= torch.where(
                        norms[0] * norms[1] > 0, 1e-3 * norms[0] / norms[1], 1.0
                    )
                buffer.mul_(0.9).add_(gradient)
                weight.sub_(buffer, alpha=0.1)
            for average, weight in pairs:
                average.lerp_(weight, 1 - 0.996)
        return loss.item()

    def train(steps):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return time.perf_counter() - start

    return train
