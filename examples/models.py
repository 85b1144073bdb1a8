"""Two networks for photographs, with the names of torchvision's layers, so that PyTorch's weights load as they are.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016, table 1; Sandler et al., "MobileNetV2", 2018,
table 2. `module` is `fastconv.nn`, or `torch.nn` where the same lines build PyTorch's twin.
"""

from fastconv import nn

# Expansion, channels, repetitions, stride of the first: table 2 of the paper.
MOBILENET = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def conv_norm_relu6(module, before, after, kernel, stride=1, groups=1):
    return module.Sequential(
        module.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        module.BatchNorm2d(after), module.ReLU6())


def inverted_residual(module, before, after, stride, expansion):
    wide = before * expansion
    first = [conv_norm_relu6(module, before, wide, 1)] if expansion != 1 else []
    return module.Sequential(
        *first, conv_norm_relu6(module, wide, wide, 3, stride, groups=wide),
        module.Conv2d(wide, after, 1, bias=False), module.BatchNorm2d(after))


def mobilenet_blocks():
    """(channels before, after, stride, expansion) of each block"""
    before = 32
    for expansion, after, repetitions, stride in MOBILENET:
        for repetition in range(repetitions):
            yield before, after, stride if repetition == 0 else 1, expansion
            before = after


def basic_block(before, after, stride):
    downsample = None
    if stride != 1 or before != after:
        downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    block = {"conv1": nn.Conv2d(before, after, 3, stride, 1, bias=False), "bn1": nn.BatchNorm2d(after), "relu": nn.ReLU(),
             "conv2": nn.Conv2d(after, after, 3, 1, 1, bias=False), "bn2": nn.BatchNorm2d(after)}
    return nn.Residual(block, downsample=downsample)


def resnet18(classes):
    layers = {"conv1": nn.Conv2d(3, 64, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(64), "relu": nn.ReLU(),
              "maxpool": nn.MaxPool2d(3, 2, 1)}
    before = 64
    for number, after in enumerate((64, 128, 256, 512), 1):
        layers[f"layer{number}"] = nn.Sequential({
            "0": basic_block(before, after, 1 if number == 1 else 2), "relu0": nn.ReLU(),
            "1": basic_block(after, after, 1), "relu1": nn.ReLU()})
        before = after
    return nn.Sequential(layers | {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(512, classes)})


def mobilenet_v2(classes):
    def block(before, after, stride, expansion):
        chain = nn.Residual if stride == 1 and before == after else nn.Sequential
        return chain({"conv": inverted_residual(nn, before, after, stride, expansion)})

    features = nn.Sequential(
        conv_norm_relu6(nn, 3, 32, 3, 2), *(block(*sizes) for sizes in mobilenet_blocks()),
        conv_norm_relu6(nn, 320, 1280, 1))
    return nn.Sequential({
        "features": features, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(),
        "classifier": nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))})
