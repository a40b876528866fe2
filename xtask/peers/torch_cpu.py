"""Steps on the CPU as the notebook takes them: eager, 32-bit, Adam with coupled weight decay. The images are tensors in the requested
memory format before the clock starts."""

import torch
from torch import nn

from torch_nets import network

# Batches used in turn, so that no step sees the images of the one before.
BATCHES = 4


class Eager:
    def __init__(self, options, graph):
        torch.manual_seed(0)
        layout = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[options.memory_format]
        self.model = network(graph).to(memory_format=layout)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.batches = [
            (
                torch.randn(options.batch, *graph["input"]).contiguous(memory_format=layout),
                torch.randint(0, graph["classes"], (options.batch,)),
            )
            for _ in range(BATCHES)
        ]
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        self.model.train(options.phase == "train")
        self.step = self.train if options.phase == "train" else self.evaluate
        self.taken, self.last = 0, None
        self.detail = f"eager, {options.memory_format}, Adam"

    def take(self):
        self.last = self.step(*self.batches[self.taken % BATCHES])
        self.taken += 1

    def totals(self):
        return self.last

    def train(self, images, labels):
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(images)
        loss = self.criterion(logits, labels)
        loss.backward()
        self.optimizer.step()
        return loss.item(), (logits.argmax(1) == labels).sum().item()

    @torch.inference_mode()
    def evaluate(self, images, labels):
        logits = self.model(images)
        return self.criterion(logits, labels).item(), (logits.argmax(1) == labels).sum().item()
