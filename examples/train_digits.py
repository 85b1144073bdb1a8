"""A convolutional network learns to read scikit-learn's handwritten digits: the first part of `python -m fastconv demo`.

Run: python examples/train_digits.py
"""

from common import parser
from fastconv import nn
from fastconv.demo import train

options = parser(__doc__.splitlines()[0], epochs=30).parse_args()
digits = train.load()
if options.limit:
    digits = train.Digits(*(array[: options.limit] for array in digits))
history = train.fit(digits, options.epochs, options.seed)
print(nn.summary(history.net, (1, 8, 8)))
print(train.summary(history))
options.out.mkdir(parents=True, exist_ok=True)
train.plot(history, digits, options.out / "digits.png")
print(f"Picture: {(options.out / 'digits.png').resolve()}")
