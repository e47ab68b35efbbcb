"""Attach a table, search it by meaning, and rerank the results.

First run `pgmeaning migrate` and `pgmeaning sidecar` against the same database, which PGMEANING_DSN names.
"""

from __future__ import annotations

import os

import pgmeaning


def main() -> None:
    """Print the best three of five recipes."""
    with pgmeaning.connect(os.environ.get("PGMEANING_DSN", "")) as client:
        client.connection.execute("CREATE TABLE IF NOT EXISTS recipes (id int PRIMARY KEY, title text, body text)")
        client.connection.execute(
            "INSERT INTO recipes VALUES (1, 'Pilaf', 'Rice simmered in broth'), (2, 'Risotto', 'Creamy rice'), "
            "(3, 'Omelette', 'Eggs and butter'), (4, 'Sushi', 'Vinegared rice and fish'), (5, 'Toast', 'Bread') "
            "ON CONFLICT DO NOTHING"
        )
        if not any(row["collection"] == "recipes" for row in client.status()):
            client.attach("recipes", columns=["title", "body"], model="all-MiniLM-L6-v2")
        client.wait_for("recipes")
        for hit in client.search(
            "recipes", "how to cook rice", k=3, rerank=5, reranker="all-MiniLM-L6-v2-late-interaction"
        ):
            print(f"{hit.score:.2f}  {hit.row['title']}")


if __name__ == "__main__":
    main()
