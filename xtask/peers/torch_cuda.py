"""Steps on an NVIDIA GPU: with PyTorch's best settings, and as the notebook takes them.

*Best settings*: the images are on the GPU as bytes before the clock starts; a batch is drawn, cropped, flipped and normalised there;
channels_last; TF32 in every product, bf16 by autocast, or neither; cuDNN's algorithms chosen by trial; Adam in one kernel;
and the whole step is a CUDA graph, so that the host only says "again". `compile` hands forward and backward pass, and the
drawing, to torch.compile at max-autotune first. Loss and correct predictions stay on the GPU until they are read.

*The notebook*: a DataLoader with four workers that crop, flip and normalise an image at a time, copies to the GPU, eager steps
in the precision that PyTorch chooses by itself, the loss read back after each.

On the CPU the same steps run without graphs: for trying out, not for timing.
"""

import torch
from torch import nn

from torch_nets import network

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
PADDING = 4
WORKERS = 4
# Steps outside of the graph that let libraries allocate and choose; PyTorch's documentation asks for three and more.
STEPS_BEFORE_CAPTURE = 5


def make(options, graph):
    torch.manual_seed(0)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: PyTorch finds no GPU that it can use")
    return Notebook(options, graph) if options.settings == "notebook" else Best(options, graph)


class Best:
    def __init__(self, options, graph):
        self.device = torch.device(options.device)
        self.batch, self.training = options.batch, options.phase == "train"
        self.autocast = options.precision == "bf16"
        set_precision(options.precision)
        torch.backends.cudnn.benchmark = True
        self.model = network(graph).to(self.device, memory_format=torch.channels_last)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.model.train(self.training)
        self.criterion = nn.CrossEntropyLoss()
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=options.lr,
            weight_decay=options.weight_decay,
            fused=True,
            capturable=on_gpu,
        )
        self.images = Images(graph, options.images, self.device, self.training)
        self.loss = torch.zeros((), device=self.device)
        self.correct = torch.zeros((), device=self.device, dtype=torch.long)
        self.losses = torch.zeros((), device=self.device)
        self.draw, self.forward = self.images.draw, self.loss_of
        compiled = options.settings == "compile"
        if compiled:
            # The graph is captured around it, here.
            self.draw = torch.compile(self.draw, mode="max-autotune-no-cudagraphs", dynamic=False)
            self.forward = torch.compile(self.forward, mode="max-autotune-no-cudagraphs", dynamic=False)
        step = self.train if self.training else self.evaluate
        self.step = captured(step, self.optimizer) if on_gpu else step
        self.detail = ", ".join(
            [
                "CUDA graph" if on_gpu else "without a graph",
                *(["torch.compile max-autotune"] if compiled else []),
                "channels_last, images on the GPU, fused Adam",
                {"f32": "32-bit", "tf32": "TF32", "bf16": "bf16 by autocast"}[options.precision],
                f"cuDNN {torch.backends.cudnn.version()}",
            ]
        )

    def loss_of(self, images, labels):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.model(images)
        # In 32 bits whatever the input, as autocast itself would.
        logits = logits.float()
        return self.criterion(logits, labels), (logits.argmax(1) == labels).sum()

    def train(self):
        images, labels = self.draw(self.batch)
        loss, correct = self.forward(images, labels)
        loss.backward()
        self.optimizer.step()
        # In a graph, its next run begins with this.
        self.optimizer.zero_grad(set_to_none=True)
        self.note(loss.detach(), correct)

    def evaluate(self):
        with torch.no_grad():
            images, labels = self.draw(self.batch)
            loss, correct = self.forward(images, labels)
            self.note(loss, correct)

    def note(self, loss, correct):
        self.loss.copy_(loss)
        self.correct.copy_(correct)
        self.losses.add_(loss * self.batch)
        self.images.position.add_(self.batch)

    def take(self):
        self.images.reshuffle_if_due(self.batch)
        self.step()

    def totals(self):
        return self.loss.item(), self.correct.item()


class Images:
    """Images and labels on the device, and batches of them."""

    def __init__(self, graph, count, device, augmented):
        channels, *self.sides = graph["input"]
        self.count, self.device, self.augmented, self.taken = count, device, augmented, 0
        self.bytes = torch.randint(0, 256, (count, *self.sides, channels), dtype=torch.uint8, device=device)
        if augmented:
            # Padded once: a crop is then one gather. The padding is black.
            self.bytes = nn.functional.pad(self.bytes, (0, 0, PADDING, PADDING, PADDING, PADDING))
        self.labels = torch.randint(0, graph["classes"], (count,), device=device)
        self.order = torch.randperm(count, device=device)
        self.position = torch.zeros((), dtype=torch.long, device=device)
        self.places = [torch.arange(side, device=device) for side in self.sides]
        mean, std = (torch.tensor(values, device=device) for values in statistics(channels))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def reshuffle_if_due(self, batch):
        if self.taken + batch > self.count:
            self.order.copy_(torch.randperm(self.count, device=self.device))
            self.position.zero_()
            self.taken = 0
        self.taken += batch

    def draw(self, batch):
        """The next batch: images `(batch, channels, rows, columns)` in channels_last, normalised, and labels."""
        numbers = torch.arange(batch, device=self.device) + self.position
        chosen = self.order[numbers % self.count]
        rows, columns = (places.expand(batch, -1) for places in self.places)
        if self.augmented:
            flipped = torch.randint(0, 2, (batch, 1), device=self.device, dtype=torch.bool)
            columns = torch.where(flipped, self.sides[1] - 1 - columns, columns)
            rows = rows + torch.randint(0, 2 * PADDING + 1, (batch, 1), device=self.device)
            columns = columns + torch.randint(0, 2 * PADDING + 1, (batch, 1), device=self.device)
        pixels = self.bytes[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = pixels.float() * self.scale + self.shift
        return images.permute(0, 3, 1, 2), self.labels[chosen]


def statistics(channels):
    """Mean and standard deviation of each channel: those of CIFAR-10, repeated if there are more."""
    return [[values[channel % len(values)] for channel in range(channels)] for values in (MEAN, STD)]


def set_precision(precision):
    """TF32 or not, in matrix products and convolutions."""
    torch.set_float32_matmul_precision("highest" if precision == "f32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "f32"


def captured(step, optimizer):
    """The step as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(STEPS_BEFORE_CAPTURE):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    # Without gradients at the start, the captured backward pass writes them instead of adding.
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Notebook:
    def __init__(self, options, graph):
        self.device, self.training = torch.device(options.device), options.phase == "train"
        self.model = network(graph).to(self.device)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.model.train(self.training)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        dataset = OneByOne(graph, options.images, self.training)
        self.loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=options.batch,
            shuffle=self.training,
            num_workers=WORKERS,
            pin_memory=self.device.type == "cuda",
            # A short batch would be another step than the timed one.
            drop_last=True,
        )
        if len(self.loader) == 0:
            raise SystemExit("error: a batch needs more images than there are; give a larger --images")
        self.iterator = iter(self.loader)
        self.last = None
        convolutions = "TF32" if torch.backends.cudnn.allow_tf32 else "32-bit"
        products = "TF32" if torch.backends.cuda.matmul.allow_tf32 else "32-bit"
        self.detail = (
            f"DataLoader with {WORKERS} workers, {dataset.transforms}, eager, contiguous, Adam, "
            f"{convolutions} convolutions and {products} matrix products by default"
        )

    def take(self):
        try:
            images, labels = next(self.iterator)
        except StopIteration:
            self.iterator = iter(self.loader)
            images, labels = next(self.iterator)
        images, labels = images.to(self.device), labels.to(self.device)
        self.last = self.train(images, labels) if self.training else self.evaluate(images, labels)

    def train(self, images, labels):
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = self.criterion(logits, labels)
        loss.backward()
        self.optimizer.step()
        return loss.item(), (logits.argmax(1) == labels).sum().item()

    @torch.no_grad()
    def evaluate(self, images, labels):
        logits = self.model(images)
        return self.criterion(logits, labels).item(), (logits.argmax(1) == labels).sum().item()

    def totals(self):
        return self.last


class OneByOne(torch.utils.data.Dataset):
    """Images prepared one at a time, by torchvision as in the notebook, or by the same work on tensors if it is missing."""

    def __init__(self, graph, count, augmented):
        shape = graph["input"]
        self.bytes = torch.randint(0, 256, (count, *shape[1:], shape[0]), dtype=torch.uint8).numpy()
        self.labels = torch.randint(0, graph["classes"], (count,)).tolist()
        self.ready, self.transforms = Plain(shape, augmented), "the transforms on tensors"
        # Pillow knows images of three colours.
        if shape[0] == 3:
            try:
                self.ready, self.transforms = torchvision_transforms(shape[1:], augmented), "torchvision's transforms"
            except ImportError:
                pass

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.ready(self.bytes[index]), self.labels[index]


def torchvision_transforms(sides, augmented):
    from PIL import Image
    from torchvision import transforms

    augmentation = [transforms.RandomCrop(sides, padding=PADDING), transforms.RandomHorizontalFlip()]
    steps = [transforms.Lambda(Image.fromarray), *(augmentation if augmented else [])]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


class Plain:
    """The same without torchvision."""

    def __init__(self, shape, augmented):
        self.augmented = augmented
        _, self.rows, self.columns = shape
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in statistics(shape[0]))

    def __call__(self, pixels):
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.augmented:
            image = nn.functional.pad(image, (PADDING, PADDING, PADDING, PADDING))
            row, column = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
            image = image[:, row : row + self.rows, column : column + self.columns]
            if torch.rand(()) < 0.5:
                image = image.flip(2)
        return (image.contiguous().float() / 255 - self.mean) / self.std
