"""Files of weights as real PyTorch writes them, for the tests of their readers.

    python weights.py weights

writes them into the folder `weights`. All usable ones hold the same small network, whose values are multiples of 1/64 below 2, so
that every precision has them exactly: what is read equals `expected.safetensors`, to the bit.
"""

import collections
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def network():
    """The network of `small.toml`."""
    return nn.Sequential(
        nn.Conv2d(3, 2, 3, stride=8, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)
    )


class Module(nn.Module):
    """A class of this script, so that a reader that tried to make one would not find it."""

    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        return self.layers(x)


def filled():
    torch.manual_seed(18)
    model = network()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dtype.is_floating_point:
                low = 0 if name.endswith("running_var") else -127
                tensor.copy_(torch.randint(low, 128, tensor.shape) / 64)
            else:
                tensor.fill_(7)
    return model


def trained(model):
    """An optimizer with a state, and its schedule."""
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    clone = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    schedule.step()
    model.load_state_dict(clone)
    return optimizer, schedule


def views(state):
    """The same values: one after the other in one storage, transposed, in channels_last, as parameters, with a gradient's hook."""
    shared = torch.cat([torch.zeros(5), *(state[f"1.{name}"] for name in ["weight", "bias", "running_mean"])])
    linear = nn.Parameter(state["4.weight"].t().contiguous().t())
    wide = torch.cat([torch.zeros(2, 1, 3, 3), state["0.weight"]], 1).contiguous(memory_format=torch.channels_last)
    return collections.OrderedDict(
        [
            ("0.weight", wide[:, 1:]),
            ("1.weight", shared[5:7]),
            ("1.bias", shared[7:9]),
            ("1.running_mean", shared[9:]),
            ("1.running_var", torch.stack([state["1.running_var"], torch.ones(2)], 1)[:, 0]),
            ("4.weight", linear),
            ("4.bias", state["4.bias"].flip(0).contiguous().flip(0)),
        ]
    )


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def converted(dtype, state):
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    model = filled()
    model.train()
    optimizer, schedule = trained(model)
    state = model.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "expected.safetensors")
    everything = {"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}
    legacy = {"_use_new_zipfile_serialization": False}
    best = torch.tensor(0.9)
    for name, content, options in [
        # Usable.
        ("state_dict.pt", state, {}),
        ("notebook.pth", {"model": state, "epoch": 3, "acc": 91.5}, {}),
        ("training.pth", {**everything, "epoch": 3, "best": best, "state_dict": state, "args": {"lr": 0.1}}, {}),
        # The dictionary in use is not the first one mentioned.
        ("twice.pt", {"last": state, "parts": [state, {"is": state}], "model": state}, {}),
        ("parallel.pth", {"net": prefixed("module.", state), "acc": 91.5, "epoch": 3}, legacy),
        ("legacy.pth", {**everything, "model": state}, legacy),
        ("compiled.pt", prefixed("_orig_mod.", state), {}),
        ("float16.pt", converted(torch.float16, state), {}),
        ("bfloat16.pt", converted(torch.bfloat16, state), {}),
        ("float64.pt", converted(torch.float64, state), {}),
        ("views.pt", views(state), {}),
        ("views_legacy.pt", views(state), legacy),
        # Not usable.
        ("module.pt", Module(), {}),
        ("module_in_it.pt", {"net": Module(), "epoch": 3}, {}),
        ("two.pt", {"model": state, "net": state}, {}),
        ("nothing.pt", {"epoch": 3, "acc": 91.5}, {}),
        ("list.pt", [state], {}),
        ("tensor.pt", best, {}),
        ("int8.pt", {**state, "4.weight": torch.ones(10, 32, dtype=torch.int8)}, {}),
        ("complex.pt", {**state, "4.bias": torch.ones(10, dtype=torch.complex64)}, {}),
        ("float8.pt", {**state, "4.bias": torch.ones(10).to(torch.float8_e4m3fn)}, {}),
        ("sparse.pt", {**state, "4.weight": torch.eye(10, 32).to_sparse()}, {}),
        ("nan.pt", {**state, "4.bias": torch.tensor([1.0, float("nan")] * 5)}, {}),
        ("object.pt", {**state, "config": collections.Counter("ab")}, {}),
        ("expanded.pt", {**state, "4.weight": torch.zeros(1, 1).expand(1 << 20, 1 << 20)}, {}),
        ("protocol4.pt", state, {"pickle_protocol": 4}),
    ]:
        torch.save(content, folder / name, **options)
    torch.jit.script(network()).save(folder / "script.pt")
    torch.export.save(torch.export.export(network().eval(), (torch.rand(1, 3, 32, 32),)), folder / "program.pt2")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
