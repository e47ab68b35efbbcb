"""Settings from PGMEANING_* variables; for the connection also libpq's own PG* variables."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What can be tuned. Every field is a variable PGMEANING_<NAME>; times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="PGMEANING_", extra="ignore")

    dsn: str = Field(default="", description="libpq connection string or URI; empty: libpq's own PG* variables")

    lease: float = Field(default=60, gt=1, description="how long a claim lasts without a heartbeat")
    attempts: int = Field(default=5, ge=1, description="after so many a row is left as failed, until retry()")
    backoff: float = Field(default=2, gt=0, description="wait after the first failed attempt; doubles with each")
    backoff_max: float = Field(default=300, gt=0, description="the longest wait between two attempts")
    poll: float = Field(default=1, gt=0, le=60, description="how often an idle sidecar looks without being woken")
    upkeep: float = Field(default=2, gt=0, description="how often partitions, dropped and healed tables are looked for")
    reconcile: float = Field(default=3600, gt=0, description="how often every row is compared with its vector's hash")
    claim_rows: int = Field(default=512, ge=1, description="the most rows claimed at once")
    claim_seconds: float = Field(default=4, gt=0, description="about how much work a claim should hold")
    batch_rows: int = Field(default=128, ge=1, description="the most rows in one call of the model")
    batch_tokens: int = Field(
        default=1024, ge=1, description="the most tokens, padding included, in one call; more on a GPU"
    )
    writers: int = Field(default=2, ge=1, le=16, description="connections that write vectors")
    grace: float = Field(default=5, ge=0, description="after SIGTERM, how long a running batch may still finish")
    cache_rows: int = Field(default=10_000, ge=0, description="query vectors kept")
    index_rows: int = Field(default=10_000, ge=1, description="below so many vectors no index is built by itself")
    index_memory: int = Field(default=1024, ge=1, description="the most memory to build an index in, in MB")
    index_workers: int = Field(default=0, ge=0, description="processes beside the one that builds an index")
    recall_target: float = Field(
        default=0.99, gt=0, le=1, description="the share of the 10 nearest that an index must find"
    )
    recall_sample: int = Field(default=200, ge=2, description="stored vectors that a test takes as queries")
    location: str | None = Field(
        default=None, description="a folder with models in folders of their names; looked into before the hub"
    )
