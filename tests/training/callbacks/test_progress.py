"""The bar counts images over the whole run."""

from byol_tf.training.callbacks.progress import ProgressBar


def test_bar_shows_images_rate_time_left_and_continues_a_resumed_run(capsys):
    bar = ProgressBar(total_steps=10, batch_size=100, start_step=4)
    assert (bar.bar.n, bar.bar.total) == (400, 1000)
    bar.bar.mininterval = 0
    for step in range(6):
        bar.on_train_batch_end(step, {"loss": 1.5, "projection_std": 0.9})
    bar.close()
    written = capsys.readouterr().err
    assert (
        "1.00k/1.00k" in written
        and "img/s" in written
        and "loss=1.500" in written
        and "<" in written
    )
    assert "\r" not in written  # No terminal here: one line a refresh.
