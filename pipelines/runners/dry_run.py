"""What a run of the pipeline would read, train and write; nothing is written."""

import ml_collections

from byol_tf.sources import FolderSource
from byol_tf.training import dry_run
from pipelines.runners.data_folder import DataFolder
from pipelines.settings import Settings


def describe(settings: Settings, folder: DataFolder) -> list[str]:
    """Returns sentences for the terminal, with an estimate of the training's time.

    Raises:
        UserError: The images cannot be trained on.
    """
    lines = [f"Data: '{settings.data_dir}' has {folder.found}.", *folder.unread]
    keys = {split: [file.key for file in files] for split, files in folder.images.items()}
    if any(keys.values()):
        lines.append(f"Kinds: {dry_run.kinds(key for split in keys.values() for key in split)}.")
        sizes = (f"{split} {len(names)} images" for split, names in keys.items())
        lines.append(f"Splits: {', '.join(sizes)}.")
    if folder.records or not keys["train"]:
        lines.append("Training: its steps and time follow from the records, which are not read.")
    else:
        source = FolderSource(settings.data_dir, keys["train"])
        config = ml_collections.ConfigDict(dict(settings.config))
        config.data.max_corrupt_fraction = 1.0  # Ingestion leaves them out, up to its own limit.
        lines += dry_run.plan(config, source, settings.strategy).lines()
        lines.append(
            "The time is of the training alone; reading, evaluation and the report come on top. "
            f"It was measured on the original files, and --shorter_side={settings.shorter_side} "
            "makes large ones faster to read."
        )
    lines.append(
        f"Results: artifacts and reports would go to {settings.pipeline_root}, and the model to "
        f"{settings.model_dir}/VERSION if it is good enough. Nothing was written."
    )
    return lines
