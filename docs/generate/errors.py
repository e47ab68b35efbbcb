"""The errors: SQLSTATEs of class PM, and Python's exceptions."""

from __future__ import annotations

import re

from pgmeaning import errors
from pgmeaning.database import sql_files

# What a SQLSTATE stands for; a test compares the codes with those that sql/ raises.
MEANINGS = {
    "PM001": "There is no collection of that name, or no attached table of that row type.",
    "PM002": "A name is taken, too long or empty.",
    "PM003": "`attach` was given something that is not a table, or a table that cannot be attached.",
    "PM004": "A column or template cannot be used, or there is nothing to embed.",
    "PM005": "There is no model of that name.",
    "PM006": "The model refuses this: deprecated, retired, in use or not, or it lacks those dimensions or that medium.",
    "PM007": "No sidecar answered in time.",
    "PM008": "The model failed, or the row could not be embedded.",
    "PM009": "The query's vector is not cached, and there is no loopback to ask a sidecar through.",
    "PM010": "The collection is broken, or its table was dropped.",
    "PM011": "A privilege is missing.",
    "PM012": "A procedure that commits was called inside a transaction block.",
    "PM013": "A standby cannot ask a sidecar, since it was not told where its primary is, or does not reach it.",
    "PM014": "An argument makes no sense.",
    "PM015": "A lock could not be acquired in time.",
    "PM016": "Several models fit: name one.",
    "PM017": "The server or pgvector is too old, pgvector is missing, or the database has no encoding.",
    "PM018": "Objects of yours depend on the vectors.",
    "PM020": "Replication writes to the table where no trigger sees it, so there is no telling what is owed.",
    "PM021": "The role has too many questions to sidecars open.",
    "PM022": "A swap is under way, or none is, or it is not at that point.",
    "PM023": "A generation cannot serve: it lacks vectors, or a gate is closed.",
    "PM030": "Vectors of two models, or of two lengths, were to be compared.",
}

HEAD = """# Errors

<!-- Written by `make docs` from sql/ and src/pgmeaning/errors.py. -->

Every error says what is wrong; its DETAIL names the thing, and its HINT says what to do next.

## SQLSTATEs

Errors raised by pgmeaning's functions have SQLSTATEs of a class of their own, `PM`.

| SQLSTATE | meaning |
|---|---|
"""

PYTHON = """
## Python exceptions

All are in `pgmeaning.errors`. An error that comes from the database carries its `sqlstate`, `detail` and `hint`.

```text
{tree}
```
"""


def page() -> str:
    """The page: codes, then the tree that the module's docstring draws."""
    rows = "".join(f"| `{code}` | {meaning} |\n" for code, meaning in MEANINGS.items())
    tree = re.split(r"\n\n", errors.__doc__ or "")[1]
    return HEAD + rows + PYTHON.format(tree=tree)


def codes_in_sql() -> set[str]:
    """The codes that our SQL raises."""
    return {
        code for path in sql_files.folder("sql").rglob("*.sql") for code in re.findall(r"PM\d{3}", path.read_text())
    }
