"""How good the results of searches are: judged queries, measures, and whether two ways to search really differ.

It knows no database: `Searcher` is what it asks, and `client.evaluate` passes one.
"""

from pgmeaning.evaluation.queries import Queries, Query, read_queries, to_queries
from pgmeaning.evaluation.results import Evaluation

__all__ = ["Evaluation", "Queries", "Query", "read_queries", "to_queries"]
