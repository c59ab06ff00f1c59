"""What each benchmark can be told; every field is a flag of `sglcore bench`, with SGLang's spelling if it has one."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sglcore.config import about

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Tokens = Annotated[int, Meta(ge=1, le=2**24)]
Few = Annotated[int, Meta(ge=0, le=100_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=1e6)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(max_length=4096)]
Body = Annotated[str, Meta(max_length=1 << 20)]
Rows = Annotated[int, Meta(ge=1, le=65536)]

BackendName = Literal[
    "sglang",
    "sglang-native",
    "sglang-oai",
    "sglang-oai-chat",
    "vllm",
    "vllm-chat",
    "lmdeploy",
    "lmdeploy-chat",
    "openai",
    "openai-chat",
]
DatasetName = Literal["sharegpt", "custom", "random", "random-ids", "generated-shared-prefix"]


class OutputOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where figures go beside the terminal."""

    output_file: Annotated[Text | None, about("Append one line of JSON a result to this file.")] = None
    plot: Annotated[Text | None, about("Write a report with charts: FILE.html, or FILE.png with matplotlib.")] = None


class DatasetOptions(OutputOptions, frozen=True, kw_only=True):
    """Which requests are sent."""

    dataset_name: Annotated[DatasetName, about("What is asked; see the page on benchmarks.")] = "sharegpt"
    dataset_path: Annotated[Text | None, about("File of the dataset; sharegpt and custom need one.")] = None
    num_prompts: Annotated[Count, about("Requests.")] = 1000
    seed: Annotated[Seed, about("Of lengths, prompts and arrivals.")] = 1
    sharegpt_output_len: Annotated[Tokens | None, about("Tokens to generate, instead of as many as recorded.")] = None
    sharegpt_context_len: Annotated[Tokens | None, about("Leave out conversations of more tokens.")] = None
    random_input_len: Annotated[Tokens, about("Tokens of a prompt at most, for random and random-ids.")] = 1024
    random_output_len: Annotated[Tokens, about("Tokens of an answer at most, for random and random-ids.")] = 1024
    random_range_ratio: Annotated[
        Share, about("Lengths are drawn evenly from this share of the most up to the most; 1: all are the most.")
    ] = 0.0
    gsp_num_groups: Annotated[Count, about("Groups that share a system prompt.")] = 64
    gsp_prompts_per_group: Annotated[Count, about("Requests of each group.")] = 16
    gsp_system_prompt_len: Annotated[Tokens, about("Tokens that a group shares.")] = 2048
    gsp_question_len: Annotated[Tokens, about("Tokens of each request's own.")] = 128
    gsp_output_len: Annotated[Tokens, about("Tokens of an answer.")] = 256
    apply_chat_template: Annotated[bool, about("Send prompts as the model's chat template renders them.")] = False
    disable_ignore_eos: Annotated[bool, about("Let answers end at the end-of-text token.")] = False
    return_logprob: Annotated[bool, about("Ask for the logprobs of the output.")] = False
    extra_request_body: Annotated[Body, about("JSON object: further fields of every request.")] = "{}"


class ServingOptions(DatasetOptions, frozen=True, kw_only=True):
    """`sglcore bench serving`."""

    backend: Annotated[BackendName, about("Which server and dialect.")] = "sglang"
    base_url: Annotated[Text | None, about("The server's root, instead of --host and --port.")] = None
    host: Annotated[Text, about("The server's host.")] = "127.0.0.1"
    port: Annotated[Port | None, about("The server's port; default: what the backend listens at.")] = None
    model: Annotated[Text | None, about("Model named in requests; default: the one the server lists.")] = None
    served_model_name: Annotated[Text | None, about("Name in requests, where --model is only the tokenizer's.")] = None
    tokenizer: Annotated[Text | None, about("What --model-path takes, or a folder; default: the model's own.")] = None
    request_rate: Annotated[
        Annotated[float, Meta(gt=0)], about("Requests a second, as a Poisson process; inf: all at once.")
    ] = math.inf
    max_concurrency: Annotated[Count | None, about("Requests open at once; later ones wait here.")] = None
    output_details: Annotated[bool, about("Lengths, times, texts and errors of each request go into the file.")] = False
    disable_tqdm: Annotated[bool, about("No progress bar.")] = False
    disable_stream: Annotated[bool, about("Ask for whole answers.")] = False
    tokenize_prompt: Annotated[bool, about("Send token ids; backends sglang and sglang-native.")] = False
    warmup_requests: Annotated[Few, about("Requests before the measurement.")] = 1
    flush_cache: Annotated[bool, about("Empty the server's prefix cache after the warm-up.")] = False
    profile: Annotated[bool, about("Have the server profile the measurement (/start_profile).")] = False
    header: Annotated[tuple[Text, ...], about("KEY=VALUE of an HTTP header; may be repeated.")] = ()
    tag: Annotated[Text | None, about("Noted in the file.")] = None
    ready_check_timeout_sec: Annotated[Seconds, about("Seconds that the server may take to answer at all.")] = 60.0
    request_timeout: Annotated[Seconds, about("Seconds after which a request counts as failed.")] = 21600.0
    pd_separated: Annotated[bool, about("Refused: sglcore has no separate prefill servers.")] = False


class OfflineOptions(DatasetOptions, frozen=True, kw_only=True):
    """`sglcore bench offline`."""

    backend: Annotated[Literal["engine"], about("The engine in this process.")] = "engine"
    result_filename: Annotated[Text | None, about("The same as --output-file.")] = None
    skip_warmup: Annotated[bool, about("Measure from the first request on.")] = False


class OneBatchOptions(OutputOptions, frozen=True, kw_only=True):
    """`sglcore bench one-batch`."""

    run_name: Annotated[Text, about("Noted in the file.")] = "default"
    batch_size: Annotated[tuple[Rows, ...], about("Rows of the batch: 1,16,64.")] = (1,)
    input_len: Annotated[tuple[Tokens, ...], about("Tokens of each prompt: 256,1024.")] = (1024,)
    output_len: Annotated[tuple[Tokens, ...], about("Tokens of each answer: 16,256.")] = (16,)
    result_filename: Annotated[Text | None, about("The same as --output-file.")] = None
    seed: Annotated[Seed, about("Of the prompts.")] = 1
    log_decode_step: Annotated[Few, about("Tell every so many decoding steps how long they took; 0: never.")] = 0


class StartupOptions(OutputOptions, frozen=True, kw_only=True):
    """`sglcore bench startup`."""

    rounds: Annotated[Annotated[int, Meta(ge=1, le=100)], about("Warm starts.")] = 3
    cold: Annotated[Annotated[int, Meta(ge=0, le=100)], about("Starts before them, files not in memory.")] = 1
    start_timeout: Annotated[Seconds, about("Seconds that a start may take.")] = 1800.0


class StepOptions(OutputOptions, frozen=True, kw_only=True):
    """`sglcore bench step`."""

    rows: Annotated[Rows, about("Rows that decode at once.")] = 256
    finishes: Annotated[Annotated[float, Meta(ge=0, le=65536)], about("Rows that end at each step, on average.")] = 2.56
    arrivals: Annotated[Count, about("New prompts arrive so many at a time, once as many have ended.")] = 1
    prompt_len: Annotated[Annotated[int, Meta(ge=1, le=65536)], about("Tokens of a prompt.")] = 64
    page_size: Annotated[Annotated[int, Meta(ge=1, le=1024)], about("Tokens in a KV page.")] = 16
    vocab_size: Annotated[Annotated[int, Meta(ge=16, le=2**20)], about("Columns of the stand-in's logits.")] = 1024
    steps: Annotated[Annotated[int, Meta(ge=10, le=1_000_000)], about("Steps measured.")] = 400
    warm: Annotated[Annotated[int, Meta(ge=1, le=1_000_000)], about("Steps before them.")] = 150
    device: Annotated[Text, about("Platform that the runner's tables live on.")] = "cpu"
    attention_backend: Annotated[Text, about("Whose plan is made for each step.")] = "torch"
    scheduler_only: Annotated[bool, about("Leave out the runner: tokens are made up.")] = False
