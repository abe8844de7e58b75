"""`catdog` with a backbone of a few hundred weights, so that a run with its state can be kept among the tests.

Usage: python -m tests.integration.small_backbone STEP SECONDS train RECIPE ...; at that step it is asked to stop, 0 is
none; each step takes so many seconds more.
"""

import signal
import sys
import time

import keras

from catdog import cli, model
from catdog.training import start
from catdog.training.running_metrics import RunningMetrics


def backbone(settings: object, side: int, blocks: int = 1) -> keras.Model:
    images = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = keras.layers.Conv2D(4, 8, strides=8, use_bias=False, name="block1a_conv")(x)
    x = keras.layers.BatchNormalization(name="block1a_bn")(x)
    x = keras.layers.Activation("swish", name="block1a_activation")(x)
    for number in range(2, blocks + 1):
        x = keras.layers.Conv2D(4, 1, activation="swish", name=f"block{number}a_conv")(x)
    return keras.Model(images, x)


def use() -> None:
    """From now on a model of this process has that backbone."""
    model._backbone = backbone  # type: ignore[assignment]
    start.require_weights = lambda settings: None  # type: ignore[attr-defined]  # which names a file that nobody needs


def stopped_at(last: int, seconds: float = 0.0) -> None:
    add = RunningMetrics.add

    def add_and_stop(window: RunningMetrics, step: int, outcome: dict) -> None:
        add(window, step, outcome)
        time.sleep(seconds)
        if step == last:
            signal.raise_signal(signal.SIGTERM)

    RunningMetrics.add = add_and_stop  # type: ignore[method-assign]


if __name__ == "__main__":
    use()
    stopped_at(int(sys.argv[1]), float(sys.argv[2]))
    sys.exit(cli.run(sys.argv[3:]))
