"""Settings from PGMEANING_* variables; for the connection also libpq's own PG* variables."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pgmeaning.media import Policy

# As PGMEANING_LOOPBACK_HOSTS: no list, as in the beginning.
LOCAL = "local"
HOST = re.compile(r"[^\s/@?#]+")
# A name, an address or a socket's folder.
PLACE = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:@?#\[\]=']+))(?::(?P<port>[0-9]{1,5}))?")


class Settings(BaseSettings):
    """What can be tuned. Every field is a variable PGMEANING_<NAME>; times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="PGMEANING_", extra="ignore")

    dsn: str = Field(
        default="", repr=False, description="libpq connection string or URI; if empty, libpq's own PG* variables"
    )
    dsn_file: str = Field(default="", description="the file that holds it instead, such as a secret of Docker")

    reader_dsn: str = Field(
        default="",
        repr=False,
        description="the connection that reads the source tables, as a role that may do nothing else; if empty, `dsn` "
        "reads them, and whoever owns one can run code with its rights",
    )

    reader_dsn_file: str = Field(default="", description="the file that holds it instead")

    allow_superuser: bool = Field(
        default=False, description="whether a sidecar may run as a superuser, as where all tables are one's own"
    )

    loopback_hosts: str = Field(
        default="",
        description="where SQL functions find the primary, also from a standby: `host:port`, separated by commas; if "
        "empty, the list that the database has is kept, and `local` removes it",
    )

    lease: float = Field(default=60, gt=1, description="how long a claim lasts without a heartbeat")
    attempts: int = Field(default=5, ge=1, description="attempts before a row is marked as failed, until retry()")
    backoff: float = Field(default=2, gt=0, description="wait after the first failed attempt; doubles with each")
    backoff_max: float = Field(default=300, gt=0, description="the longest wait between two attempts")
    poll: float = Field(
        default=1, gt=0, le=60, description="how often an idle sidecar looks for work without being woken"
    )
    maintenance: float = Field(
        default=2, gt=0, description="how often it looks for new partitions, dropped tables and mended collections"
    )
    orphan_grace: float = Field(
        default=86_400, ge=0, le=10**9, description="how long vectors are kept once their table was dropped"
    )
    reconcile: float = Field(default=3600, gt=0, description="how often every row is compared with its vector's hash")
    claim_rows: int | None = Field(
        default=None, ge=1, description="most rows claimed at a time; default: what fits the device, 512 on a CPU"
    )
    claim_seconds: float = Field(default=4, gt=0, description="about how many seconds of work a claim should hold")
    batch_rows: int | None = Field(
        default=None, ge=1,
        description="most rows in one call of the model; default: what fits the device, 128 on a CPU",
    )  # fmt: skip
    batch_tokens: int | None = Field(
        default=None, ge=1,
        description="most tokens in one call of the model, padding included; default: what fits the device, "
        "1024 on a CPU",
    )  # fmt: skip
    model_timeout: float = Field(
        default=600, gt=0,
        description="how long a call of a model may take for each 1,024 tokens; past that its rows are handed back, "
        "and the process ends",
    )  # fmt: skip
    probe_tolerance: float | None = Field(
        default=None, gt=0, le=1,
        description="the lowest cosine between a model's probes as stored and as embedded now, below which it is not "
        "served; default: 0.99999 where both are float32 of one backend, else 0.999",
    )  # fmt: skip
    probe_interval: float = Field(
        default=300, gt=0, description="how often the probes of a model behind an endpoint are embedded again"
    )
    writers: int = Field(default=2, ge=1, le=16, description="connections that write vectors")
    grace: float = Field(default=5, ge=0, description="how long a running batch may take to finish after SIGTERM")
    cache_rows: int = Field(default=10_000, ge=0, description="query vectors kept; at times a tenth more")
    cache_seconds: float = Field(
        default=604_800, gt=0, description="how long a query vector is kept, to within a minute"
    )
    index_rows: int = Field(default=10_000, ge=1, description="vectors from which on an index is built automatically")
    index_memory: int | None = Field(
        default=None, ge=1,
        description="the most memory for building an index, in MB; default: 1024, or more where the server is set up "
        "for more or, on this machine, four times as much is free",
    )  # fmt: skip
    index_workers: int | None = Field(
        default=None, ge=0,
        description="parallel workers for building an index; default: all cores of a server on this machine, else its "
        "max_parallel_maintenance_workers; none before pgvector 0.8.2",
    )  # fmt: skip
    recall_goal: float = Field(
        default=0.99, gt=0, le=1, description="the share of the 10 nearest rows that an index must find"
    )
    recall_sample: int = Field(default=200, ge=2, description="stored vectors taken as queries when recall is measured")
    document_characters: int = Field(
        default=16_000_000, ge=1, lt=1 << 30, description="the longest text of a row that is split into chunks"
    )
    document_chunks: int = Field(default=10_000, ge=1, description="the most chunks of a row")
    metrics_port: int | None = Field(
        default=None, ge=0, le=65_535,
        description="the port of a sidecar's /metrics, /healthz and /readyz; 0: any that is free; default: none",
    )  # fmt: skip
    metrics_address: str = Field(default="127.0.0.1", description="the address that they are served at; `::`: all")
    location: str | None = Field(
        default=None, description="a folder that holds models in subfolders of their names; searched before the hub"
    )

    media_folders: str = Field(
        default="",
        description="folders below which rows may name files, separated by colons; if empty, no files are read",
    )
    media_hosts: str = Field(
        default="", description="hosts that rows may name in URLs, separated by commas: `name`, `*.name`, `name:port`"
    )
    media_private_hosts: str = Field(default="", description="the same for hosts with private or loopback addresses")
    media_max_bytes: int = Field(default=64 << 20, ge=1, description="the largest image or video, encoded")
    media_max_pixels: int = Field(default=64_000_000, ge=1, description="the largest image or frame, width x height")
    media_row_pixels: int = Field(
        default=512_000_000, ge=1,
        description="the most pixels of a row's images in all, every frame of an animation counted in full",
    )  # fmt: skip
    media_video_pixels: int = Field(
        default=16_000_000_000, ge=1, description="the most pixels of a row's videos, width x height x frames"
    )
    media_max_seconds: float = Field(default=600, gt=0, description="the longest video")
    media_timeout: float = Field(
        default=20, gt=0, description="how long a URL may take, from the first byte to the last"
    )
    media_rows: int = Field(default=32, ge=1, description="the most rows with images or videos claimed at once")
    media_threads: int = Field(default=4, ge=1, le=64, description="how many files and URLs are read at once")

    mcp_rows: int = Field(default=50, ge=1, le=1000, description="the most rows in an answer to an agent")
    mcp_value_characters: int = Field(
        default=2_000, ge=50, description="the longest value of a row in an answer to an agent; what is longer is cut"
    )
    mcp_characters: int = Field(
        default=40_000, ge=1_000, description="the most characters of an answer to an agent; rows beyond are left out"
    )
    mcp_timeout: float = Field(default=30, ge=1, le=3600, description="how long an agent's question may take")
    mcp_connections: int = Field(default=4, ge=1, le=100, description="the most connections that agents' questions use")
    mcp_token: str = Field(
        default="", repr=False, description="what an agent must show over HTTP; if empty, one is made at each start"
    )
    mcp_token_file: str = Field(default="", description="the file that holds it instead")

    @field_validator("loopback_hosts")
    @classmethod
    def _hosts_with_ports(cls, value: str) -> str:
        host_list(value)
        return value.strip()

    @field_validator("media_folders")
    @classmethod
    def _absolute(cls, value: str) -> str:
        relative = [folder for folder in _parts(value, ":") if not Path(folder).is_absolute()]
        if relative:
            raise ValueError(f"{relative[0]!r} is not an absolute path")
        return value

    @field_validator("media_hosts", "media_private_hosts")
    @classmethod
    def _named(cls, value: str) -> str:
        wrong = [host for host in _parts(value, ",") if not HOST.fullmatch(host)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not a host: write images.example, *.example or images.example:8080")
        return value

    @property
    def media(self) -> Policy:
        """What may be read for rows that name files and URLs."""
        return Policy(
            folders=tuple(map(Path, _parts(self.media_folders, ":"))),
            hosts=_parts(self.media_hosts, ","),
            private_hosts=_parts(self.media_private_hosts, ","),
            max_bytes=self.media_max_bytes,
            max_pixels=self.media_max_pixels,
            max_row_pixels=self.media_row_pixels,
            max_video_pixels=self.media_video_pixels,
            max_seconds=self.media_max_seconds,
            timeout=self.media_timeout,
        )


def host_list(value: str) -> tuple[str, str] | None:
    """libpq's hosts and ports of `host:port,[::1]:port,host`, an empty port where there is none; None: no list.

    Raises ValueError for what cannot be a host.
    """
    found = [PLACE.fullmatch(part) for part in _parts(value, ",") if value.strip() != LOCAL]
    if None in found:
        raise ValueError("write host:port or host, separated by commas; an IPv6 address in brackets")
    places = [match for match in found if match]
    hosts = ",".join(match["address"] or match["host"] for match in places)
    return (hosts, ",".join(match["port"] or "" for match in places)) if places else None


def _parts(value: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(separator) if part.strip())
