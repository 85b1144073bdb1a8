"""E5. The layer table of a large network: output sizes (n + 2p - k)/s + 1, parameters in*out*k*k + out.

    conv 3-96 k11 s4: (227 - 11)/4 + 1 = 55, 3*96*121 + 96 = 34944; pool k3 s2: (55 - 3)/2 + 1 = 27; and so on.
"""

from fastconv import nn
from show import compare, derivation, torch

HAND = [34944, 0, 24832, 0, 885120, 1327488, 884992, 0, 0, 37748736, 16777216, 4096000]
SIZES = [(96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (256, 13, 13), (256, 6, 6),
         (9216,), (4096,), (4096,), (1000,)]


def network(module):
    return module.Sequential(
        module.Conv2d(3, 96, 11, stride=4), module.MaxPool2d(3, stride=2),
        module.Conv2d(96, 256, 1), module.MaxPool2d(3, stride=2),
        module.Conv2d(256, 384, 3, padding=1), module.Conv2d(384, 384, 3, padding=1),
        module.Conv2d(384, 256, 3, padding=1), module.MaxPool2d(3, stride=2),
        module.Flatten(), module.Linear(9216, 4096, bias=False), module.Linear(4096, 4096, bias=False),
        module.Linear(4096, 1000, bias=False))


def main():
    derivation(__doc__)
    table = nn.summary(network(nn), (3, 227, 227))
    print(table, end="\n\n")
    counts = None
    if torch is not None:
        with torch.device("meta"):    # shapes without numbers
            counts = [sum(p.numel() for p in layer.parameters()) for layer in network(torch.nn)]
    compare("parameters", hand=HAND, fastconv=[row.parameters for row in table.rows], torch=counts)
    for row, size in zip(table.rows, SIZES, strict=True):
        compare(f"output size of layer {row.name}, {row.layer}", hand=size, fastconv=row.output_size)


if __name__ == "__main__":
    main()
