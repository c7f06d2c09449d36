"""The source tree against its own rules: build files, imports, annotations."""

import ast
import configparser
import graphlib
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("byol_tf", "pipelines", "serving")
MODULES = sorted(file for package in PACKAGES for file in ROOT.glob(f"{package}/**/*.py"))
# Those of the source tree as a whole, this file among them, cannot run on Bazel's runfiles.
OF_THE_TREE = (
    *("test_contributing", "test_layout", "test_packaging"),
    *("test_deploy", "test_readme", "test_requirements", "test_make", "test_matrix"),
    *("test_runtimes", "test_trixie"),
)
TESTS = {t for t in ROOT.glob("tests/**/test_*.py") if t.stem not in OF_THE_TREE}


def nodes_that_run(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `tree` but those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from nodes_that_run(node)


def imported_names(path: pathlib.Path) -> set[str]:
    """Dotted names that `path` imports, also in functions."""
    return names_imported(nodes_that_run(ast.parse(path.read_text())))


def names_imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Dotted names that these statements import; `from a import b` counts as `a.b`."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def module_file(name: str) -> pathlib.Path | None:
    """The file of ours that `import name` or `from parent import name` runs, if any."""
    while name.startswith(PACKAGES):
        path = ROOT / name.replace(".", "/")
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.exists():
                return candidate
        name = name.rpartition(".")[0]
    return None


class BuildFile:
    """The targets of one BUILD file, read by running it with recording stand-ins for the rules."""

    def __init__(self, path: pathlib.Path):
        self.folder = path.parent
        self.targets = []  # (rule, source files, labels of deps)
        rules = {rule: self._recorder(rule) for rule in ("py_library", "py_binary", "py_test")}
        ignored = dict.fromkeys(
            ("package", "exports_files", "filegroup"), lambda *args, **kwargs: None
        )
        package = self.folder.relative_to(ROOT).as_posix()
        functions = {"glob": self._glob, "package_name": lambda: package}
        exec(compile(path.read_text(), path, "exec"), {**rules, **ignored, **functions})

    def _recorder(self, rule: str):
        def record(name, srcs=(), deps=(), **unused):
            files = {self.folder / src for src in srcs if not src.startswith("//")}
            labels = {self._label(dep) for dep in deps}
            self.targets.append((rule, self._label(f":{name}"), files, labels))

        return record

    def _glob(self, patterns, exclude=()):
        files = {file for pattern in patterns for file in self.folder.glob(pattern)}
        names = {file.relative_to(self.folder).as_posix() for file in files}
        return sorted(names - set(exclude))

    def _label(self, label: str) -> str:
        """`label` in full: //folder:name."""
        package, _, name = label.partition(":")
        package = package or f"//{self.folder.relative_to(ROOT).as_posix()}"
        return f"{package}:{name or package.rpartition('/')[2]}"


@pytest.fixture(scope="module")
def targets() -> list:
    files = [file for folder in (*PACKAGES, "tests") for file in ROOT.glob(f"{folder}/**/BUILD")]
    return [target for file in files for target in BuildFile(file).targets]


def test_every_module_is_in_one_bazel_target(targets):
    declared = [f for rule, _, files, _ in targets if rule != "py_test" for f in files]
    assert sorted(f for f in declared if f in set(MODULES)) == MODULES


def test_every_test_is_in_a_py_test(targets):
    declared = {f for rule, _, files, _ in targets if rule == "py_test" for f in files}
    assert declared >= TESTS


def test_bazel_deps_are_what_the_modules_import(targets):
    owner = {file: label for _, label, files, _ in targets for file in files & set(MODULES)}
    for _, label, files, deps in targets:
        if files & set(MODULES):
            imports = {module_file(name) for file in files for name in imported_names(file)}
            assert deps == {owner[file] for file in imports if file} - {label}, label


def test_modules_import_in_one_direction(targets):
    graph = {label: deps for _, label, files, deps in targets if files & set(MODULES)}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # Raises on a cycle.


@pytest.mark.parametrize("package", PACKAGES)
def test_the_bazel_target_of_a_package_is_all_of_it(targets, package):
    owners = {label for _, label, files, _ in targets if files & set(MODULES)}
    owners = {label for label in owners if label.startswith(f"//{package}")}
    deps = next(deps for _, label, _, deps in targets if label == f"//{package}:{package}")
    assert deps == {label for label in owners if not label.startswith("//byol_tf/cli:")}


def test_byol_tf_knows_neither_tfx_nor_its_users():
    for path in ROOT.glob("byol_tf/**/*.py"):
        roots = {name.partition(".")[0] for name in imported_names(path)}
        assert roots.isdisjoint({"tfx", "apache_beam", "pipelines", "serving"}), path


def asks_for_a_version(tree: ast.AST) -> Iterator[int]:
    """Lines that ask which Keras or TensorFlow is there; a record or list may quote a version."""
    roots = re.compile(r"(keras|tf|tensorflow|tfa|keras_hub|keras_cv)\b")
    quoted = {
        value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict | ast.List | ast.FormattedValue)
        for value in (
            node.values
            if isinstance(node, ast.Dict)
            else node.elts
            if isinstance(node, ast.List)
            else [node.value]
        )
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("__version__", "VERSION"):
            if roots.match(ast.unparse(node)) and node not in quoted:
                yield node.lineno
        elif isinstance(node, ast.Call) and node.args:
            function, subject = ast.unparse(node.func), ast.unparse(node.args[0])
            asks = function == "hasattr" or (function == "getattr" and len(node.args) == 3)
            if asks and roots.match(subject):
                yield node.lineno
            if function.endswith("version") and roots.match(subject.strip("'")):
                yield node.lineno


@pytest.mark.parametrize(
    "code",
    [
        "keras.__version__ >= '3'",
        "tf.__version__.startswith('2.15')",
        "hasattr(keras.ops, 'cast')",
        "getattr(tf.keras, 'ops', None)",
        "importlib.metadata.version('keras')",
        "x = tensorflow.version.VERSION",
    ],
)
def test_a_question_for_the_version_is_seen(code):
    assert list(asks_for_a_version(ast.parse(code))) == [1]


def test_one_module_knows_which_keras_is_there():
    asking = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if any(asks_for_a_version(ast.parse(path.read_text())))
    }
    assert asking == {"byol_tf/keras_compat.py"}


def test_serving_knows_neither_of_the_others():
    for path in ROOT.glob("serving/**/*.py"):
        roots = {name.partition(".")[0] for name in imported_names(path)}
        assert roots.isdisjoint({"tfx", "apache_beam", "byol_tf", "pipelines"}), path


def test_console_scripts_name_functions_that_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for line in setup["options.entry_points"]["console_scripts"].strip().splitlines():
        module, function = line.partition("=")[2].strip().split(":")
        body = ast.parse(module_file(module).read_text()).body
        assert function in {node.name for node in body if isinstance(node, ast.FunctionDef)}, line


def test_what_answers_before_flags_are_parsed_imports_no_tensorflow():
    files = [*ROOT.glob("byol_tf/cli/*.py"), *ROOT.glob("byol_tf/configs/*.py")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    imports = ", ".join(["byol_tf.errors", *names]).replace(".__init__", "")
    code = f"import sys, {imports}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"tensorflow", "keras", "tensorflow_addons", "tensorflow_datasets", "sklearn"}
    assert heavy.isdisjoint(loaded)


def test_clients_and_commands_of_the_endpoint_import_no_tensorflow():
    code = (
        "import sys, serving.client, serving.local_server.main, serving.search.embed, "
        "serving.search.neighbors;"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "serving.client.grpc_transport" in loaded and "tensorflow" not in loaded


def imports_at_load(path: pathlib.Path) -> set[str]:
    """Dotted names that importing `path` imports: those outside of functions."""
    tree = ast.parse(path.read_text())
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    return names_imported([node for node in nodes_that_run(tree) if node not in inner])


def loads_tfx(names: set[str], seen: set[pathlib.Path]) -> bool:
    """Whether importing `names` imports TFX, directly or through modules of ours."""
    if any(name.partition(".")[0] == "tfx" for name in names):
        return True
    for file in filter(None, map(module_file, names)):
        if file not in seen:
            seen.add(file)
            if loads_tfx(imports_at_load(file), seen):
                return True
    return False


def is_slow(node: ast.AST) -> bool:
    return any(
        ast.unparse(mark) == "pytest.mark.slow" for mark in getattr(node, "decorator_list", ())
    )


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("tests/pipelines/**/test_*.py")), ids=lambda p: p.stem
)
def test_fast_tests_of_the_pipeline_import_no_tfx(path):
    """Its import takes longer than they all do; tests/pipelines/conftest.py sees lazy imports."""
    body = ast.parse(path.read_text()).body
    if any(ast.unparse(node) == "pytestmark = pytest.mark.slow" for node in body):
        return
    names = imports_at_load(path)
    for test in body:
        if (
            isinstance(test, ast.FunctionDef)
            and test.name.startswith("test_")
            and not is_slow(test)
        ):
            names |= names_imported(nodes_that_run(test))
    assert not loads_tfx(names, set())


def public_functions(path: pathlib.Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name, definition) of the functions of `path` that others may call, methods included."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{method.name}", method


def is_annotated(function: ast.FunctionDef) -> bool:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    typed = [a for a in (*named, *starred) if a.arg not in ("self", "cls")]
    return function.returns is not None and all(a.annotation for a in typed)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_functions_are_annotated(package):
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in ROOT.glob(f"{package}/**/*.py")
        for name, function in public_functions(path)
        if not any(part.startswith("_") for part in name.split(".")) and not is_annotated(function)
    ]
    assert not missing
