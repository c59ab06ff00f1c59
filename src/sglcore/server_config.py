"""What the HTTP face of an engine is: the flags of `sglcore serve` beside the engine's own.

A declaration that the contracts of dialects show, so it stands with them and not among the words of the engine.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sglcore.config import Count, EngineConfig, LogLevel, Str, about

Port = Annotated[int, Meta(ge=0, le=65535)]


class ServerConfig(EngineConfig, frozen=True, kw_only=True):
    """An engine and the HTTP face in front of it."""

    host: Annotated[Str, about("Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, about("Port to listen on; 0 takes a free one.")] = 30000
    api_workers: Annotated[
        Annotated[int, Meta(ge=1, le=64)], about("Processes for HTTP and text that share the port.")
    ] = 1
    served_model_name: Annotated[Str | None, about("Name in /v1/models; default: model_path.")] = None
    api_key: Annotated[Str | None, about("Bearer key asked of every client.")] = None
    admin_api_key: Annotated[Str | None, about("Separate key asked on control endpoints.")] = None
    chat_template: Annotated[Str | None, about("Jinja file used instead of the model's own chat template.")] = None
    completion_template: Annotated[
        Str | None, about("How `suffix` is asked for: deepseek_coder, star_coder, qwen_coder, or a JSON file.")
    ] = None
    response_store_size: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)],
        about("Responses kept in memory for /v1/responses/{id}; the oldest go first; 0 keeps none."),
    ] = 1024
    tool_call_parser: Annotated[
        Str | None, about("Tool parser: a plugin's name, or auto to go by the chat template.")
    ] = None
    reasoning_parser: Annotated[
        Str | None, about("Reasoning parser: a plugin's name, or auto to go by the chat template.")
    ] = None
    drain_timeout: Annotated[
        Annotated[float, Meta(ge=0, le=1e6)], about("Seconds that open requests may go on after SIGTERM.")
    ] = 30.0
    stream_interval: Annotated[Count, about("Tokens gathered before a streamed chunk is sent.")] = 1
    apis: Annotated[
        Str | None, about("Dialects to serve: openai, native, and those of plugins; default: all of this repository.")
    ] = None
    enable_metrics: Annotated[bool, about("Serve Prometheus metrics at /metrics (on unless told otherwise).")] = True
    tokenizer_metrics_custom_labels_header: Annotated[
        Str, about("Header in which a client names labels of its metrics, as a JSON object of texts.")
    ] = "x-custom-labels"
    tokenizer_metrics_allowed_custom_labels: Annotated[
        tuple[Str, ...], about("A label that may be named there; may be repeated. Default: none.")
    ] = ()
    bucket_time_to_first_token: Annotated[
        Str | None, about('Bounds of that histogram in seconds, rising: "0.1 0.5 1".')
    ] = None
    bucket_inter_token_latency: Annotated[Str | None, about("The same for the time between two tokens.")] = None
    bucket_e2e_request_latency: Annotated[Str | None, about("The same for whole requests.")] = None
    collect_tokens_histogram: Annotated[bool, about("Keep histograms of prompt and answer lengths.")] = False
    prompt_tokens_buckets: Annotated[
        Str | None, about("Their bounds: default, `custom 100 500 ...`, or `tse MIDDLE BASE COUNT` (around a middle).")
    ] = None
    generation_tokens_buckets: Annotated[Str | None, about("The same for answers.")] = None
    log_level_http: Annotated[
        LogLevel, about("Log level of HTTP requests; with info each has a line (the access log).")
    ] = "warning"
    uvicorn_access_log_exclude_prefixes: Annotated[
        tuple[Str, ...], about("Paths beginning so have no line in the access log; may be repeated.")
    ] = ()
    log_requests: Annotated[bool, about("Log a line when a request comes and one when it ends.")] = False
    log_requests_level: Annotated[
        Annotated[int, Meta(ge=0, le=3)],
        about("0: counts and times; 1: sampling parameters too; 2: texts cut short too; 3: whole texts."),
    ] = 2
    log_requests_format: Annotated[
        Literal["text", "json"], about("Form of those lines, and with json of the whole log of the HTTP side.")
    ] = "text"
    log_requests_target: Annotated[
        tuple[Str, ...], about("stdout, or a folder for hourly files; may be repeated. Default: the server's log.")
    ] = ()
    dump_requests_folder: Annotated[
        Str | None, about("Write requests and answers there as JSON lines, for `sglcore replay`.")
    ] = None
    dump_requests_threshold: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)], about("Requests in one such file; then the next is begun.")
    ] = 1000
    crash_dump_folder: Annotated[
        Str | None, about("Keep the last five minutes of requests in memory, and write them there if the engine dies.")
    ] = None
    export_metrics_to_file: Annotated[bool, about("Write a JSON line of metrics for each request, hourly files.")] = (
        False
    )
    export_metrics_to_file_dir: Annotated[Str | None, about("Their folder; default: the current one.")] = None
    enable_trace: Annotated[
        bool, about("Tell an OpenTelemetry collector of each request (needs the extra `tracing`).")
    ] = False
    otlp_traces_endpoint: Annotated[Str, about("That collector: HOST:PORT or a URL, spoken to in OTLP over HTTP.")] = (
        "localhost:4318"
    )
    no_ui: Annotated[bool, about("Do not serve the page with the playground and the engine view at /.")] = False
    weight_version: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)], about("What the weights are called in answers at first.")
    ] = "default"
    incremental_streaming_output: Annotated[
        bool, about("Chunks of a /generate stream carry what is new, not the whole answer so far.")
    ] = False
    torch_profiler_dir: Annotated[
        Str | None, about("Folder below which /start_profile may write; default: no profiles are taken.")
    ] = None
    enable_slow_down: Annotated[bool, about("Let /slow_down delay every step, for tests.")] = False
    # -- security --
    ssl_keyfile: Annotated[Str | None, about("Private key of the server, in PEM; with --ssl-certfile: TLS.")] = None
    ssl_certfile: Annotated[Str | None, about("Certificate chain of the server, in PEM.")] = None
    ssl_ca_certs: Annotated[
        Str | None, about("CA certificates, in PEM; clients must then show a certificate signed by one of them.")
    ] = None
    ssl_keyfile_password: Annotated[Str | None, about("What decrypts the private key.")] = None
    cors_allow_origins: Annotated[
        tuple[Str, ...], about("A web origin whose pages may call the API, or *; default: none may.")
    ] = ()
    allowed_media_domains: Annotated[
        tuple[Str, ...], about("A host that media in requests may be fetched from, or *.domain; default: none is.")
    ] = ()
    allow_private_media: Annotated[
        bool, about("Fetch media from private, loopback and link-local addresses as well.")
    ] = False

    def serves(self, dialect: str) -> bool:
        """Whether `apis` lets a dialect in."""
        return self.apis is None or dialect in self.dialects

    @property
    def dialects(self) -> list[str]:
        """The names in `apis`."""
        return [name.strip() for name in (self.apis or "").split(",") if name.strip()]
