"""Handlers are found in modules and by entry points; what is wrong with one is said in one sentence."""

import importlib
import itertools
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from asynctask.loading import GROUP, load
from asynctask.registry import Kind, RegistryError

COUNT = itertools.count()
GOOD = """
from asynctask import task

@task(retries=3, timeout=60)
def thumbnail(url: str, width: int = 200) -> dict:
    "Make it small."
"""
HEAD = "from typing import Annotated\nimport msgspec\nfrom asynctask import Context, task\n\n"


class LoadingTestCase(SynchronousTestCase):
    """A folder on the path, with modules of the test's own."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        sys.path.insert(0, str(self.folder))
        self.addCleanup(sys.path.remove, str(self.folder))

    def module(self, source: str) -> str:
        """Write a module; its name, which no other has."""
        name = f"tasks_of_a_test_{next(COUNT)}"
        (self.folder / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        self.addCleanup(sys.modules.pop, name, None)
        return name

    def load(self, *sources: str) -> dict[str, Kind]:
        return load([self.module(source) for source in sources])

    def refusal(self, *names: str) -> str:
        """The sentence, which is one."""
        sentence = str(self.assertRaises(RegistryError, load, names))
        self.assertNotIn("\n", sentence)
        return sentence

    def refused(self, source: str) -> str:
        """What is said of a module, without its name."""
        name = self.module(source)
        sentence = self.refusal(name)
        self.assertTrue(sentence.startswith(f"--tasks {name}"), sentence)
        return sentence.removeprefix(f"--tasks {name}").replace(str(self.folder / f"{name}.py"), "THE FILE")


class Modules(LoadingTestCase):
    """What --tasks names."""

    def test_without_any_there_is_simulate(self) -> None:
        self.assertEqual(list(load([])), ["simulate"])

    def test_the_marked_functions_of_a_module_are_kinds(self) -> None:
        kinds = self.load(GOOD + "\ndef helper() -> None: ...\n")
        self.assertEqual(list(kinds), ["simulate", "thumbnail"])
        kind = kinds["thumbnail"]
        self.assertEqual((kind.place, kind.retries, kind.timeout), ("thread", 3, 60))
        self.assertEqual(kind.description, "Make it small.")
        self.assertEqual(kind.input.schema["required"], ["url"])

    def test_several_modules_are_taken_together(self) -> None:
        kinds = self.load(GOOD, "from asynctask import task\n\n@task\nasync def fetch() -> None: ...\n")
        self.assertEqual(list(kinds), ["simulate", "thumbnail", "fetch"])

    def test_a_module_that_is_named_twice_counts_once(self) -> None:
        name = self.module(GOOD)
        self.assertEqual(list(load([name, name])), ["simulate", "thumbnail"])

    def test_a_module_may_import_the_handlers_of_another(self) -> None:
        name = self.module(GOOD)
        again = self.module(f"from {name} import thumbnail\nalias = thumbnail\n")
        self.assertEqual(list(load([name, again])), ["simulate", "thumbnail"])
        self.assertEqual(list(load([again])), ["simulate", "thumbnail"])

    def test_a_module_in_a_package_is_found(self) -> None:
        package = self.folder / f"package_of_a_test_{next(COUNT)}"
        package.mkdir()
        (package / "jobs.py").write_text(GOOD)
        self.assertEqual(list(load([f"{package.name}.jobs"])), ["simulate", "thumbnail"])

    def test_a_function_that_is_marked_twice_is_two_kinds(self) -> None:
        kinds = self.load(GOOD + "patient = task(name='patient', retries=9)(thumbnail)\n")
        self.assertEqual(list(kinds), ["simulate", "thumbnail", "patient"])
        self.assertEqual([kinds[name].retries for name in ("thumbnail", "patient")], [3, 9])

    def test_names_in_annotations_are_those_of_the_module_that_the_function_is_in(self) -> None:
        name = self.module(
            "from __future__ import annotations\nfrom decimal import Decimal\n"
            "from asynctask import Context\n"
            "def scale(url: str, factor: Decimal, context: Context) -> None: ...\n"
            "class Scale:\n"
            "    def __call__(self, url: str, factor: Decimal, context: Context) -> None: ...\n"
        )
        kinds = self.load(
            f"from functools import partial\nfrom asynctask import task\nfrom {name} import Scale, scale\n"
            "one = task(name='one')(partial(scale, 'a'))\n"
            "two = task(name='two')(partial(partial(Scale(), url='a'), url='b'))\n"
            "three = task(name='three')(Scale())\n"
        )
        for kind, parameters in (
            ("one", ["factor"]),
            ("two", ["url", "factor"]),
            ("three", ["url", "factor"]),
        ):
            read = kinds[kind].input
            self.assertEqual((read.context, list(read.schema["properties"])), ("context", parameters))
            self.assertEqual(read.schema["properties"]["factor"]["format"], "decimal")

    def test_type_aliases_and_type_parameters_are_what_they_stand_for(self) -> None:
        if sys.version_info < (3, 12):
            raise SkipTest("there is no `type X = ...` before 3.12")
        source = (
            "type Widths[N] = dict[str, list[N]]\n"
            "type Small = Annotated[int, msgspec.Meta(le=9)]\n"
            "type Ours = Context\n\n"
            "@task\n"
            'def scale[T: float](widths: Widths[Small], factor: "T", ours: Ours | None = None): ...\n'
        )
        taken = self.load(HEAD + source)["scale"].input
        self.assertEqual(taken.context, "ours")
        self.assertEqual(
            taken.schema["properties"],
            {
                "widths": {
                    "type": "object",
                    "additionalProperties": {"type": "array", "items": {"type": "integer", "maximum": 9}},
                },
                "factor": {"type": "number"},
            },
        )

    def test_objects_that_are_equal_and_have_no_hash_are_handlers(self) -> None:
        kinds = self.load(
            "from dataclasses import dataclass\nfrom asynctask import task\n\n"
            "@dataclass\nclass Scale:\n    factor: int\n"
            "    def __call__(self, url: str) -> int:\n        return self.factor\n\n"
            "one = alias = task(name='one')(Scale(2))\nother = task(name='other')(Scale(2))\n"
        )
        self.assertEqual(list(kinds), ["simulate", "one", "other"])

    def test_objects_that_have_every_attribute_are_no_handlers(self) -> None:
        kinds = self.load(
            GOOD
            + "import xmlrpc.client\nproxy = xmlrpc.client.ServerProxy('http://localhost')\n"
            + "class Lazy:\n    def __getattr__(self, name):\n        raise RuntimeError('too early')\n"
            + "lazy = Lazy()\n"
        )
        self.assertEqual(list(kinds), ["simulate", "thumbnail"])


class Refusals(LoadingTestCase):
    """What keeps the service from starting."""

    def test_a_module_that_is_not_there(self) -> None:
        self.assertEqual(
            self.refusal("nosuchtasks"),
            "--tasks nosuchtasks cannot be imported: ModuleNotFoundError: No module named 'nosuchtasks'",
        )

    def test_a_name_that_is_none(self) -> None:
        for name, such_as in (
            *(("", ""), (".jobs", ""), ("a..b", ""), ("a,b", ""), ("../jobs.py", "")),
            *(("jobs/mine.py", " such as jobs.mine"), ("./mine", " such as mine")),
            ("jobs:mine", " such as jobs"),
        ):
            self.assertEqual(
                self.refusal(name),
                f"--tasks takes the name of a module, as an import has it{such_as}, not '{name}'",
            )

    def test_one_that_cannot_be_found_any_more(self) -> None:
        for lines, kind, where in (
            (GOOD + GOOD, "thumbnail", "thumbnail, line 4"),
            (
                f"{HEAD}for number in range(2):\n    @task(name=f'kind{{number}}')\n"
                "    def _() -> None: ...\n    number = None\n",
                "kind0",
                "_, line 6",
            ),
            (f"{HEAD}class Jobs:\n    @task\n    def one(self) -> None: ...\n", "one", "Jobs.one, line 6"),
            (
                f"{HEAD}def hides(_):\n    return lambda: None\n@hides\n@task\ndef f() -> None: ...\n",
                "f",
                "f, line 7",
            ),
        ):
            self.assertEqual(
                self.refused(lines),
                f": handler '{kind}' ({where}) is not there when the module has been imported: "
                "give each a name of its own in it, outside of any class",
            )

    def test_one_of_another_module_that_had_the_name_is_not_missed(self) -> None:
        name = self.module(GOOD)
        self.assertIn("thumbnail", load([name]))
        del sys.modules[name]
        (self.folder / f"{name}.py").write_text(f"{HEAD}@task\ndef other_and_longer() -> None: ...\n")
        importlib.invalidate_caches()
        self.assertEqual(list(load([name])), ["simulate", "other_and_longer"])

    def test_one_that_a_function_makes_may_go(self) -> None:
        lines = "def make():\n    @task(name='one')\n    def f() -> None: ...\n    return f\n"
        self.assertEqual(list(self.load(f"{HEAD}{lines}make()\nf = make()\n")), ["simulate", "one"])

    def test_a_module_that_imports_what_is_not_there(self) -> None:
        self.assertEqual(
            self.refused("import json\nimport nosuchlibrary\n"),
            " cannot be imported: ModuleNotFoundError: No module named 'nosuchlibrary' (THE FILE, line 2)",
        )

    def test_a_syntax_error(self) -> None:
        sentence = self.refused("x = 1\ndef handler(:\n    pass\n")
        self.assertRegex(
            sentence, r"^ cannot be imported: SyntaxError: .*\(tasks_of_a_test_\d+\.py, line 2\)$"
        )

    def test_a_line_that_raises(self) -> None:
        self.assertEqual(
            self.refused("\n\nwidth = 1 / 0\n"),
            " cannot be imported: ZeroDivisionError: division by zero (THE FILE, line 3)",
        )

    def test_a_line_that_calls_what_raises_in_a_library(self) -> None:
        sentence = self.refused('import json\n\nsettings = json.loads("{")\n')
        self.assertTrue(sentence.startswith(" cannot be imported: JSONDecodeError: "), sentence)
        self.assertTrue(sentence.endswith("(THE FILE, line 3)"), sentence)

    def test_a_module_that_ends_the_program(self) -> None:
        self.assertEqual(
            self.refused('import sys\nsys.exit("use it as a script")\n'),
            " cannot be imported: SystemExit: use it as a script (THE FILE, line 2)",
        )

    def test_an_exception_of_many_lines_or_of_none(self) -> None:
        self.assertIn("ValueError: one two (", self.refused('raise ValueError("one\\n\\n  two")\n'))
        silent = (
            "class Silent(Exception):\n    def __str__(self):\n        raise RuntimeError\nraise Silent\n"
        )
        self.assertEqual(
            self.refused(silent),
            " cannot be imported: Silent: (its text cannot be shown) (THE FILE, line 4)",
        )

    def test_a_wrong_setting_is_told_with_the_line_of_its_handler(self) -> None:
        self.assertRegex(
            self.refused("from asynctask import task\n\n@task(retries=-1)\ndef handler() -> None: ...\n"),
            r"ValueError: retries is an integer from 0 to 100, not -1 \(THE FILE, line 3\)$",
        )
        self.assertRegex(
            self.refused("from asynctask import task\n\n@task(retry=1)\ndef handler() -> None: ...\n"),
            r"TypeError: .*unexpected keyword argument 'retry' \(THE FILE, line 3\)$",
        )

    def test_a_module_without_handlers(self) -> None:
        self.assertEqual(
            self.refused("def handler() -> None: ...\n"),
            " (THE FILE) has no handler: decorate one with @asynctask.task",
        )

    def test_a_handler_that_cannot_be_one(self) -> None:
        head = (
            "import collections.abc\nfrom twisted.internet.defer import inlineCallbacks\n"
            "from asynctask import Context, task\n\n@task"
        )
        unusable = {
            "\ndef handler(*urls: str) -> None: ...": "parameter '*urls' takes any number of values",
            "\ndef handler(**given: str) -> None: ...": "parameter '**given' takes any number of values",
            "\ndef handler(url: str, /) -> None: ...": "parameter 'url' is positional-only",
            "\ndef handler(url: 'Nope') -> None: ...": (
                "parameter 'url', Nope, cannot be resolved: name 'Nope' is not defined; "
                "import it outside of TYPE_CHECKING too"
            ),
            "\ndef handler(url: str, context) -> None: ...": (
                "parameter 'context' has no annotation: Context, or what its input is"
            ),
            "\ndef handler(call: collections.abc.Callable) -> None: ...": "cannot be checked",
            "\ndef handler(a: Context, b: Context) -> None: ...": "'a' and 'b' are both annotated Context",
            "\ndef handler():\n    yield 1": "it yields; decorate it with inlineCallbacks",
            "\nasync def handler():\n    yield 1": "it is an async def that yields; let it return",
            "\n@inlineCallbacks\nasync def handler():\n    yield 1": "it is an async def that yields",
            '(place="thread")\nasync def handler() -> None: ...': "in place 'thread' it must be a plain",
            '(place="process")\nasync def handler() -> None: ...': "in place 'process' it must be a plain",
            '(place="asyncio")\ndef handler() -> None: ...': "in place 'asyncio' it must be an async def",
        }
        for source, why in unusable.items():
            sentence = self.refused(f"{head}{source}\n")
            self.assertTrue(sentence.startswith(": handler 'handler' cannot be used: "), sentence)
            self.assertIn(why, sentence)

    def test_an_object_that_yields_when_it_is_called(self) -> None:
        for how, why in (
            ("def", "it yields; decorate it"),
            ("async def", "it is an async def that yields"),
        ):
            source = f"class Handler:\n    {how} __call__(self) -> object:\n        yield 1\n"
            made = "handler = task(name='handler')(Handler())\n"
            self.assertIn(why, self.refused(f"from asynctask import task\n{source}{made}"))

    def test_type_aliases_that_stand_for_nothing_or_that_msgspec_would_misread(self) -> None:
        if sys.version_info < (3, 12):
            raise SkipTest("there is no `type X = ...` before 3.12")
        within = "class Box(msgspec.Struct):\n    value: X\n"
        unusable = {
            "type X = X\ndef handler(url: X) -> None: ...": "the type alias X stands for itself",
            "type X = Y\ntype Y = X\ndef handler(context: X) -> None: ...": "X stands for itself",
            f"type X = Annotated[X, 1]\n{within}def handler(url: Box) -> None: ...": "X stands for itself",
            "type X[T] = X[T]\ndef handler(url: list[X[int]]) -> None: ...": "X[int] stands for itself",
            "type X = Nope\ndef handler(url: X) -> None: ...": "name 'Nope' is not defined",
            "type X = str | list[X]\ndef handler(url: X) -> None: ...": "a type alias in it contains",
            "type X[K, V] = dict[V, K]\ndef handler(url: X[int, str]) -> None: ...": "X has to use each of",
            "type X[T] = int\ndef handler(url: X[str] | None) -> None: ...": "X has to use each of",
        }
        for source, why in unusable.items():
            head, handler = source.rsplit("\n", 1)
            sentence = self.refused(f"{HEAD}{head}\n@task\n{handler}\n")
            self.assertTrue(sentence.startswith(": handler 'handler' cannot be used: "), sentence)
            self.assertIn(why, sentence)

    def test_a_handler_that_no_process_could_find(self) -> None:
        head = "from asynctask import task\n\n"
        unfound = {
            "@task(place='process')\ndef handler(): ...\nother, handler = handler, 1": "the same object",
            "handler = task(place='process', name='handler')(lambda: None)": "<lambda>",
            "def make():\n    @task(place='process')\n    def handler(): ...\n    return handler\n"
            "handler = make()": "make.<locals>.handler",
        }
        for source, why in unfound.items():
            sentence = self.refused(f"{head}{source}\n")
            told = ": handler 'handler' cannot be used: no process could find it by its name: "
            self.assertTrue(sentence.startswith(told), sentence)
            self.assertIn(why, sentence)

    def test_a_handler_whose_input_no_process_could_be_sent(self) -> None:
        made = "def make():\n    @dataclass\n    class Row:\n        n: int\n    return Row\nRow = make()\n"
        head = f"from asynctask import task\nfrom dataclasses import dataclass\n{made}"
        for annotation, name in (
            ("Row", "Row"),
            ("list[dict[str, Row]]", "Row"),
            ("memoryview", "memoryview"),
        ):
            handler = f"def handler(x: {annotation}): ..."
            sentence = self.refused(f"{head}@task(place='process')\n{handler}\n")
            told = f": handler 'handler' cannot be used: no {name} can be sent to a process: "
            self.assertTrue(sentence.startswith(told), sentence)
        options = (
            "from typing import TypedDict\nOdd = TypedDict('Options', {'a-b': int})"  # given as a dict
        )
        name = self.module(f"{head}{options}\n@task(place='process')\ndef handler(x: Odd): ...\n")
        self.assertIn("handler", load([name]))


class DoubleNames(LoadingTestCase):
    """Two handlers of one name."""

    def test_in_one_module(self) -> None:
        name = self.module(GOOD + "\n@task(name='thumbnail')\ndef other() -> None: ...\n")
        self.assertEqual(
            self.refusal(name), f"--tasks {name} has two handlers 'thumbnail': thumbnail and other"
        )

    def test_in_two_modules(self) -> None:
        first, second = self.module(GOOD), self.module(GOOD)
        self.assertEqual(
            self.refusal(first, second),
            f"--tasks {second} has a handler 'thumbnail', and so has --tasks {first}",
        )

    def test_the_built_in_one(self) -> None:
        sentence = self.refused("from asynctask import task\n\n@task\ndef simulate() -> None: ...\n")
        self.assertEqual(sentence, " has a handler 'simulate', and so has asynctask")


class EntryPoints(LoadingTestCase):
    """What installed packages bring."""

    def install(self, *entry_points: str) -> None:
        """As pip leaves a package that has them."""
        distribution = self.folder / f"package_{next(COUNT)}-1.0.dist-info"
        distribution.mkdir()
        (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: jobs\nVersion: 1.0\n")
        text = "\n".join([f"[{GROUP}]", *entry_points, ""])
        (distribution / "entry_points.txt").write_text(text)

    def test_a_module_brings_its_handlers(self) -> None:
        self.install(f"jobs = {self.module(GOOD)}")
        self.assertEqual(list(load([])), ["simulate", "thumbnail"])

    def test_a_folder_of_modules_brings_none(self) -> None:
        name, folder = self.module(GOOD), str(self.folder)
        self.install(f"jobs = {name}")
        sys.path.remove(folder)
        self.assertEqual(list(load([], folder)), ["simulate"])
        self.assertNotIn(folder, sys.path)
        self.assertEqual(list(load([name], folder)), ["simulate", "thumbnail"])
        self.assertEqual(sys.path[0], folder)

    def test_a_function_brings_itself_alone(self) -> None:
        name = self.module(GOOD + "\n@task\ndef other() -> None: ...\n")
        self.install(f"jobs = {name}:other")
        self.assertEqual(list(load([])), ["simulate", "other"])

    def test_what_is_no_handler_is_named(self) -> None:
        name = self.module("def helper() -> None: ...")
        self.install(f"jobs = {name}:helper")
        sentence = f"entry point jobs = {name}:helper has no handler: decorate one with @asynctask.task"
        self.assertEqual(self.refusal(), sentence)

    def test_a_module_may_be_named_by_an_option_too(self) -> None:
        name = self.module(GOOD)
        self.install(f"jobs = {name}")
        self.assertEqual(list(load([name])), ["simulate", "thumbnail"])

    def test_one_that_cannot_be_imported_is_named(self) -> None:
        name = self.module("1 / 0\n")
        self.install(f"jobs = {name}")
        self.assertEqual(
            self.refusal(),
            f"entry point jobs = {name} cannot be imported: ZeroDivisionError: division by zero"
            f" ({self.folder / name}.py, line 1)",
        )

    def test_one_that_names_what_is_not_there_is_named(self) -> None:
        name = self.module(GOOD)
        self.install(f"jobs = {name}:nosuch")
        self.assertTrue(
            self.refusal().startswith(
                f"entry point jobs = {name}:nosuch cannot be imported: AttributeError: "
            )
        )

    def test_a_double_name_names_both(self) -> None:
        installed, named = self.module(GOOD), self.module(GOOD)
        self.install(f"jobs = {installed}")
        self.assertEqual(
            self.refusal(named),
            f"--tasks {named} has a handler 'thumbnail', and so has entry point jobs = {installed}",
        )
