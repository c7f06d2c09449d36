"""The shared `--config` flag and flags for another program, in a command of a few lines."""

import json
import pathlib
import subprocess
import sys

from byol_tf.cli import recipe

COMMAND = '''
"""demo: shows its config."""
import sys
from byol_tf.cli import recipe, run_main
_CONFIG = recipe.define_config()
def main(argv):
    config = recipe.resolve_config(_CONFIG)
    print(config.batch_size, config.epochs, argv[1:])
sys.argv = recipe.with_config_paths(sys.argv, {default})
run_main(main{passes_on})
'''


def demo(tmp_path, *arguments, default="None", passes_on=""):
    command = tmp_path / "demo.py"
    command.write_text(COMMAND.format(default=default, passes_on=passes_on))
    return subprocess.run(
        [sys.executable, command, *arguments], capture_output=True, text=True, timeout=60
    )


def test_recipes_become_the_paths_of_their_files_and_all_else_stays():
    argv = ["--config=cifar10:smoke", "-config=imagenet", "--config=own.py", "--data_dir=cifar10"]
    smoke, imagenet, *others = recipe.with_config_paths(["cifar10", *argv])[1:]
    assert smoke.startswith("--config=/") and smoke.endswith("byol_tf/configs/cifar10.py:smoke")
    assert pathlib.Path(imagenet.removeprefix("-config=")).is_file()
    assert others == argv[2:]


def test_a_default_recipe_takes_overrides_and_gives_way_to_the_users(tmp_path):
    smoke = demo(tmp_path, "--config.batch_size=24", default='"cifar10:smoke"')
    batch_size, epochs, _ = smoke.stdout.split(maxsplit=2)
    assert batch_size == "24" and int(epochs) < 10
    given = demo(tmp_path, "--config=cifar10", "--config.epochs=77", default='"cifar10:smoke"')
    assert given.stdout.split()[1] == "77" and given.stdout.split()[0] == "512"


def test_a_field_that_the_default_recipe_does_not_have_gets_a_sentence(tmp_path):
    result = demo(tmp_path, "--config.batchsize=24", default='"cifar10:smoke"')
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: a --config override does not fit")
    assert 'Did you mean "batch_size" instead of "batchsize"?' in result.stderr


ENCODER = COMMAND.replace("config.batch_size, config.epochs, argv[1:]", "config.encoder.to_json()")


def encoder_of(tmp_path, *arguments):
    command = tmp_path / "encoder.py"
    command.write_text(ENCODER.format(default="None", passes_on=""))
    result = subprocess.run(
        [sys.executable, command, *arguments], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_another_encoder_takes_its_own_arguments_and_not_the_recipes(tmp_path):
    named = encoder_of(tmp_path, "--config=cifar10", "--config.encoder.name=ConvNeXtTiny")
    assert named == {"name": "ConvNeXtTiny", "weights": None}
    flags = ["vit", "depth=2", "patch_size=4", "size=(1, 2)", "ratio=0.5", "kind=wide"]
    given = encoder_of(
        tmp_path,
        "--config=cifar10:smoke",
        "--config.encoder.name",
        flags[0],
        *(f"--config.encoder.{flag}" for flag in flags[1:]),
        "--config.encoder.frozen",
        "--noconfig.encoder.biased",
    )
    assert given == {
        "name": "vit", "depth": 2, "patch_size": 4, "size": [1, 2], "ratio": 0.5, "kind": "wide",
        "frozen": True, "biased": False, "weights": None,
    }  # fmt: skip


def test_the_recipes_encoder_by_its_name_keeps_the_recipes_fields(tmp_path):
    resnet = encoder_of(
        tmp_path, "--config=cifar10", "--config.encoder.name=resnet", "--config.encoder.width=0.5"
    )
    assert resnet["depth"] == 18 and resnet["width"] == 0.5
    back = encoder_of(tmp_path, "--config=vit_small", "--config.encoder.name=resnet")
    assert back["depth"] == 50 and back["stem"] == "imagenet"  # resnet's own defaults.


def test_a_mistake_in_a_field_of_resnet_is_still_found_at_once(tmp_path):
    result = demo(tmp_path, "--config=cifar10", "--config.encoder.dept=34")
    assert result.returncode == 1
    assert 'Did you mean "depth" instead of "dept"?' in result.stderr


def test_a_record_names_the_recipe_and_no_path_of_this_machine(monkeypatch):
    given = ["byol-x", "--config=cifar10:smoke", "--config.epochs=2", "--data_dir=my photos"]
    monkeypatch.setattr("sys.argv", recipe.with_config_paths(given))
    wanted = "byol-x --config=cifar10:smoke --config.epochs=2 '--data_dir=my photos'"
    assert recipe.command_line("byol-x") == wanted


def test_the_flag_is_the_commands_in_its_help_which_succeeds(tmp_path):
    for flag in ("--help", "-h"):
        result = demo(tmp_path, flag)
        assert result.returncode == 0 and "--config: A recipe" in result.stdout


def test_the_list_of_recipes_is_complete():
    folder = pathlib.Path(recipe.__file__).parent.parent / "configs"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "defaults", "evaluation"}
    assert set(recipe._RECIPES.split(", ")) == files


def test_without_a_default_a_missing_config_gets_a_sentence(tmp_path):
    result = demo(tmp_path)
    assert result.returncode == 1 and result.stderr.startswith("error: --config is missing; give")


def test_flags_after_a_bare_dash_dash_reach_main_where_the_command_passes_them_on(tmp_path):
    arguments = ["--config=cifar10", "--", "--runner=FlinkRunner", "--config=cifar10"]
    result = demo(tmp_path, *arguments, passes_on=', passes_on="Beam"')
    assert result.stdout.endswith("['--runner=FlinkRunner', '--config=cifar10']\n"), result.stderr
    refused = demo(tmp_path, *arguments)
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: unexpected argument '--runner=FlinkRunner'; all options are flags, see --help.\n"
    )


def test_other_arguments_are_refused_also_where_flags_are_passed_on(tmp_path):
    for arguments in (["extra"], ["--", "--runner=x", "extra"], ["--", "extra", "--runner=x"]):
        result = demo(tmp_path, "--config=cifar10", *arguments, passes_on=', passes_on="Beam"')
        assert result.returncode == 1 and result.stdout == ""
        assert result.stderr == (
            "error: unexpected argument 'extra'; all options are flags, see --help, and those of "
            "Beam follow a bare --.\n"
        )


def test_another_number_of_channels_switches_off_what_only_colours_have(tmp_path):
    command = tmp_path / "channels.py"
    shown = "config.to_json()"
    command.write_text(
        COMMAND.replace("config.batch_size, config.epochs, argv[1:]", shown).format(
            default="None", passes_on=""
        )
    )

    def config(*arguments):
        result = subprocess.run(
            [sys.executable, command, "--config=cifar10_demo", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return json.loads(result.stdout)

    plain, gray = config(), config("--config.channels=1", "--config.bit_depth=16")
    assert plain["channels"] == 3 and plain["augment"]["view_1"]["hue"] > 0
    assert (gray["channels"], gray["bit_depth"]) == (1, 16)
    assert gray["normalize"] == {"mean": [], "std": []}
    for view in ("view_1", "view_2"):
        assert {gray["augment"][view][f] for f in ("saturation", "hue", "grayscale_prob")} == {0}
        assert gray["augment"][view]["brightness"] == plain["augment"][view]["brightness"]
    # What is asked for by name stays, and is refused or used where it is needed.
    asked = config(
        "--config.augment.view_1.hue=0.1", "--config.normalize.mean=(0.4,)", "--config.channels=1"
    )
    assert asked["augment"]["view_1"]["hue"] == 0.1 and asked["normalize"]["mean"] == [0.4]
