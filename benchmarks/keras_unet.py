"""The study's network in Keras with model.fit on arrays in memory: the other side of speed.py. Needs tensorflow-cpu.

    python benchmarks/keras_unet.py --data data.npz --folder out --epochs 2 --batch 15

--batch 1 is what the study's notebook ran (it gave a batch size to a data set of single images, which Keras ignores).
Loss BCE - ln(soft Dice), soft Dice as metric, as there. Uses nothing of segtune.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def network(width: int = 16, dropout: float = 0.05) -> keras.Model:
    def block(x, channels):
        x = layers.Conv2D(channels, 3, padding="same", kernel_initializer="he_normal")(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = image = keras.Input((None, None, 1))
    skips = []
    for level in range(4):
        x = block(x, width * 2**level)
        skips.append(x)
        x = layers.Dropout(dropout)(layers.MaxPooling2D(2)(x))
    x = block(x, width * 16)
    for level in reversed(range(4)):
        x = layers.Conv2DTranspose(width * 2**level, 3, strides=2, padding="same")(x)
        x = layers.Dropout(dropout)(layers.Concatenate()([x, skips[level]]))
        x = block(x, width * 2**level)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))


def soft_dice(true, predicted):
    overlap = tf.reduce_sum(true * predicted)
    return (2 * overlap + 1e-5) / (tf.reduce_sum(true) + tf.reduce_sum(predicted) + 1e-5)


def loss(true, predicted):
    return tf.reduce_mean(keras.losses.binary_crossentropy(true, predicted)) - tf.math.log(soft_dice(true, predicted))


class Clock(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in (("data", str), ("folder", str), ("epochs", int), ("batch", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    with np.load(options.data) as data:
        size, n = int(data["size"]), len(data["patients"])
        images, masks = np.zeros((2, n, size, size, 1), dtype=np.float32)
        for i in range(n):
            image, mask = data[f"image{i}"], data[f"mask{i}"]
            images[i, : image.shape[0], : image.shape[1], 0] = (image - image.mean()) / image.std()
            masks[i, : image.shape[0], : image.shape[1], 0] = mask
        train, val = data["train"], data["val"]
    model, clock, folder = network(), Clock(), Path(options.folder)
    assert model.count_params() == 1_179_121
    folder.mkdir(parents=True, exist_ok=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, metrics=[soft_dice])
    keep = keras.callbacks.ModelCheckpoint(folder / "best.keras", monitor="val_soft_dice", mode="max", save_best_only=True)
    model.fit(
        *(images[train], masks[train]),
        batch_size=options.batch,
        epochs=options.epochs,
        validation_data=(images[val], masks[val]),
        validation_batch_size=options.batch,
        callbacks=[clock, keep],
        verbose=0,
    )
    (folder / "seconds.json").write_text(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
