"""Imports go only downwards, and the pure modules are pure."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from twisted.trial.unittest import SynchronousTestCase

ROOT: Final = Path(__file__).resolve().parent.parent

ORDER: Final = (
    *("asynctask_plugin", "__main__", "service", "composition"),
    *("client", "sending", "stream", "responses"),
    *("options", "command", "supervisor", "member", "sdnotify", "pipes"),
    *(
        "api",
        "followers",
        "httpserver",
        "channel",
        "twistedweb",
        "listening",
        "runner",
        "callbacks",
        "retention",
    ),
    *("collector", "watchdog", "chance"),
    *(
        "acceptance",
        "description",
        "components",
        "schemas",
        "answerschemas",
        "schemawords",
        "door",
        "answers",
        "guard",
        "dispatch",
        "request",
        "deadlines",
        "incoming",
        "heads",
        "access",
        "pidfile",
        "headers",
        "queries",
        "submissions",
        "posting",
        "agents",
        "tls",
        "resolver",
        "fairqueue",
        "claims",
        "attempts",
        "places",
        "seats",
        "feed",
        "sse",
    ),
    *("processes", "spawned", "worker", "loop", "steps", "runs"),
    *(
        "storeurl",
        "store",
        "claiming",
        "changing",
        "shownsecret",
        "starting",
        "outbox",
        "hooks",
        "forothers",
        "reading",
        "maintenance",
        "istore",
        "live",
        "parts",
        "writer",
        "indoubt",
        "replies",
        "outage",
        "hold",
        "recovery",
        "sqlite",
        "backlog",
        "works",
        "database",
        "threads",
        "patient",
        "sharing",
        "heartbeat",
        "polling",
        "postgres",
        "pgreaders",
        "cutoff",
        "readers",
        "pgbatches",
        "batches",
        "changes",
        "rows",
        "outboxstatements",
        "sharedstatements",
        "statements",
        "pgserver",
        "sqlitefile",
    ),
    *("metrics", "counters", "aggregation", "migrations", "tables", "__init__"),
    *("loading", "registry", "inputs", "annotations", "words", "typeinfo", "aliases"),
    *("shapes", "collisions"),
    *(
        "timers",
        "wallclock",
        "testing",
        "context",
        "pythonlog",
        "printed",
        "recorder",
        "ownfiles",
        "logqueue",
        "refusals",
        "logs",
        "tracebacks",
        "signing",
        "deliveries",
        "addresses",
        "urls",
        "forked",
    ),
    *("wire", "strictjson", "problems", "model"),
)
"""From the top down: each module may import those that come after it."""

PURE: Final = (
    "wire",
    "strictjson",
    "collisions",
    "problems",
    "model",
    "headers",
    "queries",
    "heads",
    "incoming",
    "responses",
    "changes",
    "sse",
    "aggregation",
    "parts",
    "deliveries",
    "addresses",
    "urls",
    "fairqueue",
)

CLOCK_AND_CHANCE: Final = {"time", "random", "secrets", "uuid", "os", "sys", "socket", "threading"}
"""What the pure modules are given as arguments, or have no use for."""


class Module(NamedTuple):
    """One file of the program."""

    name: str
    package: str
    tree: ast.Module


def modules() -> Iterator[Module]:
    """Every file; those of a folder count as one module."""
    for path in sorted(ROOT.glob("asynctask/**/*.py")):
        folder, *rest = path.relative_to(ROOT).parts
        name = rest[0] if len(rest) > 1 else path.stem
        yield Module(name, folder, ast.parse(path.read_text("utf-8"), path))
    for path in sorted(ROOT.glob("twisted/plugins/*.py")):
        yield Module(path.stem, "twisted.plugins", ast.parse(path.read_text("utf-8"), path))


MODULES: Final = list(modules())


def imports(tree: ast.AST) -> Iterator[str]:
    """What is imported, anywhere in the file, with its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "A relative import hides where it goes"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(module: Module) -> set[str]:
    """The modules of ours that it imports."""
    found = set()
    for name in imports(module.tree):
        package, _, rest = name.partition(".")
        if package == "asynctask":
            first = rest.partition(".")[0]
            # What the package itself has is no module: its version.
            found.add(first if first in ORDER else "__init__")
    return found - {module.name}


def attributes(tree: ast.AST) -> set[str]:
    """Every `name.attribute` that is used."""
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


class TheOrder(SynchronousTestCase):
    """Which module may know which."""

    def test_every_module_has_its_place_in_the_order(self) -> None:
        self.assertEqual({module.name for module in MODULES}, set(ORDER))

    def test_imports_go_only_downwards(self) -> None:
        upwards = [
            f"{module.name} imports {other}"
            for module in MODULES
            for other in sorted(imported_modules(module))
            if ORDER.index(other) < ORDER.index(module.name)
        ]
        self.assertEqual(upwards, [])

    def test_the_door_and_the_runner_do_not_know_each_other(self) -> None:
        known = {module.name: imported_modules(module) for module in MODULES}
        self.assertNotIn("runner", known["api"])
        self.assertNotIn("api", known["runner"])

    def test_only_what_puts_it_together_knows_the_options(self) -> None:
        knowing = {module.name for module in MODULES if "options" in imported_modules(module)}
        self.assertEqual(knowing, {"service"})

    def test_a_client_brings_nothing_of_the_service(self) -> None:
        known = {module.name: imported_modules(module) for module in MODULES}
        own = {"client", "sending", "stream", "responses"}
        needed = own | {"addresses", "agents", "tls", "wire", "problems", "model"}
        self.assertLessEqual(set().union(*(known[name] for name in own)), needed)
        self.assertEqual([name for name in known if name not in own and known[name] & own], [])

    def test_what_the_noxfile_has_a_floor_for_is_there(self) -> None:
        noxfile = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
        [floored] = [
            statement.value
            for statement in noxfile.body
            if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "FLOORED"
        ]
        assert floored is not None
        named = {node.value for node in ast.walk(floored) if isinstance(node, ast.Constant)}
        self.assertIn("runner", named)
        self.assertLessEqual(named, {module.name for module in MODULES})

    def test_the_imports_are_really_found(self) -> None:
        known = {module.name: imported_modules(module) for module in MODULES}
        self.assertEqual(known["model"], set())
        self.assertEqual(known["wire"], {"model", "problems", "strictjson"})
        self.assertLessEqual({"api", "runner", "store"}, known["composition"])


class PureModules(SynchronousTestCase):
    """What decides has its time and its chance from its caller."""

    def setUp(self) -> None:
        self.pure = [module for module in MODULES if module.name in PURE]
        self.assertEqual(len(self.pure), len(PURE))

    def test_they_know_neither_twisted_nor_a_clock_nor_chance(self) -> None:
        for module in self.pure:
            packages = {name.partition(".")[0] for name in imports(module.tree)}
            self.assertEqual(packages & ({"twisted"} | CLOCK_AND_CHANCE), set(), module.name)

    def test_they_do_not_ask_what_time_it_is(self) -> None:
        for module in self.pure:
            asked = {
                name for name in attributes(module.tree) if name.endswith((".now", ".utcnow", ".today"))
            }
            self.assertEqual(asked, set(), module.name)


class TheOutside(SynchronousTestCase):
    """Who touches the reactor and the environment."""

    def test_only_the_service_and_the_client_touch_the_reactor(self) -> None:
        touching = {
            module.name for module in MODULES if "twisted.internet.reactor" in set(imports(module.tree))
        }
        self.assertEqual(touching, {"service", "client"})

    def test_the_reactor_is_not_chosen_by_an_import(self) -> None:
        for module in MODULES:
            for statement in module.tree.body:
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    self.assertNotIn("twisted.internet.reactor", set(imports(statement)), module.name)

    def test_only_the_top_touches_the_environment_and_the_arguments(self) -> None:
        outside = {"os.environ", "os.getenv", "os.environb", "os.putenv", "sys.argv"}
        touching = {
            module.name
            for module in MODULES
            if (attributes(module.tree) | set(imports(module.tree))) & outside
        }
        self.assertLessEqual(touching, {"service", "options", "__main__"})
        self.assertIn("options", touching)

    def test_the_plugin_does_not_import_the_service(self) -> None:
        [plugin] = [module for module in MODULES if module.package == "twisted.plugins"]
        self.assertEqual(imported_modules(plugin), set())

    def test_nothing_makes_a_package_of_twisted(self) -> None:
        for folder in ("twisted", "twisted/plugins"):
            self.assertTrue((ROOT / folder).is_dir())
            self.assertFalse((ROOT / folder / "__init__.py").exists())
