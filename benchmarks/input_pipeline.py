"""Measures how fast a core makes two views of a photo, compared with decoding alone and Pillow.

    python benchmarks/input_pipeline.py

Rivals, each a separate process on one core, timed in turns while the others are stopped:
  decode    the upper limit: only read and decode the whole file, once for each of its two views
  byol_tf   `data.two_view_dataset`: read, decode, two views of 224x224, normalised, in batches
  pillow    the same views by Pillow and NumPy: one decode, crops, 8-bit images as in torchvision's
            transforms (table look-ups, HSV images, box blurs), normalised float32 batches
  gpu       if there is a GPU: `two_view_dataset` of crops, the rest on the GPU under XLA
The photos are synthetic, 500x375, JPEG of quality 90 and about 105 kB, close to the mean of
ImageNet's training set: noise with the spectrum of photos, correlated channels, some grain.

Targets: byol_tf at least 2 times as fast as pillow and 0.6 times as fast as decode.
"""

import argparse
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import recording
from PIL import Image, ImageFilter, ImageOps, ImageStat

from byol_tf.images.view_config import ViewConfig

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

IMAGE_SIZE, BATCH_SIZE = 224, 64
TARGETS = {"pillow": 2.0, "decode": 0.6}


def make_photos(folder: pathlib.Path, count: int) -> float:
    """Writes photos and returns their mean size in kB."""
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = np.zeros((375, 500, 3), np.float32)
        for octave in range(1, 10):
            cells = 2**octave
            noise = rng.normal(size=(cells * 3 // 4 + 1, cells + 1, 3)).astype(np.float32)
            noise = 0.35 * noise + 0.65 * noise.mean(axis=-1, keepdims=True)
            for channel in range(3):
                layer = Image.fromarray(noise[..., channel]).resize((500, 375), Image.BICUBIC)
                photo[..., channel] += cells**-0.33 * np.asarray(layer)
        photo = 0.5 + 0.25 * (photo - photo.mean()) / photo.std()
        photo += rng.normal(scale=0.06, size=(375, 500, 1))
        image = Image.fromarray((255.0 * photo.clip(0.0, 1.0)).astype(np.uint8))
        image.save(folder / f"{number:04d}.jpg", quality=90)
    return statistics.mean(file.stat().st_size for file in folder.iterdir()) / 1000


def decode_batches(folder: pathlib.Path) -> Iterator:
    """Yields the shapes of decoded files."""
    import tensorflow as tf

    def decode(path):
        return tf.shape(tf.io.decode_jpeg(tf.io.read_file(path), channels=3))

    files = tf.data.Dataset.list_files(str(folder / "*.jpg"), seed=0).repeat()
    yield from files.map(decode, tf.data.AUTOTUNE).batch(2 * BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def byol_batches(folder: pathlib.Path, run_on: str = "host") -> Iterator:
    """Yields pairs of views by byol_tf."""
    from byol_tf import data
    from byol_tf.configs import defaults

    config = defaults.get_config()
    config.update(batch_size=BATCH_SIZE, image_size=IMAGE_SIZE)
    config.augment.run_on = run_on
    for views, *_ in data.two_view_dataset(str(folder), config):
        yield views


def gpu_batches(folder: pathlib.Path) -> Iterator:
    """Yields means of views that are made on the GPU."""
    import tensorflow as tf

    from byol_tf.images import augmentations

    two_views = tf.function(augmentations.TwoViews().call, jit_compile=True)
    for step, crops in enumerate(byol_batches(folder, run_on="device")):
        views = two_views(crops, tf.constant([0, step]))
        yield [tf.reduce_mean(view).numpy() for view in views]  # Waits for the device.


def pillow_batches(folder: pathlib.Path) -> Iterator:
    """Yields pairs of views by Pillow and NumPy."""
    from byol_tf.images import augmentations

    rng = np.random.default_rng(0)
    configs = (augmentations.VIEW_1, augmentations.VIEW_2)
    files = itertools.cycle(sorted(folder.iterdir()))
    while True:
        pairs = []
        for file in itertools.islice(files, BATCH_SIZE):
            image = Image.open(file).convert("RGB")
            pairs.append([pillow_view(image, config, rng) for config in configs])
        yield tuple(np.stack(views) for views in zip(*pairs, strict=True))


def pillow_view(image: Image.Image, view: ViewConfig, rng: np.random.Generator) -> np.ndarray:
    """Returns one normalised view, float32 `[S, S, 3]`."""
    area = rng.uniform(*view.crop_area) * image.width * image.height
    aspect = np.exp(rng.uniform(*np.log(view.crop_aspect)))
    width = min(max(round((area * aspect) ** 0.5), 1), image.width)
    height = min(max(round((area / aspect) ** 0.5), 1), image.height)
    left = rng.integers(image.width - width + 1)
    top = rng.integers(image.height - height + 1)
    box = (left, top, left + width, top + height)
    image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.BICUBIC, box=box)
    if rng.random() < view.flip_prob:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    if rng.random() < view.jitter_prob:
        for operation in rng.permutation(4):
            image = pillow_jitter(image, operation, view, rng)
    if rng.random() < view.grayscale_prob:
        image = image.convert("L").convert("RGB")
    if rng.random() < view.blur_prob:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*view.blur_sigma)))
    if rng.random() < view.solarize_prob:
        image = ImageOps.solarize(image, round(255 * view.solarize_threshold))
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return np.asarray(image, np.float32) * (1 / 255 / std) - mean / std


def pillow_jitter(
    image: Image.Image, operation: int, view: ViewConfig, rng: np.random.Generator
) -> Image.Image:
    """Applies one operation of the colour jitter, drawn from `view`."""
    levels = np.arange(256)
    if operation == 0:
        table = levels + 255.0 * rng.uniform(-view.brightness, view.brightness)
        return image.point(table.clip(0, 255).round().astype(int).tolist() * 3)
    if operation == 1:
        factor = rng.uniform(1 - view.contrast, 1 + view.contrast)
        tables = [mean + factor * (levels - mean) for mean in ImageStat.Stat(image).mean]
        return image.point(np.concatenate(tables).clip(0, 255).round().astype(int).tolist())
    hue, saturation, value = image.convert("HSV").split()
    if operation == 2:
        table = levels * rng.uniform(1 - view.saturation, 1 + view.saturation)
        saturation = saturation.point(table.clip(0, 255).round().astype(int).tolist())
    else:
        shift = round(255 * rng.uniform(-view.hue, view.hue))
        hue = hue.point(((levels + shift) % 256).tolist())
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


RIVALS = {
    "decode": decode_batches,
    "byol_tf": byol_batches,
    "pillow": pillow_batches,
    "gpu": gpu_batches,
}


def work(
    name: str, folder: pathlib.Path, batches: int, connection: multiprocessing.connection.Connection
) -> None:
    """Sends the first batch's moments, then images/s, images/CPU-s and peak MB for each "go"."""
    import tensorflow as tf

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if name != "gpu":
        tf.config.set_visible_devices([], "GPU")
    iterator = RIVALS[name](folder)
    first = next(iterator)
    connection.send([[float(np.mean(view)), float(np.std(view))] for view in first])
    while connection.recv():
        for _ in range(2):  # Skips batches that were made ahead of time.
            next(iterator)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(iterator)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        connection.send((batches * BATCH_SIZE / wall, batches * BATCH_SIZE / cpu, peak))


def race(names: list[str], folder: pathlib.Path, rounds: int, batches: int) -> dict[str, list]:
    """Runs the rivals in turns and returns the rounds of each."""
    spawn = multiprocessing.get_context("spawn")
    processes, connections = {}, {}
    moments, results = {}, {name: [] for name in names}
    try:
        for name in names:
            connections[name], theirs = spawn.Pipe()
            processes[name] = spawn.Process(target=work, args=(name, folder, batches, theirs))
            processes[name].start()
            theirs.close()  # If a rival dies, the wait for its answer must end.
            moments[name] = connections[name].recv()
            os.kill(processes[name].pid, signal.SIGSTOP)
        # Rivals must make the same thing. Means of one batch differ by about 0.15.
        np.testing.assert_allclose(moments["byol_tf"], moments["pillow"], atol=0.6)
        for _ in range(rounds):
            for name in names:
                os.kill(processes[name].pid, signal.SIGCONT)
                connections[name].send("go")
                results[name].append(connections[name].recv())
                os.kill(processes[name].pid, signal.SIGSTOP)
    finally:
        for process in processes.values():
            process.kill()
            process.join()
    return results


def main() -> None:
    """Runs the benchmark, prints and records the results."""
    import tensorflow as tf

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=256, help="photos to make (default 256)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per rival (default 7)")
    parser.add_argument(
        "--batches", type=int, default=8, help="batches of 64 per round (default 8)"
    )
    flags = parser.parse_args()

    record = recording.context("tensorflow", "pillow", "numpy")
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    names = [name for name in RIVALS if name != "gpu" or has_gpu]
    with tempfile.TemporaryDirectory() as folder:
        photo_kb = make_photos(pathlib.Path(folder), flags.photos)
        results = race(names, pathlib.Path(folder), flags.rounds, flags.batches)

    print(f"{record['cpu']}, one core; photos of {photo_kb:.0f} kB; {flags.rounds} rounds")
    print(f"{'':10}{'images/s':>10}{'min':>8}{'max':>8}{'per CPU-s':>11}{'peak MB':>9}")
    record["photo_kb"] = round(photo_kb, 1)
    for name, rounds in results.items():
        wall, cpu, peak = zip(*rounds, strict=True)
        row = record[name] = {
            "images_per_s": round(statistics.median(wall), 1),
            "rounds": [round(rate, 1) for rate in wall],
            "images_per_cpu_s": round(statistics.median(cpu), 1),
            "peak_mb": round(max(peak)),
        }
        print(
            f"{name:10}{row['images_per_s']:>10}{min(row['rounds']):>8}{max(row['rounds']):>8}"
            f"{row['images_per_cpu_s']:>11}{row['peak_mb']:>9}"
        )
    for rival, target in TARGETS.items():
        pairs = zip(results["byol_tf"], results[rival], strict=True)
        ratios = sorted(ours[0] / theirs[0] for ours, theirs in pairs)
        record[f"byol_tf / {rival}"] = round(statistics.median(ratios), 3)
        print(
            f"byol_tf / {rival}: {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}), target {target}"
        )
    print(f"appended to {recording.append('input_pipeline', record)}")


if __name__ == "__main__":
    main()
