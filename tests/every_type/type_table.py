"""The table of all model types: ``python tests/every_type/type_table.py [--write] [type ...]``.

Grades these types, or every one that transformers has, prints where the committed table says
otherwise, and ends with 1 if it does; ``--write`` renews their rows instead.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import transformers as tf
from grading import grade
from tiny_types import ALL_TYPES

TABLE = Path(__file__).parents[2] / "results" / "model_types.csv"


def read_table() -> pd.DataFrame:
    """``type, grade, doors, reason, transformers``, a row a type; what is empty is ""."""
    return pd.read_csv(TABLE, dtype=str, keep_default_na=False)


def graded(types: Iterable[str] = ALL_TYPES) -> pd.DataFrame:
    """The same table of ``types`` as they are served now."""
    rows = []
    for model_type in types:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(grade(model_type, Path(folder)))
        print(model_type, rows[-1]["grade"], rows[-1]["doors"], file=sys.stderr, flush=True)
    return pd.DataFrame(rows).assign(transformers=tf.__version__)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the committed table")
    parser.add_argument("types", nargs="*", default=ALL_TYPES, help="of models; default all")
    arguments = parser.parse_args()
    tf.utils.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()
    table, found = read_table(), graded(arguments.types)
    others = table[~table.type.isin(found.type)]
    rows = found if arguments.types == ALL_TYPES else pd.concat([others, found])
    rows = rows.sort_values("type", ignore_index=True)
    differing = pd.concat([table, rows]).drop_duplicates(keep=False)
    differing = differing.sort_values("type", kind="stable")  # before, after
    if arguments.write:
        rows.to_csv(TABLE, index=False)
    print("as the table says" if differing.empty else differing.to_string(index=False))
    return int(not differing.empty and not arguments.write)


if __name__ == "__main__":
    sys.exit(main())
