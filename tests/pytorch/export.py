"""Exports usual networks from PyTorch with xtask/peers/export_network.py, and compares what the trainer computes with PyTorch.

    python export.py TRAINER

Needs torch, torchvision, safetensors, numpy and pillow. The networks are rewritten from the most common implementations
(kuangliu/pytorch-cifar, torchvision), others are torchvision's own, and the study's three are those of golden.py. Everything that cannot be
described is refused with a sentence that names it.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "xtask/peers")]

import golden  # noqa: E402
import torchvision  # noqa: E402
from export_network import CannotDescribe, export, state_dict_of  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

IMAGES = 4
# Of the logarithms of probabilities, relative to the largest of them: both sides compute in f32, in different orders.
TOLERANCE = 1e-5
# The usual ones of CIFAR-10, which the trainer uses for weights that do not name theirs.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        x = F.relu(self.fc1(x))
        return self.fc3(F.relu(self.fc2(x)))


class VGG(nn.Module):
    def __init__(self, plan=(64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")):
        super().__init__()
        layers, channels = [], 3
        for step in plan:
            if step == "M":
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            else:
                layers += [nn.Conv2d(channels, step, 3, padding=1), nn.BatchNorm2d(step), nn.ReLU(inplace=True)]
                channels = step
        self.features = nn.Sequential(*layers, nn.AvgPool2d(kernel_size=1, stride=1))
        self.classifier = nn.Linear(512, 10)

    def forward(self, x):
        out = self.features(x)
        return self.classifier(out.view(out.size(0), -1))


class BasicBlock(nn.Module):
    def __init__(self, channels, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class PreActBlock(nn.Module):
    def __init__(self, channels, planes, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(planes)
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        if stride != 1 or channels != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, planes, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class ZeroPadShortcut(nn.Module):
    """Option A of He et al."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels // 4, self.channels // 4), "constant", 0)


class OptionABlock(BasicBlock):
    def __init__(self, channels, planes, stride):
        super().__init__(channels, planes, stride)
        if stride != 1:
            self.shortcut = ZeroPadShortcut(planes)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, planes, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, planes, 3, stride, 1, groups=math.gcd(channels, planes))
        self.down, self.up = nn.Conv2d(planes, 4, 1), nn.Conv2d(4, planes, 1)
        self.act, self.gate = nn.SiLU(inplace=True), nn.Sigmoid()

    def forward(self, x):
        x = self.act(self.conv(x))
        y = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.up(F.gelu(self.down(y), approximate="tanh"))).expand_as(x)


class DenseLayer(nn.Module):
    """Concatenated channels, and a factor."""

    def __init__(self, channels, planes, stride):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        self.conv = nn.Conv2d(channels, planes - channels if stride == 1 else planes, 3, padding="same", bias=False)
        self.stride = stride

    def forward(self, x):
        new = self.conv(F.leaky_relu(self.bn(x), 0.2))
        if self.stride > 1:
            return F.avg_pool2d(new, 3, self.stride, 1, count_include_pad=False) / 2
        return torch.cat([new, x * 0.5], 1)


class Blocks(nn.Module):
    """A stem, blocks of one kind, and a classifier."""

    def __init__(self, block, plan=((16, 16, 1), (16, 32, 2), (32, 64, 2))):
        super().__init__()
        self.conv1 = nn.Conv2d(3, plan[0][0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(plan[0][0])
        self.layers = nn.Sequential(*(block(*part) for part in plan))
        self.linear = nn.Linear(plan[-1][1], 10)

    def forward(self, x):
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.linear(torch.flatten(out, 1))


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.linear = nn.Linear(512, 10)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        out = F.avg_pool2d(out, 4)
        return self.linear(out.view(out.size(0), -1))


class InvertedResidual(nn.Module):
    def __init__(self, channels, planes, expansion, stride):
        super().__init__()
        self.stride, wide = stride, expansion * channels
        self.conv1, self.bn1 = nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv3, self.bn3 = nn.Conv2d(wide, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride == 1 and channels != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, planes, 1, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.stride == 1 else out


class MobileNetV2(nn.Module):
    plan = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        blocks, channels = [], 32
        for expansion, planes, count, stride in self.plan:
            for place in range(count):
                blocks.append(InvertedResidual(channels, planes, expansion, stride if place == 0 else 1))
                channels = planes
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, 10)

    def forward(self, x):
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        out = F.relu(self.bn2(self.conv2(out)))
        out = F.avg_pool2d(out, 4)
        return self.linear(out.view(out.size(0), -1))


class InPlace(nn.Module):
    """Overwrites a tensor that is read again: the shortcut becomes the ReLU of the sum."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.3)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(3), nn.Linear(72, 10)

    def forward(self, x):
        x = self.conv1(x)
        y = self.conv2(self.relu(x)) + x
        y = F.dropout(self.pool(y).flatten(1), 0.2, self.training)
        return self.fc(self.drop(y))


class Changed(InPlace):
    """Common parts that cannot be described."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.norm, self.same = nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        x = self.conv1(x)
        if self.change == "norm":
            x = self.norm(x)
        if self.change == "shared":
            x = self.same(self.same(x))
        if self.change == "values":
            x = x if x.sum() > 0 else -x
        if self.change == "parameter":
            x = x * self.scale
        if self.change == "channels":
            x = torch.cat(x.chunk(2, 1)[::-1], 1)
        if self.change == "crossed":
            a = self.conv2(x)
            b = self.same(x)
            c = F.relu(a + b)
            x = (c + a) * b
        if self.change == "number":
            x = x + 1
        if self.change == "overwritten":
            y = x
            x += 1.0 * x
            x = x * y
        if self.change == "always":
            x = F.dropout(x, 0.5)
        if self.change == "several":
            return x, x
        return x if self.change == "map" else self.fc(self.pool(x).flatten(1))


NETWORKS = {
    **golden.NETS,
    "lenet": LeNet,
    "vgg": VGG,
    "resnet18": ResNet18,
    "mobilenetv2": MobileNetV2,
    "preactivation": lambda: Blocks(PreActBlock),
    "option_a": lambda: Blocks(OptionABlock, ((16, 16, 1), (16, 32, 2), (32, 32, 1))),
    "squeeze_excitation": lambda: Blocks(SqueezeExcitation),
    "dense": lambda: Blocks(DenseLayer, ((16, 28, 1), (28, 40, 1), (40, 20, 2))),
    "in_place": InPlace,
    "torchvision_resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "torchvision_mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "torchvision_densenet121": lambda: torchvision.models.densenet121(num_classes=10),
    "torchvision_squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=10),
}

REFUSED = {
    "norm": "norm (GroupNorm) cannot be described: there is no such layer",
    "shared": "same (Conv2d) cannot be described: it is used twice, and layers cannot share weights",
    "values": "torch.fx cannot trace the forward pass (TraceError: ",
    "parameter": "mul cannot be described: it takes the tensor scale itself; use a module",
    "channels": "chunk",
    "crossed": "goes to several places that do not join again",
    "number": "add cannot be described: a number is added",
    "overwritten": "from what the network computes: it may overwrite a tensor that is read again",
    "always": "also drops values in evaluation: give it training=self.training",
    "several": "the forward pass returns several results",
    "map": "the forward pass returns shape [8, 30, 30], not a vector of logits",
}


def filled(make):
    """A network whose statistics all differ from the initial ones."""
    torch.manual_seed(1)
    module = make().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.2, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.uniform_(part.bias, -0.2, 0.2)
            part.num_batches_tracked.fill_(7)
    return module


def images(folder):
    generator = numpy.random.default_rng(2)
    paths, values = [], []
    for number in range(IMAGES):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=numpy.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
        values.append(torch.tensor(pixels).permute(2, 0, 1) / 255)
    mean, std = (torch.tensor(figures).view(3, 1, 1) for figures in (MEAN, STD))
    return paths, (torch.stack(values) - mean) / std


def run(trainer, *arguments):
    done = subprocess.run([trainer, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def check(name, make, trainer, folder, paths, values):
    module = filled(make)
    description, weights = export(module, (3, 32, 32), name)
    file, saved = folder / f"{name}.toml", folder / f"{name}.safetensors"
    file.write_text(description, encoding="utf-8")
    save_file(weights, saved)
    # The same weights, as torch.save writes them.
    torch.save({"net": module.state_dict(), "epoch": 1, "acc": 90.0}, folder / f"{name}.pth")
    assert state_dict_of(folder / f"{name}.pth").keys() == module.state_dict().keys()
    with torch.no_grad():
        expected = module(values).log_softmax(1)
    largest = 0
    for checkpoint in [saved, folder / f"{name}.pth"]:
        shown = run(trainer, "predict", "--json", "--model", file, "--checkpoint", checkpoint, *paths)
        for answer, row in zip(json.loads(shown), expected, strict=True):
            found = [math.log(max(p, 1e-30)) for p in answer["probabilities"].values()]
            # The trainer sorts classes by name; these are CIFAR-10's, whose labels are in that order.
            largest = max(largest, *(abs(a - b) for a, b in zip(found, row.tolist(), strict=True)))
    scale = max(1.0, expected.abs().max().item())
    print(f"{name}: {largest:.1e} of {scale:.1f}")
    if not largest <= TOLERANCE * scale:
        raise SystemExit(f"{name}: the trainer's answer differs by {largest:.3g} from PyTorch's")


def main(trainer):
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        paths, values = images(folder)
        for name, make in NETWORKS.items():
            check(name, make, trainer, folder, paths, values)
        for change, sentence in REFUSED.items():
            try:
                export(Changed(change), (3, 32, 32), "changed")
            except CannotDescribe as error:
                assert sentence in str(error) and "\n" not in str(error), f"{change}: {error}"
            else:
                raise SystemExit(f"{change}: it should have been refused")
        # From the command line, with weights from a file.
        exporter = HERE.parent.parent / "xtask/peers/export_network.py"
        torch.save({"model": {f"module.{k}": v for k, v in filled(LeNet).state_dict().items()}}, folder / "w.pth")
        arguments = [f"{__file__}:LeNet", "--weights", folder / "w.pth", "--out", folder / "out", "--name", "mine"]
        command = [sys.executable, str(exporter), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shown = run(trainer, "import", folder / "out/mine.safetensors", "--network", folder / "out/mine.toml", "--out", folder / "mine")
        assert "62006 parameters of `mine`" in shown, shown
        again = subprocess.run(command, check=False, capture_output=True, text=True)
        assert again.returncode == 1 and "already exists" in again.stderr, again.stderr
    print(f"{len(NETWORKS)} networks as PyTorch computes them, {len(REFUSED)} refused by name")


if __name__ == "__main__":
    main(sys.argv[1])
