"""The names of SGLang's server flags that sglcore does not have yet, by group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """what: the feature, in words that fit "It belongs to ...". remedy: what to do meanwhile, if anything."""

    what: str
    names: str
    remedy: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(self.names.split())


GROUPS = (
    Group(
        "model and tokenizer loading",
        "tokenizer-mode tokenizer-worker-num detokenizer-worker-num model-loader-extra-config is-embedding "
        "enable-multimodal model-checksum custom-weight-loader weight-loader-disable-mmap delete-ckpt-after-loading "
        "remote-instance-weight-loader-seed-instance-ip remote-instance-weight-loader-seed-instance-service-port "
        "remote-instance-weight-loader-send-weights-group-ports remote-instance-weight-loader-backend "
        "decrypted-config-file decrypted-draft-config-file checkpoint-engine-wait-weights-before-ready",
    ),
    Group(
        "the HTTP and gRPC front",
        "fastapi-root-path grpc-mode warmups nccl-port enable-ssl-refresh enable-http2",
        "A reverse proxy in front of the server can end TLS and add a path.",
    ),
    Group(
        "quantization",
        "quantization-param-path enable-fp32-lm-head modelopt-quant "
        "modelopt-checkpoint-restore-path modelopt-checkpoint-save-path modelopt-export-path quantize-and-serve "
        "rl-quant-profile torchao-config fp8-gemm-backend fp4-gemm-backend",
        "A quantized checkpoint whose format has a plugin (GGUF, for one) needs no flag.",
    ),
    Group(
        "scheduling",
        "prefill-max-requests enable-dynamic-chunking max-prefill-tokens "
        "schedule-conservativeness swa-full-tokens-ratio disable-hybrid-swa-memory enable-prefill-delayer "
        "prefill-delayer-max-delay-passes prefill-delayer-token-usage-low-watermark retraction-policy "
        "prefill-decode-interval enable-mixed-chunk num-continuous-decode-steps "
        "scheduler-recv-interval sleep-on-idle",
    ),
    Group(
        "the runtime",
        "constrained-json-whitespace-pattern constrained-json-disable-any-whitespace "
        "soft-watchdog-timeout dist-timeout base-gpu-id gpu-id-step custom-sigquit-handler numa-node "
        "allow-auto-truncate",
    ),
    Group(
        "parallelism",
        "pp-size pp-max-micro-batch-size pp-async-batch-depth dp-size load-balance-method dist-init-addr "
        "nnodes node-rank attn-cp-size dcp-size cp-strategy moe-dp-size enable-dp-attention enable-dp-lm-head "
        "enable-two-batch-overlap enable-single-batch-overlap tbo-token-distribution-threshold "
        "enable-attn-tp-input-scattered enable-nsa-prefill-context-parallel nsa-prefill-cp-mode enable-nccl-nvls "
        "enable-symm-mem enable-torch-symm-mem disable-custom-all-reduce enable-mscclpp enable-p2p-check",
        "The engine runs on one device; start one server per device and balance between them.",
    ),
    Group(
        "expert parallelism",
        "ep-size moe-a2a-backend moe-runner-backend deepep-mode deepep-config ep-num-redundant-experts "
        "ep-dispatch-algorithm init-expert-location enable-eplb eplb-algorithm eplb-rebalance-num-iterations "
        "eplb-rebalance-layers-per-chunk eplb-min-rebalancing-utilization-threshold "
        "expert-distribution-recorder-mode moe-dense-tp-size elastic-ep-backend disable-shared-experts-fusion",
    ),
    Group(
        "logging, metrics and tracing",
        "show-time-cost enable-metrics-for-all-schedulers gc-warning-threshold-secs decode-log-interval "
        "enable-request-time-stats-logging",
        "Prometheus metrics are at /metrics, and --log-requests tells of each request.",
    ),
    Group(
        "the API's finer settings",
        "hf-chat-template-name file-storage-path enable-cache-report "
        "tool-server default-chat-template-kwargs "
        "trust-request-chat-template enable-strict-thinking return-input-ids return-output-ids "
        "preferred-sampling-params enable-custom-logit-processor enable-return-hidden-states "
        "enable-return-routed-experts multi-item-scoring-delimiter",
    ),
    Group(
        "LoRA",
        "enable-lora enable-lora-overlap-loading max-lora-rank lora-target-modules lora-paths max-loras-per-batch "
        "max-loaded-loras lora-eviction-policy lora-backend max-lora-chunk-size lora-strict-loading "
        "lora-use-virtual-experts lora-drain-wait-threshold",
        "Merge the adapter into the checkpoint and serve that.",
    ),
    Group(
        "kernel backends",
        "sampling-backend grammar-backend mm-attention-backend "
        "nsa-prefill-backend nsa-decode-backend disable-flashinfer-autotune flashinfer-mla-disable-ragged "
        "triton-attention-reduce-in-fp32 triton-attention-num-kv-splits triton-attention-split-tile-size "
        "disable-chunked-prefix-cache enable-fused-qk-norm-rope",
        "--attention-backend, and a plugin of the family ops, choose kernels.",
    ),
    Group(
        "speculative decoding",
        "speculative-algorithm speculative-draft-model-path speculative-draft-model-revision "
        "speculative-draft-load-format speculative-draft-model-quantization speculative-draft-attention-backend "
        "speculative-num-steps speculative-eagle-topk speculative-num-draft-tokens "
        "speculative-accept-threshold-single speculative-accept-threshold-acc speculative-token-map "
        "speculative-attention-mode speculative-moe-runner-backend speculative-moe-a2a-backend "
        "speculative-ngram-min-match-window-size speculative-ngram-max-match-window-size "
        "speculative-ngram-min-bfs-breadth speculative-ngram-max-bfs-breadth speculative-ngram-match-type "
        "speculative-ngram-branch-length speculative-ngram-capacity enable-multi-layer-eagle",
    ),
    Group(
        "Mamba and linear attention",
        "max-mamba-cache-size mamba-ssm-dtype mamba-full-memory-ratio mamba-scheduler-strategy mamba-track-interval",
    ),
    Group(
        "KV cache tiers",
        "enable-hierarchical-cache hicache-ratio hicache-size hicache-write-policy hicache-io-backend "
        "hicache-mem-layout hicache-storage-backend hicache-storage-prefetch-policy "
        "hicache-storage-backend-extra-config disable-hicache-numa-detect enable-lmcache",
    ),
    Group(
        "offloading and CPU/GPU hybrids",
        "kt-weight-path kt-method kt-cpuinfer kt-threadpool-count kt-num-gpu-experts kt-max-deferred-experts-per-token "
        "cpu-offload-gb offload-group-size offload-num-in-group offload-prefetch-step offload-mode",
    ),
    Group("diffusion language models", "dllm-algorithm dllm-algorithm-config"),
    Group(
        "double sparsity",
        "enable-double-sparsity ds-channel-config-path ds-heavy-channel-num ds-heavy-token-num ds-heavy-channel-type "
        "ds-sparse-decode-threshold",
    ),
    Group(
        "graphs and compilation",
        "disable-cuda-graph-padding enable-profile-cuda-graph "
        "enable-cudagraph-gc enable-torch-compile torch-compile-max-bs enable-piecewise-cuda-graph "
        "piecewise-cuda-graph-tokens piecewise-cuda-graph-compiler piecewise-cuda-graph-max-tokens",
    ),
    Group(
        "debugging and profiling",
        "enable-layerwise-nvtx-marker enable-nan-detection debug-tensor-dump-output-folder debug-tensor-dump-layers "
        "debug-tensor-dump-input-file debug-tensor-dump-inject forward-hooks",
    ),
    Group(
        "tokenizing and detokenizing in batches",
        "enable-tokenizer-batch-encode disable-tokenizer-batch-decode enable-dynamic-batch-tokenizer "
        "dynamic-batch-tokenizer-batch-size dynamic-batch-tokenizer-batch-timeout disable-outlines-disk-cache",
    ),
    Group(
        "reinforcement learning and determinism",
        "enable-memory-saver enable-weights-cpu-backup enable-draft-weights-cpu-backup enable-deterministic-inference "
        "rl-on-policy-target",
    ),
    Group(
        "disaggregation",
        "disaggregation-mode disaggregation-transfer-backend disaggregation-bootstrap-port disaggregation-ib-device "
        "disaggregation-decode-tp disaggregation-decode-dp disaggregation-prefill-pp num-reserved-decode-tokens "
        "disaggregation-decode-enable-offload-kvcache disaggregation-decode-polling-interval encoder-only "
        "language-only encoder-transfer-backend encoder-urls enable-pdmux pdmux-config-path sm-group-num",
    ),
    Group(
        "multimodal inputs",
        "disable-fast-image-processor keep-mm-feature-on-device mm-max-concurrent-calls mm-per-request-timeout "
        "enable-broadcast-mm-inputs-process mm-process-config mm-enable-dp-encoder limit-mm-data-per-request "
        "enable-prefix-mm-cache",
    ),
)
