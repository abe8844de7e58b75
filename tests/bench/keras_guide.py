"""Keras' guide to transfer learning (https://keras.io/guides/transfer_learning), as it is written, for comparison.

Only the backbone, its weights, the side and the epochs differ from the guide's text. Writes one JSON object.
Usage: python keras_guide.py FOLDER_WITH_train_val_test WEIGHTS SIDE FROZEN_EPOCHS FINE_TUNE_EPOCHS SEED RESULT
"""

import json
import sys
from pathlib import Path

import keras

folder, weights, result = sys.argv[1], sys.argv[2], sys.argv[7]
side, frozen_epochs, finetune_epochs, seed = map(int, sys.argv[3:7])
size = (side, side)
keras.utils.set_random_seed(seed)

train_ds, validation_ds, test_ds = (
    keras.utils.image_dataset_from_directory(
        f"{folder}/{split}",
        label_mode="binary",
        image_size=size,
        batch_size=64,
        shuffle=split == "train",
        verbose=False,
    )
    for split in ("train", "val", "test")
)
augmentation_layers = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]


def data_augmentation(x):
    for layer in augmentation_layers:
        x = layer(x)
    return x


train_ds = train_ds.map(lambda x, y: (data_augmentation(x), y)).prefetch(2)
validation_ds, test_ds = validation_ds.prefetch(2), test_ds.prefetch(2)

base_model = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(*size, 3))
base_model.load_weights(weights)
base_model.trainable = False

inputs = keras.Input(shape=(*size, 3))
x = base_model(inputs, training=False)
x = keras.layers.GlobalAveragePooling2D()(x)
x = keras.layers.Dropout(0.2)(x)
outputs = keras.layers.Dense(1)(x)
model = keras.Model(inputs, outputs)

model.compile(
    optimizer=keras.optimizers.Adam(),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
)
model.fit(train_ds, epochs=frozen_epochs, validation_data=validation_ds, verbose=2)

base_model.trainable = True
model.compile(
    optimizer=keras.optimizers.Adam(1e-5),
    loss=keras.losses.BinaryCrossentropy(from_logits=True),
    metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
)
model.fit(train_ds, epochs=finetune_epochs, validation_data=validation_ds, verbose=2)
loss, accuracy = model.evaluate(test_ds, verbose=0)
Path(result).write_text(json.dumps({"accuracy": float(accuracy), "loss": float(loss)}))
