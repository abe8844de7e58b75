"""The two workflows of Keras' guide to transfer learning (https://keras.io/guides/transfer_learning), as it has them.

`fine-tuning` is the one that it walks through: augmented photos train the head on a frozen backbone, then both.
`feature-extraction` is the "more lightweight" one that it describes: the frozen backbone sees each photo once, without
augmentation, and the head trains on what came out. It ends where `fine-tuning` begins to train the backbone.
Only the backbone, its weights, the side and the epochs differ from the guide's text, and photos come from folders, by
the function that it names for them. Writes one JSON object with the accuracy and the loss on the test split, and with
the seconds from the end of the first batch to the last validation of the head alone.
Usage: python keras_guide.py fine-tuning FOLDER_WITH_train_val_test WEIGHTS SIDE SEED RESULT FROZEN_EPOCHS [TUNED_EPOCHS]
       python keras_guide.py feature-extraction FOLDER_WITH_train_val_test WEIGHTS SIDE SEED RESULT EPOCHS
"""

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
from tensorflow import data as tf_data

BATCH = 64
SPLITS = ("train", "val", "test")


def main() -> None:
    workflow, folder, weights, side, seed, result, *epochs = sys.argv[1:]
    keras.utils.set_random_seed(int(seed))
    base_model = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(int(side),) * 2 + (3,))
    base_model.load_weights(weights)
    base_model.trainable = False
    run = {"fine-tuning": fine_tuning, "feature-extraction": feature_extraction}[workflow]
    clock = HeadClock()
    loss, accuracy = run(Path(folder), base_model, clock, *map(int, epochs))
    Path(result).write_text(json.dumps({"accuracy": accuracy, "loss": loss, "head": clock.head}))


class HeadClock(keras.callbacks.Callback):
    """Seconds from the end of the first batch until it is stopped."""

    began = 0.0
    head = 0.0

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        self.began = self.began or time.monotonic()

    on_predict_batch_end = on_train_batch_end

    def stop(self) -> None:
        self.head = time.monotonic() - self.began


def fine_tuning(
    folder: Path, base_model: keras.Model, clock: HeadClock, frozen_epochs: int, tuned_epochs: int = 0
) -> tuple[float, float]:
    """Loss and accuracy on the test split."""
    side = base_model.input_shape[1]
    augmentation_layers = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]

    def data_augmentation(x):  # type: ignore[no-untyped-def]
        for layer in augmentation_layers:
            x = layer(x)
        return x

    train_ds, validation_ds, test_ds = (photos(folder / split, side, shuffle=split == "train") for split in SPLITS)
    train_ds = train_ds.map(lambda x, y: (data_augmentation(x), y))
    # Cached last, as in the newer text: each photo is augmented once, and the frozen phase comes to no worse a model.
    train_ds, validation_ds, test_ds = (
        ds.prefetch(tf_data.AUTOTUNE).cache() for ds in (train_ds, validation_ds, test_ds)
    )

    inputs = keras.Input(shape=(side, side, 3))
    x = base_model(inputs, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, head(x))
    compile_model(model, keras.optimizers.Adam())
    model.fit(train_ds, epochs=frozen_epochs, validation_data=validation_ds, verbose=2, callbacks=[clock])
    clock.stop()

    if tuned_epochs:
        base_model.trainable = True
        compile_model(model, keras.optimizers.Adam(1e-5))
        model.fit(train_ds, epochs=tuned_epochs, validation_data=validation_ds, verbose=2)
    loss, accuracy = model.evaluate(test_ds, verbose=0)
    return loss, accuracy


def feature_extraction(folder: Path, base_model: keras.Model, clock: HeadClock, epochs: int) -> tuple[float, float]:
    """Loss and accuracy on the test split."""
    # Averaged as it is recorded: the head looks at nothing else of the backbone's output.
    extractor = keras.Sequential([base_model, keras.layers.GlobalAveragePooling2D()])
    train, validation = (features(extractor, folder / split, clock) for split in SPLITS[:2])
    inputs = keras.Input(shape=extractor.output_shape[1:])
    model = keras.Model(inputs, head(inputs))
    compile_model(model, keras.optimizers.Adam())
    model.fit(*train, batch_size=BATCH, epochs=epochs, validation_data=validation, verbose=2)
    clock.stop()
    loss, accuracy = model.evaluate(*features(extractor, folder / SPLITS[2], clock), batch_size=BATCH, verbose=0)
    return loss, accuracy


def features(extractor: keras.Model, folder: Path, clock: HeadClock) -> tuple[np.ndarray, np.ndarray]:
    """The extractor's output, float32 [photos, channels], and the labels, float32 [photos, 1], of a split."""
    ds = photos(folder, extractor.input_shape[1], shuffle=False)
    labels = [[ds.class_names.index(Path(path).parent.name)] for path in ds.file_paths]
    return extractor.predict(ds.prefetch(tf_data.AUTOTUNE), verbose=0, callbacks=[clock]), np.array(labels, np.float32)


def photos(folder: Path, side: int, *, shuffle: bool) -> tf_data.Dataset:
    """Batches of images, float32 [batch, side, side, 3] in 0..255, and labels, float32 [batch, 1]."""
    return keras.utils.image_dataset_from_directory(
        folder, label_mode="binary", image_size=(side, side), batch_size=BATCH, shuffle=shuffle, verbose=False
    )


def head(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Dense(1)(keras.layers.Dropout(0.2)(x))


def compile_model(model: keras.Model, optimizer: keras.Optimizer) -> None:
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],  # the guide leaves 0.5, which is for probabilities
    )


if __name__ == "__main__":
    main()
