"""The gallery of the documentation: runs the experiments that take seconds, and writes a page for each.

    python -m experiments.gallery                                  # all that are cheap
    python -m experiments.gallery coin typical_set                 # these, the other pages stay as they are
    python -m experiments.gallery --records FOLDER                 # beside them, records saved as FOLDER/<name>

The dear ones are run by hand, `python -m experiments.<name> --save FOLDER/<name>`, and shown from what they saved. One
that has no saved record is listed with what its file says about it.
"""

import argparse
import ast
import importlib
import json
import shutil
import tempfile
from pathlib import Path

from jaxmap.infer.storage import write_atomically

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "gallery"
CHEAP = (
    "mse_is_a_gaussian_likelihood",
    "cross_entropy_is_a_categorical_likelihood",
    "ridge_is_a_gaussian_prior",
    "adamw_is_not_map",
    "coin",
    "parametrisation",
    "map_becomes_mle",
    "mle_variance_bias",
    "wrong_prior",
    "full_bayes_is_never_sparse",
    "typical_set",
)
"""Seconds each, on data that come along; in the order of the gallery."""

NO_QUESTION = frozenset(
    {"__init__", "gallery", "record", "posteriordb", "posterior_moments", "image_data", "audit_cases"}
)


AROUND = frozenset({"experiment", "folder", "data"})
"""What a record's config says of where it was made."""


def story(name: str) -> tuple[str, str]:
    """The question of an experiment, and the rest of its docstring; the file is read, not run."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))) or ""
    question, _, rest = text.partition("\n")
    return question.strip(), rest.strip()


def page(name: str, folder: Path, pages: Path) -> None:
    """Write the page of an experiment from its saved record, and the picture beside it."""
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    question, rest = story(name)
    config = ", ".join(f"{key}={value}" for key, value in record["config"].items() if key not in AROUND)
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    text = f"# {question}\n\n{rest}\n\n![{record['title']}]({name}.png)\n\n"
    text += f"```text\n{(folder / 'table.txt').read_text(encoding='utf-8').rstrip()}\n```\n\n"
    text += f"Run with {config}; {versions}.\n"
    write_atomically(pages / f"{name}.png", (folder / "figure.png").read_bytes())
    write_atomically(pages / f"{name}.md", text.encode())


def index(pages: Path) -> None:
    """Write the list of all experiments: those with a page, and the others with what their files say."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NO_QUESTION)
    shown = [name for name in (*CHEAP, *names) if (pages / f"{name}.md").exists()]
    shown = list(dict.fromkeys(shown))
    text = "# Experiments\n\nEach file of `experiments/` asks one question and answers it with a table and a figure.\n"
    text += "These pages were written by `python -m experiments.gallery`, from what was run.\n\n"
    text += "".join(f"- [{story(name)[0]}]({name}.md)\n" for name in shown)
    text += "\n## Those that take minutes or hours, or data that do not come along\n\n"
    text += "Not run for this page; their files say what they ask and, where it is known, what came out.\n"
    for name in names:
        if name not in shown:
            question, rest = story(name)
            text += f"\n### {question}\n\n{rest}\n"
    write_atomically(pages / "index.md", text.encode())


def main(arguments: list[str] | None = None) -> None:
    """Run what was asked for, and write the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", help="which experiments; default: all cheap ones")
    parser.add_argument("--records", type=Path, help="a folder of saved records, one folder per experiment")
    parser.add_argument("--out", type=Path, default=PAGES, help="where the pages go")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    saved = {path.parent.name: path.parent for path in given.records.glob("*/record.json")} if given.records else {}
    for name in given.names or (*CHEAP, *(name for name in sorted(saved) if name not in CHEAP)):
        print(f"{name} ...", flush=True)
        if name in saved:
            page(name, saved[name], given.out)
            continue
        module = importlib.import_module(f"experiments.{name}")
        folder = Path(tempfile.mkdtemp())
        try:
            page(name, module.run(module.Config()).save(folder), given.out)
        finally:
            shutil.rmtree(folder)
    index(given.out)


if __name__ == "__main__":
    main()
