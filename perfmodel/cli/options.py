"""Every option of the command line, once, and which of them each command takes."""

from __future__ import annotations

from typing import Any

from perfmodel.cli.option import Option, json_property

__all__ = [
    "CALIBRATE",
    "CARBON",
    "ESTIMATE_ATTENTION",
    "ESTIMATE_COLLECTIVE",
    "ESTIMATE_GEMM",
    "ESTIMATE_MEMORY",
    "ESTIMATE_SERVING",
    "ESTIMATE_TRAINING",
    "EXPERT_KEYS",
    "LAYOUT",
    "OPTIONS",
    "PLAN_CLOCKS",
    "PLAN_EXPERTS",
    "PLAN_POWER",
    "PLAN_SERVING",
    "PLAN_TEST_TIME",
    "PLAN_TRAINING",
    "PLAN_TRAINING_BUDGET",
    "SLO",
    "json_schema",
]

# The library's own names, written again: importing it would cost more than the whole of `perfmodel --help`.
PRECISIONS = ("fp16", "bf16", "fp8", "mxfp8", "nvfp4")
OPTIMIZERS = ("adam-mixed", "adam-bf16", "adam-8bit", "adafactor", "sgd", "sgd-momentum")
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-1p", "zb-2p", "zb-v", "v-half", "v-min", "dualpipe")
MODULES = ("core_attn", "mla_up_proj", "mlp", "moe", "shared_experts", "mlp_act", "moe_act", "layernorm")
CP_EXCHANGES = ("ring", "all-gather", "all-to-all")
OFFLOADS = ("activations", "activation_layers")
WEIGHTS = ("fp16", "bf16", "fp8", "fp8-block", "int8", "int4", "nvfp4", "mxfp4")
INPUTS = ("fp16", "bf16", "fp8", "int8", "nvfp4")
CACHES = ("fp16", "bf16", "fp8")
ALGORITHMS = ("auto", "ring", "tree", "in_network", "halving_doubling", "star", "hierarchical", "torus")


def _degree(name: str, text: str) -> Option:
    return Option(name, "whole", text, low=1)


_SCENARIO = (
    Option("model", "spec", "zoo id, config.json, or hf:org/name", required=True, complete="models"),
    Option("cluster", "spec", "cluster id or file", required=True, complete="clusters"),
    Option("accelerators", "whole", "scale the cluster to this many", low=1),
    Option("global_batch", "whole", "sequences in a step", low=1, required=True),
    Option("seq_len", "whole", "tokens in a sequence", low=1, required=True),
    Option("precision", "text", "precision of the matrix products", choices=PRECISIONS, default="bf16"),
    Option("software", "spec", "software generation, an id or a file", complete="software"),
    Option("optimizer", "text", "optimizer (default: adam-mixed)", choices=OPTIMIZERS),
    Option("tokens", "number", "tokens of the whole run (15.6e12): adds days, USD and kWh", low=0),
)
_TRAINED = (
    Option("trainable", "text", "weights that learn: all, or adapters lora:r=16, qlora:r=16 (default: all)"),
    Option("mean_seq_len", "whole", "mean tokens of a document, where they do not fill seq_len", low=1),
    Option("packing", "text", "documents padded to seq_len, or packed into it", choices=("padded", "packed")),
)
CARBON = (
    Option("region", "spec", "whose electricity, an id or a file (default: world)", complete="regions"),
    Option("carbon_kg_per_kwh", "number", "carbon of the electricity instead of a region's [kg CO2e per kWh]", low=0),
    Option("embodied_kg", "number", "carbon of making one accelerator with its share of a server [kg CO2e]", low=0),
    Option("life_years", "number", "years until hardware is replaced (default: 6)", low=0),
    Option("carbon_by_hour", "array", "CSV: 24 lines of hour and kg CO2e per kWh, local time; instead of a region"),
)
_START = (
    Option(
        "start_hour",
        "number",
        "time of the day at which the run starts (needs --tokens, carbon by hour)",
        low=0,
        high=24,
    ),
)
_OBJECTIVES = ("time", "cost", "energy", "carbon", "memory")
_EXPERTS = (
    Option("expert_imbalance", "number", "load of the fullest expert-parallel rank over the mean (1: balanced)", low=1),
    Option(
        "expert_loads",
        "array",
        "tokens of every expert, placed in order: a file as for plan experts, or generated:61x256",
    ),
    Option("expert_placement", "spec", "plan of `perfmodel plan experts --json`: its loads, placement and traffic"),
)
EXPERT_KEYS = tuple(option.name for option in _EXPERTS)
"""Three ways to say how uneven experts are."""
_SEARCH = (
    Option("objective", "text", "what to make least", choices=_OBJECTIVES, default="time"),
    Option("memory_margin", "number", "share of the memory to leave free, e.g. 0.1", low=0, high=1),
    Option("max_watts", "number", "mean power at most, servers and facility included [W]", low=0),
    Option("max_usd", "number", "price of the whole run at most (needs --tokens)", low=0),
    Option("max_days", "number", "length of the whole run at most (needs --tokens)", low=0),
    Option("schedules", "texts", "pipeline schedules to choose from (default: the software's)", choices=SCHEDULES),
    Option("top", "whole", "how many alternatives to list", low=1),
)
LAYOUT = (
    _degree("tp", "tensor parallel degree"),
    _degree("pp", "pipeline stages"),
    _degree("dp", "data parallel degree"),
    _degree("cp", "context parallel degree"),
    _degree("ep", "expert parallel degree"),
    _degree("etp", "tensor parallel degree of the experts"),
    _degree("attention_dp", "data parallel degree of attention alone"),
    _degree("vpp", "chunks of layers a stage holds (schedule interleaved)"),
    _degree("micro_batch", "sequences in a micro-batch"),
    Option("zero_stage", "whole", "ZeRO stage, 0 to 3", low=0, high=3),
    _degree("dp_shard", "data parallel ranks that share one ZeRO shard (default: all)"),
    Option("sequence_parallel", "switch", "split activations along the sequence inside tp"),
    Option("recompute", "text", "activations computed again", choices=("none", "selective", "full")),
    Option("recompute_modules", "texts", "modules that selective computes again, with commas", choices=MODULES),
    Option(
        "recompute_layers",
        "wholes",
        "layers of a stage that full computes again, or of each stage with commas (default: all)",
        low=0,
    ),
    Option(
        "schedule",
        "text",
        "pipeline schedule; with chunks: interleaved; two of them in a V: zb-v, v-half, v-min",
        choices=SCHEDULES,
    ),
    Option("stage_layers", "wholes", "layers of each stage, with commas", low=0),
    Option(
        "vocab_parallel",
        "text",
        "how the vocabulary is spread over stages (priced so far: none)",
        choices=("none", "vocab-1", "vocab-2", "interlaced"),
    ),
    Option("overlap", "switch", "overlap communication (default: as the software does)"),
    Option(
        "cp_exchange",
        "text",
        "how context parallel ranks share keys and values (default: as the software does)",
        choices=CP_EXCHANGES,
    ),
    Option("offload", "shares", "what waits in host memory: a share, or so many layers", choices=OFFLOADS),
)
_CLOCKS = (
    Option(
        "slack", "number", "share of its time that a step may be longer by, e.g. 0.05 (default: none)", low=0, high=10
    ),
    Option(
        "clock_bound_share",
        "number",
        "share of a stage's time that follows the clock (default: 1, on the safe side)",
        low=0,
        high=1.0000001,
    ),
)
PLAN_TRAINING = _SCENARIO + _TRAINED + _EXPERTS + CARBON + _START + _SEARCH
ESTIMATE_TRAINING = _SCENARIO + _TRAINED + _EXPERTS + CARBON + _START + LAYOUT
PLAN_CLOCKS = ESTIMATE_TRAINING + _CLOCKS
ESTIMATE_MEMORY = tuple(option for option in ESTIMATE_TRAINING if option.name not in ("tokens", "start_hour"))
_SERVED = (
    Option("trace", "spec", "requests as recorded: a shipped id or a file (CSV, JSON lines, .gz)", complete="traces"),
    Option("prompt_tokens", "tokens", "tokens of a prompt (in a file also a table of mean, p50, p90, p99)", low=1),
    Option("output_tokens", "tokens", "tokens of an answer (in a file also such a table)", low=1),
    Option("concurrency", "whole", "requests in flight, or the size of a static batch", low=1),
    Option("arrival_rate_per_s", "number", "requests a second of the whole deployment", low=0),
    Option("load", "text", "instead of a rate or a concurrency: every place taken", choices=("maximum",)),
    Option("burstiness", "number", "squared variation of the time between arrivals (default: 1, Poisson)", low=0),
    Option("prefix_hit", "number", "share of prompt tokens found in the cache", low=0, high=1),
    Option("ttft_s", "number", "limit of the time to the first token [s]", low=0),
    Option("tpot_s", "number", "limit of the time per output token [s]", low=0),
    Option("percentile", "number", "share of the requests that must keep the limits (default: 0.9)", low=0, high=1),
    Option("dispersion", "rows", "burstiness over windows: (window [s], requests, prompt tokens), as a trace gives it"),
    Option("weights", "text", "precision of the weights", choices=WEIGHTS, default="bf16"),
    Option("activations", "text", "precision of inputs of products (default: as the weights ask)", choices=INPUTS),
    Option("kv_cache", "text", "precision of the cache (default: bf16)", choices=CACHES),
    Option("batching", "text", "how requests share iterations", choices=("continuous", "static"), default="continuous"),
    Option(
        "arrivals",
        "text",
        "load generator of a closed loop (default: closed-loop)",
        choices=("closed-loop", "lockstep", "burst"),
    ),
)
_TRAFFIC = (
    "trace", "prompt_tokens", "output_tokens", "arrival_rate_per_s", "burstiness", "prefix_hit", "ttft_s", "tpot_s",
    "percentile",
)  # fmt: skip
ESTIMATE_SERVING = (
    *(option for option in _SCENARIO if option.name in ("model", "cluster", "accelerators", "software")),
    *_SERVED,
    *_EXPERTS,
    *CARBON,
    *LAYOUT,
)
# Apart from OPTIONS: what an estimate takes one of, a plan chooses from.
PLAN_SERVING = (
    Option("model", "spec", "zoo id, config.json, or hf:org/name", complete="models"),
    Option("cluster", "texts", "kinds of machines to choose from, with commas", complete="clusters"),
    *(option for option in _SERVED if option.name in _TRAFFIC),
    Option(
        "objective", "text", "what to make best (default: cost)", choices=("cost", "energy", "carbon", "throughput")
    ),
    *CARBON,
    Option("software", "spec", "serving engine, an id or a file", complete="software"),
    Option(
        "weights",
        "texts",
        "precisions of weights to choose from (default: bf16, and fp8 where possible)",
        choices=WEIGHTS,
    ),
    Option("kv_cache", "texts", "precisions of the cache to choose from (default: likewise)", choices=CACHES),
    Option("modes", "texts", "aggregated, disaggregated, or both (default)", choices=("aggregated", "disaggregated")),
    Option("max_accelerators", "whole", "accelerators at most", low=1),
    Option("max_watts", "number", "mean power at most, servers and facility included [W]", low=0),
    Option("max_usd_per_hour", "number", "price of an hour at most", low=0),
    Option("memory_margin", "number", "share of the memory to leave free, e.g. 0.1", low=0, high=1),
    Option("redundancy", "whole", "replicas that may be lost (default: 0)", low=0),
    Option("traffic_factor", "number", "hold so many times the rate (default: 1)", low=0),
    *_EXPERTS,
    Option("beside", "texts", "models that stay resident on the same accelerators", complete="models"),
    Option("top", "whole", "how many alternatives to list", low=1),
)
PLAN_TEST_TIME = (
    Option("usd", "number", "budget in dollars", low=0),
    Option("s", "number", "budget in seconds of the deployment", low=0),
    Option("j", "number", "budget in joules", low=0),
    Option("tokens", "number", "budget in generated tokens", low=0),
    Option("objective", "text", "what to make most (default: accuracy)", choices=("accuracy",)),
    Option(
        "estimator",
        "text",
        "success rates: a posterior under a fitted spread of difficulty, or counts as they stand (default: posterior)",
        choices=("posterior", "counts"),
    ),
)
PLAN_TRAINING_BUDGET = (
    Option("usd", "number", "budget in dollars of training and serving (needs --cluster)", low=0),
    Option("flop", "number", "budget in operations", low=0),
    Option("target_loss", "number", "instead of a budget: the loss to reach at least cost, in nats per token", low=0),
    Option("served_tokens", "number", "tokens read and written over the lifetime (default: none)", low=0),
    Option("law", "text", "loss of size and tokens", choices=("epoch", "hoffmann", "kumar"), default="epoch"),
    Option(
        "precisions",
        "texts",
        "formats to choose from, with commas (default: bf16)",
        choices=("bf16", "fp16", "fp8", "int8", "nvfp4", "mxfp4", "int4"),
    ),
    Option("cluster", "spec", "whose accelerators give price and peak", complete="clusters"),
    Option("mfu", "number", "share of the peak in training (default: 0.4)", low=0),
    Option("serving_mfu", "number", "share of the peak in serving (default: 0.2)", low=0),
)
PLAN_POWER = (
    Option("servers", "whole", "servers of the row as it stands", low=1),
    Option("server", "spec", "what a server is: the node of a cluster id or file", complete="clusters"),
    Option("provisioned_w", "number", "power provisioned for the row [W]", low=0),
    Option("positions", "whole", "servers that the row has space for", low=1),
    Option("cooling_w", "number", "heat that can be removed [W]", low=0),
    Option("feeds", "whole", "feeds that share the load", low=1),
    Option("spare_feeds", "whole", "feeds that may fail: N is 0, N+1 is 1", low=0),
    Option("feed_va", "number", "rating of one feed [VA]", low=0),
    Option("power_factor", "number", "power factor of the servers (default: 0.95)", low=0, high=1.0000001),
    Option("kg_per_kwh", "number", "carbon intensity [kg CO2e per kWh]", low=0),
    Option("model", "spec", "what the row serves, where the load is a workload", complete="models"),
    Option("thresholds", "text", "shares of the budget past which clocks fall, 0.8,0.89 (default: searched)"),
    Option("frequencies_hz", "text", "clocks past each threshold, low=1275e6/1110e6,high=1305e6 (default: searched)"),
    Option("priorities", "text", "shares of the servers, low=0.5,high=0.5"),
    Option("latencies_s", "text", "seconds until it holds, frequency=40,brake=5"),
    Option("hysteresis", "number", "how far below a threshold a cap is lifted (default: 0.05)", low=0, high=0.5),
    Option("clock_bound_share", "number", "share of the time that follows the clock (default: 0.25)", low=0, high=1),
    Option("brake_hz", "number", "clock of the brake [Hz] (default: 288e6)", low=0),
    Option("history", "text", "CSV of seconds and fractions of the provisioned power"),
    Option("kind", "text", "what the row runs, with --peak", choices=("inference", "training")),
    Option("peak", "number", "highest level known, a share of the provisioned power", low=0),
    Option("rise", "number", "largest rise known, a share of the provisioned power", low=0),
    Option("rise_s", "number", "within so many seconds (default: 40)", low=0),
    Option("days", "number", "over so many days (default: 42)", low=0),
    Option("memory_s", "number", "how long a burst lasts [s] (default: 210)", low=0),
    Option("peak_over_valley", "number", "of the daily load (default: 2.8)", low=0),
    Option("idle", "number", "level without load (default: 0.23)", low=0, high=1),
    Option("brakes_per_year", "number", "power brakes allowed in a year (default: 1)", low=0),
    Option("p50", "text", "median slowdown allowed, high=0.01"),
    Option("p99", "text", "99th percentile of the slowdown allowed, high=0.05"),
)
_ACCELERATOR = Option("accelerator", "spec", "accelerator id or file", required=True, complete="accelerators")
ESTIMATE_GEMM = (
    _ACCELERATOR,
    Option("m", "whole", "rows of the result (tokens)", low=1, required=True),
    Option("n", "whole", "columns of the result", low=1, required=True),
    Option("k", "whole", "the summed dimension", low=1, required=True),
    Option("dtype", "text", "format: bf16, fp8, fp8-block, nvfp4, int4-weight-only, ...", default="bf16"),
)
ESTIMATE_ATTENTION = (
    _ACCELERATOR,
    Option("phase", "text", "many queries or one", choices=("prefill", "decode"), default="prefill"),
    Option("batch", "whole", "sequences", low=1, default=1),
    Option("seq_len", "whole", "tokens of a sequence; for decode, the length of its KV cache", low=1, default=4096),
    Option("n_heads", "whole", "query heads", low=1, default=32),
    Option("n_kv_heads", "whole", "key and value heads", low=1, default=8),
    Option("d_head", "whole", "width of a head", low=1, default=128),
    Option("dtype", "text", "precision of queries and results, bf16 or fp16", default="bf16"),
    Option("kv_dtype", "text", "precision of the KV cache, bf16, fp8, ...", default="bf16"),
    Option("library", "text", "kernels (default: flash-3 for a prefill, vllm for decode)"),
)
ESTIMATE_COLLECTIVE = (
    Option("cluster", "spec", "cluster id or file", required=True, complete="clusters"),
    Option("accelerators", "whole", "scale the cluster to this many", low=1),
    Option(
        "operation",
        "text",
        "what the ranks do together",
        choices=("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv"),
        default="all_reduce",
    ),
    Option("n_bytes", "number", "message: of a rank, or the gathered or un-scattered total", low=0, required=True),
    Option("ranks", "whole", "ranks of the group", low=1, required=True),
    Option("ranks_per_node", "whole", "ranks of the group in one node (default: as many as fit)", low=1),
    Option(
        "algorithm",
        "text",
        "all_reduce: any; all_gather and reduce_scatter: auto, ring, torus; the others: auto",
        choices=ALGORITHMS,
        default="auto",
    ),
    Option("library", "text", "serving engine that brings its own all_reduce: vllm, sglang, tensorrt-llm"),
)
CALIBRATE = (
    Option(
        "accelerator", "spec", "accelerator id or file (default: what column system names)", complete="accelerators"
    ),
    Option("dtype", "text", "rows of this format: bf16, fp8, fp8-block, nvfp4, ... (default: the only one, or bf16)"),
)
SLO = ("ttft_s", "tpot_s", "percentile")
"""Keys of the table `slo` of a document, on the command line by their own names."""
# Apart from OPTIONS: a question about loads shares no key with a training step but the words objective and cluster.
PLAN_EXPERTS = (
    Option(
        "load",
        "text",
        "tokens of every expert: .csv, .npz, .json, an engine's dump, or generated:58x256",
        required=True,
    ),
    Option("ranks", "whole", "expert-parallel ranks", low=1, required=True),
    Option("nodes", "whole", "nodes the ranks stand in (default: 1)", low=1),
    Option("slots", "whole", "experts held by all ranks together (default: one an expert)", low=1),
    Option("groups", "whole", "groups of experts that each stay on one node (default: none)", low=1),
    Option("transitions", "text", "file with transitions[layer][i][j] (default: those beside the load)"),
    Option("cluster", "spec", "cluster id or file that must hold the ranks; its links price both", complete="clusters"),
    Option("objective", "text", "what to make least (default: balance)", choices=("balance", "traffic", "both")),
    Option("duplicates", "switch", "allow replicas of one expert on one rank"),
    Option("previous", "text", "plan or mapping that runs now: ranks are named for few moves"),
    Option("move_cost", "number", "load over the mean that moving every slot is worth", low=0, high=1e6),
    Option("exchange_share", "number", "share of dispatch and combine in a layer", low=0, high=1),
    Option("work_limit", "whole", "packings and programs at most", low=1),
    Option("time_limit_s", "number", "guard in seconds (default: 60)", low=0),
)
OPTIONS = {
    option.name: option
    for option in (*_SCENARIO, *_TRAINED, *_EXPERTS, *CARBON, *_START, *_CLOCKS, *_SEARCH, *_SERVED, *LAYOUT)
}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a scenario file."""
    layout = {option.name: json_property(option) for option in LAYOUT}
    properties = {option.name: json_property(option) for option in OPTIONS.values()}
    properties["layout"] = {
        "description": "the layout keys in a table of their own",
        "type": "object",
        "properties": layout,
        "additionalProperties": False,
    }
    properties["slo"] = {
        "description": "the latency limits in a table of their own",
        "type": "object",
        "properties": {name: properties[name] for name in SLO},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Scenario",
        "description": "What `-f` of `perfmodel plan training` and `perfmodel estimate training|memory` reads.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
