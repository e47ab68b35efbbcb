"""Who may do what: for each kind of role, each public function and view, what is allowed and how it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.integration.roles import Role, logged_in
from tests.integration.test_chunks import embed_all
from tests.integration.test_rerank import Judge
from tests.types import Connection

VECTORS = 'pgmeaning_data."docs__synthetic-384"'

# Kinds of roles, by the rights that they have.
STRANGER, SOME, SOURCE, READER, OWNER, ADMIN = KINDS = (
    "nothing", "some columns", "the source", "source and vectors", "the table's owner", "the installation's owner",
)  # fmt: skip

OK = "00000"
REFUSED = "PM011"  # ours, with what to do
DENIED = "42501"  # PostgreSQL's own

# What each kind gets, in the order of KINDS.
ANYBODY = (OK,) * 6
MANAGE = (REFUSED,) * 5 + (OK,)
NO_SWAP = (*(REFUSED,) * 5, "PM022")  # whoever may manage one is told that there is none
# Vectors are granted apart from the source: who owns the table is granted them here, too.
SEARCH = (REFUSED,) * 3 + (OK,) * 3
# A row of the table's type comes with all its columns, which PostgreSQL checks; embedded ones we check before.
VIEWED = (DENIED,) * 3 + (OK,) * 3
OURS = (DENIED,) * 5 + (OK,)

# (what is called, what becomes of it): every public function, in each of its forms.
FUNCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "search": ("SELECT * FROM pgmeaning.search('docs', 'q')", SEARCH),
    "search, hybrid": ("SELECT * FROM pgmeaning.search('docs', 'q', mode => 'hybrid')", SEARCH),
    "search, reranked": ("SELECT * FROM pgmeaning.search('docs', 'q', rerank => 5)", SEARCH),
    "search, filtered": ("SELECT * FROM pgmeaning.search('docs', 'q', filter => 'id = 1')", SEARCH),
    "search, typed": ("SELECT * FROM pgmeaning.search(NULL::docs, 'q')", SEARCH),
    "search, typed, filtered": ("SELECT * FROM pgmeaning.search(NULL::docs, 'q', 'id = $1', '{1}'::text[])", SEARCH),
    "search_many": ("SELECT * FROM pgmeaning.search_many('docs', '{q,r}')", SEARCH),
    "nearest": ("SELECT * FROM pgmeaning.nearest('docs', pgmeaning.embed('q'))", SEARCH),
    "similar": ("SELECT * FROM pgmeaning.similar('docs', '1')", SEARCH),
    "matches": ("SELECT * FROM pgmeaning.matches('docs', 'docs')", SEARCH),
    "duplicates": ("SELECT * FROM pgmeaning.duplicates('docs')", SEARCH),
    "clusters": ("SELECT * FROM pgmeaning.clusters('docs', 2)", SEARCH),
    "classify": ("SELECT * FROM pgmeaning.classify('docs', '{q,r}')", SEARCH),
    "embed": ("SELECT pgmeaning.embed('a question', collection => 'docs')", ANYBODY),
    "embed, by a model in use": ("SELECT pgmeaning.embed('a question', model => 'synthetic-384')", ANYBODY),
    "embed, by another": (  # whoever may allow a model may ask for it, and does not wait for it here
        "SELECT pgmeaning.embed('a question', model => 'all-MiniLM-L6-v2', timeout => '0')",
        (*("PM006",) * 5, "PM007"),
    ),
    "similarity": ("SELECT pgmeaning.similarity('a', 'b')", ANYBODY),
    "rerank": ("SELECT * FROM pgmeaning.rerank('q', '{a,b}')", ANYBODY),
    "prepare": ("CALL pgmeaning.prepare('another question')", ANYBODY),
    "wait_for": ("CALL pgmeaning.wait_for('docs')", ANYBODY),
    "filter_params": ("SELECT pgmeaning.filter_params('[1]')", ANYBODY),
    "plan_index": ("SELECT * FROM pgmeaning.plan_index('docs')", ANYBODY),
    "attach": ("SELECT pgmeaning.attach('docs', '{body}', collection => 'mine')", MANAGE),
    "detach": ("SELECT pgmeaning.detach('docs')", MANAGE),
    "pause": ("SELECT pgmeaning.pause('docs')", MANAGE),
    "resume": ("SELECT pgmeaning.resume('docs')", MANAGE),
    "refresh": ("SELECT pgmeaning.refresh('docs')", MANAGE),
    "retry": ("SELECT pgmeaning.retry('docs')", MANAGE),
    "rename_collection": ("SELECT pgmeaning.rename_collection('docs', 'papers')", MANAGE),
    "set_default_collection": ("SELECT pgmeaning.set_default_collection('docs')", MANAGE),
    "want_index": ("SELECT pgmeaning.want_index('docs')", MANAGE),
    "measure_index": ("SELECT pgmeaning.measure_index('docs')", MANAGE),
    "record_evaluation": ("SELECT pgmeaning.record_evaluation('docs', NULL, 5, 'nDCG@10', 0.5)", MANAGE),
    "set_default_model": ("SELECT pgmeaning.set_default_model('synthetic-4096')", MANAGE),
    "deprecate_model": ("SELECT pgmeaning.deprecate_model('synthetic-4096')", MANAGE),
    "retire_model": ("SELECT pgmeaning.retire_model('synthetic-4096')", MANAGE),
    "support_model": ("SELECT pgmeaning.support_model('synthetic-4096')", MANAGE),
    "use_release": ("SELECT pgmeaning.use_release('26.02')", MANAGE),
    "create_release": ("SELECT pgmeaning.create_release('x', 'synthetic-4096')", MANAGE),
    "sign_release": ("SELECT pgmeaning.sign_release('26.02', 'x')", MANAGE),
    "forget_probes": ("SELECT pgmeaning.forget_probes('synthetic-4096')", MANAGE),
    "set_model_options": ("SELECT pgmeaning.set_model_options('synthetic-4096', '{}')", MANAGE),
    "allow_model": ("SELECT pgmeaning.allow_model('synthetic-4096')", MANAGE),
    "explain_swap": ("SELECT * FROM pgmeaning.explain_swap('docs', dimensions => 64)", ANYBODY),
    "swap_start": ("SELECT pgmeaning.swap_start('docs', dimensions => 64)", MANAGE),
    "swap_adjust": ("SELECT pgmeaning.swap_adjust('docs')", NO_SWAP),
    "swap_activate": ("SELECT pgmeaning.swap_activate('docs')", NO_SWAP),
    "swap_rollback": ("SELECT pgmeaning.swap_rollback('docs')", NO_SWAP),
    "swap_finish": ("SELECT pgmeaning.swap_finish('docs')", NO_SWAP),
    "swap_cancel": ("SELECT pgmeaning.swap_cancel('docs')", NO_SWAP),
}  # fmt: skip

# Relations, ours and the collection's.
RELATIONS: dict[str, tuple[str, ...]] = {
    "docs": (DENIED, DENIED, OK, OK, OK, OK),
    "docs_embedding": VIEWED,
    VECTORS: VIEWED,
    "pgmeaning.status": ANYBODY,
    "pgmeaning.index_report": ANYBODY,
    "pgmeaning.word_report": ANYBODY,
    "pgmeaning_data.postings_1": VIEWED,  # of which no rows, but for who sees all of the source
    "pgmeaning.sidecars": ANYBODY,
    "pgmeaning.models": ANYBODY,
    "pgmeaning.model_probe": ANYBODY,
    "pgmeaning.releases": ANYBODY,
    "pgmeaning.swaps": ANYBODY,
    "pgmeaning.swap": ANYBODY,
    "pgmeaning.usage": ANYBODY,
    "pgmeaning.evaluations": ANYBODY,
    "pgmeaning.evaluation": OURS,
    "pgmeaning.failures": OURS,
    "pgmeaning.model": OURS,
    "pgmeaning.registry_log": OURS,
    "pgmeaning.queue": OURS,
    "pgmeaning.inbox": OURS,
    "pgmeaning.bulk_inbox": OURS,
    "pgmeaning.request": OURS,
    "pgmeaning.query_cache": OURS,
    "pgmeaning.kept_vectors": OURS,
    "pgmeaning.lock": OURS,
    "pgmeaning.model_spending": OURS,
    "pgmeaning.loopback": OURS,
    "pgmeaning.sidecar": OURS,
}
# What nobody but the installation's owner writes to.
WRITTEN = [
    "collection", "target", "model", "release", "registry_log", "model_probe", "installation", "vector_index", "queue",
    "word_index", "inbox", "bulk_inbox", "request", "query_cache", "kept_vectors", "sidecar", "lock", "swap", "usage",
    "evaluation", "model_spending",
]  # fmt: skip


@pytest.fixture
def roles(db: Connection, dsn: str) -> Iterator[dict[str, Role]]:
    """A role of each kind, a collection with three rows, and a sidecar at work."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, salary text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i, 'salary' FROM generate_series(1, 3) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body,salary}', language => 'simple')")
    embed_all(dsn)
    with ExitStack() as stack:
        made = {kind: stack.enter_context(logged_in(db, dsn, f"kind{place}")) for place, kind in enumerate(KINDS[:5])}
        name = {kind: role.name for kind, role in made.items()}
        # Even on the vectors: the columns decide.
        db.execute(f"GRANT SELECT (id, body) ON docs TO {name[SOME]}")
        db.execute(f"GRANT SELECT ON docs TO {name[SOURCE]}, {name[READER]}")
        db.execute(f"GRANT SELECT ON {VECTORS}, docs_embedding TO {name[READER]}, {name[OWNER]}")
        db.execute(f"GRANT CREATE ON SCHEMA public TO {name[OWNER]}")
        db.execute(f"ALTER TABLE docs OWNER TO {name[OWNER]}")
        stack.enter_context(running(Sidecar(dsn, Settings(), load_reranker=lambda _: Judge())))
        made[ADMIN] = Role("postgres", db)
        yield made
        db.execute("ALTER TABLE docs OWNER TO CURRENT_USER")


def outcome(role: Role, statement: str) -> tuple[str, str | None]:
    """The SQLSTATE, and the hint; what was done is undone, but for a procedure's."""
    try:
        if not statement.startswith("CALL"):
            role.connection.execute("BEGIN")
        role.connection.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or "", error.diag.message_hint
    finally:
        role.connection.execute("ROLLBACK")
    return OK, None


def differences(roles: dict[str, Role], statement: str, wanted: tuple[str, ...]) -> list[str]:
    found = {kind: outcome(roles[kind], statement) for kind in KINDS}
    told = [
        f"{kind}: {state}, not {want}"
        for (kind, (state, _)), want in zip(found.items(), wanted, strict=True)
        if state != want
    ]
    return told + [f"{kind}: no hint" for kind, (state, hint) in found.items() if state == REFUSED and not hint]


def test_each_kind_of_role_may_call_what_the_matrix_says(roles: dict[str, Role]) -> None:
    wrong = {name: told for name, (call, wanted) in FUNCTIONS.items() if (told := differences(roles, call, wanted))}
    assert wrong == {}


def test_each_kind_of_role_may_read_what_the_matrix_says(roles: dict[str, Role]) -> None:
    wrong = {
        name: told for name, wanted in RELATIONS.items()
        if (told := differences(roles, f"SELECT * FROM {name}", wanted))
    }  # fmt: skip
    assert wrong == {}


def test_vectors_alone_or_some_columns_with_them_are_refused(roles: dict[str, Role], db: Connection) -> None:
    for kind in (STRANGER, SOME):
        db.execute(f"GRANT SELECT ON {VECTORS}, docs_embedding TO {roles[kind].name}")
        for statement in [call for call, wanted in FUNCTIONS.values() if wanted == SEARCH]:
            assert outcome(roles[kind], statement)[0] in (REFUSED, DENIED), statement
        for relation in ("docs_embedding", VECTORS):
            assert outcome(roles[kind], f"SELECT * FROM {relation}")[0] == REFUSED, relation


def test_nobody_else_writes_to_anything_of_ours(roles: dict[str, Role]) -> None:
    for kind in KINDS[:5]:
        for table in (*(f"pgmeaning.{name}" for name in WRITTEN), VECTORS):
            for verb in (
                f"DELETE FROM {table}",
                f"TRUNCATE {table}",
                f"DROP TABLE {table}",
                f"LOCK {table} IN SHARE MODE",
            ):
                assert outcome(roles[kind], verb)[0] == DENIED, (kind, verb)
        for schema in ("pgmeaning", "pgmeaning_data"):
            assert outcome(roles[kind], f"CREATE TABLE {schema}.mine (id int)")[0] == DENIED


def test_every_public_function_and_relation_is_in_the_matrix(db: Connection) -> None:
    names = {
        name for (name,) in db.execute(
            "SELECT p.proname FROM pg_proc AS p WHERE p.pronamespace = 'pgmeaning'::regnamespace "
            "AND p.proname !~ '^(_|on_change_)' AND p.prorettype <> 'trigger'::regtype"
        )
    }  # fmt: skip
    assert names == {call.split("pgmeaning.")[1].split("(")[0] for call, _ in FUNCTIONS.values()}
    views = {
        f"pgmeaning.{name}" for (name,) in db.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'pgmeaning'::regnamespace AND relkind = 'v' "
            "AND relname !~ '^_'"
        )
    }  # fmt: skip
    tables = {
        name for (name,) in db.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'pgmeaning'::regnamespace AND relkind = 'r'"
        )
    }  # fmt: skip
    assert views <= set(RELATIONS)
    assert tables - {"alembic_version"} == set(WRITTEN)
