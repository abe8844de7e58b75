"""The compiled steps: forward, backward, reduce, agree, apply; and the one that only predicts."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

from catdog.data.augment import augment, mixup
from catdog.evaluation.metrics import is_right
from catdog.model import Cut, logits
from catdog.recipe import Loss, Recipe
from catdog.training.state import TrainingState

Batch = dict[str, tf.Tensor]
Outcome = dict[str, tf.Tensor]
TakeStep = Callable[[Batch, float, int, bool], Outcome]
Predict = Callable[[Batch], tuple[tf.Tensor, tf.Tensor]]

SCALE_GROWTH_STEPS = 2000
MAX_SCALE = 2.0**24


@dataclass(frozen=True)
class StepSettings:
    """What a training step needs to know beside its batch."""

    recipe: Recipe
    batch_norm: bool
    """Whether BatchNorm uses and updates its statistics: only in training from scratch."""
    class_weights: tuple[float, float] = (1.0, 1.0)
    cut: Cut | None = None
    """Where the outputs of the part below, in place of images, are what the batch has."""
    xla: bool = False
    """Whether XLA compiles forward, loss and gradient, and on one replica the update."""


def losses(labels: tf.Tensor, scores: tf.Tensor, settings: Loss, class_weights: tuple[float, float]) -> tf.Tensor:
    """Binary cross-entropy of each example, float32 [batch].

    `labels` are float in 0..1 (MixUp makes them soft), `scores` are logits. "focal" multiplies by
    |target - probability| ** gamma, which for hard labels is the focal loss (Lin et al., 2017). "class_weight" and "focal"
    multiply by the label's class weight. The gradient by the scores comes back as one tensor: tf.GradientTape would make a
    sum of four, and TensorFlow adds more than two in the order in which their memory happens to be free.
    """
    targets = labels * (1.0 - settings.label_smoothing) + 0.5 * settings.label_smoothing
    cat, dog = class_weights if settings.balance in ("class_weight", "focal") else (1.0, 1.0)
    factors = (1.0 - labels) * cat + labels * dog

    @tf.custom_gradient
    def of(scores: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        probabilities = tf.sigmoid(scores)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(targets, scores)
        away = probabilities - targets
        result, slope = entropy, away
        if settings.balance == "focal":
            distance, gamma = tf.abs(away) + 1e-7, settings.focal_gamma
            focus = tf.pow(distance, gamma)
            bend = gamma * tf.pow(distance, gamma - 1.0) * tf.sign(away) * probabilities * (1.0 - probabilities)
            result, slope = entropy * focus, slope * focus + bend * entropy
        return result * factors, lambda upstream: upstream * slope * factors

    return of(scores)


def make_train_step(strategy: tf.distribute.Strategy, state: TrainingState, settings: StepSettings) -> TakeStep:
    """A function of (batch, learning rate, step, stopping) that updates the state on all replicas and gives the global
    sums.

    One all-reduce sums the scaled gradients and the metrics. Clipping and the check for finiteness come after it, so
    every replica sees the same numbers. With a loss scale a step that is not finite anywhere changes nothing anywhere;
    without one it is taken, and leaves a state that is not to be saved. No condition on a result holds the host.
    The outcome holds `loss` and `correct` (sums over the global batch), `norm` (of the gradient, before clipping),
    `finite`, `stopping` (whether any worker was asked to stop), and in mixed_float16 the loss `scale` that the step was
    taken with.
    """
    optimizer, variables = state.optimizer, state.model.trainable_variables
    assert optimizer is not None, "start_phase comes first"
    recipe, scale = settings.recipe, state.loss_scale

    def gradients(batch: Batch, step: tf.Tensor, stopping: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        local, sums = _local_gradients(batch, step, state, settings)
        sums = tf.concat([sums, [stopping]], axis=0)
        *reduced, sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, [*local, sums])
        if scale is not None:
            reduced = [gradient / scale for gradient in reduced]
        norm = tf.linalg.global_norm(reduced)
        if recipe.optimizer.clip_norm > 0:
            factor = recipe.optimizer.clip_norm / tf.maximum(norm, recipe.optimizer.clip_norm)
            reduced = [gradient * factor for gradient in reduced]
        return reduced, norm, sums

    def apply(reduced: list[tf.Tensor], step: tf.Tensor, finite: tf.Tensor) -> None:
        """Without a loss scale `finite` is not looked at."""
        if scale is None:
            return update(reduced, step)
        changed = [each.value for each in (*variables, *optimizer.variables)] + state.average
        before = [tf.identity(each) for each in changed]
        update(reduced, step)
        for each, value in zip(changed, before, strict=True):
            each.assign(tf.where(finite, each, value))

    def update(reduced: list[tf.Tensor], step: tf.Tensor) -> None:
        optimizer.apply(reduced, variables)
        if state.average:
            done = tf.cast(step, tf.float32)
            # The warm-up of tf.train.ExponentialMovingAverage: early averages forget the first weights sooner.
            decay = tf.minimum(recipe.optimizer.ema, (1.0 + done) / (10.0 + done))
            for mean, weight in zip(state.average, state.model.weights, strict=True):
                value = tf.cast(weight.value, mean.dtype)
                # By the difference, so that the mean of what is frozen stays what it is to the last digit.
                mean.assign(mean + (value - mean) * (1.0 - decay) if mean.dtype.is_floating else value)

    # Among several replicas Keras' optimizer asks the strategy to update, which a function within cannot do.
    compiled = settings.xla and strategy.num_replicas_in_sync == 1
    take = tf.function(apply, jit_compile=True, autograph=False) if compiled else apply

    # There is nothing for AutoGraph to convert; looking through Keras' layers for it would double the time of tracing.
    @tf.function(autograph=False)
    def train_step(batch: Batch, learning_rate: tf.Tensor, step: tf.Tensor, stopping: tf.Tensor) -> Outcome:
        reduced, norms, sums = strategy.run(gradients, args=(batch, step, stopping))
        norm, sums = (strategy.experimental_local_results(value)[0] for value in (norms, sums))
        finite = tf.math.is_finite(norm) & tf.math.is_finite(sums[0])
        outcome = {"loss": sums[0], "correct": sums[1], "norm": norm, "finite": finite, "stopping": sums[2] > 0}
        if scale is not None:
            outcome["scale"] = tf.identity(scale)
        optimizer.learning_rate.assign(learning_rate)
        strategy.run(take, args=(reduced, step, finite))
        if scale is not None:
            _adapt(scale, state.good_steps, finite)
        return outcome

    def call(batch: Batch, learning_rate: float, step: int, stopping: bool = False) -> Outcome:
        numbers = tf.constant(learning_rate, tf.float32), tf.constant(step, tf.int32), tf.constant(float(stopping))
        return train_step(batch, *numbers)

    return call


def make_predict_step(strategy: tf.distribute.Strategy, model: keras.Sequential, cut: Cut | None = None) -> Predict:
    """A function of a batch of whole images, or of the outputs of the part below the cut, that gives, for the rows of all
    replicas of all workers, the example int64 [rows], -1 for padding, and its logit float32 [rows]."""

    def predict(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        if cut is not None:
            return batch["example"], cut.logits(batch["outputs"])
        return batch["example"], logits(model, tf.cast(batch["image"], tf.float32))

    @tf.function(autograph=False)
    def predict_step(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        examples, scores = strategy.run(predict, args=(batch,))
        return strategy.gather(examples, axis=0), strategy.gather(scores, axis=0)

    return predict_step


def _local_gradients(
    batch: Batch, step: tf.Tensor, state: TrainingState, settings: StepSettings
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """This replica's part of the gradient of the mean loss over the global batch, times the loss scale; and its sums."""
    recipe = settings.recipe
    cut = settings.cut
    images = batch["outputs"] if cut else augment(batch["image"], batch["draws"], recipe.augment)
    labels, weights = batch["label"], batch["weight"]
    if recipe.augment.mixup > 0:  # with which no phase has a cut
        rows = recipe.data.global_batch // recipe.data.streams
        images, labels = mixup(images, labels, batch["draws"], rows)
    factors = _dropout(batch["row"], step, recipe)
    variables = [variable.value for variable in state.model.trainable_variables]

    def part(
        image: tf.Tensor, label: tf.Tensor, weight: tf.Tensor, dropout: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            if cut:
                scores = cut.logits(image, dropout=dropout)
            else:
                scores = logits(state.model, image, dropout=dropout, batch_norm=settings.batch_norm)
            loss = tf.reduce_sum(losses(label, scores, recipe.loss, settings.class_weights) * weight)
            scaled = loss / recipe.data.global_batch * (1.0 if state.loss_scale is None else state.loss_scale)
        gradients = tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        right = tf.cast(is_right(label, scores), tf.float32)
        return gradients, tf.stack([loss, tf.reduce_sum(right * weight)])

    take = tf.function(part, jit_compile=True, autograph=False) if settings.xla else part
    whole, count = (images, labels, weights, factors), recipe.optimizer.accumulate
    if count == 1:
        return take(*whole)
    parts = [tf.reshape(tensor, [count, -1, *tensor.shape[1:]]) for tensor in whole]

    def add(
        index: tf.Tensor, gradients: list[tf.Tensor], sums: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        more, also = take(*(tensor[index] for tensor in parts))
        return index + 1, [total + each for total, each in zip(gradients, more, strict=True)], sums + also

    # One part at a time: only so is no more than one part's activations in memory.
    begun = tf.constant(0), [tf.zeros_like(variable) for variable in variables], tf.zeros(2)
    _, gradients, sums = tf.while_loop(lambda index, *_: index < count, add, begun, parallel_iterations=1)
    return gradients, sums


def _dropout(row: tf.Tensor, step: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Factors of the hidden units, float32 [batch, units], that depend on (seed, step, row of the global batch)."""
    shape = (recipe.data.global_batch, recipe.model.units)
    uniform = tf.random.stateless_uniform(shape, seed=tf.stack([recipe.run.seed, step]))
    kept = tf.cast(uniform >= recipe.model.dropout, tf.float32) / (1.0 - recipe.model.dropout)
    return tf.gather(kept, tf.maximum(row, 0))


def _adapt(scale: tf.Variable, good_steps: tf.Variable, finite: tf.Tensor) -> None:
    """Dynamic loss scaling (Micikevicius et al., 2018): halve after an overflow, double after enough good steps."""
    good = tf.where(finite, good_steps + 1, tf.zeros_like(good_steps))
    grown = good >= SCALE_GROWTH_STEPS
    scale.assign(
        tf.where(finite, tf.where(grown, tf.minimum(scale * 2.0, MAX_SCALE), scale), tf.maximum(scale / 2.0, 1.0))
    )
    good_steps.assign(tf.where(grown, tf.zeros_like(good), good))
