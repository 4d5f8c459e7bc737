"""House rules for the package's files, and the oldest Python that must read them."""

from __future__ import annotations

import ast
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


class Style(unittest.TestCase):
    def test_lines_and_files_are_short(self) -> None:
        for path in [*SOURCES, *sorted((ROOT / "tests").glob("*.py"))]:
            lines = path.read_text(encoding="utf-8").splitlines()
            self.assertLessEqual(len(lines), 400, path)
            for number, line in enumerate(lines, 1):
                self.assertLessEqual(len(line), 100, f"{path}:{number}")

    def test_python_3_9_can_read_every_file(self) -> None:
        for path in SOURCES:
            ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))

    def test_everything_public_says_what_it_is(self) -> None:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for path in SOURCES:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self.assertTrue(ast.get_docstring(tree), path)
            inside = [node.body for node in tree.body if isinstance(node, ast.ClassDef)
                      and not node.name.startswith("_")]
            for node in [*tree.body, *(inner for body in inside for inner in body)]:
                if isinstance(node, kinds) and not node.name.startswith("_"):
                    self.assertTrue(ast.get_docstring(node), f"{path}: {node.name}")

    def test_nothing_but_the_standard_library_is_imported(self) -> None:
        known = getattr(sys, "stdlib_module_names", None)
        if known is None:
            self.skipTest("this Python cannot say what its library is")
        for path in SOURCES:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                for name in names:
                    self.assertIn(name.split(".")[0], known, f"{path}")


if __name__ == "__main__":
    unittest.main()
