"""The study's networks in PyTorch, as the notebook writes them."""

PARAMETERS = {"alexnet_plain": 6_979_146, "alexnet": 2_256_458, "nin": 1_485_386}


def features(nn, blocks):
    """A chain of convolution and BatchNorm; `ending` is what follows them: r is ReLU, p is the pool."""
    layers = []
    for channels_in, channels_out, kernel, ending in blocks:
        layers += [nn.Conv2d(channels_in, channels_out, kernel, padding=1), nn.BatchNorm2d(channels_out)]
        layers += [{"r": nn.ReLU(inplace=True), "p": nn.MaxPool2d(2)}[letter] for letter in ending]
    return nn.Sequential(*layers)


def network(nn, name):
    """The network, with PyTorch's initial values; fails if it is not the published one."""
    if name == "nin":
        # The pointwise convolutions pad as well: that is the published network.
        body = features(
            nn,
            [(3, 64, 3, "rp"), (64, 128, 3, ""), (128, 128, 1, ""), (128, 192, 1, "rp"), (192, 256, 3, "")]
            + [(256, 256, 1, ""), (256, 384, 1, "rp"), (384, 256, 1, ""), (256, 256, 3, ""), (256, 256, 1, "rp")],
        )
    else:
        body = features(
            nn,
            [(3, 64, 3, "rp"), (64, 192, 3, "rp"), (192, 384, 3, "r"), (384, 256, 3, "r"), (256, 256, 3, "rp")],
        )
    if name == "alexnet_plain":
        head = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(4096, 1024), nn.ReLU(inplace=True)]
        head += [nn.Dropout(0.5), nn.Linear(1024, 512), nn.ReLU(inplace=True), nn.Linear(512, 10)]
    else:
        head = [nn.Conv2d(256, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(body, *head)
    found, published = sum(p.numel() for p in model.parameters()), PARAMETERS[name]
    if found != published:
        raise SystemExit(f"error: the network has {found} parameters where the published one has {published}")
    return model
